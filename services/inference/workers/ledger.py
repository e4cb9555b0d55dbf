"""Who holds what of a limit: a row a process, in memory that all processes of the service on one machine see.

A process writes its own row only, so nothing has to be undone when it is killed in the midst of a change: its row is emptied,
and with it go its permits and its places in the queues. What all hold together is added up at each decision, which is cheap as
there are few rows. Changes are made in turn, under a lock that the system gives back when its holder dies. A limit of one
process is a ledger with one row, in its own memory and without a lock.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Numbers of a row, 8 bytes each: for each class what is in use, what waits, and since when the first in line does; then since
# when the row's owner is asked to look.
_CLASSES: Final = 4
IN_USE: Final = 0
WAITING: Final = _CLASSES
_HEADS: Final = 2 * _CLASSES
_ASKED: Final = 3 * _CLASSES
_WIDTH: Final = 3 * _CLASSES + 4
_FORMAT: Final = 1
# Places to look for a tenant before another's is shared. With a table four times as large as it can become full, none ever is.
_PROBES: Final = 64


class LedgerError(Exception):
    """The ledger there belongs to processes with other limits; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a ledger is made for; all its processes must agree.

    Attributes:
        rows: Processes that share it.
        tenants: Tenants that may hold or wait at the same time, a power of two; 0 for none.
        limits: What the permits are counted against, in words.
    """

    rows: int
    tenants: int
    limits: str

    def signature(self) -> int:
        """Tells shapes apart; never 0."""
        text = f"{_FORMAT} {self.rows} {self.tenants} {self.limits}"
        return int.from_bytes(blake2b(text.encode(), digest_size=7).digest(), "little") | 1


class Ledger:
    """The rows, and what all of them come to. Numbers are read and written inside of `turn` only, but for one's own row.

    Args:
        shape: What it is made for.
        mine: The row of this process, from 0.
        memory: Where the numbers lie, as long as `size_of(shape)`, zero at first.
        lock: A file to take turns by; None where nobody else writes.
    """

    def __init__(self, shape: Shape, mine: int, memory: bytearray | mmap.mmap, lock: int | None = None) -> None:
        self.shape = shape
        self.mine = mine
        self.rows = range(shape.rows)
        self._memory = memory
        self._lock = lock
        self._is_alone = shape.rows == 1
        self._base = mine * _WIDTH
        whole = memoryview(memory)
        rows, tenants = 8 * _WIDTH * shape.rows, 8 * shape.tenants
        start = 8
        self._counts = whole[start : start + rows].cast("q")
        self._times = whole[start : start + rows].cast("d")
        start += rows
        self._keys = whole[start : start + tenants].cast("Q")
        start += tenants
        self._held = whole[start : start + tenants * shape.rows].cast("q")
        start += tenants * shape.rows
        self._parked = whole[start : start + tenants * shape.rows].cast("d")

    @classmethod
    def private(cls, shape: Shape) -> Self:
        """A ledger of this process alone."""
        return cls(shape, 0, bytearray(size_of(shape)))

    @classmethod
    def shared(cls, path: Path, shape: Shape, mine: int, *, is_alone: bool) -> Self:
        """The ledger in a file, which is made where there is none; this process's row is empty then.

        Args:
            path: The file.
            shape: What it is made for.
            mine: The row of this process, from 0.
            is_alone: Whether no other process has it open, so that it may be made anew with other limits.

        Raises:
            LedgerError: Others have it open, with another shape.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            _form(descriptor, shape, is_alone=is_alone)
            ledger = cls(shape, mine, mmap.mmap(descriptor, size_of(shape)), descriptor)
            ledger.empty(mine)
        except BaseException:
            os.close(descriptor)
            raise
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return ledger

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keeps the others from writing. Nothing may be awaited inside; it is over in some ten microseconds."""
        lock = self._lock
        if lock is None:
            yield
            return
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)

    def own(self, what: int, number: int) -> int:
        """IN_USE or WAITING of a class, in this process's row."""
        return self._counts[self._base + what + number]

    def add(self, what: int, number: int, change: int) -> None:
        """Changes IN_USE or WAITING of a class, in this process's row."""
        self._counts[self._base + what + number] += change

    def total(self, what: int, number: int) -> int:
        """IN_USE or WAITING of a class, over all rows."""
        counts, first = self._counts, what + number
        if self._is_alone:
            return counts[first]
        return sum([counts[row * _WIDTH + first] for row in self.rows])

    def head(self, row: int, number: int) -> float:
        """Since when the first in a class's line waits there; 0 where nobody does."""
        return self._times[row * _WIDTH + _HEADS + number]

    def set_head(self, number: int, since: float) -> None:
        """Tells since when the first in a class's line waits here; 0 where nobody does."""
        self._times[self._base + _HEADS + number] = since

    def asked(self, row: int) -> float:
        """Since when the row's owner is asked to look, and has not; 0 where it is not asked."""
        return self._times[row * _WIDTH + _ASKED]

    def ask(self, row: int, since: float) -> None:
        """Asks the row's owner to look, from the given time on; 0 takes it back."""
        self._times[row * _WIDTH + _ASKED] = since

    def place_of(self, tenant: str) -> int:
        """The tenant's place in the tables; one that is free is taken for it."""
        key = int.from_bytes(blake2b(tenant.encode(), digest_size=8).digest(), "little") or 1
        last = self.shape.tenants - 1
        keys, free = self._keys, -1
        for step in range(_PROBES):
            place = (key + step) & last
            if keys[place] == key:
                return place
            if keys[place] == 0:
                free = place if free < 0 else free
                break
            if free < 0 and not self._is_taken(place):
                free = place
        if free < 0:
            return key & last
        keys[free] = key
        return free

    def held(self, place: int) -> int:
        """What a tenant holds, over all rows."""
        held, tenants = self._held, self.shape.tenants
        return sum([held[row * tenants + place] for row in self.rows])

    def hold(self, place: int, change: int) -> None:
        """Changes what a tenant holds, in this process's row."""
        self._held[self.mine * self.shape.tenants + place] += change

    def parked(self, row: int, place: int) -> float:
        """Since when a tenant's first surplus request waits there; 0 where none does."""
        return self._parked[row * self.shape.tenants + place]

    def set_parked(self, place: int, since: float) -> None:
        """Tells since when a tenant's first surplus request waits here; 0 where none does."""
        self._parked[self.mine * self.shape.tenants + place] = since

    def is_blank(self, row: int) -> bool:
        """Whether a row holds nothing and nobody."""
        return not any(self._counts[row * _WIDTH : (row + 1) * _WIDTH])

    def empty(self, row: int) -> None:
        """Gives back all that a row holds: its process is gone, or has just begun."""
        self._counts[row * _WIDTH : (row + 1) * _WIDTH] = memoryview(bytes(8 * _WIDTH)).cast("q")
        tenants = self.shape.tenants
        if tenants:
            blank = bytes(8 * tenants)
            self._held[row * tenants : (row + 1) * tenants] = memoryview(blank).cast("q")
            self._parked[row * tenants : (row + 1) * tenants] = memoryview(blank).cast("d")

    def close(self) -> None:
        """Lets go of the file. The numbers must not be used after it."""
        for view in (self._counts, self._times, self._keys, self._held, self._parked):
            view.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_taken(self, place: int) -> bool:
        tenants = self.shape.tenants
        return any(self._held[row * tenants + place] or self._parked[row * tenants + place] for row in self.rows)


def _form(descriptor: int, shape: Shape, *, is_alone: bool) -> None:
    """Makes the file one of this shape, where it is not."""
    signature = shape.signature().to_bytes(8, "little")
    there = os.pread(descriptor, 8, 0)
    if there == signature:
        return
    if there.strip(b"\0") and not is_alone:
        raise LedgerError(f"other workers run with other limits than these: {shape.limits}; stop them first")
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, size_of(shape))
    os.pwrite(descriptor, signature, 0)


def size_of(shape: Shape) -> int:
    """Bytes that a ledger takes; most of them are never touched, and so take no memory."""
    return 8 + 8 * _WIDTH * shape.rows + 8 * shape.tenants * (1 + 2 * shape.rows)
