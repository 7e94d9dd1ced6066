"""The agent's own folder: for it alone."""

import json
import os
from pathlib import Path

import pytest

from margo_agent.main import cli
from margo_agent.state_folder import claim, locked
from margo_oci.errors import FormatError


def test_a_new_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    with locked(tmp_path / "state" / "pass.lock"):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(FormatError) as refused, locked(tmp_path / "pass.lock"):
        pass
    assert str(refused.value) == (
        f"stateDir {tmp_path}: others can write to it (mode {mode:04o}): take that away, as with chmod 700"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_others_can_read_is_taken(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    claim(tmp_path)


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(FormatError, match=f"belongs to user {owner}, margo-agent runs as {owner + 1}: run it as"):
        claim(tmp_path)


def test_a_second_agent_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state" / "pass.lock"
    with locked(file), pytest.raises(FormatError, match="another margo-agent is at work here"), locked(file):
        pass


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with (
        pytest.raises(FormatError, match='state": failed: File exists; see that stateDir'),
        locked(tmp_path / "state" / "pass.lock"),
    ):
        pass


@pytest.mark.parametrize("command", ["once", "plan", "restore"])
def test_a_folder_that_cannot_be_used_is_told_in_json_as_well(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(
        "device: edge-17\nsource: registry.example/edge-17:latest\nscopes: [edge-17]\n"
        "trust: {keys: [fleet.pub]}\nstateDir: agent.yaml\n"
    )
    code = cli.main([command, "--config", str(config), "-o", "json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert (code, told["outcome"], told["device"]) == (2, "failed", "edge-17")
    assert told["message"].startswith(f'while reading or writing, disk for "{config}": failed: File exists; ')
