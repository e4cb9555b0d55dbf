"""The counters that all gateways share, in Redis: one round trip a call, by a script that counts for all parties or none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import valkey.asyncio
from valkey.exceptions import ValkeyError

from services.gateway.authorizer.limits import LEASE_SECONDS, WINDOW_SECONDS, CountersAwayError, Party, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

_LIMIT_SECONDS: Final = 0.25
"""For one answer. Redis answers in some 0.1 ms; one that takes longer is away."""
_CONNECTIONS: Final = 64

# KEYS are a party's rate and running calls, in turns; ARGV the lease, its seconds, the window, and each party's two limits.
# Times are Redis's own, in seconds, so that the clocks of gateways do not matter.
_TAKE: Final = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local window = tonumber(ARGV[3])
local ends, left, reset = {}, -1, 0
for i = 1, #KEYS / 2 do
  local rate, most = tonumber(ARGV[2 + 2 * i]), tonumber(ARGV[3 + 2 * i])
  if most > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2 * i], '-inf', now)
    if redis.call('ZCARD', KEYS[2 * i]) >= most then
      return {i - 1, 1, '0', -1, '0'}
    end
  end
  if rate > 0 then
    local step = window / rate
    local at = tonumber(redis.call('GET', KEYS[2 * i - 1]) or now)
    if at < now then at = now end
    local over = at + step - now - window
    if over > 0.000001 then
      return {i - 1, 0, tostring(over), 0, tostring(at - now)}
    end
    ends[i] = at + step
    local remaining = math.floor((window - (at + step - now)) / step + 0.000001)
    if left < 0 or remaining < left then
      left, reset = remaining, at + step - now
    end
  end
end
for i = 1, #KEYS / 2 do
  if ends[i] then
    redis.call('SET', KEYS[2 * i - 1], string.format('%.6f', ends[i]), 'EX', math.ceil(window) + 1)
  end
  if tonumber(ARGV[3 + 2 * i]) > 0 then
    redis.call('ZADD', KEYS[2 * i], now + tonumber(ARGV[2]), ARGV[1])
    redis.call('EXPIRE', KEYS[2 * i], math.ceil(tonumber(ARGV[2])) + 1)
  end
end
return {-1, 0, '0', left, tostring(reset)}
"""
# KEYS are running calls; ARGV the seconds of a lease, and a lease for each key.
_RENEW: Final = """
local clock = redis.call('TIME')
local until_then = tonumber(clock[1]) + tonumber(ARGV[1])
for i = 1, #KEYS do
  redis.call('ZADD', KEYS[i], 'XX', until_then, ARGV[1 + i])
  redis.call('EXPIRE', KEYS[i], math.ceil(tonumber(ARGV[1])) + 1)
end
return 0
"""


class RedisCounters:
    """The shared counters.

    Args:
        url: Where Redis is.
    """

    def __init__(self, url: str) -> None:
        self._client: Any = valkey.asyncio.Valkey.from_url(
            url, socket_timeout=_LIMIT_SECONDS, socket_connect_timeout=_LIMIT_SECONDS, max_connections=_CONNECTIONS
        )
        self._take = self._client.register_script(_TAKE)
        self._renew = self._client.register_script(_RENEW)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def take(self, parties: Sequence[Party], lease: str) -> Verdict:
        """As `Counters.take`."""
        keys = [key for party in parties for key in (_key(party, "rate"), _key(party, "running"))]
        limits = [str(one) for party in parties for one in (party.limits.requests_per_minute, party.limits.concurrency)]
        found = await _answered(self._take(keys, [lease, LEASE_SECONDS, WINDOW_SECONDS, *limits]))
        place, is_busy, retry_after, remaining, reset_after = found
        waits = 1.0 if is_busy else float(retry_after)
        return Verdict(int(place), bool(is_busy), waits, int(remaining), float(reset_after))

    async def release(self, parties: Sequence[Party], lease: str) -> None:
        """As `Counters.release`."""
        for party in parties:
            if party.limits.concurrency:
                await _answered(self._client.zrem(_key(party, "running"), lease))

    async def renew(self, leases: Sequence[tuple[Sequence[Party], str]]) -> None:
        """As `Counters.renew`."""
        for parties, lease in leases:
            keys = [_key(party, "running") for party in parties if party.limits.concurrency]
            await _answered(self._renew(keys, [LEASE_SECONDS, *[lease] * len(keys)]))


async def _answered(answer: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            return await answer
    except (ValkeyError, OSError, TimeoutError) as error:
        raise CountersAwayError(error.__class__.__name__) from error


def _key(party: Party, what: str) -> str:
    # The braces keep all of a tenant's counters on one node of a cluster, which a script needs.
    return f"penstock:limits:{{{party.tenant}}}:{party.of}:{party.name}:{what}"
