"""The processes of one service on one machine: which of them live, and a bell at each that the others ring.

Each process has a seat, from 1, which is a file that it keeps locked: the system lets go of it when the process ends, however
it ends, so that the others can see that it is gone. Its bell is a named pipe; what is rung is a topic, and whoever listens to
the topic looks for himself what there is to do. A bell that is lost is made up for by looking from time to time.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import time
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Self

from services.inference.workers.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.inference.workers.ledger import Shape

_log = logging.getLogger(__name__)

_MOST_READ: Final = 1 << 16
# How often those who wait look by themselves.
_LOOK_SECONDS: Final = 0.2
_TAKE_SECONDS: Final = 2.0


class SeatTakenError(Exception):
    """Another process has the seat; the message is for the operator."""


class Seats:
    """This process's seat among the others.

    Args:
        folder: Where seats, bells and ledgers lie; on a disk of this machine.
        mine: This process's seat, from 0.
        count: How many there are.
        look_seconds: How often to look whether something has been missed.

    Attributes:
        on_look: Called every `look_seconds`.
    """

    def __init__(self, folder: Path, mine: int, count: int, look_seconds: float = _LOOK_SECONDS) -> None:
        self.mine = mine
        self.count = count
        self.on_look: list[Callable[[], None]] = []
        self._folder = folder
        self._look_seconds = look_seconds
        self._seats: list[int] = []
        self._bell = -1
        self._others: dict[int, int] = {}
        self._listeners: dict[str, Callable[[], None]] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._rest = b""
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Takes the seat, and begins to listen. Raises SeatTakenError."""
        self.take()
        asyncio.get_running_loop().add_reader(self._bell, self._rung)
        self._looking = asyncio.create_task(self._look(), name="look after the other workers")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Gives the seat up; its rows are emptied."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        asyncio.get_running_loop().remove_reader(self._bell)
        self.leave()

    def take(self) -> None:
        """Takes the seat without listening. Raises SeatTakenError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._seats = [
            os.open(self._folder / f"seat-{seat}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for seat in range(self.count)
        ]
        deadline = time.monotonic() + _TAKE_SECONDS
        while not _lock(self._seats[self.mine], fcntl.LOCK_EX):
            # For a moment it may only be looked at, or its last owner may be on its way out.
            if time.monotonic() > deadline:
                raise SeatTakenError(f"worker {self.mine + 1} of {self.count} runs already, with the same DATA_DIR")
            time.sleep(0.01)
        path = self._folder / f"bell-{self.mine}"
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # Open for writing too, so that it never ends.
        self._bell = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def leave(self) -> None:
        """Gives the seat up."""
        for ledger in self._ledgers.values():
            with ledger.turn():
                ledger.empty(self.mine)
            ledger.close()
        for descriptor in (*self._seats, self._bell, *self._others.values()):
            os.close(descriptor)
        self._seats, self._others = [], {}

    def lives(self, seat: int) -> bool:
        """Whether a process sits there."""
        if seat == self.mine:
            return True
        # Shared, so that two who look at the same time do not take each other for its owner.
        if not _lock(self._seats[seat], fcntl.LOCK_SH):
            return True
        fcntl.flock(self._seats[seat], fcntl.LOCK_UN)
        return False

    def ledger(self, name: str, shape: Shape) -> Ledger:
        """The ledger of this name, which all processes share. Raises LedgerError where they have other limits."""
        known = self._ledgers.get(name)
        if known is None:
            is_alone = not any(self.lives(seat) for seat in range(self.count) if seat != self.mine)
            known = self._ledgers[name] = Ledger.shared(self.page(f"ledger {name}"), shape, self.mine, is_alone=is_alone)
        return known

    def page(self, name: str) -> Path:
        """A file of this name that all processes share."""
        return self._folder / f"page-{blake2b(name.encode(), digest_size=8).hexdigest()}"

    def listen(self, topic: str, heard: Callable[[], None]) -> None:
        """Has `heard` called, on the event loop, when another process tells of the topic."""
        self._listeners[topic] = heard

    def tell(self, topic: str) -> None:
        """Tells all others of a topic."""
        for seat in range(self.count):
            if seat != self.mine:
                self.ring(seat, topic)

    def ring(self, seat: int, topic: str) -> bool:
        """Tells another process of a topic; false where nobody hears it."""
        try:
            if seat not in self._others:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
                self._others[seat] = os.open(self._folder / f"bell-{seat}", flags)
            os.write(self._others[seat], topic.encode() + b"\n")
        except BlockingIOError:
            # It has a full pipe of bells to hear as it is.
            return True
        except OSError as error:
            if error.errno not in {errno.ENXIO, errno.ENOENT, errno.EPIPE}:
                raise
            if seat in self._others:
                os.close(self._others.pop(seat))
            return False
        return True

    def _rung(self) -> None:
        try:
            data = self._rest + os.read(self._bell, _MOST_READ)
        except BlockingIOError:
            return
        *topics, self._rest = data.split(b"\n")
        for topic in dict.fromkeys(topics):
            heard = self._listeners.get(topic.decode())
            if heard is not None:
                heard()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            for look in self.on_look:
                try:
                    look()
                except Exception:  # noqa: BLE001 - a defect of one must not keep the others from looking; it is logged in full
                    _log.exception("looking after the other workers failed")


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
