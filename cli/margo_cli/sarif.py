"""Faults as SARIF 2.1.0, which editors and code hosts show beside the lines."""

from collections.abc import Sequence
from typing import Any

from margo_oci.faults import Fault

RULES = {
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


def sarif(uri: str, faults: Sequence[Fault], *, version: str) -> dict[str, Any]:
    """Return a SARIF log of one run over one file."""
    rules = [{"id": rule, "shortDescription": {"text": text}} for rule, text in RULES.items()]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "margo-oci", "version": version, "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(uri, fault) for fault in faults],
            }
        ],
    }


def _result(uri: str, fault: Fault) -> dict[str, Any]:
    region = {"startLine": fault.line, "startColumn": fault.column}
    message = f"{fault.field}: {fault.message}" if fault.field else fault.message
    return {
        "ruleId": fault.rule,
        "level": fault.level,
        "message": {"text": message},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}],
    }
