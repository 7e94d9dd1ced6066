"""Which bundles a watched folder hands over, and when."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from margo_agent.clock import Mark
from margo_agent.importing import older, unaccepted
from margo_agent.inbox import ENTRIES_LIMIT, Inbox, emptied
from margo_agent.record import Accepted, GivenRoot, Record
from tests.unit.scenes import state


def put(folder: Path, name: str, content: str = "content") -> Path:
    """Put a file where it is watched."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def test_13_10_a_bundle_is_handed_over_once_and_not_before_it_stays_as_it_is(tmp_path: Path) -> None:
    inbox = Inbox()
    file = put(tmp_path, "stick/site.tar", "half")
    assert inbox.look(tmp_path) == []
    put(tmp_path, "stick/site.tar", "half and half")
    assert inbox.look(tmp_path) == []
    assert inbox.look(tmp_path) == [file]
    assert inbox.look(tmp_path) == []


def test_13_10_one_that_changed_or_came_again_is_handed_over_again(tmp_path: Path) -> None:
    inbox = Inbox()
    file = put(tmp_path, "site.tar")
    seen(inbox, tmp_path)
    put(tmp_path, "site.tar", "another release")
    assert seen(inbox, tmp_path) == [file]
    file.rename(tmp_path / "aside")
    inbox.look(tmp_path)
    (tmp_path / "aside").rename(file)
    assert seen(inbox, tmp_path) == [file]


def seen(inbox: Inbox, folder: Path) -> Sequence[Path]:
    """Look twice; return what was handed over."""
    return [*inbox.look(folder), *inbox.look(folder)]


def test_13_10_tars_and_layouts_are_found_no_deeper_than_two_folders_and_through_no_link(tmp_path: Path) -> None:
    watched = tmp_path / "media"
    found = [put(watched, "a.TAR"), put(watched, "stick/b.tar"), put(watched, "user/stick/c.tar")]
    layout = put(watched, "stick/site/index.json").parent
    put(watched, "stick/site/inner.tar")
    put(watched, "one/two/three/deep.tar")
    put(watched, "stick/.hidden.tar")
    put(watched, "stick/site.tar.part/index.txt")
    put(watched, "notes.txt")
    (watched / "link.tar").symlink_to(put(tmp_path, "elsewhere.tar"))
    (watched / "linked").symlink_to(tmp_path)
    assert set(seen(Inbox(), watched)) == {*found, layout}


def test_13_10_a_folder_that_is_gone_or_crowded_does_no_harm(tmp_path: Path) -> None:
    assert seen(Inbox(), tmp_path / "gone") == []
    for number in range(ENTRIES_LIMIT + 5):
        put(tmp_path, f"{number}.tar", "")
    assert len(seen(Inbox(), tmp_path)) <= ENTRIES_LIMIT


@pytest.mark.parametrize(
    ("counter", "digest", "words"),
    [(6, "", "counter 6 is older than 7"), (7, "same", "what is installed"), (7, "", ""), (8, "", "")],
)
def test_13_10_what_says_itself_to_be_older_is_left_alone(counter: int, digest: str, words: str) -> None:
    offered = state(counter=counter)
    digest = offered.manifest.digest if digest else "sha256:" + 64 * "0"
    known = Record(accepted={offered.scope: Accepted(counter=7, digest=digest, scope=offered.scope)},
                   current=offered.scope, settled=True)  # fmt: skip
    assert words in older(offered, known)
    assert bool(words) == bool(older(offered, known))


def test_13_7_a_state_that_was_not_whole_does_not_count_but_what_was_learned_of_roots_does() -> None:
    one = Accepted(counter=1, digest="sha256:" + 64 * "1", scope="edge-17")
    before = Record(accepted={"edge-17": one}, current="edge-17", settled=True)
    now = replace(before, accepted={"edge-17": replace(one, counter=2)}, settled=False, time=Mark("later", "boot", 7.0))
    assert unaccepted(now, before) == replace(before, time=now.time)
    newer_root = replace(now, root=GivenRoot("sha256:given", "{}", ""))
    assert unaccepted(newer_root, before) == newer_root
    begun = now.begin("pump")
    assert unaccepted(begun, before) == begun


def test_13_10_the_folder_is_looked_at_while_the_loop_runs(tmp_path: Path) -> None:
    handed: list[Path] = []
    came = asyncio.Event()

    def hand(bundles: Sequence[Path]) -> None:
        handed.extend(bundles)
        if handed:
            came.set()

    async def watch() -> None:
        async with emptied(lambda: tmp_path, hand, every_s=0.0):
            await came.wait()

    file = put(tmp_path, "site.tar")
    asyncio.run(watch())
    assert handed == [file]
