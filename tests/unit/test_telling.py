"""How the agent tells what it does: lines of a log, and metrics for node_exporter."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from margo_agent.device_key import key_file, load_key, public_pem
from margo_agent.printing import log, logfmt
from margo_agent.report import DeploymentReport
from margo_agent.reporter import TEXTFILE_EVERY_S
from margo_agent.settings import ReportSettings
from margo_agent.textfile import Counts, exposition
from margo_oci.errors import FormatError
from margo_oci.keys import PublicKey
from tests.simulators.faults import answers
from tests.simulators.plant import Plant, running_plant
from tests.unit.test_device_status import STATUS
from tests.unit.test_noticing import Reported

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(rf"({_NAME})((?:\{{{_LABEL}(?:,{_LABEL})*\}})?) ([-+0-9.eE]+|NaN|[-+]Inf)")


def parsed(text: str) -> Mapping[str, float]:
    """Read the exposition format as Prometheus does: every sample belongs to the HELP and TYPE right before it."""
    samples: dict[str, float] = {}
    families: list[str] = []
    assert text.endswith("\n")
    lines = iter(text[:-1].split("\n"))
    for line in lines:
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert re.fullmatch(_NAME, name)
            assert name not in families
            families.append(name)
            kind = re.fullmatch(rf"# TYPE {name} (gauge|counter)", next(lines))
            assert kind
            assert (kind[1] == "counter") == name.endswith("_total")
            continue
        sample = _SAMPLE.fullmatch(line)
        assert sample, line
        assert sample[1] == families[-1]
        assert sample[1] + sample[2] not in samples
        samples[sample[1] + sample[2]] = float(sample[3])
    return samples


def test_metrics_are_what_prometheus_reads() -> None:
    found = parsed(exposition(STATUS, Counts(looks=3, bytes_in=10**12), pending=2))
    assert found["margo_agent_counter"] == 7
    assert found['margo_agent_outcome{outcome="applied"}'] == 1
    assert found['margo_agent_outcome{outcome="failed"}'] == 0
    assert found['margo_agent_deployments{state="failed"}'] == 1
    assert found["margo_agent_head_expires_timestamp_seconds"] == 1795867200
    assert found["margo_agent_events_pending"] == 2
    assert found["margo_agent_looks_total"] == 3
    assert found["margo_agent_received_bytes_total"] == 10**12


def test_labels_are_escaped() -> None:
    text = exposition(replace(STATUS, device='a"b\\c\nd', head_expires="", applied=""), Counts(), pending=0)
    assert any('device="a\\"b\\\\c\\nd"' in name for name in parsed(text))


def test_metrics_are_written_when_something_changes_and_else_once_a_minute(tmp_path: Path) -> None:
    file = tmp_path / "textfile" / "margo.prom"
    file.parent.mkdir()
    device = Reported(running_plant(tmp_path), ReportSettings(files=tmp_path / "status", textfile=file))
    device.look()
    assert parsed(file.read_text())["margo_agent_looks_total"] == 1
    device.look()
    assert parsed(file.read_text())["margo_agent_looks_total"] == 1
    device.plant.sim.fail(answers(503))
    device.look()
    assert parsed(file.read_text())['margo_agent_outcome{outcome="unreachable"}'] == 1
    device.look()
    before = file.stat().st_mtime_ns
    device.look()
    assert file.stat().st_mtime_ns == before
    device.monotonic_s += TEXTFILE_EVERY_S
    device.look()
    assert parsed(file.read_text())["margo_agent_looks_total"] == 6


def test_a_line_of_the_log_has_stable_keys(capsys: pytest.CaptureFixture[str]) -> None:
    result = {
        "outcome": "applied", "counter": 7, "digest": "sha256:ab", "requests": 3, "layers": {"fetched": 1, "reused": 2},
        "deployments": [
            {"id": "1", "name": "line pump", "action": "update", "state": "installed"},
            {"id": "2", "name": "fan", "action": "keep", "state": "installed"},
        ],
    }  # fmt: skip
    log(result, "text")
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"time=\S+Z level=info outcome=applied counter=7 digest=sha256:ab requests=3 fetched=1 reused=2", first
    )
    assert re.fullmatch(r'time=\S+Z level=info deployment=1 name="line pump" action=update state=installed', second)


def test_what_belongs_to_no_deployment_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    orphan = DeploymentReport("", "", "remove", "removed", drift=["network a is of no deployment", "so is b"]).to_dict()
    log({"outcome": "applied", "deployments": [orphan]}, "text")
    assert (
        capsys.readouterr()
        .out.splitlines()[1]
        .endswith('action=remove state=removed drift="network a is of no deployment; so is b"')
    )


def test_the_level_decides_what_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    log({"outcome": "applied"}, "json", "warning")
    log({"outcome": "unchanged"}, "json", "info", news=False)
    assert capsys.readouterr().out == ""
    log({"outcome": "refused"}, "json", "warning")
    log({"outcome": "unchanged"}, "json", "debug", news=False)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["level"], one["outcome"]) for one in told] == [("warning", "refused"), ("debug", "unchanged")]


def test_a_value_cannot_pass_for_another_key() -> None:
    assert logfmt({"message": 'x" level=info outcome="applied'}) == r'message="x\" level=info outcome=\"applied"'
    assert logfmt({"message": "back\\slash"}) == r'message="back\\slash"'
    assert logfmt({"a": "", "b": None, "c": 0}) == "c=0"


def test_the_device_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    config = Plant(tmp_path).device._config()
    first, second = load_key(config), load_key(config)
    assert first.public.der == second.public.der
    assert key_file(config).stat().st_mode & 0o777 == 0o600
    assert PublicKey.from_pem(public_pem(first.public).encode(), name="edge-17").der == first.public.der
    assert [file.name for file in tmp_path.iterdir() if "device.key" in file.name] == ["device.key"]


def test_a_key_that_is_named_is_never_made(tmp_path: Path) -> None:
    config = replace(Plant(tmp_path).device._config(), report=ReportSettings(key=tmp_path / "gone.key"))
    with pytest.raises(FormatError, match=r"report\.key: .*gone\.key"):
        load_key(config)
    (tmp_path / "gone.key").write_text("nonsense")
    with pytest.raises(FormatError, match=r"not a PKCS#8 PEM private key"):
        load_key(config)
