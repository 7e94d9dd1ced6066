"""Checks of the device itself: its folder, disk, memory and clock, and the agent that runs."""

import ctypes
import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from margo_agent.clock import BUILT
from margo_agent.config import AgentConfig
from margo_agent.control import ask
from margo_agent.doctor.check import Check, Status
from margo_agent.last import read_last
from margo_agent.notnow import not_now
from margo_agent.record import RecordFile
from margo_agent.state_folder import claim
from margo_oci.errors import FormatError, MargoError
from margo_oci.freshness import format_moment
from margo_oci.store import write_whole

MIB = 2**20
LEAST_MEMORY_BYTES = 64 * MIB
GOOD_MEMORY_BYTES = 160 * MIB  # a pass with Compose beside it
LEAST_INODES = 10_000
SLOW_SYNC_S = 2.0
_SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized


def state_dir(config: AgentConfig) -> Iterator[Check]:
    """Whose the folder is, whether what is written there lasts, and how much room there is."""
    folder, name = config.state_dir, "state dir"
    if not folder.exists():  # whoever starts first owns it: that is to be the agent
        yield Check(name, "warn", f"{folder} is not there yet", "start margo-agent, as the user it is to run as")
        return
    try:
        claim(folder)
        probe = folder / ".doctor"
        started_s = time.monotonic()
        write_whole(probe, b"written by margo-agent doctor")
        took_s = time.monotonic() - started_s
        probe.unlink()
    except FormatError as error:
        yield Check(name, "fail", str(error), "correct the owner and mode of stateDir, or name another")
        return
    except OSError as error:
        todo = "free or mend the disk, mount it for writing, or name another stateDir"
        yield Check(name, "fail", f"while writing {folder}: {error.strerror}", todo)
        return
    slow = took_s > SLOW_SYNC_S
    yield Check(
        name, "warn" if slow else "ok", f"{folder}: ours, writable, synced in {took_s * 1000:.0f} ms",
        "the disk is slow: look for wear (dmesg), or for what else writes" if slow else "",
    )  # fmt: skip
    yield _room(config)
    yield _record(config)


def _room(config: AgentConfig) -> Check:
    found = os.statvfs(config.state_dir)
    free_bytes = found.f_bavail * found.f_frsize
    keep_bytes = config.clean.kept_free_bytes(found.f_blocks * found.f_frsize)
    seen = f"{free_bytes // MIB} MiB free, {keep_bytes // MIB} MiB are to stay free (clean.keepFree)"
    if found.f_files and found.f_favail < LEAST_INODES:
        return Check("disk", "warn", f"{seen}; {found.f_favail} inodes free", "remove what has many small files")
    if free_bytes < keep_bytes:
        return Check("disk", "warn", seen, "free some room: new states may not fit; what runs goes on")
    return Check("disk", "ok", seen)


def _record(config: AgentConfig) -> Check:
    try:
        record = RecordFile(config.state_dir / "record.json").load()
    except MargoError as error:
        return Check("record", "fail", str(error), "restore the file from a backup, or provision the device anew")
    accepted = record.accepted.get(record.current)
    seen = f"counter {accepted.counter} for {accepted.scope}" if accepted else "no state accepted yet"
    return Check("record", "ok", f"{seen}, {len(record.installed)} installed, {len(record.failed)} failed")


def inbox(config: AgentConfig) -> Iterator[Check]:
    """Whether the place where bundles are to appear can be looked into: the loop says nothing of it."""
    if config.inbox is None:
        return
    try:
        count = len(os.listdir(config.inbox))  # noqa: PTH208  (only whether it can be)
    except OSError as error:
        todo = "make the folder, or correct import.watch: until then no bundle is found"
        yield Check("inbox", "warn", f"{config.inbox}: {error.strerror}", todo)
        return
    yield Check("inbox", "ok", f"{config.inbox}: {count} entries")


def memory(meminfo: str) -> Iterator[Check]:
    """Whether a pass fits into what is available (`/proc/meminfo`)."""
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    available_bytes = int(fields["MemAvailable"].split()[0]) * 1024
    seen = f"{available_bytes // MIB} MiB available"
    status: Status = "ok"
    if available_bytes < GOOD_MEMORY_BYTES:
        status = "fail" if available_bytes < LEAST_MEMORY_BYTES else "warn"
    yield Check("memory", status, seen, "" if status == "ok" else "a pass with Compose wants 160 MiB: stop something")


def clock(now: datetime, *, synchronized: bool | None) -> Iterator[Check]:
    """Whether the clock can be right, and whether somebody sets it; `synchronized` None: nobody can tell."""
    seen = format_moment(now)
    if now < BUILT:
        todo = "set the clock (timedatectl set-time), or reach a time server: expiry is judged by what is known instead"
        yield Check("clock", "warn", f"{seen} is before this software was built ({format_moment(BUILT)})", todo)
    elif synchronized is False:
        todo = "run a time service (systemd-timesyncd or chrony); start the agent after time-sync.target"
        yield Check("clock", "warn", f"{seen}; nobody keeps it right", todo)
    else:
        yield Check("clock", "ok", f"{seen}{', kept right over the network' if synchronized else ''}")


def is_synchronized() -> bool | None:
    """Tell whether the kernel's clock is kept right (adjtimex, which chrony, ntpd and timesyncd tell)."""
    if _SYNCHRONIZED.exists():
        return True
    try:
        state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def agent(config: AgentConfig, now: datetime) -> Iterator[Check]:
    """Whether the agent runs, what it told last, and what says "not now"."""
    try:
        answer = ask(config.state_dir, {"do": "status"}, timeout_s=10)
    except MargoError as error:
        yield Check("agent", "fail", str(error), "restart it (systemctl restart margo-agent)")
    else:
        yield _running(answer)
    last = read_last(config.state_dir)
    if last and last.result.get("outcome") not in ("applied", "unchanged"):
        seen = f"{last.result.get('outcome')} since {last.since}: {last.result.get('message', '')}"
        yield Check("last report", "warn", seen, "margo-agent why says which rule it is, and what to do")
    for one in not_now(config, now):
        yield Check(one.what, "warn", one.words, one.todo)


def _running(answer: Mapping[str, object] | None) -> Check:
    if answer is None:
        return Check("agent", "warn", "no agent runs here", "start it: systemctl enable --now margo-agent")
    return Check("agent", "ok", f"runs as process {answer.get('pid')}, {'busy' if answer.get('busy') else 'idle'}")
