"""An application for unit tests, in one line, and what is wrong with it."""

import copy
from collections.abc import Sequence
from typing import Any

from margo_oci.application import Description, check_description, parse_description
from margo_oci.faults import Fault
from tests.unit.scenes import as_yaml

ABSENT: Any = object()
_APPLICATION: dict[str, Any] = {
    "id": "com-example-hello",
    "metadata": {
        "name": "Hello",
        "version": "1.4.0",
        "description": "Says hello",
        "catalog": {
            "application": {"icon": "./resources/icon.png", "licenseFile": "resources/license.md", "tags": ["demo"]},
            "author": [{"name": "Example", "email": "dev@example.com"}],
            "organization": [{"name": "Example Ltd", "site": "https://example.com"}],
        },
    },
    "deploymentProfiles": [
        {
            "type": "compose",
            "id": "small",
            "components": [
                {
                    "name": "web",
                    "properties": {"repository": "oci://registry.example/components/web", "revision": "1.0.0"},
                }
            ],
        }
    ],
    "parameters": {
        "greeting": {"value": "Hello", "targets": [{"pointer": "GREETING", "components": ["web"]}]},
        "port": {"value": 18081, "targets": [{"pointer": "PORT", "components": ["web"]}]},
        "site": {"targets": [{"pointer": "SITE", "components": ["web"]}]},
    },
    "configuration": {
        "sections": [
            {
                "name": "General",
                "settings": [
                    {"parameter": "greeting", "name": "Greeting", "schema": "text"},
                    {"parameter": "port", "name": "Port", "schema": "port", "immutable": True},
                    {"parameter": "site", "name": "Site", "schema": "optional"},
                ],
            }
        ],
        "schema": [
            {"name": "text", "dataType": "string", "maxLength": 45},
            {"name": "port", "dataType": "integer", "minValue": 1024, "maxValue": 65535},
            {"name": "optional", "dataType": "string", "allowEmpty": True},
        ],
    },
}


def application(dotted: str = "", value: Any = ABSENT) -> dict[str, Any]:
    """A description in the newer shape; what stands at `dotted` is replaced, or taken out."""
    raw = copy.deepcopy(_APPLICATION)
    if dotted:
        at: Any = raw
        *steps, last = (int(step) if step.isdigit() else step for step in dotted.split("."))
        for step in steps:
            at = at[step]
        if value is ABSENT:
            del at[last]
        else:
            at[last] = value
    return raw


def described(raw: dict[str, Any] | None = None) -> Description:
    """A parsed description."""
    return parse_description(as_yaml(raw or application()), what="margo.yaml")


def faults(dotted: str, value: Any = ABSENT) -> Sequence[Fault]:
    """What is wrong once something is replaced."""
    return check_description(as_yaml(application(dotted, value)), what="margo.yaml").faults


def told(dotted: str, value: Any = ABSENT) -> list[tuple[str, str]]:
    """The same as rule and field."""
    return [(one.rule, one.field) for one in faults(dotted, value)]
