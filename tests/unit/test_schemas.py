"""The JSON Schemas for editors say what the code says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from margo_cli.main import cli
from tests.unit.applications import application
from tests.unit.scenes import ROOT, VECTORS, document

DESCRIPTIONS = sorted((VECTORS / "applications").glob("*/*.yaml"))


def validator(kind: str = "description") -> Any:
    done = CliRunner().invoke(cli, ["app", "schema", kind], standalone_mode=False)
    return jsonschema.Draft202012Validator(json.loads(done.output))


@pytest.mark.parametrize("file", DESCRIPTIONS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_standards_examples_are_told_apart(file: Path) -> None:
    assert validator().is_valid(yaml.safe_load(file.read_text())) is (file.parent.name == "valid")


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("id", "A"),
        ("metadata.version", 1.0),
        ("metadata.catalog.organization", []),
        ("metadata.licence", "MIT"),
        ("kind", "ApplicationDescription"),
        ("deploymentProfiles.0.type", "helmchart"),
        ("deploymentProfiles.0.components.0.properties.revision", "latest"),
        ("deploymentProfiles.0.deviceConstraints", {"capacityRequirements": {"memory": "1G"}}),
        ("parameters.greeting.targets", []),
        ("configuration.schema.0.dataType", "number"),
    ],
)
def test_what_validate_refuses_an_editor_marks_where_a_schema_can_say_it(dotted: str, value: Any) -> None:
    assert validator().is_valid(application())
    assert not validator().is_valid(application(dotted, value))


def test_deployments_have_one_too() -> None:
    assert validator("deployment").is_valid(document())
    assert not validator("deployment").is_valid(document("x"))


def test_the_files_are_made_of_the_code() -> None:
    command = [sys.executable, str(ROOT / "docs" / "make_schemas.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
