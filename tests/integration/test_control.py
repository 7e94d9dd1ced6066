"""A running agent, its control socket, and what systemd hears of it. No registry and no engine is asked."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from margo_agent.control import CLIENT_LIMIT, SOCKET_FILE
from margo_oci.keys import generate
from tests.integration.site import Done

PATIENCE_S = 30


@dataclass
class Box:
    """A device whose registry is away, and who stands before it."""

    folder: Path
    heard: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "fleet.pub").write_bytes(generate(None)[1])
        self.configure()

    @property
    def state(self) -> Path:
        """The device's folder: longer than an address of a socket may be."""
        return self.folder / ("a-long-name-of-a-folder-" * 5)

    def configure(self, **more: str) -> None:
        """Write the configuration."""
        lines = {
            "device": "edge-17",
            "source": "127.0.0.1:9/fleet/edge-17:latest",
            "scopes": "[edge-17]",
            "trust": "{keys: [fleet.pub]}",
            "registries": '{"127.0.0.1:9": {plainHttp: true}}',
            "interval": "1h",
            "stateDir": str(self.state),
            **more,
        }
        (self.folder / "agent.yaml").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))

    def agent(self, *arguments: str, expect: int = 0) -> Done:
        """Run a command of the agent."""
        done = subprocess.run(
            [sys.executable, "-m", "margo_agent", *arguments, "--config", str(self.folder / "agent.yaml")],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == expect, done
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """Run the loop, with a systemd that listens; `heard` is what it said."""
        name = str(self.folder / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(name)
            systemd.settimeout(PATIENCE_S)
            environment = {**os.environ, "NOTIFY_SOCKET": name, "WATCHDOG_USEC": "600000"}
            command = [sys.executable, "-m", "margo_agent", "run", "-o", "json"]
            with subprocess.Popen(
                [*command, "--config", str(self.folder / "agent.yaml")],
                env=environment, stdout=subprocess.PIPE, text=True,
            ) as agent:  # fmt: skip
                try:
                    self.systemd = systemd
                    self.hear("READY=1")
                    yield agent
                finally:
                    agent.kill()

    def hear(self, line: str) -> None:
        """Wait until systemd heard a line."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            self.heard += self.systemd.recv(4096).decode().splitlines()
            if line in self.heard:
                self.heard.clear()
                return
        raise AssertionError(self.heard)

    def send(self, data: bytes) -> Any:
        """Send bytes to the control socket; return the answer."""
        with self.connected() as channel:
            channel.sendall(data)
            return json.loads(channel.makefile("rb").readline())

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """Connect to the control socket."""
        folder = os.open(self.state, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(PATIENCE_S)
            channel.connect(f"/proc/self/fd/{folder}/{SOCKET_FILE}")
            os.close(folder)
            yield channel


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A device that is provisioned, and does not run yet."""
    return Box(tmp_path)


def test_systemd_hears_that_the_agent_is_ready_alive_reloading_and_stopping(box: Box) -> None:
    with box.running() as agent:
        box.hear("WATCHDOG=1")
        box.hear("WATCHDOG=1")
        box.agent("reload")
        box.hear("RELOADING=1")
        box.hear("READY=1")
        agent.terminate()
        box.hear("STOPPING=1")
        assert agent.wait(PATIENCE_S) == 0
    assert not (box.state / SOCKET_FILE).exists()


def test_the_agent_can_be_woken_and_what_comes_of_it_be_waited_for(box: Box) -> None:
    with box.running():
        done = box.agent("look", "--wait", "-o", "json", expect=3)
        assert json.loads(done.out)["outcome"] == "unreachable"
        assert box.agent("look").out == "the agent looks now\n"


def test_without_an_agent_a_look_says_what_to_do_and_a_hold_works(box: Box) -> None:
    box.agent("hold", "--for", "4h", "--reason", "shift change")
    assert "start it, or do one pass with margo-agent once" in box.agent("look", expect=2).err
    with box.running():
        answer = box.send(b'{"do": "status"}\n')
        assert answer["hold"].endswith(": shift change")
        assert box.agent("resume").out == "resumed\n"
        assert box.send(b'{"do": "status"}\n')["hold"] is None


def test_a_configuration_with_faults_is_said_to_who_reloads_and_the_agent_goes_on(box: Box) -> None:
    with box.running():
        box.configure(stateDir="/elsewhere")
        assert "no agent runs on /elsewhere" in box.agent("reload", expect=2).err
        assert "stateDir: /elsewhere is not" in box.send(b'{"do": "reload"}\n')["message"]
        box.configure(interval="soon")
        assert "a duration of at least 1s is expected" in box.agent("reload", expect=2).err
        assert box.send(b'{"do": "status"}\n')["ok"]


def test_the_socket_is_for_its_owner_alone_and_bounded(box: Box) -> None:
    with box.running():
        mode = (box.state / SOCKET_FILE).stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        assert "at most 4096 bytes" in box.send(b"x" * 100_000)["message"]
        assert "not usable JSON" in box.send(b"{\n")["message"]
        with crowd(box, CLIENT_LIMIT):
            assert "others ask already" in box.send(b'{"do": "status"}\n')["message"]
        assert box.send(b'{"do": "status"}\n')["ok"]


@contextmanager
def crowd(box: Box, count: int) -> Iterator[None]:
    """Have so many connected who say nothing."""
    with ExitStack() as opened:
        for _ in range(count):
            opened.enter_context(box.connected())
        time.sleep(0.2)
        yield
    time.sleep(0.2)


def test_a_socket_that_a_power_cut_left_is_replaced(box: Box) -> None:
    with box.running() as agent:
        agent.kill()
        agent.wait(PATIENCE_S)
    assert (box.state / SOCKET_FILE).exists()
    (box.folder / "notify").unlink()
    assert "no agent runs" in box.agent("look", expect=2).err
    with box.running():
        assert box.send(b'{"do": "status"}\n')["ok"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_another_user_is_not_heard(box: Box) -> None:
    code = (
        "import os; from pathlib import Path; from margo_agent.control import ask; os.setuid(65534);"
        "ask(Path('.'), {'do': 'status'}, timeout_s=10)"
    )
    with box.running():
        for folder in (box.state, *box.state.parents[:3]):  # as if somebody had opened the way to everybody
            folder.chmod(0o755)
        (box.state / SOCKET_FILE).chmod(0o666)
        done = subprocess.run(
            [sys.executable, "-I", "-c", code], cwd=box.state, capture_output=True, text=True, check=False
        )
        assert "user 65534 is not heard here" in done.stderr


def test_a_socket_that_systemd_opened_is_answered_on_and_left_to_it(box: Box) -> None:
    folder = box.folder / "s"
    folder.mkdir(mode=0o700)
    box.configure(stateDir=str(folder))
    with socket.socket(socket.AF_UNIX) as handed, socket.socket(socket.AF_UNIX) as channel:
        handed.bind(str(folder / SOCKET_FILE))
        handed.listen()
        command = f"exec 3<&{handed.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec {sys.executable} -m margo_agent run"
        with subprocess.Popen(
            ["/bin/bash", "-c", f"{command} --config {box.folder / 'agent.yaml'}"],
            pass_fds=(handed.fileno(),), stdout=subprocess.DEVNULL,
        ) as agent:  # fmt: skip
            try:
                channel.settimeout(PATIENCE_S)
                channel.connect(str(folder / SOCKET_FILE))  # before it is up: it waits
                channel.sendall(b'{"do": "status"}\n')
                assert json.loads(channel.makefile("rb").readline())["pid"] == agent.pid
            finally:
                agent.terminate()
    assert (folder / SOCKET_FILE).exists()
