"""Files and secrets of a deployment: from the operator's folder into containers, on real parts."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.site import Site, ours
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry

WORD, NEXT_WORD = "open-sesame-4711", "close-sesame-0815"
COMPOSE = """\
services:
  reader:
    image: {image}
    entrypoint: ["/bin/busybox", "sh", "-c", "{show}; exec /bin/busybox sleep 1000"]
    stop_grace_period: 0s
    restart: always
    secrets: [word]
  guest:
    image: {image}
    user: "999:999"
    entrypoint: ["/bin/busybox", "sh", "-c", "{show}; exec /bin/busybox sleep 1000"]
    stop_grace_period: 0s
    secrets: [{{source: word, uid: "999"}}]
  server:
    image: {image}
    entrypoint: ["/bin/busybox", "sh", "-c", "/bin/busybox cat /policy/a; exec /bin/busybox sleep 1000"]
    stop_grace_period: 0s
    env_file: "${{MARGO_FILES}}/server.env"
    volumes: ["${{MARGO_FILES}}/policy:/policy"]
secrets: {{word: {{file: "${{MARGO_FILES}}/word"}}}}
"""
SHOW = "/bin/busybox cat /run/secrets/word | /bin/busybox md5sum; /bin/busybox stat -c %a:%u /run/secrets/word"


@pytest.fixture(scope="session")
def shell_image(engine: Engine, tls_registry: LocalRegistry) -> str:
    """An image with a shell in it."""
    Images(engine.docker_host, tls_registry.host).push("images/files", "1.0", images.web())
    return f"{tls_registry.host}/images/files:1.0"


@pytest.fixture
def memory() -> Iterator[Path]:
    """A tmpfs, as /run is one."""
    folder = Path("/dev/shm/margo-files")  # noqa: S108  (of this test's own mounts)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture
def site(tmp_path: Path, tls_registry: LocalRegistry, engine: Engine, memory: Path) -> Iterator[Site]:
    """A site with nothing published, whose device keeps secrets in that memory."""
    site = Site(tmp_path, tls_registry, engine)
    site.configure(secretsDir=str(memory))
    yield site
    site.take_down()


def put(site: Site, name: str, text: str) -> None:
    """Write a file that goes with the deployment."""
    path = site.folder / "states" / "hello.files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def encrypt(site: Site, word: str) -> None:
    """Encrypt a word for the device, from standard input."""
    site.oci("encrypt", "-", "--to", "edge-17.crt", "-o", "states/hello.files/word.jwe", stdin=word)


def logs(site: Site, service: str) -> str:
    """Return what a service's container wrote."""
    with site.looking() as client:
        found = [one for one in ours(client) if one.labels["com.docker.compose.service"] == service]
        return b"".join(one.logs() for one in found).decode()


def told(site: Site) -> str:
    """Return all that the engine and the agent tell."""
    with site.looking() as client:
        inspected = str([one.attrs for one in ours(client, stopped=True)])
    shown = site.run("margo_agent", "status", "--config", "agent.yaml", "-o", "json").out
    return inspected + shown + site.oci("inspect", site.state, *site.flags).out


def on_disk(site: Site, word: str) -> list[str]:
    """Return the files of the device that have a word in them."""
    files = [path for path in (site.folder / "state").rglob("*") if path.is_file()]
    return [str(path) for path in files if word.encode() in path.read_bytes()]


def in_memory(memory: Path) -> set[str]:
    """Return the secrets that are open."""
    return {path.read_text() for path in memory.rglob("*") if path.is_file()}


def md5(word: str) -> str:
    """Return what the reader says of a word: not the word."""
    return subprocess.run(["md5sum"], input=word, capture_output=True, text=True, check=True).stdout.split()[0]


def test_a_file_and_a_secret_reach_their_services_change_apart_and_are_gone_with_them(
    site: Site, memory: Path, shell_image: str
) -> None:
    site.component("hello", "1.0.0", COMPOSE.format(image=shell_image, show=SHOW))
    site.deployment("hello")
    put(site, "policy/a", "allow all\n")
    put(site, "server.env", "LEVEL=high\n")
    assert "${MARGO_FILES}/word is not among the files" in site.push(expect=2)
    certificate = site.run("margo_agent", "identity", "init", "--config", "agent.yaml").out
    (site.folder / "edge-17.crt").write_text(certificate)
    encrypt(site, WORD)
    assert [one["path"] for one in site.push("--dry-run")["files"]] == ["policy/a", "server.env", "word"]
    site.push()
    assert site.agent("once")["outcome"] == "applied"
    assert "allow all" in logs(site, "server")
    assert logs(site, "reader").split() == [md5(WORD), "-", "600:0"]
    assert logs(site, "guest").split() == [md5(WORD), "-", "600:999"]
    assert (in_memory(memory), on_disk(site, WORD)) == ({WORD}, [])
    assert WORD not in told(site)

    before = site.services()
    put(site, "policy/a", "deny all\n")
    pushed = site.push()
    assert [one["path"] for one in pushed["files"] if one["status"] == "uploaded"] == ["policy/a"]
    assert site.agent("once")["layers"]["fetched"] == 1
    after = site.services()
    assert (after["hello/reader"], after["hello/server"] != before["hello/server"]) == (before["hello/reader"], True)
    assert "deny all" in logs(site, "server")

    encrypt(site, NEXT_WORD)
    site.push()
    assert site.agent("once")["outcome"] == "applied"
    last = site.services()
    assert (last["hello/server"], last["hello/reader"] != after["hello/reader"]) == (after["hello/server"], True)
    assert logs(site, "reader").split()[0] == md5(NEXT_WORD)
    assert in_memory(memory) == {NEXT_WORD}

    with site.looking() as client:  # a restart: nothing runs, and memory is empty
        for one in ours(client):
            one.kill()
            one.wait()
    shutil.rmtree(next(memory.iterdir()))
    assert site.agent("restore")["outcome"] != "failed"
    assert (site.services(), in_memory(memory)) == (last, {NEXT_WORD})

    site.oci("bundle", site.state, "-o", "site.tar", "--key", "fleet.pub", *site.flags)
    (site.folder / "states" / "hello.yaml").unlink()
    shutil.rmtree(site.folder / "states" / "hello.files")
    site.push("--allow-empty")
    assert site.agent("once")["outcome"] == "applied"
    assert (in_memory(memory), on_disk(site, NEXT_WORD)) == (set(), [])

    shutil.copytree(site.folder / "state" / "identity", site.folder / "new" / "identity")  # the device, set up anew
    (site.folder / "new").chmod(0o700)
    site.configure(secretsDir=str(memory), stateDir="new")
    done = site.run("margo_agent", "import", "site.tar", "--config", "agent.yaml", "-o", "json")
    assert done.json["outcome"] == "applied", done
    assert logs(site, "reader").split()[0] == md5(NEXT_WORD)
