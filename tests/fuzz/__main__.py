"""Fuzzes every target: `make fuzz`, or `python -m tests.fuzz`.

FUZZ_TARGETS  names with commas between (all)       FUZZ_INPUTS   how many inputs in total (100,000)
FUZZ_SEED     the same seed, the same inputs (1)     FUZZ_SECONDS  for each target, instead of FUZZ_INPUTS
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from tests.fuzz.engine import Report, fuzz
from tests.fuzz.targets import BY_NAME, TARGETS

PROCESSES = 2


def main() -> int:
    """Run, print a table, return 1 if anything was found."""
    names = [name for name in os.environ.get("FUZZ_TARGETS", "").split(",") if name] or [one.name for one in TARGETS]
    if unknown := [name for name in names if name not in BY_NAME]:
        print(f"unknown target {unknown[0]}: one of {', '.join(BY_NAME)}", file=sys.stderr)
        return 2
    seed = int(os.environ.get("FUZZ_SEED", "1"))
    seconds = float(os.environ.get("FUZZ_SECONDS", "0"))
    inputs = int(os.environ.get("FUZZ_INPUTS", "100000"))
    shares = sum(BY_NAME[name].share for name in names)
    jobs = [(name, seed, seconds, max(1, round(inputs * BY_NAME[name].share / shares))) for name in names]
    began = time.monotonic()
    with multiprocessing.get_context("fork").Pool(PROCESSES, maxtasksperchild=1) as pool:
        reports = [told(report) for report in pool.imap_unordered(run, jobs, chunksize=1)]
    summary(reports, time.monotonic() - began)
    return 1 if any(report.findings for report in reports) else 0


def run(job: tuple[str, int, float, int]) -> Report:
    name, seed, seconds, inputs = job
    return fuzz(BY_NAME[name], seed=seed, seconds=seconds, inputs=inputs)


def told(report: Report) -> Report:
    """Print a line for a target, and one for each finding."""
    print(
        f"{report.target:16} {report.inputs:9,} inputs {report.seconds:7.1f} s  {report.accepted:8,} read  "
        f"{report.behaviours:5} behaviours  {report.lines:5} lines  slowest {1000 * report.slowest_s:7.1f} ms",
        flush=True,
    )
    for words, file in report.findings.items():
        print(f"  {words}\n    {file}", flush=True)
    return report


def summary(reports: Sequence[Report], seconds: float) -> None:
    total = sum(report.inputs for report in reports)
    found = sum(len(report.findings) for report in reports)
    print(f"{total:,} inputs for {len(reports)} targets in {seconds:.0f} s: {found} findings")
    if file := os.environ.get("FUZZ_REPORT"):
        with open(file, "w") as stream:  # noqa: PTH123
            json.dump([asdict(report) for report in reports], stream, indent=1)


if __name__ == "__main__":
    sys.exit(main())
