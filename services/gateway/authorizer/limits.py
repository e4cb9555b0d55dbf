"""What keys and tenants may use: requests a minute, and calls under way at once, over all gateways together.

Requests are counted by the generic cell rate algorithm: a key that may make N a minute may make N at once, and then one more
after each N-th of a minute. Where Redis is away, each gateway counts for itself, so that the limits hold for each one alone:
nobody is shut out because of a counter, and nobody gets more than the limit times the number of gateways.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.gateway.authorizer.decisions import Caller
    from services.gateway.authorizer.keyring import Limits

WINDOW_SECONDS: Final = 60.0
LEASE_SECONDS: Final = 60.0
"""For how long a call counts that nobody renews: those of a gateway that died."""
RENEW_SECONDS: Final = 20.0
_BUSY_SECONDS: Final = 1.0
"""When to come back where too many calls are under way: nobody knows how long they last."""
_AWAY_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Party:
    """One whose use is counted."""

    of: str
    """`key` or `tenant`."""
    tenant: str
    name: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a call may be made."""

    refused_by: int = -1
    """Place of the party whose limit is used up, -1 for none."""
    is_busy: bool = False
    """It is the limit on calls under way."""
    retry_after: float = 0.0
    remaining: int = -1
    """Requests that are left to whichever party has the fewest; -1 where none is limited."""
    reset_after: float = 0.0
    """Seconds until that party has all of its requests again."""


class CountersAwayError(Exception):
    """The shared counters do not answer."""


class Counters(Protocol):
    """Counts what parties use."""

    async def take(self, parties: Sequence[Party], lease: str) -> Verdict:
        """Counts a call for all parties, or for none where it is refused.

        Raises:
            CountersAwayError: They do not answer.
        """

    async def release(self, parties: Sequence[Party], lease: str) -> None:
        """The call has ended."""

    async def renew(self, leases: Sequence[tuple[Sequence[Party], str]]) -> None:
        """These calls are still under way."""


@dataclass(slots=True)
class OwnCounters:
    """The counters of this gateway alone, in memory. They hold what was used within the last minute, and calls under way."""

    ends: dict[tuple[str, str, str], float] = field(default_factory=dict)
    """When each party has all of its requests again."""
    running: dict[tuple[str, str, str], set[str]] = field(default_factory=lambda: defaultdict(set))

    def take_now(self, parties: Sequence[Party], lease: str, now: float) -> Verdict:
        """As `Counters.take`, at this time."""
        best, ends = Verdict(), []
        for place, party in enumerate(parties):
            at = (party.of, party.tenant, party.name)
            if (most := party.limits.concurrency) and len(self.running.get(at, ())) >= most:
                return Verdict(place, is_busy=True, retry_after=_BUSY_SECONDS)
            if each := party.limits.requests_per_minute:
                step = WINDOW_SECONDS / each
                end = max(now, self.ends.get(at, now)) + step
                if end - now > WINDOW_SECONDS + 1e-6:
                    return Verdict(place, retry_after=end - now - WINDOW_SECONDS, remaining=0, reset_after=end - step - now)
                ends.append((at, end))
                remaining = int((WINDOW_SECONDS - (end - now)) / step + 1e-6)
                if best.remaining < 0 or remaining < best.remaining:
                    best = Verdict(remaining=remaining, reset_after=end - now)
        for at, end in ends:
            self.ends[at] = end
        for party in parties:
            if party.limits.concurrency:
                self.running[party.of, party.tenant, party.name].add(lease)
        return best

    def release_now(self, parties: Sequence[Party], lease: str) -> None:
        """As `Counters.release`."""
        for party in parties:
            at = (party.of, party.tenant, party.name)
            if at in self.running:
                self.running[at].discard(lease)
                if not self.running[at]:
                    del self.running[at]

    def forget(self, now: float) -> None:
        """Lets go of what does not count any more."""
        self.ends = {at: end for at, end in self.ends.items() if end > now}


@dataclass(frozen=True, slots=True)
class Taken:
    """A call that was counted."""

    lease: str
    """Empty where nobody waits for its end."""
    headers: bytes
    """What the caller is told, as lines of HTTP/1.1."""


class Limiter:
    """Counts each call by the shared counters, and by its own where those are away.

    Args:
        shared: The counters that all gateways share; None for a gateway that stands alone.
    """

    def __init__(self, shared: Counters | None) -> None:
        self._shared = shared
        self._own = OwnCounters()
        self._live: dict[str, tuple[Sequence[Party], bool]] = {}
        self._away_until = 0.0

    async def take(self, who: Caller, tenant_limits: Limits) -> Taken:
        """Counts a call.

        Raises:
            Failure: RATE_LIMITED.
        """
        parties = _parties(who, tenant_limits)
        lease = secrets.token_hex(8)
        is_shared, verdict = await self._verdict(parties, lease)
        shown = _shown(parties, verdict)
        if verdict.refused_by >= 0:
            raise _refused(parties[verdict.refused_by], verdict, shown)
        if not any(party.limits.concurrency for party in parties):
            lease = ""
        else:
            self._live[lease] = parties, is_shared
        return Taken(lease, "".join(f"{name}: {value}\r\n" for name, value in shown.items()).encode())

    async def release(self, lease: str) -> None:
        """The call has ended; one that is not known counts for nothing."""
        parties, is_shared = self._live.pop(lease, ((), False))
        if not parties:
            return
        if not is_shared or self._shared is None:
            self._own.release_now(parties, lease)
            return
        try:
            await self._shared.release(parties, lease)
        except CountersAwayError:
            _log.debug("a call's end is not counted; it will not be renewed")

    async def renew(self) -> None:
        """Keeps the calls under way counted."""
        self._own.forget(time.monotonic())
        leases = [(parties, lease) for lease, (parties, is_shared) in self._live.items() if is_shared]
        if not leases or self._shared is None:
            return
        try:
            await self._shared.renew(leases)
        except CountersAwayError:
            _log.warning("calls under way could not be renewed: the counters are away")

    async def _verdict(self, parties: Sequence[Party], lease: str) -> tuple[bool, Verdict]:
        now = time.monotonic()
        if self._shared is not None and now >= self._away_until:
            try:
                return True, await self._shared.take(parties, lease)
            except CountersAwayError as error:
                self._away_until = now + _AWAY_SECONDS
                _log.warning("limits count for this gateway alone, for the shared counters are away: %s", error)
        return False, self._own.take_now(parties, lease, now)


def _parties(who: Caller, tenant_limits: Limits) -> tuple[Party, ...]:
    # A token's calls are counted for its user.
    name = f"{who.key}/{who.user}" if who.user else who.key
    both = Party("key", who.tenant, name, who.limits), Party("tenant", who.tenant, who.tenant, tenant_limits)
    return tuple(party for party in both if party.limits)


def _shown(parties: Sequence[Party], verdict: Verdict) -> dict[str, str]:
    """The headers that OpenAI tells limits by."""
    each = [party.limits.requests_per_minute for party in parties if party.limits.requests_per_minute]
    if not each or verdict.remaining < 0:
        return {}
    return {
        "x-ratelimit-limit-requests": str(min(each)),
        "x-ratelimit-remaining-requests": str(verdict.remaining),
        "x-ratelimit-reset-requests": f"{verdict.reset_after:.3f}s",
    }


def _refused(party: Party, verdict: Verdict, shown: dict[str, str]) -> Failure:
    whose = f"the key {party.name}" if party.of == "key" else f"the tenant {party.tenant}"
    if verdict.is_busy:
        limit, allowed = "concurrency", party.limits.concurrency
        message = f"{whose} has {allowed} calls under way, as many as it may; wait for one to end"
    else:
        limit, allowed = "requests_per_minute", party.limits.requests_per_minute
        message = f"{whose} has made the {allowed} requests that it may make in a minute; retry in {verdict.retry_after:.1f} s"
    metadata = {"limit": limit, "of": party.of, "allowed": str(allowed)}
    return Failure(Reason.RATE_LIMITED, message, metadata=metadata, retry_after=max(verdict.retry_after, 0.001), trailers=shown)
