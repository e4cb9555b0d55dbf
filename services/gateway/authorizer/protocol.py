"""HTTP/1.1 as Envoy speaks it to an authorizer: requests without bodies, one at a time on a connection."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

from services.chassis.errors import Failure
from services.gateway.authorizer.refusals import refusal
from services.gateway.headers import LEASE_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.gateway.authorizer.decisions import Authorizer, Caller
    from services.gateway.authorizer.keyring import Limits
    from services.gateway.authorizer.limits import Limiter

_END: Final = b"\r\n\r\n"
_LARGEST: Final = 128 * 1024
"""More than Envoy takes of a client's headers."""
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"
_DEFECT: Final = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"

_log = logging.getLogger(__name__)


class Decisions(asyncio.Protocol):
    """One connection from Envoy."""

    def __init__(self, authorizer: Authorizer, limiter: Limiter) -> None:
        self._authorizer = authorizer
        self._limiter = limiter
        self._counting: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the connection."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the signature is asyncio's)
        """Forgets the connection."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answers each request that is there whole."""
        self._received = self._received + data if self._received else data
        while self._transport is not None and (end := self._received.find(_END)) >= 0:
            head, self._received = self._received[:end], self._received[end + len(_END) :]
            self._answer(head)
        if len(self._received) > _LARGEST and self._transport is not None:
            self._transport.close()

    def _answer(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        verb, _, rest = first.partition(" ")
        path = rest.rpartition(" ")[0]
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        try:
            who = self._authorizer.caller(verb, path, headers)
            tenant = self._authorizer.tenant_limits(who)
            if who.limits or tenant:
                # Envoy sends no further request before this one is answered.
                self._counting = asyncio.ensure_future(self._counted(who, tenant, headers, path))
                return
        except Failure as failure:
            self._write(refusal(failure, headers, path))
            return
        except Exception:  # noqa: BLE001 (as said below)
            # The last resort for defects: Envoy refuses the request, and the next one is decided anew.
            _log.exception("defect in a decision")
            self._write(_DEFECT)
            return
        self._write(_HEAD + self._authorizer.granted(who) + b"\r\n")

    async def _counted(self, who: Caller, tenant: Limits, headers: Mapping[str, str], path: str) -> None:
        try:
            taken = await self._limiter.take(who, tenant)
        except Failure as failure:
            self._write(refusal(failure, headers, path))
            return
        except Exception:  # noqa: BLE001 (as above)
            _log.exception("defect in a limit")
            self._write(_DEFECT)
            return
        if self._transport is None:
            # The caller left while it was counted: nobody will tell of the call's end.
            await self._limiter.release(taken.lease)
            return
        lease = f"{LEASE_HEADER}: {taken.lease}\r\n".encode() if taken.lease else b""
        self._write(_HEAD + self._authorizer.granted(who) + lease + taken.headers + b"\r\n")

    def _write(self, response: bytes) -> None:
        if self._transport is not None:
            self._transport.write(response)
