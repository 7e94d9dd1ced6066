"""The whole story on this machine: a real registry, a real container engine, `margo-oci` and `margo-agent`.

`make demo` runs it. Every step says what it does, does it with the commands a person would type, and checks what
came of it; the demo exits 0 only if every step held.
"""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docker

from examples.images.build import build_all
from margo_oci.reference import parse_reference
from margo_oci.registry import Access
from margo_oci.upload import Uploader
from tests.parts.engine import chosen_engine
from tests.parts.place import temporary_place
from tests.parts.registry import LocalRegistry

EXAMPLES = Path(__file__).parent
WRITTEN_HOST = "127.0.0.1:5000"  # the registry as the examples name it
PROGRAMS = Path(sys.executable).parent
PAGES = {"hello": 18081, "gauge": 18082, "notice": 18083}


class Failed(Exception):  # noqa: N818
    """A step did not hold."""


class Story:
    """Tells the steps, runs the commands in one working folder, and looks at the workloads from outside."""

    def __init__(self, folder: Path, host: str, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.host = host
        self.environment = environment
        self.steps = 0

    def step(self, title: str) -> None:
        """Begin a step."""
        self.steps += 1
        print(
            f"\n\033[1m{self.steps}. {title}\033[0m" if sys.stdout.isatty() else f"\n{self.steps}. {title}", flush=True
        )

    def oci(self, *arguments: str, expect: int = 0, quiet: bool = False) -> str:
        """Run margo-oci as a person would, and show it."""
        return self.run("margo-oci", *arguments, expect=expect, quiet=quiet)

    def once(self, *, expect: int = 0) -> dict[str, Any]:
        """Run one pass of the agent, show its gist, and return what it reports."""
        result: dict[str, Any] = json.loads(
            self.run("margo-agent", "once", "--config", "agent.yaml", "-o", "json", expect=expect, quiet=True)
        )
        why = f" ({result['reason']}): {result['message']}" if "reason" in result else ""
        moved = (
            f"{result['layers']['fetched']} layers fetched, {result['requests']} requests, {result['bytesIn']} bytes"
        )
        print(f"   → {result['outcome']}{why}\n     {moved}")
        for one in result["deployments"]:
            error = f" — {one['error']}" if one.get("error") else ""
            print(f"     {one['action']:<8}{one['name']}: {one['state']}{error}")
        return result

    def run(self, program: str, *arguments: str, expect: int = 0, quiet: bool = False) -> str:
        """Run a program as a person would, and show it. Raises Failed if it ends otherwise than expected."""
        print(f"   $ {program} {' '.join(arguments)}", flush=True)
        done = subprocess.run(
            [str(PROGRAMS / program), *arguments],
            cwd=self.folder, env=dict(self.environment), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        shown = done.stderr if quiet else done.stdout + done.stderr
        print("".join(f"     {line}\n" for line in shown.splitlines()), end="", flush=True)
        if done.returncode != expect:
            raise Failed(f"{program} {arguments[0]} ended with {done.returncode}, {expect} is expected\n{done.stdout}")
        return done.stdout

    def page(self, name: str) -> str:
        """Return what a workload answers over HTTP."""
        with urllib.request.urlopen(f"http://127.0.0.1:{PAGES[name]}/", timeout=5) as answer:
            text: str = answer.read().decode().strip()
        return text

    def containers(self) -> dict[str, str]:
        """Return component/service to container id of all that runs for us."""
        client = docker.DockerClient(base_url=self.environment["DOCKER_HOST"])
        try:
            return {
                f"{one.labels['org.margo.component']}/{one.labels['com.docker.compose.service']}": str(one.id)
                for one in client.containers.list(filters={"label": "org.margo.deployment"})
            }
        finally:
            client.close()

    def edit(self, file: str, old: str, new: str) -> None:
        """Change a file as an operator would."""
        path = self.folder / file
        text = path.read_text()
        check(old in text, f"{file} has {old!r}")
        path.write_text(text.replace(old, new))
        print(f"   (edit {file}: {old.strip()} → {new.strip()})")


def check(holds: bool, what: str) -> None:
    """Go on only if it holds."""
    if not holds:
        raise Failed(f"this does not hold: {what}")


def answering(story: Story, greeting: str) -> None:
    """All three workloads answer."""
    check(story.page("hello") == greeting, f"hello answers {greeting!r}")
    check(story.page("gauge").startswith("bar "), "gauge shows a reading")
    check("safety glasses" in story.page("notice"), "notice shows its page")
    print("   ✓ all three workloads answer over HTTP")


def refused(story: Story, reason: str, greeting: str) -> None:
    """A pass refuses for this reason, and nothing that runs is touched."""
    before = story.containers()
    result = story.once(expect=4)
    check((result["outcome"], result["reason"]) == ("refused", reason), f"refused as {reason}")
    check(story.containers() == before, "the containers are the same")
    answering(story, greeting)


def tell(story: Story, registry: LocalRegistry) -> None:
    """The story."""
    state, flags = f"{story.host}/fleet/edge-17:latest", ["--ca-file", "ca.pem"]
    signed = [*flags, "--key", "fleet.key", "--scope", "edge-17"]

    story.step("The operator makes a key; the device gets its public half.")
    story.oci("keygen", "--name", "fleet", "--no-password")

    story.step("The vendor packages three workloads as OCI artifacts.")
    for name in PAGES:
        story.oci("component", "push", f"components/{name}", f"{story.host}/components/{name}:1.0.0", *flags)

    story.step("The operator publishes a signed desired state with three deployments.")
    story.oci("push", "states/edge-17", state, *signed)

    story.step("The device resolves, verifies, fetches and applies it.")
    result = story.once()
    check(result["outcome"] == "applied" and result["layers"]["fetched"] == 3, "three layers, applied")
    answering(story, "Good morning, line 1")
    first = story.containers()

    story.step("One parameter of one deployment changes: one layer moves, one container is replaced.")
    story.edit("states/edge-17/hello.yaml", "Good morning", "Good evening")
    story.oci("diff", state, "states/edge-17", *flags, expect=1)
    story.oci("push", "states/edge-17", state, *signed)
    result = story.once()
    second = story.containers()
    changed = {name for name in first if first[name] != second[name]}
    check(result["layers"] == {"fetched": 1, "reused": 2}, "one layer is fetched")
    check(changed == {"hello/web"}, f"only hello/web is replaced, not {changed}")
    answering(story, "Good evening, line 1")

    story.step("The same again publishes nothing, and costs the device one request.")
    story.oci("push", "states/edge-17", state, *signed)
    result = story.once()
    check((result["outcome"], result["requests"], result["bytesIn"]) == ("unchanged", 1, 0), "one request, no body")
    check(story.containers() == second, "the containers are the same")

    attacks(story, registry, state, flags, signed)

    story.step("A broken new version does not come up: the last good one is put back.")
    story.edit("components/hello/compose.yaml", "restart: unless-stopped", 'entrypoint: ["/bin/busybox", "false"]')
    story.oci("component", "push", "components/hello", f"{story.host}/components/hello:2.0.0", *flags)
    story.edit("states/edge-17/hello.yaml", "revision: 1.0.0", "revision: 2.0.0")
    story.oci("push", "states/edge-17", state, *signed)
    result = story.once(expect=5)
    check(result["outcome"] == "failed", "the pass reports a failure")
    answering(story, "Good evening, line 1")

    story.step("The operator goes back to release 2, and takes the notice off the device.")
    story.oci("history", state, *flags)
    story.oci("rollback", state, "--to", "2", "--key", "fleet.key", *flags)
    check(story.once()["outcome"] == "applied", "the release is applied again")
    answering(story, "Good evening, line 1")
    story.edit("states/edge-17/hello.yaml", "revision: 2.0.0", "revision: 1.0.0")
    (story.folder / "states/edge-17/notice.yaml").unlink()
    story.oci("push", "states/edge-17", state, *signed)
    story.once()
    check(not any(name.startswith("notice/") for name in story.containers()), "notice is gone")
    check(story.page("hello") == "Good evening, line 1", "hello still answers")
    story.run("margo-agent", "status", "--config", "agent.yaml")

    heads(story, state, flags)


def heads(story: Story, state: str, flags: Sequence[str]) -> None:
    """The device follows heads, and finds out that something is held back."""
    signed = ["--root", "1.root.json", "--key", "head.key", *flags]

    story.step("A root says who signs what, and a head which release is meant now; the device follows them.")
    for name in ("holder", "head"):
        story.oci("keygen", "--name", name, "--no-password", quiet=True)
    story.oci("root", "init", "-o", "1.root.json", "--root-key", "holder.pub", "--root-threshold", "1",
              "--head-key", "head.pub", "--release-key", "fleet.pub", quiet=True)  # fmt: skip
    story.oci("root", "sign", "1.root.json", "--key", "holder.key")
    story.oci("head", "issue", state, "--scope", "edge-17", *signed)
    story.edit("agent.yaml", "keys: [fleet.pub]", "{mode: head+release, root: 1.root.json}")
    before = story.containers()
    check(story.once()["head"]["version"] == 1, "the head is accepted")
    check(story.containers() == before, "the containers are the same")

    story.step("Attack: the registry holds back what is new. The head expires, and the device says so.")
    story.oci("head", "renew", state, "--expires", "5s", *signed)
    check(story.once()["head"]["version"] == 2, "the renewed head is accepted")
    print("   (the attacker serves this head for ever)")
    time.sleep(5)
    result = story.once(expect=4)
    check((result["outcome"], result["reason"]) == ("refused", "freeze"), "refused as freeze")
    check(story.containers() == before, "the containers are the same")
    check(story.page("hello") == "Good evening, line 1", "hello still answers")
    story.oci("head", "issue", state, "--scope", "edge-17", *signed)
    check(story.once()["outcome"] == "unchanged", "with a new head all is well again")


def attacks(story: Story, registry: LocalRegistry, state: str, flags: Sequence[str], signed: Sequence[str]) -> None:
    """Four attacks by whoever rules the registry; each is refused by name."""
    story.step("Attack: a layer is tampered with in the registry.")
    story.edit("states/edge-17/hello.yaml", "Good evening", "Good night")
    pushed = json.loads(story.oci("push", "states/edge-17", state, *signed, "-o", "json", quiet=True))
    layer = next(one["digest"] for one in pushed["layers"] if one["status"] == "uploaded")
    blob = blob_file(registry, layer)
    good = blob.read_bytes()
    blob.write_bytes(good.replace(b"Good night", b"Evil night"))
    refused(story, "digest-mismatch", "Good evening, line 1")
    blob.write_bytes(good)
    story.edit("states/edge-17/hello.yaml", "Good night", "Good evening")
    story.oci("push", "states/edge-17", state, *signed)
    check(story.once()["outcome"] == "applied", "the device goes on with the next good state")

    story.step("Attack: somebody else signs a state and puts it in the tag.")
    story.oci("keygen", "--name", "other", "--no-password")
    story.edit("states/edge-17/hello.yaml", "Good evening", "Mine now")
    story.oci("push", "states/edge-17", state, *flags, "--key", "other.key", "--scope", "edge-17", "--counter", "5")
    refused(story, "wrong-key", "Good evening, line 1")
    story.edit("states/edge-17/hello.yaml", "Mine now", "Good evening")
    restore_tag(story, registry, state, counter=4)

    story.step("Attack: another device's state, well signed, is put in the tag.")
    story.oci("push", "states/edge-17", state, *flags, "--key", "fleet.key", "--scope", "edge-18", "--change-scope")
    refused(story, "wrong-scope", "Good evening, line 1")

    story.step("Attack: the tag is moved back to an older state, well signed once.")
    restore_tag(story, registry, state, counter=1)
    refused(story, "rollback", "Good evening, line 1")
    restore_tag(story, registry, state, counter=4)
    check(story.once()["outcome"] == "unchanged", "the tag is back where it was")


def restore_tag(story: Story, registry: LocalRegistry, state: str, *, counter: int) -> None:
    """Move the tag to an earlier release, as anybody with write access to the registry can."""
    reference = parse_reference(state)
    raw = json.loads(story.oci("history", state, "--ca-file", "ca.pem", "-o", "json", quiet=True))
    digest = next(one["digest"] for one in raw["releases"] if one["counter"] == counter)
    manifest = blob_file(registry, digest).read_bytes()
    Uploader(reference.host, Access(ca_file=registry.ca_file)).manifest(reference, manifest)
    print(f"   (the attacker moves {reference.tag} to {digest[:19]}…, counter {counter})")


def blob_file(registry: LocalRegistry, digest: str) -> Path:
    """Return where CNCF distribution keeps a blob."""
    hexadecimal = digest.removeprefix("sha256:")
    return registry.storage / "docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"


def prepare(folder: Path, registry: LocalRegistry) -> None:
    """Copy the examples, with the registry's real address, and its CA beside them."""
    for name in ("components", "states"):
        shutil.copytree(EXAMPLES / name, folder / name)
    shutil.copy(EXAMPLES / "agent.yaml", folder)
    for file in folder.rglob("*.yaml"):
        file.write_text(file.read_text().replace(WRITTEN_HOST, registry.host))
    assert registry.ca_file
    shutil.copy(registry.ca_file, folder / "ca.pem")


def main() -> int:
    """Set the scene, tell the story, and leave nothing behind."""
    start_s = time.monotonic()
    with ExitStack() as scene:
        place = scene.enter_context(temporary_place())
        print("A registry (TLS) and a container engine of our own start …", flush=True)
        registry = scene.enter_context(LocalRegistry(place / "registry", "tls"))
        engine = scene.enter_context(chosen_engine(place / "engine"))
        folder = place / "work"
        folder.mkdir()
        prepare(folder, registry)
        environment = {
            "PATH": f"{PROGRAMS}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(folder),
            "DOCKER_HOST": engine.docker_host,
            "DOCKER_CONFIG": str(engine.docker_config),
            "LANG": "C.UTF-8",
        }
        for reference, digest in build_all(registry.host, engine.docker_host).items():
            print(f"image {reference} is built and pushed: {digest[:19]}…")
        story = Story(folder, registry.host, environment)
        try:
            tell(story, registry)
        except Failed as failure:
            print(f"\nstep {story.steps} failed: {failure}", file=sys.stderr)
            return 1
    print(f"\nEvery step held: {story.steps} steps in {time.monotonic() - start_s:.0f} s.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
