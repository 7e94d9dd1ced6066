"""What is made of a Compose model before it is stored: pinned, sealed, with all it needs in it. No I/O."""

import posixpath
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from margo_oci.composefile import faults_of_model
from margo_oci.content import canonical_json, digest_of
from margo_oci.desired_state import Lock
from margo_oci.errors import FormatError
from margo_oci.reference import DOCKER_HUB, parse_image

DEPLOYMENT_LABEL = "org.margo.deployment"
COMPONENT_LABEL = "org.margo.component"
DEVICE_LABEL = "org.margo.device"
CONTENT_LABEL = "org.margo.content"
_DETOUR = re.compile(r"/proc/[^/]+/(task/[^/]+/)?(root|cwd|fd)(/|$)")  # links to folders (proc(5))
_SECRET = "MARGO_SECRET_"  # noqa: S105  (a variable's name)


def pinned(model: Mapping[str, Any], locked: Lock, *, device: str, deployment: str, component: str) -> dict[str, Any]:
    """Return the model with every image named by its locked digest and our labels on every service (format 4.2, 5.2).

    Raises FormatError for an image that the lock does not know (a tag alone says nothing about content), and for
    what no digest covers (format 8.8).
    """
    if faults := faults_of_model(model):
        raise FormatError(*faults)
    labels = {DEVICE_LABEL: device, DEPLOYMENT_LABEL: deployment, COMPONENT_LABEL: component}
    return _with_services(model, lambda name, one: _service(one, name, locked, labels))


def _with_services(
    model: Mapping[str, Any], change: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
) -> dict[str, Any]:
    return {**model, "services": {name: change(name, one) for name, one in model["services"].items()}}


def _service(service: Mapping[str, Any], name: str, locked: Lock, ours: Mapping[str, str]) -> dict[str, Any]:
    image = service.get("image", "")
    if image not in locked.images:
        raise FormatError(f"services.{name}.image: {image or '(none)'} is not in the lock of this deployment")
    # Profiles were chosen when the model was made: what is in it is on.
    kept = {key: value for key, value in service.items() if key not in ("build", "pull_policy", "profiles")}
    labels = {**(service.get("labels") or {}), **ours}
    return {**kept, "image": local_name(by_digest(image, locked)), "labels": labels}


def by_digest(image: str, locked: Lock) -> str:
    """Return where an image of the lock comes from: `name@digest`."""
    return f"{without_tag(image)}@{locked.images[image]}"


def local_name(reference: str) -> str:
    """Return what an image (`name@digest`) is called on this device: `host/repository:sha256-<hex>` (format 4.5).

    Raises FormatError.
    """
    at = parse_image(reference)
    host = "docker.io" if at.host == DOCKER_HUB else at.host
    return f"{host}/{at.repository}:{at.digest.replace(':', '-')}"


def without_tag(image: str) -> str:
    """Return an image reference without tag and digest."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def sealed(model: Mapping[str, Any], *, archive: str, private: str, placed: Collection[str] = ()) -> dict[str, Any]:
    """Return the model with what it mounts of its own `archive` folder read-only (format 8.9).

    The archive is shared by whoever uses that component: a container must not write what another one trusts.
    Nothing else below the agent's `private` folder can be mounted, but what was `placed` there for it: that folder
    decides what is trusted. Raises FormatError.
    """
    for name, one in (model.get("volumes") or {}).items():
        at = f"volumes.{name}.driver_opts.device"
        if _below(_device_path(((one or {}).get("driver_opts") or {}).get("device"), at), private):
            raise FormatError(f"{at}: is a path of the agent itself")

    def service(name: str, one: Mapping[str, Any]) -> Mapping[str, Any]:
        volumes = [_volume(volume, name, archive, private, placed) for volume in one.get("volumes") or ()]
        return {**one, "volumes": volumes} if volumes else one

    return _with_services(model, service)


def _volume(
    volume: Mapping[str, Any], service: str, archive: str, private: str, placed: Collection[str]
) -> Mapping[str, Any]:
    if volume.get("type") != "bind":
        return volume
    source = _device_path(volume.get("source"), f"services.{service}.volumes")
    if not _below(source, private):
        return volume
    if not _below(source, archive) and source not in placed:
        raise FormatError(f"services.{service}.volumes: {source} is a path of the agent itself")
    return {**volume, "read_only": True, "bind": {**(volume.get("bind") or {}), "create_host_path": False}}


def _device_path(source: object, at: str) -> str:
    """Return a path of the device as it is compared. Raises FormatError for one that leads anywhere by way of a
    process.
    """
    path = "/" + posixpath.normpath(str(source or "")).lstrip("/")
    if _DETOUR.match(path):
        raise FormatError(f"{at}: {path:.300} leads elsewhere by way of a process: name the path itself")
    return path


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


@dataclass(frozen=True)
class SelfContained:
    """A model that needs nothing of its archive's environment, and the variables that hold its secrets."""

    model: Mapping[str, Any]
    secrets: Mapping[str, str]


def self_contained(
    model: Mapping[str, Any], variables: Mapping[str, str], *, read: Callable[[str], bytes]
) -> SelfContained:
    """Put into the model what its configs and secrets take from `variables`, and label who uses them (format 5.7).

    Compose compares configs and secrets by name only: without the label a changed one would leave its users as
    they are. Secrets keep going through variables, by names of ours: Compose itself reads none of those.
    Raises FormatError for a variable without a value and for a file that cannot be read.
    """
    configs = {name: _config(name, one, variables) for name, one in (model.get("configs") or {}).items()}
    secrets = {name: dict(one) for name, one in (model.get("secrets") or {}).items()}
    values: dict[str, str] = {}
    for number, (name, one) in enumerate(sorted(secrets.items())):
        if "environment" in one:
            values[f"{_SECRET}{number}"] = _value(f"secrets.{name}", str(one["environment"]), variables)
            one["environment"] = f"{_SECRET}{number}"
    contents = {("configs", name): _content(one, values, read) for name, one in configs.items()}
    contents |= {("secrets", name): _content(one, values, read) for name, one in secrets.items()}
    filled = {**model, **({"configs": configs} if configs else {}), **({"secrets": secrets} if secrets else {})}
    return SelfContained(_with_services(filled, lambda _, one: _labelled(one, contents)), values)


def _config(name: str, config: Mapping[str, Any], variables: Mapping[str, str]) -> Mapping[str, Any]:
    if "environment" not in config:
        return config
    value = _value(f"configs.{name}", str(config["environment"]), variables)
    kept = {key: one for key, one in config.items() if key != "environment"}
    return {**kept, "content": value.replace("$", "$$")}  # Compose fills variables in once more when it applies


def _value(at: str, variable: str, variables: Mapping[str, str]) -> str:
    if variable not in variables:
        raise FormatError(f"{at}.environment: {variable} has no value: no parameter of the deployment sets it")
    return variables[variable]


def _content(one: Mapping[str, Any], secrets: Mapping[str, str], read: Callable[[str], bytes]) -> str:
    if "file" in one:
        try:
            return digest_of(read(one["file"]))
        except OSError as error:
            raise FormatError(f"{one['file']}: {error.strerror}") from None
    return digest_of(str(one.get("content", secrets.get(str(one.get("environment")), ""))).encode())


def _labelled(service: Mapping[str, Any], contents: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    used = {
        f"{kind}/{one['source']}": contents.get((kind, one["source"]), "")
        for kind in ("configs", "secrets")
        for one in service.get(kind) or ()
    }
    labels = (service.get("labels") or {}) | ({CONTENT_LABEL: digest_of(canonical_json(used))} if used else {})
    return {**service, "labels": labels}
