"""What to do when a backend fails: try again, go elsewhere or give up, and when to leave a backend alone.

Nothing here waits or talks to anyone; `dispatch` does. Times are seconds on the clock of `time.monotonic`.
"""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import Callable


class Outcome(StrEnum):
    """What became of one attempt."""

    ANSWERED = "answered"
    FAILED = "failed"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one backend.

    Attributes:
        backend: The engine's name, and which of its servers where there are several.
        engine: The technology.
        model: The model that was asked.
        outcome: ANSWERED also while the answer is under way; FAILED before its first content; BROKEN after it.
        reason: Why it failed; None where it answered.
        output_tokens: What came out of it. Only the tokens of the attempt that answered are billed.
        seconds: How long it took, or has taken to its first content.
    """

    backend: str
    engine: str
    model: str
    outcome: Outcome
    reason: Reason | None = None
    output_tokens: int = 0
    seconds: float = 0.0


class Verdict(Enum):
    """Where a request that has failed before its first content may still go."""

    AGAIN = "to the same model, here or at another of its servers"
    ELSEWHERE = "to another model only"
    NOWHERE = "nowhere: it would fail everywhere alike"


# What passes, or may be one server's trouble.
_PASSING: Final = {Reason.ENGINE_UNAVAILABLE, Reason.ENGINE_OVERLOADED, Reason.GENERATION_FAILED}
# What is wrong with the request itself, or what no backend can change.
_REQUESTS_OWN: Final = {Reason.INVALID_FIELD, Reason.MALFORMED_REQUEST, Reason.DEADLINE_EXCEEDED}
# What says that the backend is ill. One that has too much to do is well, and says when to come back.
_ILL: Final = {Reason.ENGINE_UNAVAILABLE, Reason.GENERATION_FAILED, Reason.ENGINE_REFUSED_CREDENTIALS}


def verdict_on(failure: Failure) -> Verdict:
    """Where a request may go that failed so. A context too long, or a policy, is the model's: another may differ."""
    if failure.reason in _PASSING:
        return Verdict.AGAIN
    return Verdict.NOWHERE if failure.reason in _REQUESTS_OWN else Verdict.ELSEWHERE


def shows_illness(failure: Failure) -> bool:
    """Whether a circuit breaker should count the failure."""
    return failure.reason in _ILL


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often to try again at the same model before its first content.

    Attributes:
        tries: Most attempts at one model, the first included.
        total: Most attempts at all.
        first_pause: Longest pause before the second attempt; each further one doubles it.
        longest_pause: Longest pause. An engine that asks for a longer one is not waited for.
        seconds: An attempt that failed later than this is not repeated at the same model: the user has waited enough.
    """

    tries: int = 3
    total: int = 6
    first_pause: float = 0.1
    longest_pause: float = 2.0
    seconds: float = 10.0

    def pause(self, failed: int, retry_after: float | None, draw: Callable[[], float] = random.random) -> float | None:
        """Seconds to wait after the `failed`-th failure (from 1), spread so that clients do not come back together.

        None where the engine asks for a longer pause than anyone should wait. `draw` gives numbers from 0 to 1.
        """
        if retry_after is not None and retry_after > self.longest_pause:
            return None
        most = min(self.longest_pause, self.first_pause * 2.0 ** min(failed - 1, 30))
        return (retry_after or 0.0) + draw() * most


class BreakerState(StrEnum):
    """Whether requests go to a backend."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens and closes.

    Attributes:
        in_a_row: It opens after so many failures in a row.
        window: It also opens when half of so many last outcomes are failures.
        pause: Seconds that it stays open; doubled each time that the probe fails.
        longest_pause: Most seconds that it stays open.
    """

    in_a_row: int = 5
    window: int = 20
    pause: float = 2.0
    longest_pause: float = 60.0


class Standing:
    """How a breaker stands, where one process alone decides.

    Attributes:
        is_open: Whether the backend is left alone.
        opened_at: Since when.
        pause: For how many seconds; 0 before the first time.
        is_probing: Whether a request is finding out whether it is well again.
        epoch: How often it has changed.
    """

    __slots__ = ("epoch", "is_open", "is_probing", "opened_at", "pause")

    def __init__(self) -> None:
        self.is_open = False
        self.opened_at = 0.0
        self.pause = 0.0
        self.is_probing = False
        self.epoch = 0


class Stands(Protocol):
    """A `Standing`, wherever it is kept."""

    is_open: bool
    opened_at: float
    pause: float
    is_probing: bool
    epoch: int


class Breaker:
    """Leaves a backend alone that fails, and lets one request at a time find out whether it is well again.

    Each request takes a ticket by `enter`, and gives it back by exactly one of `succeeded`, `failed` and `left`. A ticket from
    before the last change of state tells nothing about the state now, and is ignored.

    Args:
        limits: When it opens and closes.
        clock: Gives seconds.
        standing: How it stands; may be shared with breakers of other processes, which then open and close together. Failures
            are counted by each for itself.
    """

    def __init__(
        self,
        limits: BreakerLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        standing: Stands | None = None,
    ) -> None:
        self._limits = limits or BreakerLimits()
        self._clock = clock
        self._now: Stands = standing or Standing()
        self._failures_in_a_row = 0
        self._outcomes: deque[bool] = deque(maxlen=self._limits.window)

    @property
    def state(self) -> BreakerState:
        """The state now. It is half open once its pause is over, whether a probe is out or not."""
        if not self._now.is_open:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self.opens_in() == 0 else BreakerState.OPEN

    def opens_in(self) -> float:
        """Seconds until the next probe may go; 0 where one may, or where the breaker is closed."""
        now = self._now
        return max(0.0, now.opened_at + now.pause - self._clock()) if now.is_open else 0.0

    def lets_through(self) -> bool:
        """Whether a request may go to the backend now."""
        now = self._now
        return not now.is_open or (not now.is_probing and self.opens_in() == 0)

    def enter(self) -> int:
        """Marks a request as sent; gives its ticket."""
        if self._now.is_open:
            self._now.is_probing = True
        return self._now.epoch

    def succeeded(self, ticket: int) -> None:
        """The backend has answered."""
        if ticket != self._now.epoch:
            return
        if self._now.is_open:
            self._now.is_open, self._now.pause = False, 0.0
            self._change()
            return
        self._failures_in_a_row = 0
        self._outcomes.append(True)

    def failed(self, ticket: int) -> None:
        """The backend is ill."""
        if ticket != self._now.epoch:
            return
        if self._now.is_open:
            self._open(min(self._limits.longest_pause, self._now.pause * 2))
            return
        self._failures_in_a_row += 1
        self._outcomes.append(False)
        is_full = len(self._outcomes) == self._limits.window
        if self._failures_in_a_row >= self._limits.in_a_row or (
            is_full and self._outcomes.count(False) * 2 >= len(self._outcomes)
        ):
            self._open(self._limits.pause)

    def left(self, ticket: int) -> None:
        """The request ended without telling anything of the backend: its client left, or its model refused it."""
        if ticket == self._now.epoch:
            self._now.is_probing = False

    def _open(self, pause: float) -> None:
        self._now.pause, self._now.opened_at, self._now.is_open = pause, self._clock(), True
        self._change()

    def _change(self) -> None:
        self._now.epoch += 1
        self._now.is_probing = False
        self._failures_in_a_row = 0
        self._outcomes.clear()
