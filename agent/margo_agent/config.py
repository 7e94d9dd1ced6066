"""The agent's configuration: one YAML file, checked once, frozen afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from margo_agent.fields import Fields
from margo_agent.reaching import ProxySettings, read_proxy, read_registries
from margo_agent.settings import (
    About,
    ApplySettings,
    CleanSettings,
    Drift,
    IdentitySettings,
    LogSettings,
    ReportSettings,
    TransferSettings,
    read_about,
    read_apply,
    read_clean,
    read_identity,
    read_log,
    read_report,
    read_transfer,
)
from margo_oci.access import Access
from margo_oci.desired_state import check_scope
from margo_oci.errors import FormatError
from margo_oci.freshness import head_tag
from margo_oci.reference import Reference, parse_reference
from margo_oci.trustconfig import TrustConfig, parse_trust
from margo_oci.yamldoc import parse_yaml

DEFAULT_INTERVAL_S = 30.0
_KEYS = (
    "device",
    "source",
    "scopes",
    "trust",
    "registries",
    "interval",
    "stateDir",
    "secretsDir",
    "identity",
    "engine",
    "lock",
    "proxy",
    "apply",
    "drift",
    "bandwidth",
    "leastRate",
    "clean",
    "import",
    "report",
    "log",
    "about",
)


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """What a device is told at provisioning; paths are absolute here, units are in the names."""

    file: Path
    device: str
    source: Reference
    scopes: Sequence[str]
    trust: TrustConfig
    registries: Mapping[str, Access]
    interval_s: float
    state_dir: Path
    engine: str
    lock: Literal["enforce", "resolve"]
    proxy: ProxySettings = field(default_factory=ProxySettings)
    apply: ApplySettings = field(default_factory=ApplySettings)
    drift: Drift = "correct"
    transfer: TransferSettings = field(default_factory=TransferSettings)
    clean: CleanSettings = field(default_factory=CleanSettings)
    inbox: Path | None = None  # where bundles are put
    report: ReportSettings = field(default_factory=ReportSettings)
    log: LogSettings = field(default_factory=LogSettings)
    about: About = field(default_factory=About)
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    secrets_dir: Path | None = None

    @property
    def look_at(self) -> Reference:
        """Where a look asks whether anything is new: at the state's tag, or at the head beside it."""
        return head_tag(self.source) if self.trust.mode == "head+release" else self.source

    def access(self, host: str) -> Access:
        """How `host` is reached; one that is not configured is reached over TLS, as nobody."""
        return self.registries.get(host) or self.proxy.on(Access())


def load_config(file: Path) -> AgentConfig:
    """Read and check `file`. Raises FormatError with every fault, each with its line."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror}: name the agent's configuration with --config FILE") from None
    document = parse_yaml(data, what=str(file))
    if not isinstance(document.value, dict):
        raise FormatError(f"{file}: a map with device, source, scopes, trust and stateDir is expected")
    fields = Fields(document, file.absolute())
    fields.known((), document.value, _KEYS)
    config = _config(fields)
    fields.raise_faults()
    return config


def _config(fields: Fields) -> AgentConfig:
    proxy = read_proxy(fields, ("proxy",))
    state_dir = fields.path(fields.text(("stateDir",)))
    secrets_dir = fields.text(("secretsDir",), required=False)
    return AgentConfig(
        file=fields.file,
        device=fields.text(("device",)),
        source=fields.checked(("source",), parse_reference) or Reference("", ""),
        scopes=_scopes(fields),
        trust=parse_trust(fields.document, fields.file.parent, fields.fault),
        registries=read_registries(fields, proxy),
        proxy=proxy,
        interval_s=fields.duration_s(("interval",), DEFAULT_INTERVAL_S),
        state_dir=state_dir,
        engine=fields.checked(("engine",), _engine, required=False) or "",
        lock="resolve" if fields.choice(("lock",), ("enforce", "resolve")) == "resolve" else "enforce",
        apply=read_apply(fields),
        drift="report" if fields.choice(("drift",), ("correct", "report")) == "report" else "correct",
        transfer=read_transfer(fields),
        clean=read_clean(fields),
        inbox=_inbox(fields),
        report=read_report(fields, state_dir),
        log=read_log(fields),
        about=read_about(fields),
        identity=read_identity(fields),
        secrets_dir=fields.path(secrets_dir) if secrets_dir else None,
    )


def _inbox(fields: Fields) -> Path | None:
    fields.section(("import",), ("watch",))
    watch = fields.text(("import", "watch"), required=False)
    return fields.path(watch) if watch else None


def _engine(text: str) -> str:
    if not text.startswith(("unix:///", "tcp://", "http://", "https://", "ssh://")):
        raise FormatError(f"{text!r:.80}: an address is expected, as in unix:///run/podman/podman.sock")
    return text


def _scopes(fields: Fields) -> Sequence[str]:
    scopes = fields.texts(("scopes",))
    for scope in scopes:
        try:
            check_scope(scope)
        except FormatError as error:
            fields.fault(("scopes",), str(error))
    return scopes
