"""All checks in their order."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from margo_agent.clock import Clock
from margo_agent.config import AgentConfig, load_config
from margo_agent.doctor import here
from margo_agent.doctor.check import Check, Checks, run_checks
from margo_agent.record import Record, RecordFile
from margo_oci.errors import MargoError

_MEMINFO = Path("/proc/meminfo")


def examine(file: Path, environment: Mapping[str, str], clock: Clock, *, offline: bool) -> Iterator[Check]:
    """Yield what each check found, as soon as it is known; without a configuration there is nothing else to see."""
    try:
        config = load_config(file)
    except MargoError as error:
        yield Check("configuration", "fail", str(error), "correct it; docs/device.md has every key")
        return
    yield Check("configuration", "ok", f"{config.file}: device {config.device}, {config.source}")
    for name, checks in _plan(config, environment, clock, offline=offline):
        yield from run_checks(name, checks)


def _plan(
    config: AgentConfig, environment: Mapping[str, str], clock: Clock, *, offline: bool
) -> Sequence[tuple[str, Checks]]:
    # Imported here: what doctor looks at is heavy, and the command line is imported by every process.
    from margo_agent.doctor import engine, registry, secrets, trust

    record = _record(config)
    local: list[tuple[str, Checks]] = [
        ("state dir", lambda: here.state_dir(config)),
        ("inbox", lambda: here.inbox(config)),
        ("memory", lambda: here.memory(_MEMINFO.read_text())),
        ("clock", lambda: here.clock(clock.rtc(), synchronized=here.is_synchronized())),
        ("engine", lambda: engine.engine(config, environment)),
        ("compose", lambda: engine.compose(environment)),
        ("trust", lambda: trust.trust(config, record, clock)),
        ("secrets", lambda: secrets.secrets(config, environment, clock.now(record.time))),
        ("agent", lambda: here.agent(config, clock.now(record.time))),
    ]
    remote: list[tuple[str, Checks]] = [
        ("registry", lambda: registry.registry(config, datetime.now(UTC))),
        ("state", lambda: trust.state(config, record, clock)),
    ]
    return local if offline else [*local, *remote]


def _record(config: AgentConfig) -> Record:
    try:
        return RecordFile(config.state_dir / "record.json").load()
    except (MargoError, OSError):
        return Record()  # the check of the state directory says it
