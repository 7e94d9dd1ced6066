"""A site for integration tests: the real commands in a folder of their own, a real registry, a real engine."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from tests.parts.engine import Engine
from tests.parts.registry import LocalRegistry

TIMEOUT_S = 120
_FLEET: dict[str, bytes] = {}
IDS = {name: f"00000000-0000-4000-8000-{number:012}" for number, name in enumerate(("hello", "pump", "job"), 1)}


def _story() -> str:
    """Return the name of the file whose test runs now: the registries are the same for all that a worker runs."""
    return Path(os.environ.get("PYTEST_CURRENT_TEST", "site").partition("::")[0]).stem


@dataclass(frozen=True)
class Done:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


@dataclass
class Site:
    """One operator and one device at one registry."""

    folder: Path
    registry: LocalRegistry
    engine: Engine
    environment: dict[str, str] = field(default_factory=dict)
    story: str = field(default_factory=_story)

    def __post_init__(self) -> None:
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "DOCKER_HOST": self.engine.docker_host,
            "DOCKER_CONFIG": str(self.folder / "docker"),
            "LANG": "C.UTF-8",
        }
        self._take_fleet_key()
        self.configure()

    @property
    def flags(self) -> list[str]:
        """How margo-oci reaches the registry."""
        return ["--ca-file", str(self.registry.ca_file)] if self.registry.ca_file else ["--plain-http"]

    def ref(self, path: str) -> str:
        """Return a reference in the registry."""
        return f"{self.registry.host}/{self.repository(path)}"

    def repository(self, path: str) -> str:
        """Return where something lies in the registry; components of one name differ from story to story."""
        return f"{self.story}/{path}" if path.startswith("components/") else path

    @property
    def state(self) -> str:
        """The tag that the device follows."""
        return self.ref(f"{self.folder.name}/edge-17:latest")

    def run(self, module: str, *arguments: str, stdin: str = "") -> Done:
        """Run a command to its end; no traceback may come of it."""
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder, env=self.environment, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def oci(self, *arguments: str, expect: int = 0, stdin: str = "") -> Done:
        """Run margo-oci, which is expected to end with `expect`."""
        done = self.run("margo_cli", *arguments, stdin=stdin)
        assert done.code == expect, f"{arguments}: {done}"
        return done

    def agent(self, command: str, *, expect: int = 0) -> Any:
        """Run margo-agent with -o json; return its report."""
        done = self.run("margo_agent", command, "--config", "agent.yaml", "-o", "json")
        assert done.code == expect, f"{command}: {done}"
        return done.json

    def keygen(self, name: str) -> None:
        """Make a key pair."""
        self.oci("keygen", "--name", name, "--no-password")

    def _take_fleet_key(self) -> None:
        """Have the key pair that the first site of this session made: which one it is matters to no test."""
        names = ("fleet.key", "fleet.pub")
        if not _FLEET:
            self.keygen("fleet")
            _FLEET.update({name: (self.folder / name).read_bytes() for name in names})
        for name in names:
            (self.folder / name).touch(mode=0o600)
            (self.folder / name).write_bytes(_FLEET[name])

    def configure(self, **more: str) -> None:
        """Write the agent's configuration; `more` are lines of it, or of the registry's part (`registry`)."""
        access = f"caFile: {self.registry.ca_file}" if self.registry.ca_file else "plainHttp: true"
        access += more.pop("registry", "")
        lines = {
            "device": "edge-17",
            "source": self.state,
            "scopes": "[edge-17]",
            "trust": "{keys: [fleet.pub]}",
            "registries": f'{{"{self.registry.host}": {{{access}}}}}',
            "interval": "1s",
            "stateDir": "state",
            "apply": "{settle: 0s}",
            **more,
        }
        (self.folder / "agent.yaml").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))

    def component(self, name: str, version: str, compose: str, **files: str) -> Done:
        """Write and push a component."""
        folder = self.folder / "components" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "compose.yaml").write_text(compose)
        for file, text in files.items():
            (folder / file.replace("__", ".")).write_text(text)
        return self.oci("component", "push", str(folder), self.ref(f"components/{name}:{version}"), *self.flags)

    def deployment(
        self, name: str, version: str = "1.0.0", *, timeout: str = "0m30s", called: str = "", **parameters: str
    ) -> None:
        """Write a document of the state; its one component is `called` so, or as the deployment."""
        called = called or name
        targets = "".join(
            f"    {key}: {{value: {json.dumps(value)}, targets: [{{pointer: {key}, components: [{called}]}}]}}\n"
            for key, value in parameters.items()
        )
        repository = f"oci://{self.ref(f'components/{name}')}"
        (self.folder / "states").mkdir(exist_ok=True)
        (self.folder / "states" / f"{name}.yaml").write_text(
            f"id: {IDS[name]}\nmetadata: {{name: {name}, namespace: test}}\nspec:\n  applicationId: {name}\n"
            f"  deploymentProfile:\n    type: compose\n    components:\n      - name: {called}\n        properties:\n"
            f"          {{repository: '{repository}', revision: {version}, timeout: {timeout}}}\n"
            f"  parameters:{' {}' if not targets else ''}\n{targets}"
        )

    def remove(self, name: str) -> None:
        """Take a document out of the state."""
        (self.folder / "states" / f"{name}.yaml").unlink()

    def push(self, *more: str, key: str = "fleet.key", scope: str = "edge-17", expect: int = 0) -> Any:
        """Publish the state; return the JSON that push prints (its error text if it is to fail)."""
        done = self.oci(
            "push",
            "states",
            self.state,
            "--key",
            key,
            "--scope",
            scope,
            "-o",
            "json",
            *self.flags,
            *more,
            expect=expect,
        )
        return done.err if expect else done.json

    def containers(self) -> Mapping[str, str]:
        """Return component to container id, of what runs here."""
        with self.looking() as client:
            return {one.labels["org.margo.component"]: str(one.id) for one in ours(client)}

    def services(self) -> Mapping[str, str]:
        """Return component/service to container id, of what runs here."""
        with self.looking() as client:
            return {
                f"{one.labels['org.margo.component']}/{one.labels['com.docker.compose.service']}": str(one.id)
                for one in ours(client)
            }

    def networks(self) -> set[str]:
        """Return the networks that Compose made here."""
        with self.looking() as client:
            return {str(one.name) for one in client.networks.list(filters={"label": "com.docker.compose.project"})}

    def stop(self, component: str) -> None:
        """Stop a component's containers, as a power cut would."""
        with self.looking() as client:
            for one in ours(client):
                if one.labels["org.margo.component"] == component:
                    one.kill()

    def take_down(self) -> None:
        """Remove everything the device runs."""
        with self.looking() as client:
            for one in ours(client, stopped=True):
                one.remove(force=True)

    @contextmanager
    def looking(self) -> Iterator[docker.DockerClient]:
        """Look at the engine."""
        client = docker.DockerClient(base_url=self.engine.docker_host)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def running_agent(self) -> Iterator[subprocess.Popen[str]]:
        """Run the agent's loop; its lines are on stdout."""
        command = [sys.executable, "-m", "margo_agent", "run", "--config", "agent.yaml", "-o", "json"]
        with subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        ) as agent:
            try:
                yield agent
            finally:
                agent.kill()


def ours(client: docker.DockerClient, *, stopped: bool = False) -> Sequence[Container]:
    """Return the containers that carry our label."""
    found: Sequence[Container] = client.containers.list(all=stopped, filters={"label": "org.margo.deployment"})
    return found


def page(port: int) -> str:
    """Return what answers on a port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        text: str = answer.read().decode().strip()
    return text


def web(image: str, port: int, more: str = "") -> str:
    """Return a compose file with one service that shows GREETING."""
    return f"""\
services:
  web:
    image: {image}
    environment:
      GREETING: ${{GREETING:-hello}}
    ports: ["127.0.0.1:{port}:80"]
{more}"""
