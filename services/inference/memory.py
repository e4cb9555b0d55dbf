"""The memory that the models of this process share: how much they may take, and who goes when it gets tight."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, Self

from services.chassis.errors import Failure, Reason
from services.inference.engines import memory
from services.inference.repetition import repeat
from services.inference.system import memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

# Seconds after which to come back when what is in the way is in use.
_RETRY_SECONDS: Final = 5.0
_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{letter}IB": 1 << 10 * power for power, letter in enumerate("KMGT", 1)
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*((?:[KMGT]I?)?B|)", re.IGNORECASE)


class Tenant(Protocol):
    """A model in memory."""

    name: str
    expected_bytes: int
    users: int
    last_used: float

    def is_settled(self) -> bool:
        """Whether it has taken its memory; one that is still loading has only been promised it."""

    async def leave(self) -> None:
        """Frees its memory. Called only while nobody uses it; it has left once this returns."""


class Memory:
    """Admits models, and unloads the least recently used idle one when there is not enough; one in use never has to go.

    Args:
        least: Bytes that must stay available after a model is loaded (MIN_MEMORY).
        most: Most bytes that the models may take together (MAX_MEMORY); 0 for no limit.
        available: Tells how many bytes could be taken at present.
        watch_seconds: How often to look whether memory has become tight.

    Attributes:
        observe: Told of each model that was loaded, with the seconds it took, or of why it could not be.
    """

    def __init__(
        self,
        *,
        least: int = 0,
        most: int = 0,
        available: Callable[[], int] = lambda: memory_bytes()[1],
        watch_seconds: float = 5.0,
    ) -> None:
        self.least = least
        self.most = most
        self._available = available
        self._watch_seconds = watch_seconds
        self.observe: Callable[[str, float, Reason | None], None] = lambda *_: None
        self._tenants: list[Tenant] = []
        self._turn = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begins to watch for memory that becomes tight for other reasons than loading."""
        if self.least:
            watching = repeat("watching memory", self._keep_watching, self._watch_seconds)
            self._watch = asyncio.create_task(watching, name="watch memory")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops watching. The models stay: their engines unload them."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch

    @property
    def expected_bytes(self) -> int:
        """What the models take together, as expected when they were loaded."""
        return sum(tenant.expected_bytes for tenant in self._tenants)

    async def admit(self, tenant: Tenant) -> None:
        """Makes room for a model and promises it that. Raises OUT_OF_MEMORY, unloading nothing, where that cannot be."""
        async with self._turn:
            self._refuse_unless_possible(tenant)
            while not self._fits(tenant.expected_bytes):
                idle = self._least_recently_used()
                if idle is None:  # what was idle has come into use meanwhile, or gave back less than it was said to hold
                    raise self._refusal(tenant)
                await self._unload(idle, f"to make room for {tenant.name}")
            self._tenants.append(tenant)

    def leave(self, tenant: Tenant) -> None:
        """Forgets a model that has left."""
        if tenant in self._tenants:
            self._tenants.remove(tenant)

    async def unload_idle(self, idle_seconds: float = 0.0) -> list[str]:
        """Unloads what has been idle for so long, and gives all freed memory back; returns names, longest idle first."""
        unloaded = []
        async with self._turn:
            while (idle := self._least_recently_used()) is not None and time.monotonic() - idle.last_used >= idle_seconds:
                await self._unload(idle, "to free memory")
                unloaded.append(idle.name)
        await asyncio.to_thread(_give_back)
        return unloaded

    async def relieve(self) -> list[str]:
        """Unloads idle models, the least recently used first, until `least` bytes are available or none is left."""
        unloaded = []
        async with self._turn:
            while self._available() < self.least and (idle := self._least_recently_used()) is not None:
                await self._unload(idle, f"as less than {told(self.least)} of memory were available")
                unloaded.append(idle.name)
        return unloaded

    async def _keep_watching(self) -> None:
        await asyncio.sleep(self._watch_seconds)
        await self.relieve()

    async def _unload(self, tenant: Tenant, why: str) -> None:
        await tenant.leave()
        self.leave(tenant)
        _log.info("unloaded the idle model %s %s", tenant.name, why)

    def _least_recently_used(self) -> Tenant | None:
        idle = [tenant for tenant in self._tenants if not tenant.users and tenant.is_settled()]
        return min(idle, key=lambda tenant: tenant.last_used, default=None)

    def _promised(self) -> int:
        return sum(tenant.expected_bytes for tenant in self._tenants if not tenant.is_settled())

    def _fits(self, needed: int, freed: int = 0) -> bool:
        """Whether so many bytes could be taken once others are freed."""
        within = not self.most or self.expected_bytes - freed + needed <= self.most
        return within and (not self.least or self._available() + freed - self._promised() - needed >= self.least)

    def _refuse_unless_possible(self, tenant: Tenant) -> None:
        idle = sum(other.expected_bytes for other in self._tenants if not other.users and other.is_settled())
        if not self._fits(tenant.expected_bytes, idle):
            raise self._refusal(tenant)

    def _refusal(self, tenant: Tenant) -> Failure:
        available = self._available()
        held = [other for other in self._tenants if other.users or not other.is_settled()]
        in_use = sum(other.expected_bytes for other in held)
        limits = [
            f"at least {told(self.least)} must stay available (MIN_MEMORY)" if self.least else "",
            f"models may take {told(self.most)} together (MAX_MEMORY)" if self.most else "",
        ]
        fits_later = bool(held) and self._fits(tenant.expected_bytes, self.expected_bytes)
        hint = "try again once they are idle" if fits_later else "raise the limit, add memory, or take a smaller model"
        message = (
            f"model: {tenant.name} needs {told(tenant.expected_bytes)} of memory; {told(available)} are available and models "
            f"in use hold {told(in_use)}, but {' and '.join(filter(None, limits))}; {hint}"
        )
        facts = {
            "model": tenant.name,
            "needed_bytes": str(tenant.expected_bytes),
            "available_bytes": str(available),
            "min_bytes": str(self.least),
            "max_bytes": str(self.most),
            "in_use_bytes": str(in_use),
        }
        retry_after = _RETRY_SECONDS if fits_later else None
        return Failure(Reason.OUT_OF_MEMORY, message, metadata=facts, retry_after=retry_after)


def told(size: int) -> str:
    """A number of bytes for people, such as `1.5 GiB`."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:  # noqa: PLR2004 - as KiB and its like are defined
        value /= 1024
        units.pop(0)
    return f"{value:.3g} {units[0]}" if value < 999 else f"{value:.0f} {units[0]}"  # noqa: PLR2004 - no exponent


def size_of(text: str) -> int:
    """Bytes out of a number of them, or of one with a unit: `2GiB`, `500 MB`. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size; write bytes, or a number with KB, MB, GB, KiB, MiB or GiB, such as 2GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _give_back() -> None:
    gc.collect()
    memory.give_back()
