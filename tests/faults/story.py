"""A device whose states follow each other while faults strike: hello changes, job comes and goes, pump stays."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.site import Site, ours, page, web

HELLO, PUMP, JOB = 18301, 18302, 18303
PASSES_LIMIT = 4  # after a fault: so many passes may it take until all is well


@dataclass
class Count:
    """What became of the faults so far."""

    faults: int = 0
    lost: int = 0
    half_applied: int = 0
    orphans: int = 0
    seconds: float = 0.0


@dataclass
class Story:
    """Publishes, lets a fault strike, and holds the device against what has to be."""

    site: Site
    image: str
    number: int = 0
    count: Count = field(default_factory=Count)
    pump: str = ""

    def begin(self) -> None:
        """Have the first state run."""
        for name, port in (("hello", HELLO), ("pump", PUMP), ("job", JOB)):
            self.site.component(name, "1.0.0", web(self.image, port, "    stop_grace_period: 0s\n"))
        self.site.deployment("pump", GREETING="pump")
        self.publish()
        assert self.site.agent("once")["outcome"] == "applied"
        self.pump = self.site.containers()["pump"]

    def publish(self) -> None:
        """Publish the next state."""
        self.number += 1
        self.site.deployment("hello", GREETING=str(self.number))
        if self.number % 2:
            (self.site.folder / "states" / "job.yaml").unlink(missing_ok=True)
        else:
            self.site.deployment("job", GREETING="job")
        self.site.push()

    def strike_at(self, kind: str, number: int, *, below: str = "") -> bool:
        """Publish, and kill a pass at an exact moment; tell whether it came."""
        self.publish()
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.struck", kind, str(number), below or str(self.site.folder / "state"),
             "once", "--config", "agent.yaml", "-o", "json"],
            cwd=self.site.folder, env={**self.site.environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode == -signal.SIGKILL

    def strike_after(self, delay_s: float) -> None:
        """Publish, and kill a pass after a while, with everything it started, as a power cut does."""
        self.publish()
        with subprocess.Popen(
            [sys.executable, "-m", "margo_agent", "once", "--config", "agent.yaml", "-o", "json"],
            cwd=self.site.folder, env=self.site.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as agent:  # fmt: skip
            time.sleep(delay_s)
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)

    def strike_somewhere(self, chance: random.Random, longest_s: float) -> None:
        """Kill a pass at a moment nobody chose."""
        self.strike_after(chance.uniform(0.1, longest_s))

    def check(self, what: str) -> None:
        """Count what the fault did; what did not change must never have been touched."""
        self.count.faults += 1
        begun_s = time.monotonic()
        lost = self.site.containers().get("pump") != self.pump or page(PUMP) != "pump"
        for _ in range(PASSES_LIMIT):
            report = self.site.agent("once")
            if report["outcome"] in ("applied", "unchanged") and self._settled():
                break
        self.count.seconds += time.monotonic() - begun_s
        wrong = self.wrong()
        orphans = self._orphans()
        self.count.lost += lost
        self.count.half_applied += bool(wrong)
        self.count.orphans += bool(orphans)
        fine = not (lost or wrong or orphans)
        assert fine, f"{what}: lost {lost}, wrong {wrong}, orphans {orphans}: {report}"

    def _settled(self) -> bool:
        record = json.loads((self.site.folder / "state" / "record.json").read_text())
        return record["settled"] is True and not record["unsure"]

    @property
    def wanted(self) -> set[str]:
        """Which components have to run."""
        return {"hello", "pump"} | (set() if self.number % 2 else {"job"})

    def wrong(self) -> str:
        """Say what does not run as it should; "" if all does."""
        running = self.site.containers()
        if set(running) != self.wanted or running["pump"] != self.pump:
            return f"{running} runs"
        try:
            says = page(HELLO)
        except OSError as error:
            says = str(error)
        return "" if says == str(self.number) else f"hello says {says}, not {self.number}"

    def _orphans(self) -> list[str]:
        with self.site.looking() as client:
            all_of_ours = ours(client, stopped=True)
            left = [str(one.name) for one in all_of_ours if one.status != "running"]
            left += [str(one.name) for one in all_of_ours[len(self.wanted) :]]
        networks = self.site.networks()
        return left + sorted(networks) if len(networks) != len(self.wanted) or left else []
