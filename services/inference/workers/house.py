"""One worker's part in a house of several: its seat, the rooms that all share, and the engines that it borrows."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from services.chassis.channels import open_channel
from services.inference.workers.borrowed import BorrowedEngine, BorrowedRoomyEngine
from services.inference.workers.rooms import Rooms
from services.inference.workers.seats import Seats
from services.inference.workers.standings import SharedStanding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import grpc.aio

    from services.inference.engine import Engine


class House:
    """What this process shares with the workers beside it; nothing where it is the only one.

    Args:
        folder: Where the processes meet.
        worker: Which of the workers this one is, from 1.
        workers: How many there are.
        lender: host:port of the process that runs the embedded engines; used where there are several workers.
        vllm: Whether vLLM is one of them.

    Attributes:
        rooms: Rooms for requests.
        borrowed: The embedded engines that run in the other process.
        channel: To that process; None where this one is alone.
    """

    def __init__(self, folder: Path, worker: int, workers: int, lender: str, vllm: bool = False) -> None:
        self._lender = lender
        self._vllm = vllm
        self._seats = Seats(folder, worker - 1, workers) if workers > 1 else None
        self._stack = AsyncExitStack()
        self.rooms = Rooms(self._seats, workers)
        self.borrowed: list[Engine] = []
        self.channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        """Takes the seat. Raises SeatTakenError."""
        if self._seats is not None:
            await self._stack.enter_async_context(self._seats)
            self.channel = await open_channel(self._stack, self._lender)
            self.borrowed = [BorrowedRoomyEngine("llamacpp", self.channel), BorrowedEngine("minilm", self.channel)]
            if self._vllm:
                self.borrowed.insert(0, BorrowedEngine("vllm", self.channel))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Gives the seat up."""
        await self._stack.aclose()

    def standing(self, backend: str) -> SharedStanding | None:
        """How the breaker of a backend stands for all workers; None where this one is alone."""
        return None if self._seats is None else SharedStanding(self._seats.page(f"breaker {backend}"), self._seats)

    def tell(self, topic: str) -> None:
        """Has all other workers look at what the topic stands for, now."""
        if self._seats is not None:
            self._seats.tell(topic)

    def listen(self, topic: str, heard: Callable[[], None]) -> None:
        """Has `heard` called when another worker tells of the topic."""
        if self._seats is not None:
            self._seats.listen(topic, heard)
