"""Writes the JSON Schemas for editors from the rules of the code, as package data and for the site; --check compares.

A schema cannot say everything: references between parts and the limits of values are left to `margo-oci app validate`.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from margo_oci.application import EMAIL, RESOURCES
from margo_oci.capabilities import INTERFACES, PERIPHERALS
from margo_oci.constraints import ARCHITECTURES, MEMORY, OLDER_ARCHITECTURES, OPERATORS, STORAGE
from margo_oci.deployment import (
    APPLICATION_ID,
    COMPONENT_NAME,
    DEVICE_ID,
    PROFILE_TYPES,
    REPOSITORY,
    REVISION,
    TIMEOUT,
    UUID,
)
from margo_oci.faults import EXTENSION
from margo_oci.reference import TAG
from margo_oci.settings import DATA_TYPE, REGEX_LIMIT_CHARS

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "margo_oci" / "schemas", ROOT / "docs" / "reference" / "schemas")
Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
SOME: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SCALAR: Schema = {"type": ["string", "number", "boolean", "null"]}
VALUE: Schema = {"anyOf": [SCALAR, {"type": "array", "items": SCALAR}]}


def fits(pattern: re.Pattern[str], description: str = "") -> Schema:
    """Return text that fits all of a pattern; what Python calls ASCII digits is written out."""
    text = pattern.pattern.replace(r"\d", "[0-9]")
    return {"type": "string", "pattern": f"^(?:{text})$", **({"description": description} if description else {})}


def of(required: Sequence[str], properties: Mapping[str, Any], *, closed: bool = True, **more: Any) -> Schema:
    """Return a map; `closed` if only extensions may stand beside its properties."""
    rest: Schema = {"patternProperties": {f"^(?:{EXTENSION.pattern})$": {"type": "object"}}} if closed else {}
    rest |= {"additionalProperties": False} if closed else {}
    return {"type": "object", "required": list(required), "properties": dict(properties), **rest, **more}


def each(items: Schema, *, least: int = 0) -> Schema:
    """Return a list."""
    return {"type": "array", "items": items, **({"minItems": least} if least else {})}


def component(*, older: bool) -> Schema:
    """Return a component; `older` ones may name a package by its location."""
    properties = {
        "repository": fits(REPOSITORY, "oci://host/repository"),
        "revision": fits(REVISION, "SemVer 2.0 without v, with _ for +"),
        "wait": FLAG | {"default": True, "description": "Wait until it is up"},
        "timeout": fits(TIMEOUT, "Minutes and seconds, as in 8m30s"),
        "packageLocation": TEXT | {"deprecated": True},
        "keyLocation": TEXT | {"deprecated": True},
    }
    ways = [{"required": ["repository", "revision"]}, *([{"required": ["packageLocation"]}] if older else [])]
    return of(
        ["name", "properties"],
        {"name": fits(COMPONENT_NAME), "properties": of([], properties, anyOf=ways)},
    )


def constraints() -> Schema:
    """Return deviceConstraints."""
    names = [*ARCHITECTURES, *OLDER_ARCHITECTURES]
    cpu = of(["cores"], {"cores": NUMBER | {"minimum": 0}, "architectures": each({"enum": names})})
    capacity = of([], {"cpu": cpu, "memory": fits(MEMORY), "storage": fits(STORAGE)})
    rule = of([], {"propertySelector": {"$ref": "#/$defs/selector"}, "labelSelector": {"$ref": "#/$defs/selector"}})
    return of([], {"capacityRequirements": capacity, "eligibilityRules": each(rule)})


def older_resources() -> Schema:
    """Return requiredResources."""
    properties: Schema = constraints()["properties"]["capacityRequirements"]["properties"]
    peripheral = of(["type"], {"type": {"enum": list(PERIPHERALS)}, "manufacturer": TEXT, "model": TEXT})
    interface = of(["type"], {"type": {"enum": list(INTERFACES)}})
    return of([], {**properties, "peripherals": each(peripheral), "interfaces": each(interface)}, deprecated=True)


def selector() -> Schema:
    """Return a selector of devices."""
    expression = of(
        ["key", "operator"],
        {
            "key": SOME,
            "operator": {"enum": list(OPERATORS)},
            "values": {},
            "itemSelector": {"$ref": "#/$defs/selector"},
        },
    )
    return of(["matchExpressions"], {"matchExpressions": each(expression, least=1)})


def target() -> Schema:
    """Return where a parameter goes."""
    return of(
        ["pointer", "components"],
        {
            "pointer": SOME | {"description": "An environment variable (Compose) or a path in the values (Helm)"},
            "components": each(SOME, least=1),
        },
    )


def configuration() -> Schema:
    """Return configuration."""
    setting = of(
        ["parameter", "name", "schema"],
        {"parameter": SOME, "name": SOME, "description": TEXT, "immutable": FLAG, "schema": SOME},
    )
    limits = dict.fromkeys(("minLength", "maxLength", "minPrecision", "maxPrecision"), COUNT)
    schema = of(
        ["name", "dataType"],
        {
            "name": SOME,
            "dataType": fits(DATA_TYPE, "string, integer, double, boolean, or array[…] of one"),
            "allowEmpty": FLAG | {"default": False},
            **limits,
            "regexMatch": {"type": "string", "maxLength": REGEX_LIMIT_CHARS, "format": "regex"},
            "minValue": NUMBER,
            "maxValue": NUMBER,
            "multiselect": FLAG,
            "options": each(SCALAR, least=1),
        },
    )
    section = of(["name", "settings"], {"name": SOME, "settings": each(setting, least=1)})
    return of(["sections", "schema"], {"sections": each(section, least=1), "schema": each(schema, least=1)})


def description() -> Schema:
    """Return the schema of ApplicationDescriptions, in both shapes."""
    app_id = fits(APPLICATION_ID, "1 to 200 of a-z, 0-9 and -")
    application = {**dict.fromkeys(RESOURCES, SOME), "site": TEXT, "tagline": TEXT, "tags": each(TEXT)}
    catalog = of(
        ["organization"],
        {
            "application": of([], application),
            "author": each(of([], {"name": TEXT, "email": fits(EMAIL)})),
            "organization": each(of(["name"], {"name": SOME, "site": TEXT}), least=1),
        },
    )
    version = fits(TAG, "The tag of the package")
    metadata = of(
        ["name", "version", "catalog"],
        {"id": app_id, "name": SOME, "description": TEXT, "version": version, "catalog": catalog},
    )
    profile = of(
        ["type", "id", "components"],
        {
            "type": {"enum": list(PROFILE_TYPES)},
            "id": SOME,
            "description": TEXT,
            "components": each(component(older=True), least=1),
            "deviceConstraints": constraints(),
            "requiredResources": older_resources(),
        },
    )
    parameter = of(["targets"], {"value": VALUE, "targets": each(target(), least=1)})
    properties = {
        "apiVersion": {"type": "string", "pattern": "^(?:application\\.)?margo\\.org/"},
        "kind": {"const": "ApplicationDescription"},
        "id": app_id,
        "metadata": metadata,
        "deploymentProfiles": each(profile, least=1),
        "parameters": {"type": "object", "additionalProperties": parameter},
        "configuration": configuration(),
    }
    return {
        **head("ApplicationDescription"),
        **of(["metadata", "deploymentProfiles"], properties),
        "dependentRequired": {"apiVersion": ["kind"], "kind": ["apiVersion"]},
        "anyOf": [{"required": ["id"]}, {"properties": {"metadata": {"required": ["id"]}}}],
        "$defs": {"selector": selector()},
    }


def deployment() -> Schema:
    """Return the schema of ApplicationDeployments as `deploy` writes them and `push` reads them."""
    device = fits(DEVICE_ID, "The device, or gateway/*")
    notes = {"type": "object", "additionalProperties": TEXT}
    metadata = {"name": SOME, "namespace": SOME, "deviceId": device, "annotations": notes, "labels": notes}
    profile = of(
        ["type", "components"],
        {
            "type": {"enum": list(PROFILE_TYPES)},
            "components": each(component(older=True), least=1),
            "deviceConstraints": constraints(),
        },
    )
    parameter = of(["value", "targets"], {"value": VALUE, "targets": each(target(), least=1)})
    spec = {
        "applicationId": fits(APPLICATION_ID),
        "deploymentProfile": profile,
        "parameters": {"type": "object", "additionalProperties": parameter},
    }
    return {
        **head("ApplicationDeployment"),
        **of(
            ["metadata", "spec"],
            {
                "apiVersion": TEXT,
                "kind": {"const": "ApplicationDeployment"},
                "id": fits(UUID),
                "metadata": of(["name", "namespace"], metadata),
                "spec": of(["deploymentProfile"], spec),
            },
        ),
        "$defs": {"selector": selector()},
    }


def head(kind: str) -> Schema:
    """Return how a schema begins."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"Margo {kind}"}


def texts() -> dict[str, str]:
    """Return each schema's file and text."""
    made = {"application-description": description(), "application-deployment": deployment()}
    return {f"{name}.schema.json": json.dumps(one, indent=2) + "\n" for name, one in made.items()}


def main() -> int:
    """Write the files, or say that they are not what they should be."""
    files = {folder / name: text for folder in FOLDERS for name, text in texts().items()}
    if "--check" not in sys.argv[1:]:
        for file, text in files.items():
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return 0
    stale = [file for file, text in files.items() if not file.exists() or file.read_text(encoding="utf-8") != text]
    for file in stale:
        print(f"{file} is not what the code says: run python docs/make_schemas.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
