"""The key with which a device signs its reports: made at first use, and its own alone."""

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from margo_agent.config import AgentConfig
from margo_oci.errors import FormatError
from margo_oci.keys import KEY_LIMIT_BYTES, FileKey, PublicKey, generate
from margo_oci.store import sync_folder, write_whole


def key_file(config: AgentConfig) -> Path:
    """Return where the key is, or will be."""
    return config.report.key or config.state_dir / "device.key"


def load_key(config: AgentConfig) -> FileKey:
    """Return the device's key; the one in `stateDir` is made if it is not there. Raises FormatError."""
    file = key_file(config)
    if config.report.key is None and not file.exists():
        _make(file)
    try:
        with file.open("rb") as stream:
            data = stream.read(KEY_LIMIT_BYTES + 1)
    except OSError as error:
        raise FormatError(f"report.key: {file}: {error.strerror}") from None
    return FileKey.from_pem(data, None, name=str(file))


def public_pem(key: PublicKey) -> str:
    """Return a public key as PEM."""
    found = serialization.load_der_public_key(key.der)
    return found.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def _make(file: Path) -> None:
    """Make a key, whole or not at all; of two who do it at once one finds that of the other."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    write_whole(beside, generate(None)[0], mode=0o600)
    try:
        os.link(beside, file)
    except FileExistsError:
        return
    finally:
        beside.unlink()
        sync_folder(file.parent)
