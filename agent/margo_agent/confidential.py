"""Secrets of deployments: opened with this device's key, and written to memory alone (format 14.12 to 14.15)."""

import hashlib
import hmac
import os
import shutil
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from margo_agent.unready import Sealed, Unfit
from margo_oci.deployment import UUID
from margo_oci.errors import FormatError
from margo_oci.files import ExtraFile

if TYPE_CHECKING:
    from margo_oci.jwe import PrivateKey

MEMORY = ("tmpfs", "ramfs")
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Content:
    """What is in a file that is to be written."""

    data: bytes
    executable: bool = False


@dataclass(frozen=True)
class Secrets:
    """The secrets of this device in `folder`, below a part of it that is this `agent`'s own: others may use it, too.

    `keys` open them, the first one is the device's present one.
    """

    folder: Path
    keys: Callable[[], "Sequence[PrivateKey]"]
    kind_of_disk: Callable[[Path], str]
    agent: str
    can_give: bool = False  # to other users, what is this agent's

    @property
    def own(self) -> Path:
        """The folder that nobody but this agent uses."""
        return self.folder / self.agent

    def folder_of(self, deployment: str) -> Path:
        """Return where those of a deployment are."""
        return self.own / deployment

    def opened(self, file: ExtraFile) -> bytes:
        """Return what is in a secret. Raises Sealed, FormatError for what was changed."""
        # Imported when there is a secret: most passes need none of it.
        from margo_oci.jwe import parse_envelope, unseal

        found = unseal(file.data, self._keys(file.path), what=file.path)
        if found is None:
            kids = ", ".join(kid or "(unnamed)" for kid in parse_envelope(file.data, what=file.path).kids)
            raise Sealed(
                f"{file.path}: encrypted for {kids:.300}, and not for this device: encrypt it also --to what "
                "margo-agent identity show prints"
            )
        return found

    def name(self, content: bytes) -> str:
        """Return a name for `content` that tells nobody what it is: the same on this device, another one elsewhere."""
        scalar = self._keys("files")[0].private_numbers().private_value.to_bytes(32, "big")
        key = hashlib.sha256(b"margo-agent: names of secrets\0" + scalar).digest()
        return hmac.new(key, content, hashlib.sha256).hexdigest()

    def check(self, owners: Collection[str] = ()) -> None:
        """Raise Sealed unless secrets can be kept in memory here, Unfit unless they can be given to `owners`."""
        try:
            place = next(one for one in (self.folder, *self.folder.parents) if one.exists())
            kind = self.kind_of_disk(place)
        except OSError as error:
            raise Sealed(f"secretsDir {self.folder}: {error.strerror}: name a folder of the agent's user") from None
        if kind not in MEMORY:
            raise Sealed(
                f"secretsDir {self.folder}: is on {kind or 'an unknown file system'}, not in memory: name a folder "
                "on a tmpfs, as below /run"
            )
        if not self.can_give and (given := sorted(filter(None, owners))):
            raise Unfit(
                f"a secret is wanted for the user {given[0]}, and this agent cannot give files away: let it run as "
                "root with CAP_CHOWN"
            )

    def write(self, path: Path, files: Mapping[str, Content], owner: str) -> None:
        """Write a secret, or a folder with some, whole or not at all. Raises Sealed."""
        self.check([owner])
        try:
            for folder in (self.folder, self.own, path.parent):
                _claim(folder)
            _write_whole(path, files, owner)
        except (OSError, OverflowError) as error:  # the latter for a number that no user has
            why = error.strerror if isinstance(error, OSError) else error
            raise Sealed(f"secretsDir {self.folder}: {why}: a secret could not be written") from None

    def keep_only(self, deployment: str, paths: Collection[str]) -> None:
        """Remove the secrets of a deployment but those at `paths`."""
        keep_only(self.folder_of(deployment), paths)

    def strays(self, deployments: Collection[str]) -> Sequence[Path]:
        """Return the folders of deployments that are not among these."""
        try:
            there = [one for one in self.own.iterdir() if UUID.fullmatch(one.name)]
        except OSError:  # there is none, or it is of another user
            return ()
        return sorted(one for one in there if one.name not in deployments)

    def _keys(self, what: str) -> "Sequence[PrivateKey]":
        try:
            return self.keys()
        except FormatError as error:
            raise Sealed(f"{what}: {error}") from None


def _claim(folder: Path) -> None:
    """Make a folder that nobody else can look into. Raises OSError, Sealed for one of somebody else."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Sealed(f"secretsDir: {folder} is no folder of the agent's own user: name another one, or remove it")
    folder.chmod(0o700)


def keep_only(folder: Path, paths: Collection[str]) -> None:
    """Remove what is in `folder`, but what is at `paths`; and the folder, if it is empty then."""
    for child in folder.iterdir() if folder.is_dir() else ():
        if str(child) not in paths:
            _remove(child)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _write_whole(path: Path, files: Mapping[str, Content], owner: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    _remove(beside)
    try:
        _write(beside, files)
        if owner:
            os.chown(beside, *map(int, owner.split(":")))
        beside.rename(path)
    finally:
        _remove(beside)


def _write(path: Path, files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        file = path / name if name else path
        for folder in reversed(Path(name).parents):  # one by one: what `parents` makes along the way has another mode
            (path / folder).mkdir(mode=0o700, exist_ok=True)
        mode = 0o700 if content.executable else 0o600
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content.data)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def kind_of_disk(path: Path, mounts: Path = _MOUNTS) -> str:
    """Return the kind of file system a path is on, as the kernel calls it; "" if it does not say (proc(5))."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [wanted] and after:
            return after.split()[0]
    return ""


def can_give_files_away(status: Path = Path("/proc/self/status")) -> bool:
    """Tell whether this process may change whom a file belongs to: root with CAP_CHOWN (capabilities(7))."""
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return bool(int(lines.get("CapEff", "0").strip(), 16) & 1)


def agent_folder(state_dir: Path) -> str:
    """Return the name of the folder for the secrets of the agent whose state is there."""
    return hashlib.sha256(os.fsencode(state_dir.absolute())).hexdigest()[:16]


def secrets_folder(configured: Path | None, environment: Mapping[str, str]) -> Path:
    """Return where secrets go: as configured, else in the folder of this service, or user, that a reboot empties."""
    if configured:
        return configured
    if given := environment.get("RUNTIME_DIRECTORY", "").split(":")[0]:
        return Path(given) / "secrets"
    runtime = environment.get("XDG_RUNTIME_DIR", "") if os.geteuid() else ""
    return Path(runtime or "/run") / "margo-agent" / "secrets"
