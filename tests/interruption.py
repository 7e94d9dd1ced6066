"""How long a service is away when one of its parameters changes: through the agent, and by hand with Docker Compose."""

import http.client
import itertools
import statistics
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from margo_oci.compose import find_compose
from tests.integration.site import Site, web

AGENTS, BY_HAND = 18801, 18802
LOOK_EVERY_S = 0.003
PATIENCE_S = 0.05  # a port whose container only starts takes a connection, and lets it hang
GRACE = "    stop_grace_period: 1s\n"


def longest_gap_s(port: int, change: Callable[[], object]) -> float:
    """Return for how long a port did not answer while something was changed."""
    answered: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S) as answer:
                    answer.read()
                answered.append(time.monotonic())
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(LOOK_EVERY_S)

    looking = threading.Thread(target=look)
    looking.start()
    time.sleep(0.2)
    change()
    changed_s = time.monotonic()
    while not answered or answered[-1] < changed_s + 0.2:
        time.sleep(0.05)
    over.set()
    looking.join()
    return max(after - before for before, after in itertools.pairwise(answered))


def interruptions(site: Site, image: str, runs: int) -> tuple[float, float]:
    """Return the median interruption in seconds: through the agent, and by `docker compose up` on the same engine."""
    site.component("hello", "1.0.0", web(image, AGENTS, GRACE))
    folder = site.folder / "by-hand"
    folder.mkdir()
    (folder / "compose.yaml").write_text(web(image, BY_HAND, GRACE))
    agents, by_hand = [], []
    for number in range(runs + 1):
        site.deployment("hello", GREETING=str(number))
        site.push()
        if not number:
            site.agent("once")
            _up(site, folder, number)
            time.sleep(1)
            continue
        agents.append(longest_gap_s(AGENTS, lambda: site.agent("once")))
        by_hand.append(longest_gap_s(BY_HAND, lambda number=number: _up(site, folder, number)))  # type: ignore[misc]
    return statistics.median(agents), statistics.median(by_hand)


def _up(site: Site, folder: Path, greeting: int) -> None:
    environment = {**site.environment, "GREETING": str(greeting)}
    command = [*find_compose(), "--project-name", "by-hand", "up", "--detach"]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
