"""Documents out of a Git repository at one commit, without a working tree (format 2.9).

`git` fetches the commit alone into a bare repository that is thrown away, and hands over plain files. So no hook,
filter, link or submodule of the repository has a say. A commit names its content, whoever it came from.
"""

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from margo_oci.archive import ENTRY_LIMIT, UNPACKED_LIMIT_BYTES, Entry, safe_path
from margo_oci.desired_state import Origin
from margo_oci.errors import FormatError, RegistryError, shown
from margo_oci.leash import leashed

FETCH_TIMEOUT_S = 120.0
READ_TIMEOUT_S = 60.0
PACK_LIMIT_BYTES = 256 * 1024 * 1024
_WORDS_LIMIT_BYTES = 64 * 1024
_REV = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_NO_SUCH_REF = "couldn't find remote ref"  # git's own words
_SCP = re.compile(r"(?:[A-Za-z0-9._-]+@)?([A-Za-z0-9][A-Za-z0-9.-]*):(?!/)([A-Za-z0-9._~/-]+)", re.ASCII)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_PROTOCOLS = ("https", "ssh", "file")
_SETTINGS = {
    "core.hooksPath": "/dev/null", "core.symlinks": "false", "core.fsmonitor": "false", "fetch.fsckObjects": "true",
    "fetch.recurseSubmodules": "no", "gc.auto": "0", "maintenance.auto": "false", "protocol.ext.allow": "never",
}  # fmt: skip


@dataclass(frozen=True)
class GitSource:
    """Where documents are: a repository, a branch, tag or commit in it, and a folder in that; "" is its top."""

    url: str
    rev: str
    path: str = ""

    def __post_init__(self) -> None:
        """Refuse what `git` could take for something else. Raises FormatError."""
        _check_url(self.url)
        if not _REV.fullmatch(self.rev) or ".." in self.rev or "@{" in self.rev:
            raise FormatError(f"revision {self.rev!r:.80}: a branch, a tag or a full commit id is expected")
        if self.path:  # git knows a folder in its plainest form alone
            object.__setattr__(self, "path", safe_path(self.path, "--path"))

    @property
    def public_url(self) -> str:
        """The address as it may be published: without login and query."""
        if found := _SCP.fullmatch(self.url):
            return f"ssh://{found[1]}/{found[2]}"
        if "://" not in self.url:
            return f"file://{Path(self.url).absolute()}"
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _check_url(url: str) -> None:
    bad = not url or url.startswith("-") or not url.isprintable() or any(char.isspace() for char in url)
    scheme, found, _ = url.partition("://")
    if bad or (found and scheme not in _PROTOCOLS) or (not found and "::" in url):
        raise FormatError(f"{shown(url)!r}: an address as https://…, ssh://…, file://… or a folder is expected")
    if found:
        try:
            netloc = urlsplit(url).netloc
        except ValueError:
            raise FormatError(f"{shown(url)!r}: this is no address") from None
        if scheme != "file" and (not netloc.rpartition("@")[2] or netloc.startswith("-") or "@-" in netloc):
            raise FormatError(f"{shown(url)!r}: this names no host")


@dataclass(frozen=True)
class Checkout:
    """A folder with the plain files of a commit, and where they came from."""

    folder: Path
    origin: Origin


@contextmanager
def checked_out(source: GitSource, environment: Mapping[str, str]) -> Iterator[Checkout]:
    """Write the files of `source` into a folder for as long as the block lasts; `git` runs with `environment`.

    Raises FormatError for what is not there or too large, RegistryError if the repository does not answer.
    """
    program = shutil.which("git", path=environment.get("PATH"))
    if program is None:
        raise FormatError("git is missing: install it, or check the commit out yourself and push the folder")
    with tempfile.TemporaryDirectory(prefix="margo-oci-git-") as place:
        git = _Git(program, Path(place), environment)
        commit = git.fetch(source)
        folder = Path(place) / "files"
        _write(folder, git.files(source, commit))
        yield Checkout(folder, Origin(commit, source.public_url))


def _write(folder: Path, entries: Sequence[Entry]) -> None:
    folder.mkdir()
    for entry in entries:
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.data)
        path.chmod(0o755 if entry.executable else 0o644)


@dataclass(frozen=True)
class _Git:
    program: str
    place: Path
    environment: Mapping[str, str]

    def fetch(self, source: GitSource) -> str:
        """Fetch one commit, nothing before it; return its id."""
        bare = str(self.place / "bare")
        what = f"git fetch {shown(source.url)} {source.rev}"
        url = source.url if "://" in source.url or _SCP.fullmatch(source.url) else str(Path(source.url).absolute())
        self._run(["init", "--quiet", "--bare", "--template=", bare], "git init")
        options = ["--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"]
        try:
            self._run([f"--git-dir={bare}", "fetch", *options, "--", url, source.rev], what, timeout_s=FETCH_TIMEOUT_S)
        except RegistryError as error:
            if _NO_SUCH_REF not in str(error):
                raise
            raise FormatError(f"{what}: {_not_there(source.rev)}") from None
        commit = self._read(["rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}"], what).decode().strip()
        if not _COMMIT.fullmatch(commit):
            raise FormatError(f"{what}: this is no commit")
        if _COMMIT.fullmatch(source.rev) and commit != source.rev:
            raise FormatError(f"{what}: the repository sent {commit}")
        return commit

    def files(self, source: GitSource, commit: str) -> Sequence[Entry]:
        """Return the plain files below the folder; its documents must be such."""
        what = f"{shown(source.url)} at {commit[:12]}"
        tree = f"{commit}:{source.path}"
        try:
            listed = self._read(["ls-tree", "-r", "-z", "--long", "--full-tree", tree], what)
        except RegistryError:
            raise FormatError(f"{what}: it has no folder {source.path!r:.80}") from None
        found = [_listed(line, what) for line in listed.split(b"\0") if line]
        links = [path for mode, _, _, path in found if not mode.startswith("100") and _is_read(path)]
        if links:
            raise FormatError(*(f"{what}: {path}: is a link: plain files are published" for path in links))
        plain = [one for one in found if one[0].startswith("100")]
        if len(plain) > ENTRY_LIMIT or sum(size for _, _, size, _ in plain) > UNPACKED_LIMIT_BYTES:
            raise FormatError(
                f"{what}: more than {ENTRY_LIMIT} files or {UNPACKED_LIMIT_BYTES} bytes: name the folder with --path"
            )
        entries = self._contents(plain, what)
        if kept_elsewhere := [one.path for one in entries if one.data.startswith(_LFS_POINTER) and _is_read(one.path)]:
            words = "is kept by Git LFS, and only its name is here: check it out and push the folder"
            raise FormatError(*(f"{what}: {path}: {words}" for path in kept_elsewhere))
        return entries

    def _contents(self, plain: Sequence[tuple[str, str, int, str]], what: str) -> Sequence[Entry]:
        asked = "".join(f"{name}\n" for _, name, _, _ in plain).encode()
        data = self._read(["cat-file", "--batch"], what, given=asked, limit_bytes=2 * UNPACKED_LIMIT_BYTES)
        entries, at = [], 0
        for mode, name, size, path in plain:
            header = f"{name} blob {size}\n".encode()
            if not data.startswith(header, at):
                raise FormatError(f"{what}: {path}: git did not hand it over")
            at += len(header)
            entries.append(Entry(path, data[at : at + size], mode == "100755"))
            at += size + 1
        return entries

    def _read(
        self, arguments: Sequence[str], what: str, *, given: bytes = b"", limit_bytes: int = UNPACKED_LIMIT_BYTES
    ) -> bytes:
        return self._run([f"--git-dir={self.place / 'bare'}", *arguments], what, given=given, limit_bytes=limit_bytes)

    def _run(
        self,
        arguments: Sequence[str],
        what: str,
        *,
        given: bytes = b"",
        timeout_s: float = READ_TIMEOUT_S,
        limit_bytes: int = _WORDS_LIMIT_BYTES,
    ) -> bytes:
        """Run git and return what it prints. Raises RegistryError with its last words, FormatError for too much."""
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = leashed([self.program, *settings, *arguments])
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as words:
            stdin.write(given)
            stdin.seek(0)
            with subprocess.Popen(
                command, env={**self.environment, **_QUIET}, cwd=self.place, stdin=stdin, stdout=out, stderr=words,
                process_group=0,
            ) as process:  # fmt: skip
                try:
                    with suppress(ProcessLookupError):  # done already
                        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (PACK_LIMIT_BYTES, PACK_LIMIT_BYTES))
                    process.wait(timeout_s)
                except BaseException as error:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)  # and whatever it started, such as ssh
                    if isinstance(error, subprocess.TimeoutExpired):
                        raise RegistryError(f"{what}: not done after {timeout_s:.0f} s") from None
                    raise
            if process.returncode:
                words.seek(0)
                raise RegistryError(f"{what}: {_last(words.read(_WORDS_LIMIT_BYTES))}")
            out.seek(0)
            data = out.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise FormatError(f"{what}: more than {limit_bytes} bytes: name the folder with --path")
        return data


# Nobody is asked for a password, nothing but these ways is gone, and messages are English.
_QUIET = {
    "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS": "", "GIT_ALLOW_PROTOCOL": ":".join(_PROTOCOLS),
    "GIT_PROTOCOL_FROM_USER": "0", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_NO_REPLACE_OBJECTS": "1", "LC_ALL": "C",
}  # fmt: skip


def _listed(line: bytes, what: str) -> tuple[str, str, int, str]:
    """Return mode, name, size and path of a line of `git ls-tree --long -z`. Raises FormatError."""
    try:
        described, _, name = line.decode().partition("\t")
        mode, _, digest, size = described.split()
        return mode, digest, 0 if size == "-" else int(size), safe_path(name, what)
    except ValueError:
        raise FormatError(f"{what}: a file has a name that is not UTF-8") from None


def _not_there(rev: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f]{4,}", rev):  # git has no way to ask for these
        words = "no branch or tag is called so, and the short id of a commit cannot be asked for"
        return f"{words}: give all of its digits, as `git rev-parse` has them"
    return "no branch or tag is called so: a branch, a tag or a full commit id is expected"


def _is_read(path: str) -> bool:
    """Tell whether a push looks at a path: documents, and what stands beside them in folders of files."""
    top, below, _ = path.partition("/")
    return top.endswith(".files") or (not below and top.endswith((".yaml", ".yml")))


def _last(words: bytes) -> str:
    lines = [line for line in words.decode(errors="replace").splitlines() if line.strip()]
    return shown(" ".join(lines[-5:])) or "it failed without a word"
