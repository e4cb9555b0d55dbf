"""A backend is one model on one server: how it is doing, and the requests that it has."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from services.inference.resilience import shows_illness

if TYPE_CHECKING:
    from services.chassis.errors import Failure
    from services.inference.admission import Admission, Permit
    from services.inference.models import Found
    from services.inference.resilience import Breaker

# How much a finished request counts in the mean time that a backend takes.
_WEIGHT: Final = 0.2
# Seconds after which a backend's mean time is known no more.
_FORGET_AFTER: Final = 10.0


@runtime_checkable
class Roomy(Protocol):
    """An engine that runs only so many generations of one model at once: more would wait inside it, whatever their class."""

    @property
    def room(self) -> int:
        """How many, at least 1."""


@dataclass(slots=True, eq=False)
class Backend:
    """One model on one server, and how it is doing. `admission` is there where the engine has only so much room."""

    name: str
    found: Found
    breaker: Breaker
    admission: Admission | None = None
    in_flight: int = 0
    mean_seconds: float = 0.0
    measured: float = 0.0

    def enter(self, permit: Permit | None = None) -> Lease:
        """Counts a request in; the permit is given back when the lease ends."""
        self.in_flight += 1
        return Lease(self, self.breaker.enter(), permit)

    def usual_seconds(self) -> float:
        """How long a request has taken here lately; 0 where nothing is known.

        It is forgotten after a while: a backend that was slow once, as when it loaded its model, gets another chance.
        """
        return self.mean_seconds if time.monotonic() - self.measured < _FORGET_AFTER else 0.0

    def load(self) -> int:
        """How many requests it has, or has waiting."""
        waiting = 0 if self.admission is None else sum(one.waiting for one in self.admission.load().values())
        return self.in_flight + waiting


class Lease:
    """One request at a backend, from `Backend.enter` until `end`. Ending it twice does no harm."""

    __slots__ = ("_permit", "_ticket", "backend", "began", "is_over")

    def __init__(self, backend: Backend, ticket: int, permit: Permit | None) -> None:
        self.backend = backend
        self.began = time.monotonic()
        self.is_over = False
        self._ticket = ticket
        self._permit = permit

    def seconds(self) -> float:
        """How long the request has been at the backend."""
        return time.monotonic() - self.began

    def answered(self) -> None:
        """The request has come to its end."""
        if self._end():
            backend, seconds = self.backend, self.seconds()
            backend.mean_seconds += (_WEIGHT if backend.usual_seconds() else 1.0) * (seconds - backend.mean_seconds)
            backend.measured = time.monotonic()
            backend.breaker.succeeded(self._ticket)

    def failed(self, failure: Failure) -> None:
        """The request has failed."""
        if self._end():
            if shows_illness(failure):
                self.backend.breaker.failed(self._ticket)
            else:
                self.backend.breaker.left(self._ticket)

    def left(self) -> None:
        """The request's client has left, or a defect ended it: this tells nothing of the backend."""
        if self._end():
            self.backend.breaker.left(self._ticket)

    def _end(self) -> bool:
        if self.is_over:
            return False
        self.is_over = True
        self.backend.in_flight -= 1
        if self._permit is not None:
            self._permit.release()
        return True
