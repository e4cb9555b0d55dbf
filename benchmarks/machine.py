"""The machine that measures: what it is, and how busy others keep it."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def described() -> str:
    """The machine and the moment, in one line."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}, load average {load:.1f}, {now}"


class Bystanders:
    """Tells how much of the machine others had since this was made: other programs, and the host of a virtual machine."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = _ticks()[0] / _TICKS - family_seconds(os.getpid())

    def share(self) -> float:
        """Of all cores, 0 to 1."""
        busy = _ticks()[0] / _TICKS - family_seconds(os.getpid()) - self._busy
        return max(0.0, busy / (time.monotonic() - self._began) / (os.cpu_count() or 1))


def busy_share(seconds: float = 2.0) -> float:
    """How much of all cores is in use while nothing of ours runs, 0 to 1."""
    busy_before, all_before = _ticks()
    time.sleep(seconds)
    busy, everything = _ticks()
    return (busy - busy_before) / max(1, everything - all_before)


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used, user and system, in seconds; in steps of 10 ms."""
    return sum(_stat(pid)[11:13]) / _TICKS


def family_seconds(root: int) -> float:
    """The same of a process and of all below it, those that have ended and were waited for included."""
    above = parents()
    used = 0
    for pid in above:
        ancestor = pid
        while ancestor != root and ancestor in above:
            ancestor = above[ancestor]
        if ancestor == root:
            with suppress(FileNotFoundError, ProcessLookupError):
                used += sum(_stat(pid)[11:15])
    return used / _TICKS


def parents() -> dict[int, int]:
    """The parent of each process."""
    found: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found[int(folder.name)] = _stat(int(folder.name))[1]
    return found


def _stat(pid: int) -> list[int]:
    """What proc(5) says of /proc/PID/stat from its third field on; the first of these is a letter and is 0 here."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [0, *map(int, fields[1:])]


def _ticks() -> tuple[int, int]:
    counts = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle = counts[3] + counts[4]
    return sum(counts) - idle, sum(counts)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
