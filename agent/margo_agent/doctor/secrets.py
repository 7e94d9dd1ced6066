"""Check of secrets: whether this device can open them, and keep them in memory."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from margo_agent.confidential import Secrets, agent_folder, can_give_files_away, kind_of_disk, secrets_folder
from margo_agent.config import AgentConfig
from margo_agent.device_identity import key_file, load_identity
from margo_agent.doctor.check import Check, days_left
from margo_agent.unready import Sealed
from margo_oci.errors import FormatError


def secrets(config: AgentConfig, environment: Mapping[str, str], now: datetime) -> Iterator[Check]:
    """Whether there is a key that opens secrets, and a place for them."""
    if config.identity.key is None and not key_file(config).exists():
        yield Check("secrets", "ok", "no identity: nothing can be encrypted to this device (margo-agent identity init)")
        return
    try:
        identity = load_identity(config)
        folder = secrets_folder(config.secrets_dir, environment)
        own = agent_folder(config.state_dir)
        Secrets(folder, lambda: identity.keys, kind_of_disk, own, can_give_files_away()).check()
    except FormatError as error:
        yield Check("secrets", "fail", str(error), "put key and certificate there, or margo-agent identity init")
        return
    except Sealed as error:
        yield Check("secrets", "fail", str(error), "name a folder of the agent's user on a tmpfs as secretsDir")
        return
    left_s = (identity.certificate.not_valid_after_utc - now).total_seconds()
    seen = f"{identity.kid}: {days_left(left_s)}; opened ones are kept in {folder}"
    todo = "" if left_s > 0 else "secrets still open; encrypt refuses it: margo-agent identity init --renew"
    yield Check("secrets", "warn" if todo else "ok", seen, todo)
