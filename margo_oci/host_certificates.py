"""Certificates where Docker's and Podman's tools keep them: one folder for each host (containers-certs.d(5))."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from margo_oci.errors import FormatError


@dataclass(frozen=True)
class Certificates:
    """What is kept for one host: CAs that are trusted besides the system's, and a client certificate."""

    ca_files: tuple[Path, ...] = ()
    client_cert: Path | None = None
    client_key: Path | None = None


def certificate_folders(environment: Mapping[str, str], home: Path, etc: Path = Path("/etc")) -> Sequence[Path]:
    """Return where certificates are looked for: this user's folders first, then the machine's."""
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    docker = Path(environment.get("DOCKER_CONFIG") or home / ".docker")
    return [
        config / "containers" / "certs.d",
        docker / "certs.d",
        etc / "containers" / "certs.d",
        etc / "docker" / "certs.d",
    ]


def find_certificates(folders: Sequence[Path], host: str) -> Certificates:
    """Return what the first folder that knows `host` has. Raises FormatError for a half of a client certificate."""
    for folder in folders:
        try:
            files = sorted((folder / host).iterdir())
        except OSError:  # most hosts have none, and root's are not for everybody
            continue
        if found := _certificates(files):
            return found
    return Certificates()


def _certificates(files: Sequence[Path]) -> Certificates | None:
    authorities = tuple(file for file in files if file.suffix == ".crt")
    cert = next((file for file in files if file.suffix == ".cert"), None)
    keys = [file for file in files if file.suffix == ".key"]
    if cert and cert.with_suffix(".key") not in keys:
        raise FormatError(f"{cert}: its key is missing: {cert.with_suffix('.key').name} is expected beside it")
    if keys and not cert:
        raise FormatError(f"{keys[0]}: its certificate is missing: {keys[0].stem}.cert is expected beside it")
    if not authorities and not cert:
        return None
    return Certificates(authorities, cert, cert.with_suffix(".key") if cert else None)
