"""What processes hold in memory, with the pages that they share counted once."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.machine import parents

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# A mapping's first line: addresses, rights, offset, device and inode.
_MAPPING: Final = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S{4} [0-9a-f]+ (\S+ \d+)")


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in megabytes (10^6 bytes): what no file backs, and per file what is mapped of it."""

    own: float = 0.0
    files: Mapping[str, float] = field(default_factory=dict)

    @property
    def resident(self) -> float:
        """RSS."""
        return self.own + sum(self.files.values())


def of_process(pid: int) -> Memory:
    """A process's memory; nothing if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return Memory()
    own = 0.0
    files: defaultdict[str, float] = defaultdict(float)
    file = ""
    for line in lines:
        if mapping := _MAPPING.match(line):
            file = mapping[1]
        elif line.startswith("Rss:"):
            files[file] += _megabytes(line)
        elif line.startswith("Anonymous:"):
            files[file] -= _megabytes(line)
            own += _megabytes(line)
    return Memory(own, {name: held for name, held in files.items() if held > 0})


def together(memories: Iterable[Memory]) -> Memory:
    """What processes hold between them.

    Of each file the largest share counts, as if the others had mapped a part of the same pages. Page tables and the kernel's
    own memory are left out, as RSS leaves them out.
    """
    own = 0.0
    files: dict[str, float] = {}
    for memory in memories:
        own += memory.own
        for name, held in memory.files.items():
            files[name] = max(held, files.get(name, 0.0))
    return Memory(own, files)


def by_owner(owners: Mapping[int, str]) -> dict[str, list[Memory]]:
    """The memory of the processes named, and of all below them, by the name of the nearest."""
    above = parents()
    held: dict[str, list[Memory]] = {name: [] for name in owners.values()}
    for pid in above:
        owner = pid
        while owner in above and owner not in owners:
            owner = above[owner]
        if owner in owners:
            held[owners[owner]].append(of_process(pid))
    return held


def _megabytes(line: str) -> float:
    return int(line.split()[1]) * 1024 / 1e6
