"""The machine that measures: what it is, and how busy others keep it."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path


def described() -> str:
    """The machine and the moment, in one line."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}, load average {load:.1f}, {now}"


def busy_share(seconds: float = 2.0) -> float:
    """How much of all cores is in use while nothing of ours runs, 0 to 1."""
    busy_before, all_before = _ticks()
    time.sleep(seconds)
    busy, everything = _ticks()
    return (busy - busy_before) / max(1, everything - all_before)


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used, user and system, in seconds; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ticks() -> tuple[int, int]:
    counts = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle = counts[3] + counts[4]
    return sum(counts) - idle, sum(counts)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
