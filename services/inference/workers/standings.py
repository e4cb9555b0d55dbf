"""How the breaker of one backend stands, on a page that all workers of a machine see: what one learns, all know.

Each value is written as a whole, and any order of writes that a killed process leaves behind is one that a breaker may have:
at worst a backend is asked once too often, or left alone for one pause more.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from services.inference.workers.seats import Seats

_OPEN, _PROBER, _EPOCH, _OPENED, _PAUSE = range(5)
_SIZE: Final = 8 * 5


class SharedStanding:
    """As `resilience.Standing`. Times are those of the machine's monotonic clock, which its processes share.

    Args:
        path: The page; made where there is none.
        seats: The workers. One that is gone is not waited for to tell what its probe has found.
    """

    def __init__(self, path: Path, seats: Seats) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            page = memoryview(mmap.mmap(descriptor, _SIZE))
        finally:
            os.close(descriptor)
        self._seats = seats
        self._numbers, self._times = page.cast("q"), page.cast("d")
        if self.opened_at > time.monotonic():
            # From before the machine was started again, when its clock began anew.
            self.is_open = False

    @property
    def is_open(self) -> bool:
        """Whether the backend is left alone."""
        return self._numbers[_OPEN] == 1

    @is_open.setter
    def is_open(self, value: bool) -> None:
        self._numbers[_OPEN] = int(value)

    @property
    def is_probing(self) -> bool:
        """Whether a request of a living worker is finding out whether it is well again."""
        prober = self._numbers[_PROBER]
        return prober > 0 and self._seats.lives(prober - 1)

    @is_probing.setter
    def is_probing(self, value: bool) -> None:
        self._numbers[_PROBER] = self._seats.mine + 1 if value else 0

    @property
    def epoch(self) -> int:
        """How often it has changed."""
        return self._numbers[_EPOCH]

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._numbers[_EPOCH] = value

    @property
    def opened_at(self) -> float:
        """Since when it is left alone."""
        return self._times[_OPENED]

    @opened_at.setter
    def opened_at(self, value: float) -> None:
        self._times[_OPENED] = value

    @property
    def pause(self) -> float:
        """For how many seconds."""
        return self._times[_PAUSE]

    @pause.setter
    def pause(self, value: float) -> None:
        self._times[_PAUSE] = value
