"""What is known of the call being served, for whoever works on its behalf."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry import propagate

if TYPE_CHECKING:
    import asyncio


@dataclass(frozen=True, slots=True)
class Call:
    """One call being served.

    Attributes:
        method: Full name, such as `/penstock.inference.v1.GenerationService/Generate`.
        request_id: From `x-request-id`, or made here; in logs, errors and responses.
        deadline: On the clock of `time.monotonic`; None when the caller set none.
        tenant: From `x-penstock-tenant`: on whose behalf the call is made; empty where nobody said so.
        user: From `x-penstock-user`: who of the tenant makes it; empty where nobody said so.
        groups: From `x-penstock-groups`, with commas between them: the groups that the user is in.
        scopes: From `x-penstock-scopes`, with spaces between them: what the gateway lets the caller do; empty without a gateway
            that demands keys.
        key: From `x-penstock-key`: the id, never the secret, of the API key that the call came with.
    """

    method: str
    request_id: str
    deadline: float | None
    tenant: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    scopes: str = ""
    key: str = ""

    def remaining(self, most: float | None = None) -> float | None:
        """Seconds until the deadline, never below 0, at most `most`; None when neither bounds the call."""
        if self.deadline is None:
            return most
        left = max(0.0, self.deadline - time.monotonic())
        return left if most is None else min(left, most)


_OUTSIDE: Final = Call(method="", request_id="", deadline=None)
_current: ContextVar[Call] = ContextVar("penstock_call", default=_OUTSIDE)


def current_call() -> Call:
    """The call being served by this task; one without id and deadline outside of any."""
    return _current.get()


def enter_call(call: Call) -> None:
    """Makes `call` the current one of this task."""
    _current.set(call)


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata that lets the next service carry on the request id, who calls, and the trace."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    call = current_call()
    if call.request_id:
        carrier["x-request-id"] = call.request_id
    if call.tenant:
        carrier["x-penstock-tenant"] = call.tenant
    if call.user:
        carrier["x-penstock-user"] = call.user
    if call.groups:
        carrier["x-penstock-groups"] = ",".join(call.groups)
    if call.scopes:
        carrier["x-penstock-scopes"] = call.scopes
    if call.key:
        carrier["x-penstock-key"] = call.key
    return tuple(carrier.items())


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Tells long-lived streams that the server is about to stop, so that they end well instead of being cut."""

    draining: asyncio.Event
