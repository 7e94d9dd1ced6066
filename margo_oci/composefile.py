"""What may stand in a Compose file, before Compose may see it and in the model it makes (format 8.5, 8.8)."""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from margo_oci.archive import safe_path
from margo_oci.errors import FormatError
from margo_oci.yamltree import Node

COMPOSE_FILE = "compose.yaml"
_OF_DEPLOYMENT = "${MARGO_FILES}"  # before files that come with the deployment, not with the archive (format 14.7)
NO_SECRETS = (
    "secrets must not be shipped: write ${MARGO_FILES}/NAME, and put the file, encrypted with `margo-oci encrypt`, "
    "beside the deployment"
)
TOP_KEYS = frozenset({"version", "name", "services", "networks", "volumes", "configs", "secrets"})
FILE_KEYS = TOP_KEYS | {"include"}
# compose-spec's schema as Compose 2.40 has it, without the keys in _WHY.
SERVICE_KEYS = frozenset({
    "annotations", "attach", "blkio_config", "build", "cap_add", "cap_drop", "cgroup", "cgroup_parent", "command",
    "configs", "container_name", "cpu_count", "cpu_percent", "cpu_period", "cpu_quota", "cpu_rt_period",
    "cpu_rt_runtime", "cpu_shares", "cpus", "cpuset", "depends_on", "deploy", "device_cgroup_rules", "devices", "dns",
    "dns_opt", "dns_search", "domainname", "entrypoint", "env_file", "environment", "expose", "extends",
    "external_links", "extra_hosts", "gpus", "group_add", "healthcheck", "hostname", "image", "init", "ipc",
    "isolation", "label_file", "labels", "links", "logging", "mac_address", "mem_limit", "mem_reservation",
    "mem_swappiness", "memswap_limit", "network_mode", "networks", "oom_kill_disable", "oom_score_adj", "pid",
    "pids_limit", "platform", "ports", "post_start", "pre_stop", "privileged", "profiles", "pull_policy",
    "pull_refresh_after", "read_only", "restart", "runtime", "scale", "secrets", "security_opt", "shm_size",
    "stdin_open", "stop_grace_period", "stop_signal", "storage_opt", "sysctls", "tmpfs", "tty", "ulimits", "user",
    "userns_mode", "uts", "volumes", "volumes_from", "working_dir",
})  # fmt: skip
_VOLUMES = ("bind", "volume", "tmpfs")
_LOCK = "it would get round the lock"
_WHY = {
    "provider": _LOCK,
    "models": _LOCK,
    "use_api_socket": _LOCK,
    "develop": "it is for the machine of a developer",
    "credential_spec": "it reads files of the device",
}


def faults_of_model(model: Mapping[str, Any]) -> list[str]:
    """Return what a model has that a device does not run: at its top and in each service (format 8.8)."""
    faults = [f"{key}: {_not_accepted(key)}" for key in _strange(model, TOP_KEYS)]
    for name, service in model["services"].items():
        faults += faults_of_service(name, service)
    return faults


def faults_of_service(name: str, service: Mapping[str, Any]) -> list[str]:
    """Return what a service of a model has that a device does not run: `services.<name>.<key>: …` (format 8.8)."""
    faults = [f"services.{name}.{key}: {_not_accepted(key)}" for key in _strange(service, SERVICE_KEYS)]
    volumes = (one.get("type", "") for one in service.get("volumes") or () if isinstance(one, dict))
    faults += [f"services.{name}.volumes: {words}" for words in _volumes(volumes)]
    return faults + [
        f"services.{name}.security_opt: {words}" for words in _profiles(map(str, service.get("security_opt") or ()))
    ]


def _strange(mapping: Mapping[str, Any], known: frozenset[str]) -> list[str]:
    return [key for key, value in mapping.items() if value and key not in known and not key.startswith("x-")]


def _not_accepted(key: str) -> str:
    return f"not accepted: {_WHY.get(key, 'not a word that is known here')}"


def _volumes(kinds: Iterable[str]) -> list[str]:
    return [f"type {kind!r:.20} is not accepted: {_LOCK}" for kind in kinds if kind not in _VOLUMES and "$" not in kind]


def _profiles(options: Iterable[str]) -> list[str]:
    """`seccomp:FILE` is read by Compose when it applies, wherever that leads on the device."""
    seccomp = [option for option in options if re.match(r"seccomp\s*[:=]", option)]
    return [
        f"{option!r:.80} is not accepted: unconfined is the only profile that is no file of the device"
        for option in seccomp
        if re.split("[:=]", option, maxsplit=1)[1] not in ("unconfined", "builtin")
    ]


def refused_words(tree: Node) -> Iterator[tuple[Node, str, str, str]]:
    """Yield what may not stand in a file, whatever it says: what it is, the rule, where, and why."""
    for key, value in tree.members():
        if key not in FILE_KEYS and not key.startswith("x-"):
            yield value, "8.8", f"{key:.80}", _not_accepted(key)
    for name, key, value in of_services(tree):
        at = f"services.{name:.80}.{key:.80}"
        if key not in SERVICE_KEYS and not key.startswith("x-") and not value.absent:
            yield value, "8.8", at, _not_accepted(key)
        elif key == "volumes":
            kinds = (one.text for item in value.items for word, one in item.members() if word == "type")
            yield from ((value, "8.8", at, words) for words in _volumes(kinds))
            sources = (source for item in value.items for source in _sources(item) if _climbs(source))
            yield from ((value, "8.9", at, f"{source!r:.200} leads out of the archive") for source in sources)
            yield from ((node, "14.7", at, words) for node, words in _astray_sources(value))
        elif key == "security_opt":
            yield from ((value, "8.8", at, words) for words in _profiles(item.text for item in value.items))
    for name, file in files_of(tree, "secrets"):
        at = f"secrets.{name:.80}.file"
        if not of_deployment(file.text):
            yield file, "8.5", at, NO_SECRETS
        elif words := astray(file.text):
            yield file, "14.7", at, f"{file.text!r:.200} {words}"


def _sources(item: Node) -> Iterator[str]:
    """Yield what a service mounts: `source:target`, or the long form."""
    if item.text:
        yield item.text.partition(":")[0]
    yield from (one.text for word, one in item.members() if word == "source")


def _climbs(source: str) -> bool:
    return not source.startswith("/") and posixpath.normpath(source).split("/")[0] == ".."


def of_services(tree: Node) -> Iterator[tuple[str, str, Node]]:
    """Yield service, key and value of each thing that services have."""
    for top, services in tree.members():
        if top == "services":
            for name, service in services.members():
                yield from ((name, key, value) for key, value in service.members())


def files_of(tree: Node, kind: str) -> Iterator[tuple[str, Node]]:
    """Yield the names and files of what comes from a file: `configs` or `secrets`."""
    for top, named in tree.members():
        if top == kind:
            for name, one in named.members():
                yield from ((name, value) for key, value in one.members() if key == "file" and not value.absent)


def of_deployment(path: str) -> bool:
    """Tell whether a path leads to a file of the deployment (format 14.7)."""
    return path.startswith(f"{_OF_DEPLOYMENT}/")


def _astray_sources(volumes: Node) -> Iterator[tuple[Node, str]]:
    """Yield mounts of a deployment's files that are not written as `${MARGO_FILES}` and a path below it."""
    for item in volumes.items:
        for source in [one for word, one in item.members() if word == "source"] or [item]:
            text = source.text
            if "MARGO_FILES" not in text:
                continue
            path = text.removeprefix(_OF_DEPLOYMENT)
            path = path if source is not item else path.partition(":")[0]
            inside = not path or (path.startswith("/") and not astray(path.lstrip("/") or "."))
            if not text.startswith(_OF_DEPLOYMENT) or not inside:
                yield source, f"{text!r:.200} leads elsewhere: write {_OF_DEPLOYMENT}/path"


def astray(path: str) -> str:
    """Tell what makes a path lead elsewhere than it seems: variables, ~, a drive or a host, `..`."""
    path = path.removeprefix(f"{_OF_DEPLOYMENT}/")
    if "$" in path:
        return "holds a variable: name the file itself"
    if path.startswith("~") or ":" in path:
        return "leads out of the archive"
    try:
        safe_path(path, "")
    except FormatError:
        return "leads out of the archive"
    return ""
