"""The agent's configuration: what it may say, and what a person is told about a slip."""

import tempfile
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_agent.config import load_config
from margo_agent.settings import (
    About,
    ApplySettings,
    CleanSettings,
    LogSettings,
    ReportSettings,
    TransferSettings,
)
from margo_agent.window import parse_window
from margo_oci.auth import Credentials
from margo_oci.errors import FormatError, RegistryError
from margo_oci.reference import Reference
from margo_oci.registry import Access
from tests.parts.certs import Authority

SMALLEST = """\
device: edge-17
source: registry.example/fleet/edge-17
scopes: [plant-3/line-1/edge-17]
trust:
  keys: [fleet.pub]
stateDir: state
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "agent.yaml"
    file.write_text(text)
    return file


def faults(folder: Path, text: str) -> list[str]:
    file = written(folder, text)
    with pytest.raises(FormatError) as refused:
        load_config(file)
    assert all(fault.startswith(f"{file}:") for fault in refused.value.faults)
    return [fault.removeprefix(f"{file}:") for fault in refused.value.faults]


def test_the_smallest_configuration_has_sensible_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, SMALLEST))
    assert config.device == "edge-17"
    assert str(config.source) == "registry.example/fleet/edge-17:latest"
    assert config.scopes == ["plant-3/line-1/edge-17"]
    assert config.trust.sources.keys == [tmp_path / "fleet.pub"]
    assert config.state_dir == tmp_path / "state"
    assert (config.interval_s, config.engine, config.lock) == (30.0, "", "enforce")
    assert config.access("registry.example") == Access()


def test_every_key_is_read(tmp_path: Path) -> None:
    Authority.create(tmp_path).for_client("device")
    (tmp_path / "password").write_text("sec ret\r\n")
    config = load_config(written(tmp_path, SMALLEST + """\
interval: 1h30m5s
engine: unix:///run/podman/podman.sock
lock: resolve
registries:
  localhost:5000: {plainHttp: true}
  registry.example:
    caFile: ca.pem
    clientCert: device.pem
    clientKey: device.key
    username: edge
    passwordFile: password
"""))  # fmt: skip
    assert (config.interval_s, config.engine, config.lock) == (5405.0, "unix:///run/podman/podman.sock", "resolve")
    assert config.access("localhost:5000") == Access(plain_http=True)
    assert config.access("registry.example") == Access(
        ca_file=tmp_path / "ca.pem",
        client_cert=tmp_path / "device.pem",
        client_key=tmp_path / "device.key",
        credentials=Credentials("edge", "sec ret"),
    )
    assert "sec ret" not in repr(config)


def test_paths_are_beside_the_file_or_absolute(tmp_path: Path) -> None:
    text = SMALLEST.replace("state\n", "/var/lib/margo-agent\n").replace("fleet.pub", "../keys/fleet.pub")
    config = load_config(written(tmp_path, text))
    assert config.state_dir == Path("/var/lib/margo-agent")
    assert config.trust.sources.keys == [tmp_path / "../keys/fleet.pub"]


def test_a_file_that_is_not_there_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="No such file or directory: name the agent's configuration with --config"):
        load_config(tmp_path / "gone.yaml")
    with pytest.raises(FormatError, match="Is a directory"):
        load_config(tmp_path)


@pytest.mark.parametrize("text", ["", "- a\n", "hello\n"])
def test_what_is_no_configuration_says_what_is_expected(text: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="a map with device, source, scopes, trust and stateDir is expected"):
        load_config(written(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("statedir: x", "7: statedir: unknown: did you mean stateDir?"),
        ("sources: x", "7: sources: unknown: did you mean source?"),
        ("qqq: x", "7: qqq: unknown: one of device, source, scopes, trust, registries, interval"),
        (
            "registries: {localhost: {plainHTTP: true}}",
            "7: registries.localhost.plainHTTP: unknown: did you mean plainHttp?",
        ),
    ],
)
def test_a_key_that_is_unknown_is_guessed(line: str, message: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f"{SMALLEST}{line}\n")
    assert fault.startswith(message)


def test_a_key_of_trust_that_is_unknown_is_guessed(tmp_path: Path) -> None:
    text = SMALLEST.replace("  keys: [fleet.pub]\n", "  keys: [fleet.pub]\n  key: x\n")
    assert faults(tmp_path, text) == ["6: trust.key: unknown: did you mean keys?"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("device: edge-17", "device: 17", "1: device: text is expected, got 17"),
        ("device: edge-17", "device: ''", "1: device: text is expected, got ''"),
        ("device: edge-17\n", "", "1: device: is missing"),
        ("registry.example/fleet/edge-17", "fleet", "2: source: reference 'fleet': it starts with a registry"),
        ("source: registry.example/fleet/edge-17\n", "", "1: source: is missing"),
        ("[plant-3/line-1/edge-17]", "plant-3",
         "3: scopes: a list with at least one entry is expected, as in [edge-17]"),
        ("[plant-3/line-1/edge-17]", "[]", "3: scopes: a list with at least one entry is expected"),
        ("[plant-3/line-1/edge-17]", "[7]", "3: scopes: a list with at least one entry is expected"),
        ("[plant-3/line-1/edge-17]", "[plant 3]", "3: scopes"),
        ("[plant-3/line-1/edge-17]", "[/plant-3]", "3: scopes"),
        ("  keys: [fleet.pub]", "  keys: []", "5: trust.keys: a list with at least one entry is expected"),
        ("trust:\n  keys: [fleet.pub]", "trust: fleet.pub", "4: trust: a map is expected"),
        ("stateDir: state\n", "", "1: stateDir: is missing"),
        ("stateDir: state", "stateDir: state\ninterval: 30", "7: interval: text is expected, got 30"),
        ("stateDir: state", "stateDir: state\nlock: no", "7: lock: 'no': one of enforce, resolve is expected"),
        ("stateDir: state", "stateDir: state\nengine: [a]", "7: engine: text is expected, got ['a']"),
        ("stateDir: state", "stateDir: state\nregistries: []", "7: registries: a map is expected"),
        ("stateDir: state", "stateDir: state\nregistries: {'a/b': {}}",
         "7: registries.a/b: host or host:port is expected"),
        ("stateDir: state", "stateDir: state\nregistries: {a.example: }", "7: registries.a.example: a map is expected"),
        ("stateDir: state", "stateDir: state\nregistries: {a.example: {plainHttp: yes}}",
         "7: registries.a.example.plainHttp: true or false is expected, got 'yes'"),
        ("stateDir: state", "stateDir: state\nregistries: {a.example: {username: x}}",
         "7: registries.a.example: username and passwordFile go together"),
        ("stateDir: state", "stateDir: state\nregistries: {a.example: {mirrors: mirror.plant}}",
         "7: registries.a.example.mirrors: a list with at least one entry is expected, as in [mirror.plant"),
        ("stateDir: state", "stateDir: state\nregistries: {a.example: {mirrors: ['http://mirror.plant']}}",
         "7: registries.a.example.mirrors: 'http://mirror.plant': host or host/prefix is expected"),
        ("stateDir: state", "stateDir: state\nregistries: {a.example: {mirrors: [mirror.plant/UPPER]}}",
         "7: registries.a.example.mirrors: 'mirror.plant/UPPER': host or host/prefix is expected"),
        ("stateDir: state", "stateDir: state\nregistries: {a.example: {mirrors: [a.example]}}",
         "7: registries.a.example.mirrors: 'a.example': a registry is no mirror of itself"),
        ("stateDir: state", "stateDir: state\nproxy: http://proxy.plant:3128", "7: proxy: a map is expected"),
        ("stateDir: state", "stateDir: state\nproxy: {noProxy: [a]}", "7: proxy.url: is missing"),
        ("stateDir: state", "stateDir: state\nproxy: {url: 'socks5://me:secret@proxy.plant'}",
         "7: proxy.url: 'socks5://proxy.plant': http://host:port or https://host:port is expected"),
        ("stateDir: state", "stateDir: state\nproxy: {url: 'http://proxy.plant', noproxy: [a]}",
         "7: proxy.noproxy: unknown: did you mean noProxy?"),
        ("stateDir: state", "stateDir: state\nproxy: {url: 'http://proxy.plant', caFile: gone.pem}",
         "7: proxy.caFile: "),
        ("stateDir: state", "stateDir: state\nproxy: {url: 'https://proxy.plant', caFile: agent.yaml}",
         "7: proxy.caFile: "),
        ("stateDir: state", "stateDir: state\nregistries: {a.example: {credentialHelper: gone}}",
         "7: registries.a.example.credentialHelper: "),
        ("stateDir: state", "stateDir: state\nregistries: {a.example: {credentialHelper: agent.yaml, username: x}}",
         "7: registries.a.example: credentialHelper stands in place of username and passwordFile"),
        ("stateDir: state", "stateDir: state\nregistries: {a.example: {clientKey: agent.yaml}}",
         "7: registries.a.example: clientCert and clientKey go together"),
    ],
)  # fmt: skip
def test_a_slip_is_told_with_its_line(before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in SMALLEST
    found = faults(tmp_path, SMALLEST.replace(before, after))
    assert any(fault.startswith(message) for fault in found), found


def test_a_certificate_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    text = SMALLEST + "registries: {a.example: {caFile: ca.pem}}\n"
    [fault] = faults(tmp_path, text)
    assert fault.startswith(f"7: registries.a.example: {tmp_path}/ca.pem: not usable as certificates")


def test_a_file_it_names_must_be_there(tmp_path: Path) -> None:
    text = SMALLEST + "registries: {a.example: {caFile: gone.pem}}\n"
    assert faults(tmp_path, text) == [f"7: registries.a.example.caFile: {tmp_path}/gone.pem is not there"]


def test_all_slips_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "device: 1\nsource: x\nscopes: {}\ntrust: {}\nstateDir: []\nlok: x\n"
    assert [fault.partition(": ")[2].partition(": ")[0] for fault in faults(tmp_path, text)] == [
        "device",
        "source",
        "scopes",
        "trust.keys",
        "stateDir",
        "lok",
    ]


def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    assert faults(tmp_path, "device: a\ndevice: b\n") == ["2: 'device' stands twice"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("2h", 7200), ("90m", 5400), ("1h1s", 3601), ("1d", 86400)],
)
def test_an_interval_is_a_duration(text: str, seconds: float, tmp_path: Path) -> None:
    assert load_config(written(tmp_path, f"{SMALLEST}interval: {text}\n")).interval_s == seconds


@pytest.mark.parametrize("text", ["0s", "1", "1.5s", "-5s", "5m1h", "s", "'1 h'", "1w", "٣s", "9999999s"])
def test_what_is_no_duration_is_told(text: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f"{SMALLEST}interval: {text}\n")
    assert fault.startswith("7: interval: ")


@given(st.text(max_size=60) | st.sampled_from(["device", "source", "trust", "registries"]).flatmap(
    lambda key: st.text("abc:-[]{}1 '\n", max_size=20).map(lambda value: f"{key}: {value}")))  # fmt: skip
def test_any_text_is_a_configuration_or_a_format_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "agent.yaml"
        file.write_bytes(text.encode())
        with pytest.raises(FormatError):
            load_config(file)


def test_a_proxy_is_for_all_registries_but_those_with_one_of_their_own(tmp_path: Path) -> None:
    Authority.create(tmp_path)
    config = load_config(written(tmp_path, SMALLEST + """\
proxy: {url: "https://plant:proxy-secret@proxy.plant:3128", noProxy: [.plant], caFile: ca.pem}
registries:
  a.example: {plainHttp: true}
  b.example: {proxy: {url: "http://other.plant:3128"}}
"""))  # fmt: skip
    everywhere = "https://plant:proxy-secret@proxy.plant:3128"
    assert config.access("registry.example").proxy_for("registry.example") == everywhere
    assert config.access("a.example").proxy_for("a.example") == everywhere
    assert config.access("registry.plant").proxy_for("registry.plant") == ""
    assert config.access("a.example").proxy_ca_files == (tmp_path / "ca.pem",)
    assert config.access("b.example").proxy_for("b.example") == "http://other.plant:3128"
    assert config.access("b.example").proxy_ca_files == ()
    assert "proxy-secret" not in repr(config)


def test_mirrors_are_read_in_their_order(tmp_path: Path) -> None:
    text = SMALLEST + "registries: {a.example: {mirrors: ['mirror.plant:5000/cache/hub', other.plant]}}\n"
    mirrors = load_config(written(tmp_path, text)).access("a.example").mirrors
    assert mirrors == (Reference("mirror.plant:5000", "cache/hub"), Reference("other.plant", ""))


def test_a_credential_helper_is_asked_when_a_login_is_needed(tmp_path: Path) -> None:
    helper = tmp_path / "helper"
    helper.write_text("#!/bin/sh\ncat >asked-\"$1\"; cat kept\n".replace("asked", f"{tmp_path}/asked").replace(
        "kept", f"{tmp_path}/kept"))  # fmt: skip
    helper.chmod(0o755)
    access = load_config(written(tmp_path, SMALLEST + "registries: {a.example: {credentialHelper: helper}}\n")).access(
        "a.example"
    )
    assert not (tmp_path / "asked-get").exists()
    (tmp_path / "kept").write_text('{"Username": "edge-17", "Secret": "sec ret"}')
    assert access.who("fleet/edge-17") == Credentials("edge-17", "sec ret")
    assert (tmp_path / "asked-get").read_text() == "a.example"
    (tmp_path / "kept").unlink()
    with pytest.raises(RegistryError, match=r"registries\.a\.example: .*/helper get for a\.example ended with 1"):
        access.who("fleet/edge-17")


def test_every_section_is_read(tmp_path: Path) -> None:
    (tmp_path / "device.key").write_text("a key")
    config = load_config(
        written(
            tmp_path,
            SMALLEST
            + """\
apply: {atomic: state, settle: 0s, window: ["Mon-Fri 22:00-04:00"], timezone: Europe/Berlin, lockFile: not-now}
drift: report
bandwidth: 200KiB/s
leastRate: 10B/s
clean: {after: 7d, keepFree: 1GB}
report:
  registry: true
  as: referrer
  reference: registry.example/fleet/status:edge-17
  key: device.key
  files: status
  heartbeat: 1h
  textfile: margo.prom
  otlp: http://127.0.0.1:4318/
log: {format: json, level: warning}
about: {vendor: Northgate, modelNumber: B2, serialNumber: "7", labels: {line: 1}}
""",
        )
    )
    assert config.apply == ApplySettings(
        atomic="state", settle_s=0, windows=(parse_window("Mon-Fri 22:00-04:00"),),
        timezone=ZoneInfo("Europe/Berlin"), lock_file=tmp_path / "not-now",
    )  # fmt: skip
    assert config.drift == "report"
    assert config.transfer == TransferSettings(most_bytes_s=204800, least_bytes_s=10)
    assert config.clean == CleanSettings(after_s=604800, keep_free_bytes=1000000000)
    assert config.report == ReportSettings(
        registry=True, form="referrer", reference=Reference("registry.example", "fleet/status", "edge-17"),
        key=tmp_path / "device.key", files=tmp_path / "status", heartbeat_s=3600, textfile=tmp_path / "margo.prom",
        otlp="http://127.0.0.1:4318",
    )  # fmt: skip
    assert config.log == LogSettings(format="json", level="warning")
    assert config.about == About(vendor="Northgate", model_number="B2", serial_number="7", labels={"line": 1})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("apply: {atomic: all}", "apply.atomic: 'all': one of deployment, state is expected"),
        ("apply: {settle: soon}", "apply.settle: 'soon': a duration of at least 0s"),
        ("apply: {window: [always]}", "apply.window: 'always': a window is expected, as in"),
        ("apply: {timezone: Moon/Tranquility}", "apply.timezone: 'Moon/Tranquility': a time zone is expected"),
        ("apply: {timezone: ../../etc/passwd}", "apply.timezone: '../../etc/passwd': a time zone is expected"),
        ("drift: maybe", "drift: 'maybe': one of correct, report is expected"),
        ("bandwidth: fast", "bandwidth: 'fast': as in 200KiB/s is expected"),
        ("bandwidth: 0KiB/s", "bandwidth: '0KiB/s': as in 200KiB/s is expected"),
        ("bandwidth: 10B/s", "bandwidth: 10 B/s is below leastRate, 100 B/s"),
        ("clean: {keepFree: most}", "clean.keepFree: 'most': as in 500MiB is expected"),
        ("report: {registry: perhaps}", "report.registry: true or false is expected, got 'perhaps'"),
        ("report: {otlp: 127.0.0.1}", "report.otlp: '127.0.0.1': an address is expected"),
        ("report: {key: gone.key}", "gone.key is not there"),
        ("log: {format: xml}", "log.format: 'xml': one of text, json is expected"),
        ("about: {labels: [a]}", "about.labels: a map is expected"),
        ("about: {labels: {a: {b: 1}}}", "about.labels: labels.'a': a text, a number, true, false or a list"),
        ("about: {colour: red}", "about.colour: unknown: one of vendor, modelNumber, serialNumber, labels"),
    ],
)
def test_a_section_with_a_fault_is_told(text: str, fault: str, tmp_path: Path) -> None:
    (found,) = faults(tmp_path, f"{SMALLEST}{text}\n")
    assert found.startswith("7: ")
    assert fault in found


def test_an_engine_is_named_by_an_address(tmp_path: Path) -> None:
    assert faults(tmp_path, SMALLEST + "engine: /run/docker.sock\n") == [
        "7: engine: '/run/docker.sock': an address is expected, as in unix:///run/podman/podman.sock"
    ]
    address = "unix:///run/podman/podman.sock"
    assert load_config(written(tmp_path, SMALLEST + f"engine: {address}\n")).engine == address


@pytest.mark.parametrize(("total_bytes", "kept_bytes"), [(2**30, 2**30 // 20), (2**40, 256 * 2**20)])
def test_a_twentieth_of_a_small_disk_is_kept_free_and_not_more_of_a_large_one(
    total_bytes: int, kept_bytes: int
) -> None:
    assert CleanSettings().kept_free_bytes(total_bytes) == kept_bytes
    assert CleanSettings(keep_free_bytes=7).kept_free_bytes(total_bytes) == 7
