"""Feeds a target: seeds, then mutations of what behaved in a new way; keeps what broke.

What is new is told by two signs: the words of an answer without its particulars, and, of a sample, the lines of
ours that ran.
"""

import hashlib
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from margo_oci.errors import MargoError
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import Target

HERE = Path(__file__).parent
SEEDS, FINDINGS = HERE / "seeds", HERE / "findings"
TIME_LIMIT_S = 1.0  # of a processor, for one input
HANGS_S = 20.0  # then it is cut off
MEMORY_LIMIT_BYTES = 2 * 1024**3
CORPUS_LIMIT = 2_000
TRACED_ONE_OF = 16
_PARTICULARS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|sha256:[0-9a-f]*|/tmp\S*|[0-9]+|[^\x20-\x7e]+")
_OURS = ("/margo_oci/", "/margo_agent/")


@dataclass
class Report:
    """What became of a target."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    accepted: int = 0
    behaviours: int = 0
    lines: int = 0
    slowest_s: float = 0.0
    slowest: str = ""
    findings: dict[str, str] = field(default_factory=dict)


def inputs_of(folder: Path, target: str) -> list[Path]:
    """Return the kept inputs of a target, seeds or findings, in their order."""
    return sorted((folder / target).iterdir()) if (folder / target).is_dir() else []


def outcome(target: Target, data: bytes) -> str:
    """Feed a target; return how it answered. What is raised and is not ours goes through."""
    try:
        target.feed(data)
    except MargoError as error:
        return f"{type(error).__name__}: {_PARTICULARS.sub('_', str(error)[:300])[:120]}"
    return "read"


def fuzz(target: Target, *, seed: int, seconds: float = 0.0, inputs: int = 0) -> Report:
    """Feed a target for so many seconds, or with so many inputs."""
    report = Report(target.name)
    chance = Random(f"{seed} {target.name}")  # noqa: S311  (chance that can be repeated is what is wanted)
    corpus = [file.read_bytes() for folder in (SEEDS, FINDINGS) for file in inputs_of(folder, target.name)]
    behaviours: set[str] = set()
    lines: set[tuple[str, int]] = set()
    began, number = time.monotonic(), 0
    with bounded():
        while (time.monotonic() - began < seconds) if seconds else (number < inputs):
            data = corpus[number] if number < len(corpus) else mutated(target, corpus, chance)
            new = set() if number % TRACED_ONE_OF else lines
            behaviour = attempt(target, data, report, new if new is lines else None)
            if (behaviour not in behaviours or len(lines) > report.lines) and len(corpus) < CORPUS_LIMIT:
                corpus.append(data)
            behaviours.add(behaviour)
            report.lines, number = len(lines), number + 1
    report.inputs, report.seconds, report.behaviours = number, time.monotonic() - began, len(behaviours)
    return report


def attempt(target: Target, data: bytes, report: Report, lines: set[tuple[str, int]] | None) -> str:
    """Feed one input, measure it, and keep it if it broke something."""
    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, HANGS_S)
    try:
        if lines is None:
            behaviour = outcome(target, data)
        else:
            with traced(lines):
                behaviour = outcome(target, data)
    except Exception as error:
        behaviour = _where(error)
        keep(report, behaviour, f"{behaviour}: {error!s:.100}", data)
    signal.setitimer(signal.ITIMER_PROF, 0)
    took = time.process_time() - began
    if lines is None and took > report.slowest_s:
        report.slowest_s, report.slowest = took, hashlib.sha256(data).hexdigest()[:12]
    if lines is None and took > TIME_LIMIT_S:
        keep(report, "slow", f"slow: {took:.1f} s for {len(data)} bytes", data)
    report.accepted += behaviour == "read"
    return behaviour


def _where(error: BaseException) -> str:
    """Name an error and the last line of ours that it came through."""
    place, trace = "", error.__traceback__
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if any(part in file for part in _OURS) or not place:
            place = f"{Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {place}"


def keep(report: Report, kind: str, words: str, data: bytes) -> None:
    """Write an input that broke something, once for each kind, beside the kept findings."""
    if any(known.startswith(kind) for known in report.findings):
        return
    folder = FINDINGS / report.target
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / hashlib.sha256(data).hexdigest()[:12]
    file.write_bytes(data)
    report.findings[words] = str(file)


@contextmanager
def bounded() -> Iterator[None]:
    """Hold a process to its memory, and have a signal cut off what never ends."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, before[1]))
    handler = signal.signal(signal.SIGPROF, _hung)
    try:
        yield
    finally:
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _hung(*_: object) -> None:
    raise TimeoutError(f"not done after {HANGS_S:.0f} s of a processor")


@contextmanager
def traced(lines: set[tuple[str, int]]) -> Iterator[None]:
    """Note which lines of ours run."""

    def tracer(frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not any(part in file for part in _OURS):
            return None
        if event == "line":
            lines.add((file, frame.f_lineno))
        return tracer

    sys.settrace(tracer)
    try:
        yield
    finally:
        sys.settrace(None)
