"""A cache of bytes: a bounded part of this process's memory over a store that all processes share.

Whatever is lost here is only time. The shared store may be away: then memory alone answers.

What comes into the memory, and what it gives up for that, is decided by size and by how often each was asked for lately
(W-TinyLFU, by the library moka): what is asked for once pushes nothing out that is asked for again and again.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from moka_py import Moka

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# What an entry takes beside its bytes: the key, two objects, its places in two dictionaries.
_OVERHEAD: Final = 400
# An entry above this part of the memory would push out too many others.
_LARGEST_PART: Final = 8
# Each value begins with the second since the epoch when it was made, so that its age goes with it from one store to the other.
_BORN: Final = struct.Struct("<d")


class Shared(Protocol):
    """A cache outside of this process. Neither method raises or takes long, whatever has happened to it."""

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, None for those that are not there."""

    def put(self, items: Mapping[bytes, bytes], seconds: float) -> None:
        """Keeps the values for so long, in the background, or not at all."""


@dataclass(slots=True)
class Lookups:
    """How lookups have ended since the start. `joined` found an equal request under way, `bypassed` did not want to look."""

    memory: int = 0
    shared: int = 0
    missed: int = 0
    joined: int = 0
    bypassed: int = 0


class Tiers:
    """Keeps values by their keys.

    Args:
        kind: What is kept, such as `responses`; part of the keys in the shared store.
        most_bytes: Of memory, for all entries together.
        seconds: How long an entry is of use.
        shared: The store behind the memory; None for none.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, kind: str, most_bytes: int, seconds: float, shared: Shared | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.kind = kind
        self.lookups = Lookups()
        self._prefix = f"penstock:{kind}:".encode()
        self._seconds = seconds
        self._shared = shared
        self._clock = clock
        self._largest = max(1, most_bytes // _LARGEST_PART)
        # The library tells ages by a clock of its own: here they are told by the entries, and it only forgets them in the end.
        self._memory: Moka[bytes, bytes] = Moka(max(1, most_bytes), ttl=seconds, weigher=lambda _key, entry: _size(entry))

    @property
    def used_bytes(self) -> int:
        """What the entries in memory take."""
        self._memory.run_pending_tasks()
        return self._memory.weighted_size()

    async def get(self, key: bytes) -> bytes | None:
        """The value, if there is a fresh one."""
        return (await self.get_all([key]))[0]

    async def get_all(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values in the order of the keys, None where there is no fresh one."""
        found = [self._fresh(self._memory.get(key)) for key in keys]
        missing = [place for place, value in enumerate(found) if value is None]
        self.lookups.memory += len(keys) - len(missing)
        if self._shared is not None and missing:
            values = await self._shared.get([self._prefix + keys[place] for place in missing])
            for place, value in zip(missing, values, strict=True):
                found[place] = self._fresh(value)
                if value is not None and found[place] is not None:
                    self.lookups.shared += 1
                    self._keep(keys[place], value)
        self.lookups.missed += found.count(None)
        return found

    def put(self, items: Mapping[bytes, bytes]) -> None:
        """Keeps values; one that is too large is left out."""
        born = _BORN.pack(self._clock())
        entries = {key: born + value for key, value in items.items() if len(value) + _OVERHEAD <= self._largest}
        for key, entry in entries.items():
            self._keep(key, entry)
        if self._shared is not None and entries:
            self._shared.put({self._prefix + key: entry for key, entry in entries.items()}, self._seconds)

    def _keep(self, key: bytes, entry: bytes) -> None:
        if _size(entry) <= self._largest:
            self._memory.set(key, entry)

    def _fresh(self, entry: bytes | None) -> bytes | None:
        if entry is None or len(entry) < _BORN.size:
            return None
        age = self._clock() - _BORN.unpack_from(entry)[0]
        return entry[_BORN.size :] if age < self._seconds else None


def _size(entry: bytes) -> int:
    return len(entry) + _OVERHEAD
