"""`margo-oci root` and `head` against a real registry: ceremonies, heads, lost keys, a watch."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from margo_oci.keys import generate
from tests.integration.site import TIMEOUT_S, Done
from tests.parts.registry import LocalRegistry

SCOPE = "edge-17"
KEYS = ("a", "b", "c", "d", "head", "spare", "fleet", "second")


class Desk:
    """An operator's folder with all keys in it, and a registry; states are empty ones, which need no images."""

    def __init__(self, folder: Path, registry: LocalRegistry) -> None:
        self.folder, self.registry = folder, registry
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder), "LANG": "C.UTF-8",
        }  # fmt: skip
        self.state = f"{registry.host}/{folder.name}/edge-17:latest"
        self.trust = f"{registry.host}/{folder.name}/trust:trust"
        (folder / "states").mkdir()
        for name in KEYS:
            private, public = generate(None)
            (folder / f"{name}.key").write_bytes(private)
            (folder / f"{name}.pub").write_bytes(public)

    def oci(self, *arguments: str, expect: int = 0) -> Done:
        """Run margo-oci, which is expected to end with `expect`, and never with a traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "margo_cli", *arguments], cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == expect, f"{arguments}: {done}"
        return Done(done.returncode, done.stdout, done.stderr)

    def first_root(self, *more: str) -> None:
        """Make and sign version 1."""
        holders = [part for name in ("a", "b", "c") for part in ("--root-key", f"{name}.pub")]
        self.oci("root", "init", "-o", "1.root.json", *holders, "--root-threshold", "2",
                 "--head-key", "head.pub", "--release-key", "fleet.pub", *more)  # fmt: skip
        self.oci("root", "sign", "1.root.json", "--key", "a.key")
        self.oci("root", "sign", "1.root.json", "--key", "b.key")

    def rotate(self, old: int, *changes: str, holders: tuple[str, ...] = ("a", "b")) -> str:
        """Make and sign the version after `old`."""
        before, after = f"{old}.root.json", f"{old + 1}.root.json"
        self.oci("root", "rotate", before, "-o", after, *changes)
        for name in holders:
            self.oci("root", "sign", after, "--key", f"{name}.key", "--previous", before)
        return after

    def push(self, counter: int = 1, *more: str, key: str = "fleet.key") -> str:
        """Publish a state; return its digest."""
        done = self.oci("push", "states", self.state, "--allow-empty", "--scope", SCOPE, "--counter", str(counter),
                        "--key", key, "--plain-http", "-o", "json", *more)  # fmt: skip
        digest: str = done.json["digest"]
        return digest

    def head(self, verb: str, *more: str, root: str = "1.root.json", key: str = "head.key", expect: int = 0) -> Done:
        """Run a head command on the state."""
        keys = [] if verb == "show" else ["--key", key]
        flags = ["--root", root, *keys, "--plain-http", "-o", "json"]
        return self.oci("head", verb, self.state, *flags, *more, expect=expect)

    def publish_root(self, file: str, *, expect: int = 0) -> Done:
        """Append a root to the chain."""
        return self.oci("root", "publish", file, self.trust.removesuffix(":trust"), "--plain-http", expect=expect)


@pytest.fixture
def desk(tmp_path: Path, plain_registry: LocalRegistry) -> Desk:
    """A desk with a root that is signed."""
    desk = Desk(tmp_path, plain_registry)
    desk.first_root()
    return desk


def test_a_ceremony_tells_who_is_missing(desk: Desk) -> None:
    made = desk.oci("root", "rotate", "1.root.json", "-o", "2.root.json", "--remove-root-key", "c",
                    "--add-root-key", "d.pub")  # fmt: skip
    assert "root sign 2.root.json --previous 1.root.json --key" in made.err
    found = desk.oci("root", "sign", "2.root.json", "--key", "c.key", "--previous", "1.root.json", "-o", "json").json
    assert found["signatures"] == [
        {"of": "version 1", "signed": ["c"], "missing": 1, "waitingFor": ["a", "b"]},
        {"of": "version 2", "signed": [], "missing": 2, "waitingFor": ["a", "b", "d"]},
    ]
    alone = desk.oci("root", "sign", "2.root.json", "--key", "d.key").out
    assert "signed for version 2 by d, 1 missing of a, b" in alone
    assert "version 1 has its say as well" in alone
    desk.oci("root", "sign", "2.root.json", "--key", "a.key", "--previous", "1.root.json")
    shown = desk.oci("root", "show", "2.root.json", "--previous", "1.root.json", "-o", "json").json
    assert shown["complete"]
    assert "no root key of version 2" in desk.oci("root", "sign", "2.root.json", "--key", "head.key", expect=2).err


def test_files_of_roots_are_never_overwritten(desk: Desk) -> None:
    before = (desk.folder / "1.root.json").read_bytes()
    done = desk.oci("root", "rotate", "1.root.json", "-o", "1.root.json", expect=2)
    assert "1.root.json is there already" in done.err
    assert (desk.folder / "1.root.json").read_bytes() == before


def test_bad_ceremonies_are_told_in_words(desk: Desk) -> None:
    (desk.folder / "rubbish.json").write_text("{")
    assert "not usable JSON" in desk.oci("root", "show", "rubbish.json", expect=2).err
    assert "No such file" in desk.oci("root", "show", "nothing.json", expect=2).err
    assert (
        "fewer are there"
        in desk.oci("root", "rotate", "1.root.json", "-o", "x.json", "--head-threshold", "2", expect=2).err
    )
    assert (
        "0 keys are called so"
        in desk.oci("root", "rotate", "1.root.json", "-o", "x.json", "--remove-head-key", "no", expect=2).err
    )
    future = ("--floor", "2999-01-01T00:00:00Z")
    assert "this is to come" in desk.oci("root", "rotate", "1.root.json", "-o", "x.json", *future, expect=2).err
    forever = desk.oci("root", "rotate", "1.root.json", "-o", "x.json", "--expires", "9999999d", expect=2)
    assert "at most 36500 days" in forever.err
    assert not (desk.folder / "x.json").exists()


def test_the_chain_is_published_step_by_step_and_shown(desk: Desk) -> None:
    second = desk.rotate(1, "--expires", "30d")
    assert "version 1 comes before version 2" in desk.publish_root(second, expect=2).err
    desk.publish_root("1.root.json")
    desk.publish_root(second)
    assert "is there already" in desk.publish_root(second).out
    shown = desk.oci("root", "show", desk.trust, "--plain-http", "-o", "json").json
    assert [one["version"] for one in shown["chain"]] == [1, 2]
    assert [key["name"] for key in shown["root"]["roles"]["head"]["keys"]] == ["head"]


def test_an_unfinished_or_another_root_is_not_published(desk: Desk) -> None:
    desk.publish_root("1.root.json")
    desk.oci("root", "rotate", "1.root.json", "-o", "2.root.json")
    desk.oci("root", "sign", "2.root.json", "--key", "a.key")
    assert "the ceremony is not over" in desk.publish_root("2.root.json", expect=4).err
    (desk.folder / "1.root.json").unlink()
    desk.first_root("--expires", "99d")
    assert "its history is not overwritten" in desk.publish_root("1.root.json", expect=3).err


def test_a_head_is_issued_shown_and_renewed(desk: Desk) -> None:
    digest = desk.push()
    issued = desk.head("issue", "--scope", SCOPE).json
    assert (issued["version"], issued["digest"], issued["counter"], issued["signedBy"]) == (1, digest, 1, ["head"])
    desk.push(2)
    shown = desk.head("show").json
    assert (shown["tag"], shown["version"]) == ("newer", 1)
    assert 6 * 86400 < shown["remainingSeconds"] <= 7 * 86400
    assert "head issue` offers it" in desk.oci("head", "show", desk.state, "--root", "1.root.json", "--plain-http").out
    renewed = desk.head("renew", "--expires", "30d").json["heads"][0]
    assert (renewed["version"], renewed["digest"]) == (2, digest)
    assert not desk.head("renew", "--within", "2d").json["heads"][0]["changed"]
    assert desk.head("issue").json["counter"] == 2


def test_one_failure_does_not_stop_renewing_the_others(desk: Desk) -> None:
    desk.push()
    desk.head("issue")
    missing = f"{desk.state.removesuffix(':latest')}:nothing"
    (desk.folder / "fleet.txt").write_text(f"# the line\n{missing}\n{desk.state}  # edge-17\n\n")
    done = desk.oci("head", "renew", "--from", "fleet.txt", "--root", "1.root.json", "--key", "head.key",
                    "--plain-http", "-o", "json", expect=3)  # fmt: skip
    first, second = done.json["heads"]
    assert (first["reference"], "error" in first) == (missing, True)
    assert second["version"] == 2
    assert f"error: {missing}: " in done.err


def test_a_release_that_is_not_signed_as_the_root_asks_gets_no_head(
    tmp_path: Path, plain_registry: LocalRegistry
) -> None:
    desk = Desk(tmp_path, plain_registry)
    desk.first_root("--release-key", "second.pub", "--release-threshold", "2")
    desk.push()
    assert "signed by fleet: 2 of" in desk.head("issue", expect=4).err
    desk.push(1, key="second.key")
    assert desk.head("issue").json["version"] == 1
    desk.push(2, key="a.key")
    assert "by no key that is trusted here" in desk.head("issue", expect=4).err


def test_a_lost_head_key_is_replaced(desk: Desk) -> None:
    desk.push()
    desk.head("issue")
    second = desk.rotate(1, "--remove-head-key", "head", "--add-head-key", "spare.pub")
    refused = desk.head("issue", root=second, key="spare.key", expect=4)
    assert "--previous-root" in refused.err
    assert (
        desk.head("renew", "--previous-root", "1.root.json", root=second, key="spare.key").json["heads"][0]["version"]
        == 2
    )
    assert "made by somebody else, or with keys that were replaced" in desk.head("show", expect=4).err
    assert desk.head("issue", root=second, key="spare.key").json["version"] == 3
    assert "has as head keys only spare" in desk.head("issue", root=second, expect=2).err


def test_a_lost_release_key_is_replaced(desk: Desk) -> None:
    desk.push()
    desk.head("issue")
    second = desk.rotate(1, "--remove-release-key", "fleet", "--add-release-key", "second.pub")
    assert "by no key that is trusted here" in desk.head("renew", root=second, expect=4).err
    desk.push(1, key="second.key")
    assert desk.head("renew", root=second).json["heads"][0]["version"] == 2


def line(stream: IO[str] | None) -> Any:
    """The next thing a watch did."""
    assert stream
    assert select.select([stream], [], [], TIMEOUT_S)[0], "it said nothing in time"
    return json.loads(stream.readline())


@pytest.fixture
def watch(desk: Desk) -> Iterator[subprocess.Popen[str]]:
    """A watch of the state, which has its first head."""
    desk.push()
    desk.head("issue")
    command = [sys.executable, "-m", "margo_cli", "head", "watch", desk.state, "--root", "1.root.json",
               "--key", "head.key", "--plain-http", "-o", "json", "--interval", "1s"]  # fmt: skip
    with subprocess.Popen(command, cwd=desk.folder, env=desk.environment, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        yield process
        process.kill()


def test_a_watch_issues_what_is_new_and_ends_when_told(desk: Desk, watch: subprocess.Popen[str]) -> None:
    desk.push(2)
    assert (line(watch.stdout)["counter"], desk.head("show").json["version"]) == (2, 2)
    desk.push(3, key="a.key")
    assert watch.stderr
    assert "by no key that is trusted here" in watch.stderr.readline()
    watch.send_signal(signal.SIGTERM)
    assert watch.wait(TIMEOUT_S) == 0
