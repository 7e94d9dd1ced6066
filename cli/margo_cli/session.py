"""What every command shares: its options, how registries are reached, keys, and how things are printed."""

import atexit
import functools
import ipaddress
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.request import getproxies_environment

import click

from margo_oci.access import Access
from margo_oci.compose import Compose, find_compose
from margo_oci.content import Descriptor
from margo_oci.credentials import AuthFiles
from margo_oci.errors import FormatError, plain, plain_json, plain_lines
from margo_oci.host_certificates import Certificates, certificate_folders, find_certificates
from margo_oci.keys import KEY_LIMIT_BYTES, FileKey, PasswordNeeded, PublicKey, Use
from margo_oci.proxy import Proxies, proxy_host
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Registry
from margo_oci.signed import SignatureFolder
from margo_oci.store import Store

if TYPE_CHECKING:
    from margo_oci.upload import Uploader

PASSWORD_VARIABLE = "MARGO_OCI_KEY_PASSWORD"  # noqa: S105  (its name, not its value)
DURATION_LIMIT = timedelta(days=36500)
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Session:
    """The options of one call, and what is made from them."""

    output: str = "text"
    plain_http: bool = False
    ca_file: Path | None = None

    def access(self, *references: Reference) -> Callable[[str], Access]:
        """Return how hosts are reached.

        The options are for the hosts of `references`, and for this machine under another port: what stands on one
        machine is one site. Where an option is not given, what Docker and Podman know of a host counts.
        """
        named = {reference.host for reference in references}

        @functools.cache
        def access(host: str) -> Access:
            meant = host in named or (_is_this_machine(host) and any(map(_is_this_machine, named)))
            kept = certificates(host)
            return Access(
                plain_http=meant and self.plain_http,
                ca_file=self.ca_file if meant else None,
                extra_ca_files=kept.ca_files,
                client_cert=kept.client_cert,
                client_key=kept.client_key,
                login=functools.cache(functools.partial(auth_files().find, host)),
                proxy_ca_files=proxy_ca_files(),
            )

        return access

    def registry(self, *references: Reference) -> Registry:
        """Return the door for reading."""
        return Registry(self.access(*references))

    def uploader(self, reference: Reference) -> "Uploader":
        """Return the door for pushing to the registry of `reference`."""
        from margo_oci.upload import Uploader

        access = self.access(reference)
        return Uploader(reference.host, access(reference.host), access)

    @property
    def is_json(self) -> bool:
        """Whether stdout is for a program."""
        return self.output == "json"

    def show(self, value: Any, lines: Sequence[str]) -> None:
        """Print data: as JSON, or as lines for people; what came from outside makes no lines of its own."""
        text = "\n".join(map(plain, lines))
        click.echo(plain_json(value) if self.is_json else text)

    @contextmanager
    def progress(self, doing: str, total: int) -> Iterator[Callable[[Descriptor], None]]:
        """Show a bar on a terminal, nothing in a pipe; yield what advances it."""
        if not sys.stderr.isatty() or not total:
            yield lambda _: None
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(doing, total=total)
            yield lambda _: bar.advance(task)


def say(message: str) -> None:
    """Tell a person something that is not data."""
    click.echo(plain_lines(message), err=True)


def git_environment() -> Mapping[str, str]:
    """Return what of this environment `git` needs: where programs, settings, keys and proxies are."""
    names = ("PATH", "HOME", "XDG_CONFIG_HOME", "USER", "SSH_AUTH_SOCK", "GIT_SSL_CAINFO", "http_proxy", "https_proxy",
             "HTTPS_PROXY", "no_proxy", "NO_PROXY")  # fmt: skip
    ssh = {"GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")}
    return {name: os.environ[name] for name in names if name in os.environ} | ssh


def auth_files() -> AuthFiles:
    """Return this user's auth files."""
    return AuthFiles.of(os.environ, Path.home())


def certificates(host: str) -> Certificates:
    """Return what Docker and Podman keep for a host in their `certs.d`."""
    return find_certificates(certificate_folders(os.environ, Path.home()), host)


@functools.cache
def proxy_ca_files() -> tuple[Path, ...]:
    """Return the CAs kept for the proxies of the environment, which are hosts as well."""
    proxies = Proxies.of(getproxies_environment())
    urls = {url for url in (proxies.https, proxies.http) if url.startswith("https:")}
    return tuple(file for url in sorted(urls) for file in certificates(proxy_host(url)).ca_files)


def cache() -> Store:
    """Return where fetched content is kept between calls."""
    return Store(_cache_folder())


def signature_folder() -> SignatureFolder:
    """Return where signatures of releases are kept between calls."""
    return SignatureFolder(_cache_folder() / "signatures")


def _cache_folder() -> Path:
    try:
        return _usable(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "margo-oci")
    except RuntimeError:  # nobody knows a home
        return _usable(Path("/nonexistent"))


@functools.cache
def _usable(folder: Path) -> Path:
    """Return a folder for the cache: one for this call alone, where nothing can be kept between calls."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    say(f"warning: {folder}: nothing can be written there, so nothing is kept for the next call: XDG_CACHE_HOME=…")
    temporary = tempfile.TemporaryDirectory(prefix="margo-oci-")
    atexit.register(temporary.cleanup)
    return Path(temporary.name)


@functools.cache
def compose() -> Compose:
    """Return Docker Compose; on this side it only reads files and needs no engine."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return Compose(find_compose(), kept)


def _is_this_machine(host: str) -> bool:
    name = re.sub(r":[0-9]+$", "", host).strip("[]")
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class ReferenceType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """An argument that is a reference."""

    name = "reference"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Reference:
        """Parse, and let the usage error say what is wrong."""
        if isinstance(value, Reference):
            return value
        try:
            return parse_reference(str(value))
        except FormatError as error:
            self.fail(str(error), param, ctx)


class DurationType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """An option that is a length of time: a number and s, m, h or d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Parse, and let the usage error say what is wrong."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", str(value))
        if not found:
            self.fail(f"{value!r}: a duration as 30s, 15m, 12h or 7d is expected", param, ctx)
        length = timedelta(**{{"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found[2]]: int(found[1])})
        if length > DURATION_LIMIT:
            self.fail(f"{value!r}: at most {DURATION_LIMIT.days} days", param, ctx)
        return length


DURATION = DurationType()
REFERENCE = ReferenceType()
reference_argument = click.argument("reference", type=REFERENCE)
peer_keys_option = click.option(
    "--peer-key", "peer_files", type=click.Path(path_type=Path), multiple=True,
    help="Public key of another publisher, whose releases count as well; may be given several times.",
)  # fmt: skip


def _output_option(*names: str, forms: Sequence[str] = ("text", "json")) -> Callable[[F], F]:
    choice = click.Choice(forms)
    return click.option(*names, type=choice, default=forms[0], show_default=True, help="How to print.")


output_option = _output_option("--output", "-o")
long_output_option = _output_option("--output")  # where -o names a folder


def with_session(*, short: bool = True, forms: Sequence[str] = ("text", "json")) -> Callable[[F], F]:
    """Add the options every registry command has, and hand them over as one `session`; `short` adds -o.

    `forms` are how it can print, the first if nothing is said.
    """

    def decorate(command: F) -> F:
        @click.option(
            "--plain-http",
            is_flag=True,
            help="HTTP without TLS, for this registry (one on this machine: for all on this machine).",
        )
        @click.option(
            "--ca-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="CA of this registry, instead of the system's (one on this machine: of all on this machine).",
        )  # fmt: skip
        @functools.wraps(command)
        def called(*args: Any, plain_http: bool, ca_file: Path | None, **kwargs: Any) -> Any:
            return command(Session(kwargs.pop("output"), plain_http, ca_file), *args, **kwargs)

        return _output_option(*(("--output", "-o") if short else ("--output",)), forms=forms)(called)  # type: ignore[return-value]

    return decorate


def load_signer(file: Path, *, use: Use = "cosign") -> FileKey:
    """Read a private key; its password comes from the environment or a prompt. Raises FormatError."""
    data = read_file(file)
    try:
        return FileKey.from_pem(data, password_of_environment(), name=file.name, use=use)
    except PasswordNeeded:
        if not sys.stdin.isatty():
            raise FormatError(f"{file}: this key is encrypted: set {PASSWORD_VARIABLE}") from None
    typed: str = click.prompt(f"Password for {file}", hide_input=True, err=True)
    return FileKey.from_pem(data, typed.encode(), name=file.name, use=use)


def password_of_environment() -> bytes | None:
    """Return the password for private keys that the environment has; None if it says nothing."""
    password = os.environ.get(PASSWORD_VARIABLE)
    return None if password is None else password.encode()


def load_public_keys(files: Sequence[Path]) -> Sequence[PublicKey]:
    """Read the public keys a policy names. Raises FormatError."""
    return [PublicKey.from_pem(read_file(file), name=file.name) for file in files]


def read_file(file: Path, *, limit_bytes: int = KEY_LIMIT_BYTES) -> bytes:
    """Return a file, a key or root unless a limit says otherwise; of a longer one a byte too much.

    Raises FormatError.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(limit_bytes + 1)
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror}") from None


def human_bytes(count: int) -> str:
    """Return a size for people."""
    if count < 1000:
        return f"{count} B"
    size = count / 1000
    for unit in ("kB", "MB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
