from __future__ import annotations

import os
from typing import TYPE_CHECKING

from services.inference import system

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def test_this_machine_is_told_plausibly() -> None:
    seen = system.look()
    assert 0 < seen.cpu.usable_cores <= seen.cpu.logical_cores
    assert 0 <= seen.cpu.used_percent <= 100
    assert 0 < seen.available_bytes <= seen.total_bytes
    assert 10 * MIB < seen.process.resident_bytes <= seen.process.virtual_bytes
    assert seen.process.threads >= 1
    assert all(gpu.free_bytes <= gpu.total_bytes for gpu in seen.gpus)


def test_memory_that_is_taken_and_freed_shows() -> None:
    before = system.resident_bytes()
    block = bytearray(os.urandom(1)) * (64 * MIB)
    assert system.resident_bytes() - before > 60 * MIB
    del block
    assert system.resident_bytes() - before < 4 * MIB


def test_a_containers_limit_counts_where_it_is_lower(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{64 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{50 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {10 * MIB}\nactive_file 3\n")
    assert system.memory_bytes(tmp_path) == (64 * MIB, 24 * MIB)
    (tmp_path / "memory.max").write_text("max\n")
    total, available = system.memory_bytes(tmp_path)
    assert total > 64 * MIB
    assert available <= total


def test_a_containers_share_of_the_cores_counts(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert system._usable_cores(4, tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert system._usable_cores(4, tmp_path) == len(os.sched_getaffinity(0))
