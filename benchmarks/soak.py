"""Watches the memory of processes under load that lasts."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.suite import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.gateway_latency import Way

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_CONNECTIONS: Final = 4
# The first part fills caches and pools: what comes after it should stay.
_SETTLING: Final = 1 / 3


@dataclass(frozen=True, slots=True)
class Line:
    """Resident memory as it went: MB at the end, and MB a minute of the line through all but the first third."""

    last: float
    slope: float


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in megabytes (10^6 bytes)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6


def fitted(samples: Sequence[tuple[float, float]]) -> Line:
    """The line through samples of (seconds, megabytes)."""
    settled = samples[int(len(samples) * _SETTLING) :]
    slope = statistics.linear_regression([at for at, _ in settled], [size for _, size in settled]).slope
    return Line(samples[-1][1], slope * 60)


def soak(ways: Sequence[Way], seconds: float, processes: Sequence[int]) -> Mapping[int, Line]:
    """Loads all the ways at once for so long, and tells how the processes' memory went.

    Raises:
        RuntimeError: An answer was wrong.
    """
    clients = [
        subprocess.Popen(
            (sys.executable, "-m", *way.command, "--connections", str(_CONNECTIONS), "--seconds", str(seconds)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for way in ways
    ]
    samples: dict[int, list[tuple[float, float]]] = {pid: [] for pid in processes}
    began = time.monotonic()
    while any(client.poll() is None for client in clients):
        for pid, taken in samples.items():
            taken.append((time.monotonic() - began, resident_mb(pid)))
        time.sleep(min(1.0, seconds / 60))
    for client in clients:
        told = json.loads(client.communicate()[0])
        if client.returncode or told["errors"]:
            raise RuntimeError(f"the load went wrong: {told['errors']} errors, first: {told['error']}")
    return {pid: fitted(taken) for pid, taken in samples.items()}
