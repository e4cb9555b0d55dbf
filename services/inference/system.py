"""The machine and this process, as the operating system, the container and NVIDIA's management library tell of them."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import psutil

_log = logging.getLogger(__name__)
# Where a container's own limits stand (cgroup v2, seen from inside).
_CGROUP: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processors; `physical_cores` is 0 where unknown, `used_percent` is of all cores since the previous look."""

    logical_cores: int
    physical_cores: int
    usable_cores: float
    used_percent: float


@dataclass(frozen=True, slots=True)
class Process:
    """This process, in bytes and threads."""

    resident_bytes: int
    virtual_bytes: int
    threads: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU; `used_percent` is None where it does not tell."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    used_percent: int | None


@dataclass(frozen=True, slots=True)
class System:
    """All of it, as it was at one moment."""

    cpu: Cpu
    total_bytes: int
    available_bytes: int
    process: Process
    gpus: tuple[Gpu, ...]


def look() -> System:
    """Looks; takes a few milliseconds, longer the first time where there is a GPU."""
    total, available = memory_bytes()
    return System(_cpu(), total, available, _process(), gpus())


def resident_bytes() -> int:
    """Memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def resident_bytes_of(pid: int) -> int:
    """Memory that another process holds; 0 where it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def memory_bytes(cgroup: Path = _CGROUP) -> tuple[int, int]:
    """All memory, and what could be taken without swapping: of the machine, or of the container where that allows less."""
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    most, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if most is None or used is None:
        return total, available
    # The page cache that nobody has touched lately counts as used there, and is given up before anything fails.
    spare = _inactive_file(cgroup / "memory.stat")
    return min(total, most), min(available, max(0, most - used + spare))


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that NVML knows; none where its library or driver is not there."""
    nvml = _nvml()
    if nvml is None:
        return ()
    try:
        return tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError as error:
        _log.warning("the GPUs cannot be asked: %s", error)
        return ()


def _cpu() -> Cpu:
    logical = psutil.cpu_count() or 1
    return Cpu(logical, psutil.cpu_count(logical=False) or 0, _usable_cores(logical), psutil.cpu_percent())


def _usable_cores(logical: int, cgroup: Path = _CGROUP) -> float:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return float(allowed)
    return float(allowed) if quota == "max" else min(float(allowed), int(quota) / int(period))


def _process() -> Process:
    process = psutil.Process()
    with process.oneshot():
        memory = process.memory_info()
        return Process(int(memory.rss), int(memory.vms), process.num_threads())


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        used: int | None = int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except nvml.NVMLError:  # not supported, as by a partition of a GPU
        used = None
    return Gpu(index, name.decode() if isinstance(name, bytes) else str(name), int(memory.total), int(memory.free), used)


@cache
def _nvml() -> Any:
    """NVIDIA's library, opened once for the life of the process; None where there is none."""
    try:
        import pynvml  # type: ignore[import-untyped] # noqa: PLC0415 - of use only with a GPU; ships no types
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _number(path: Path) -> int | None:
    """The number in a file of the cgroup; None where there is none, or no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _inactive_file(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
