"""Rules of a Compose file that hold before Compose may see it, and on the model it makes (format 8.5, 8.7, 8.8).

Compose reads any file that a Compose file names, and tells what it read: so nothing outside the archive is named.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from margo_oci.archive import Entry, safe_path
from margo_oci.deployment import STEERING
from margo_oci.errors import FormatError
from margo_oci.yamldoc import NODE_LIMIT
from margo_oci.yamltree import Node, parse_tree

COMPOSE_FILE = "compose.yaml"
FILES_LIMIT = 32
TOP_KEYS = frozenset({"version", "name", "services", "networks", "volumes", "configs", "secrets"})
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
    "include": "write it into this file, or use extends",
}
_DOTENV_NAME = re.compile(r"(?m)^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*(?:[=:]|$)")


def reads_only_the_archive(entries: Sequence[Entry]) -> list[str]:
    """Rule 8.7: `compose.yaml`, and each file it extends, names files of the archive only, word for word.

    Faults read `file:line: services.web.env_file: …`.
    """
    files = {entry.path: entry.data for entry in entries if not entry.folder}
    waiting = [path for path in files if posixpath.basename(path) == COMPOSE_FILE and path.count("/") == 1]
    faults: list[str] = []
    seen: set[str] = set()
    values = 0
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        if len(seen) == FILES_LIMIT:
            return [*faults, f"{path}: more than {FILES_LIMIT} files extend each other"]
        seen.add(path)
        try:
            tree = parse_tree(files[path], what=path)
        except FormatError as error:
            faults += error.faults
            continue
        values += tree.size
        if values > NODE_LIMIT:
            return [*faults, f"{path}: more than {NODE_LIMIT} values in files that extend each other"]
        faults += [f"{path}:{line}: {words}" for line, words in _refused(tree)]
        for use in _uses(tree):
            named = posixpath.normpath(posixpath.join(posixpath.dirname(path), use.path))
            if words := _astray(use.path) or ("" if named in files or use.optional else "is not in the archive"):
                faults.append(f"{path}:{use.line}: {use.at}: {use.path!r:.200} {words}")
            elif use.extends:
                waiting.append(named)
    return faults


def steers_no_compose(entries: Sequence[Entry]) -> list[str]:
    """Rule 8.8: the `.env` beside `compose.yaml` sets nothing that Compose or the engine's client listens to."""
    return [
        f"{entry.path}:{line}: {name} is not accepted: it steers Compose, not the workload"
        for entry in entries
        if entry.path.count("/") == 1 and posixpath.basename(entry.path) == ".env"
        for line, name in _dotenv_names(entry.data)
        if STEERING.fullmatch(name)
    ]


def _dotenv_names(data: bytes) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(re.split(r"[\n\r]", data.decode(errors="replace")), start=1):
        if name := _DOTENV_NAME.match(line):
            yield number, name[1]


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


@dataclass(frozen=True)
class _Use:
    at: str
    line: int
    path: str
    optional: bool = False
    extends: bool = False


def _refused(tree: Node) -> Iterator[tuple[int, str]]:
    """Yield what may not stand in a file, whatever it says."""
    for key, value in tree.members():
        if key not in TOP_KEYS and not key.startswith("x-"):
            yield value.line, f"{key:.80}: {_not_accepted(key)}"
    for name, key, value in _of_services(tree):
        at = f"services.{name:.80}.{key:.80}"
        if key not in SERVICE_KEYS and not key.startswith("x-") and not value.absent:
            yield value.line, f"{at}: {_not_accepted(key)}"
        elif key == "volumes":
            kinds = (one.text for item in value.items for word, one in item.members() if word == "type")
            yield from ((value.line, f"{at}: {words}") for words in _volumes(kinds))
        elif key == "security_opt":
            yield from ((value.line, f"{at}: {words}") for words in _profiles(item.text for item in value.items))
    for name, file in _files_of(tree, "secrets"):
        yield file.line, f"secrets.{name:.80}.file: secrets must not be shipped"


def _uses(tree: Node) -> Iterator[_Use]:
    """Yield every file that Compose reads when it reads this one."""
    for name, key, value in _of_services(tree):
        at = f"services.{name:.80}.{key}"
        if key in ("env_file", "label_file"):
            yield from _listed(at, value)
        elif key == "extends":
            for word, file in value.members():
                if word == "file" and not file.absent:
                    yield _Use(f"{at}.file", file.line, file.text, extends=True)
    for name, file in _files_of(tree, "configs"):
        yield _Use(f"configs.{name:.80}.file", file.line, file.text)


def _listed(at: str, value: Node) -> Iterator[_Use]:
    """Yield a path, a list of paths, or of `{path: …, required: …}`."""
    if value.absent:
        return
    for item in value.items or (value,):
        words = list(item.members())
        optional = [one.text for word, one in words if word == "required"] == ["false"]
        paths = [one for word, one in words if word == "path"] if words else [item]
        yield from (_Use(at, path.line, path.text, optional=optional) for path in paths if not item.absent)


def _of_services(tree: Node) -> Iterator[tuple[str, str, Node]]:
    for top, services in tree.members():
        if top == "services":
            for name, service in services.members():
                yield from ((name, key, value) for key, value in service.members())


def _files_of(tree: Node, kind: str) -> Iterator[tuple[str, Node]]:
    for top, named in tree.members():
        if top == kind:
            for name, one in named.members():
                yield from ((name, value) for key, value in one.members() if key == "file" and not value.absent)


def _astray(path: str) -> str:
    """Tell what makes a path lead elsewhere than it seems: variables, ~, a drive or a host, `..`."""
    if "$" in path:
        return "holds a variable: name the file itself"
    if path.startswith("~") or ":" in path:
        return "leads out of the archive"
    try:
        safe_path(path, "")
    except FormatError:
        return "leads out of the archive"
    return ""
