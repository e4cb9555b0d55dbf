"""Exposures on their way to the experiments service: buffered, sent in batches, sent again until acknowledged."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import grpc
import grpc.aio

from penstock.experiments.v1 import assignment_service_pb2
from penstock.experiments.v1.assignment_service_pb2_grpc import AssignmentServiceStub

if TYPE_CHECKING:
    from penstock.experiments.v1 import assignment_pb2

_log = logging.getLogger(__name__)

_BATCH: Final = 500
# Exposures sent in one call: one acknowledgement for all.
_CALL: Final = 10 * _BATCH
_INTERVAL: Final = 0.25
_CALL_SECONDS: Final = 15.0
_BACKOFF: Final = (0.1, 5.0)
_LOG_EVERY: Final = 60.0
# Sending the same again would fail the same way.
_FINAL_CODES: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)


class ExecutedAttempt(NamedTuple):
    """One attempt at one backend: `outcome` is ANSWERED, FAILED before the first content, or BROKEN after it."""

    backend: str
    model: str
    outcome: str
    output_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Execution:
    """What was really executed for a request.

    Attributes:
        model_digest: What identifies the weights that answered; empty where the engine tells nothing.
        indexes: The versions of the collections that were searched, each as `<collection>@<version>`.
        cached: Whether the answer came from a cache.
        attempts: What was tried, in order, the one that answered last.
    """

    model_digest: str = ""
    indexes: tuple[str, ...] = ()
    cached: bool = False
    attempts: tuple[ExecutedAttempt, ...] = ()

    @property
    def fell_back(self) -> bool:
        """Whether another model than the first one asked answered, or none."""
        if not self.attempts:
            return False
        first, last = self.attempts[0], self.attempts[-1]
        return last.model != first.model or last.outcome != "ANSWERED"


class ExposureBuffer:
    """A bounded queue of exposures and the task that empties it.

    Args:
        channel: To the experiments service.
        most_items: Exposures to hold at most.
        most_bytes: Bytes of encoded exposures to hold at most.

    Attributes:
        dropped: Exposures lost to the bounds, oldest first, since the start; told once a minute in the log while it grows.
        refused: Exposures that the service refused for good, since the start.
        recorded: Exposures that the service has acknowledged, since the start.
    """

    def __init__(self, channel: grpc.aio.Channel, *, most_items: int, most_bytes: int) -> None:
        self.dropped = 0
        self.refused = 0
        self.recorded = 0
        self._stub = AssignmentServiceStub(channel)
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[assignment_pb2.Exposure, int]] = deque()
        self._sending: list[tuple[assignment_pb2.Exposure, int]] = []
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._closing = asyncio.Event()
        self._told = (0, -_LOG_EVERY)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sending)

    def add(self, exposure: assignment_pb2.Exposure) -> None:
        """Queues one exposure; drops the oldest that are not being sent where the bounds ask for it."""
        size = exposure.ByteSize()
        self._waiting.append((exposure, size))
        self._bytes += size
        while len(self) > self._most_items or self._bytes > self._most_bytes:
            if not self._waiting:
                break
            self._bytes -= self._waiting.popleft()[1]
            self.dropped += 1
        self._arrived.set()
        if len(self._waiting) >= _BATCH:
            self._full.set()

    async def run(self) -> None:
        """Sends what arrives, every 250 ms or 500 exposures, until `close` was called and all is acknowledged."""
        while True:
            await _first(self._arrived, self._closing)
            if not self._waiting and self._closing.is_set():
                return
            await _first(self._full, self._closing, timeout=_INTERVAL)
            await self._send_waiting()
            self._tell()

    def close(self) -> None:
        """Lets `run` end as soon as the queue is empty."""
        self._closing.set()

    async def _send_waiting(self) -> None:
        delay = _BACKOFF[0]
        while self._waiting:
            self._arrived.clear()
            self._full.clear()
            self._sending = list(islice(self._waiting, _CALL))
            for _ in self._sending:
                self._waiting.popleft()
            sent = False
            try:
                sent = await self._send([exposure for exposure, _ in self._sending])
            finally:
                if sent:
                    self._bytes -= sum(size for _, size in self._sending)
                else:
                    self._waiting.extendleft(reversed(self._sending))
                self._sending = []
            if sent:
                delay = _BACKOFF[0]
                continue
            self._tell()
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - spreads retries, guards nothing
            delay = min(2 * delay, _BACKOFF[1])

    async def _send(self, exposures: list[assignment_pb2.Exposure]) -> bool:
        """Sends until acknowledged or refused for good (True), or until the service does not answer (False)."""
        batches = (
            assignment_service_pb2.RecordExposuresRequest(exposures=exposures[start : start + _BATCH])
            for start in range(0, len(exposures), _BATCH)
        )
        try:
            await self._stub.RecordExposures(batches, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _FINAL_CODES:
                _log.debug("exposures are not acknowledged yet: %s", error.code().name)
                return False
            if len(exposures) == 1:
                self.refused += 1
                _log.warning("an exposure was refused: %s", error.details())
                return True
            # One bad exposure must not hold up the others.
            middle = len(exposures) // 2
            first, second = await self._send(exposures[:middle]), await self._send(exposures[middle:])
            return first and second
        self.recorded += len(exposures)
        return True

    def _tell(self) -> None:
        dropped, told = self._told
        now = time.monotonic()
        if self.dropped > dropped and now - told >= _LOG_EVERY:
            _log.warning("%d exposures dropped: the buffer is full", self.dropped - dropped)
            self._told = (self.dropped, now)


async def _first(*events: asyncio.Event, timeout: float | None = None) -> None:  # noqa: ASYNC109 - waits, does not fail
    """Waits until one of the events is set, or the time is up."""
    if any(event.is_set() for event in events):
        return
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
