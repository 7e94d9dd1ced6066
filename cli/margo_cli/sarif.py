"""Faults as SARIF 2.1.0, which editors and code hosts show beside the lines."""

import os
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from margo_oci.faults import Located

RULES = {
    "7.4": "An archive is bounded",
    "7.5": "An archive holds plain files and folders, at paths within it",
    "7.6": "YAML that means one thing to every parser",
    "8.3": "One folder at the top",
    "8.4": "compose.yaml, in just this spelling",
    "8.5": "Files are in the archive, secrets are not",
    "8.6": "Docker Compose can read it",
    "8.7": "Compose reads nothing outside the archive",
    "8.8": "Known keys only, which bring in nothing that no digest covers",
    "8.9": "What is mounted is in the archive, or a path of the device",
    "8.11": "The folder of a Quadlet Archive is called as its component",
    "8.12": "Units that can be read",
    "8.13": "Files that units name are in the archive",
    "8.14": "Images can be locked",
    "12.1": "A description is one YAML document in one of two shapes",
    "12.2": "The id is made of few characters",
    "12.3": "Name and version",
    "12.4": "The catalog names an organization",
    "12.5": "Resources are files of the package",
    "12.6": "Deployment profiles and their components",
    "12.7": "Parameters and their targets",
    "12.8": "Settings name what is there",
    "12.9": "Schemas, and defaults that fit them",
    "12.10": "Constraints",
    "12.11": "Other fields are extensions",
}


def sarif(faults: Sequence[Located], *, version: str) -> dict[str, Any]:
    """Return a SARIF log of one run."""
    rules = [{"id": rule, "shortDescription": {"text": text}} for rule, text in RULES.items()]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "margo-oci", "version": version, "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(one) for one in faults],
            }
        ],
    }


def _result(one: Located) -> dict[str, Any]:
    fault = one.fault
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(one.file)}}
    if fault.line:
        place["region"] = {"startLine": fault.line, "startColumn": fault.column}
    message = f"{fault.field}: {fault.message}" if fault.field else fault.message
    return {
        "ruleId": fault.rule,
        "level": fault.level,
        "message": {"text": message},
        "locations": [{"physicalLocation": place}],
    }


def _uri(file: str) -> str:
    """Return a path as a URI: relative to where the command ran, as code hosts have it, or of a file on the disk."""
    return ("file://" if PurePosixPath(file).is_absolute() else "") + quote(os.fsencode(file))
