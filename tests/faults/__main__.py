"""The long form of the fault tests: `make soak`. Prints a table for docs/soak.md; ends with 1 if anything was lost.

SOAK_KILLS    kills at random moments (500)         SOAK_CUTS    power cuts with what the disk really held (50)
SOAK_PASSES   passes of the loop (10,000)           SOAK_CHANGE_EVERY  one pass in so many has a new state (20)
SOAK_ENGINES  docker,podman                         SOAK_SEED    the same seed, the same moments (1)
"""

import os
import random
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from margo_agent.control import ask
from tests.faults.disk import Disk
from tests.faults.story import Count, Story
from tests.integration.site import Site
from tests.parts import images
from tests.parts.engine import chosen_engine
from tests.parts.images import Images
from tests.parts.place import temporary_place
from tests.parts.registry import LocalRegistry
from tests.simulators.outages import EVERYTHING, PROGRAM

LONGEST_S = 4.0
MOMENTS_LIMIT = 400
SAMPLES = 10
LOOK_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Sample:
    """The loop after so many passes: resident memory, open files, size of `stateDir`."""

    passes: int
    changes: int
    memory_kib: int
    files: int
    store_kib: int


def main() -> int:
    """Run every kind of fault on every engine."""
    lines = ["| engine | fault | number | lost | half applied | orphans | back after |", "| --- " * 7 + "|"]
    bad = False
    samples: dict[str, Sequence[Sample]] = {}
    for name in os.environ.get("SOAK_ENGINES", "docker,podman").split(","):
        for fault, run in (("kill at any time", kills), ("kill at every moment", moments), ("power cut", cuts)):
            with a_story(name) as story:
                run(story)
            count = story.count
            bad |= bool(count.lost or count.half_applied or count.orphans)
            lines.append(_row(name, fault, count))
            print(lines[-1], flush=True)
        with a_story(name) as story:
            samples[name] = passes(story)
    print("\n".join(lines))
    for name, found in samples.items():
        print(
            f"\n| passes on {name} | with a new state | memory of the loop | open files | stateDir |\n{'| --- ' * 5}|"
        )
        for one in found:
            memory = f"{one.memory_kib / 1024:.1f} MiB"
            print(f"| {one.passes:,} | {one.changes:,} | {memory} | {one.files} | {one.store_kib} KiB |")
    return int(bad)


def _row(engine: str, fault: str, count: Count) -> str:
    mean_s = count.seconds / max(1, count.faults)
    found = f"{count.faults} | {count.lost} | {count.half_applied} | {count.orphans} | {mean_s:.1f} s"
    return f"| {engine} | {fault} | {found} |"


@contextmanager
def a_story(engine_name: str) -> Iterator[Story]:
    """Yield a device on an engine of its own, which runs its first state."""
    with (
        temporary_place() as place,
        LocalRegistry(place / "registry", "tls") as registry,
        chosen_engine(place / "engine", engine_name) as engine,
    ):
        Images(engine.docker_host, registry.host).push("images/web", "1.0", images.web())
        (place / "site").mkdir()
        story = Story(Site(place / "site", registry, engine), f"{registry.host}/images/web:1.0")
        story.begin()
        yield story


def kills(story: Story) -> None:
    """Kill at moments that nobody chose."""
    chance = random.Random(int(os.environ.get("SOAK_SEED", "1")))  # noqa: S311
    for number in range(int(os.environ.get("SOAK_KILLS", "500"))):
        story.strike_somewhere(chance, LONGEST_S)
        _noted(story, f"random kill {number}")


def moments(story: Story) -> None:
    """Kill at everything that a pass does to its disk, and before each program it starts."""
    for kind in EVERYTHING:
        for number in range(1, MOMENTS_LIMIT):
            if not story.strike_at(kind, number):
                break
            _noted(story, f"kill at {kind} {number}")


def cuts(story: Story) -> None:
    """Cut the power at moments that a seed chose; what was never synced is gone."""
    chance = random.Random(int(os.environ.get("SOAK_SEED", "1")))  # noqa: S311
    with Disk.of(story.site.folder / "state") as disk:
        for number in range(int(os.environ.get("SOAK_CUTS", "50"))):
            kind = chance.choice([one for one in EVERYTHING if one != PROGRAM])
            story.strike_at(kind, chance.randint(1, 12))
            disk.cut()
            _noted(story, f"power cut {number} at a {kind}")


def passes(story: Story) -> Sequence[Sample]:
    """Have the loop do pass after pass, one in so many with a new state; look at it now and then."""
    count, every = int(os.environ.get("SOAK_PASSES", "10000")), int(os.environ.get("SOAK_CHANGE_EVERY", "20"))
    state = story.site.folder / "state"
    story.site.configure(clean="{after: 1m}")  # what nothing needs goes within the soak, not a day later
    samples: list[Sample] = []
    with story.site.running_agent() as agent, _unread(agent):
        while ask(state, {"do": "status"}, timeout_s=LOOK_TIMEOUT_S) is None:
            time.sleep(0.2)
        for number in range(1, count + 1):
            if number % every == 0:
                story.publish()
            ask(state, {"do": "look", "wait": True}, timeout_s=LOOK_TIMEOUT_S)
            if number % every == 0:
                _wait_until_applied(story)
            if number % max(1, count // SAMPLES) == 0:
                samples.append(_sample(number, number // every, agent.pid, state))
                print(samples[-1], flush=True)
    return samples


@contextmanager
def _unread(agent: subprocess.Popen[str]) -> Iterator[None]:
    """Throw away what the loop prints, so that it never waits for us."""
    assert agent.stdout
    threading.Thread(target=deque, args=(agent.stdout, 0), daemon=True).start()
    yield


def _wait_until_applied(story: Story, limit_s: float = 120.0) -> None:
    until_s = time.monotonic() + limit_s
    while story.wrong():
        if time.monotonic() > until_s:
            raise RuntimeError(f"state {story.number} is not applied: {story.wrong()}")
        time.sleep(0.2)


def _sample(number: int, changes: int, pid: int, state: Path) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    memory = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    size = sum(file.lstat().st_blocks // 2 for file in state.rglob("*"))
    return Sample(number, changes, int(memory.split()[1]), len(list(Path(f"/proc/{pid}/fd").iterdir())), size)


def _noted(story: Story, what: str) -> None:
    """Count what became of a fault; the story goes on with the next one."""
    try:
        story.check(what)
    except AssertionError as error:
        print(f"FAULT {error}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
