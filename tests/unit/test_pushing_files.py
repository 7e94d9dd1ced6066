"""What `push` says of a deployment's files before anything is published, with a Compose that is simulated."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import pytest

from margo_cli.compare import Side, compare
from margo_oci.compose import Compose, Filled, faults_of_template
from margo_oci.composefile import COMPOSE_FILE
from margo_oci.errors import FormatError
from margo_oci.files import ExtraFile
from margo_oci.lock import Locker
from margo_oci.registry import Registry
from margo_oci.store import Store
from tests.simulators.engine import SERVICE
from tests.simulators.plant import IMAGE, Plant, Workload, ask
from tests.unit.scenes import deployment
from tests.unit.test_format_rules_files import plain, secret, with_files


@dataclass(frozen=True)
class PaperCompose(Compose):
    """Fills variables in, and reads env files, as Compose does. Its files are JSON here."""

    def template(self, folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / COMPOSE_FILE).read_text())
        return found

    def filled(self, folder: Path, *, project: str, variables: Mapping[str, str]) -> Filled:
        model = json.loads(Template((folder / COMPOSE_FILE).read_text()).substitute(variables))
        for service in model["services"].values():
            for path in service.pop("env_file", ()):
                if not Path(path).exists():
                    raise FormatError(f"compose.yaml: compose config: env file {path} not found: stat {path}: no such")
        return Filled(model)


def locked(folder: Path, compose: Mapping[str, Any], *files: ExtraFile) -> tuple[Workload, list[str]]:
    """Lock a deployment with these files; return what it is locked to, and the warnings."""
    plant = Plant(folder, compose=compose)
    one = plant.workload("pump", "a").deployment
    warnings: list[str] = []

    async def work(registry: Registry) -> Workload:
        async with Locker(registry, Store(folder / "cache"), lambda: PaperCompose((), {})) as locker:
            (found,) = await locker.lock_all({"pump.yaml": one}, {"pump.yaml": files})
            warnings.extend(locker.warnings)
            return Workload(one, found)

    return ask(plant.sim, work), warnings


def test_14_7_files_that_are_there_are_no_hindrance(tmp_path: Path) -> None:
    compose = with_files("key", web=["conf"])
    workload, warnings = locked(tmp_path, compose, plain("conf/a"), secret("key"))
    assert workload.lock
    assert set(workload.lock.images) == {IMAGE}
    assert warnings == []


@pytest.mark.parametrize(
    ("compose", "files", "why"),
    [
        (
            with_files(web=["conf"]),
            [],
            r"services.web.volumes\[0\]: \$\{MARGO_FILES\}/conf is not among .*: it has none",
        ),
        (with_files("key"), [plain("kay")], r"secrets.key.file: \$\{MARGO_FILES\}/key is not among the files"),
    ],
)
def test_14_7_a_file_that_is_missing_is_told_when_pushing(
    compose: Mapping[str, Any], files: Sequence[ExtraFile], why: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=f"pump.yaml: component pump: {why}"):
        locked(tmp_path, compose, *files)


def test_14_14_an_encrypted_environment_is_told_when_pushing(tmp_path: Path) -> None:
    compose = {"services": {SERVICE: {"image": IMAGE, "environment": {}, "env_file": ["${MARGO_FILES}/db.env"]}}}
    with pytest.raises(FormatError, match=r"\$\{MARGO_FILES\}/db.env not found.*it is encrypted, and an environment"):
        locked(tmp_path, compose, secret("db.env"))
    assert locked(tmp_path / "plain", compose, plain("db.env"))[1] == []


def test_files_that_nothing_uses_are_worth_a_word(tmp_path: Path) -> None:
    _, warnings = locked(tmp_path, {"services": {SERVICE: {"image": IMAGE, "environment": {}}}}, plain("a"))
    assert warnings == ["pump.yaml: none of its Compose files uses its files: they are in ${MARGO_FILES}"]


def test_a_component_may_name_files_that_are_not_in_its_archive(tmp_path: Path) -> None:
    """As Compose prints them unfilled: some behind the folder it was in."""
    name = f"{tmp_path}/${{MARGO_FILES}}/x"
    service = {
        "image": "web",
        "env_file": [{"path": name, "required": True}],
        "volumes": [{"type": "bind", "source": name, "target": "/x"}],
    }
    model = {"services": {"web": service}, "configs": {"c": {"file": name}}, "secrets": {"s": {"file": name}}}
    assert faults_of_template(model, tmp_path) == ([], [])


def test_a_difference_names_the_files(tmp_path: Path) -> None:
    one = {deployment().id: deployment()}
    old = Side(one, {}, {}, files={deployment().id: {"a": "1", "b": "1", "c": "1"}})
    new = Side(one, {}, {}, files={deployment().id: {"a": "1", "b": "2", "d": "1"}})
    (change,) = compare(old, new).changed
    assert change.files == ["changed b", "removed c", "added d"]
    assert compare(old, old).same
