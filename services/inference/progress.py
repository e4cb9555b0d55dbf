"""What one generation has taken so far: time and tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from services.inference.engine import Usage, UsageSource

if TYPE_CHECKING:
    from services.inference.engine import Delta

# Seconds between running counts in a stream: often enough to bill an abort by, too seldom to cost anything.
_USAGE_EVERY: Final = 1.0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from the arrival of the request; `first_token` is None when there was none. `queued` is a part of both."""

    first_token: float | None
    total: float
    queued: float = 0.0


class Progress:
    """Counts one generation; made when the request arrives."""

    __slots__ = ("_first_token", "_usage_told", "arrived", "queued", "tokens")

    def __init__(self) -> None:
        self.arrived = time.monotonic()
        self.queued = 0.0
        self.tokens = 0
        self._first_token: float | None = None
        self._usage_told = self.arrived

    def count(self, delta: Delta, now: float) -> None:
        """Takes in what the engine has said at `now`."""
        if self._first_token is None:
            self._first_token = now - self.arrived
        self.tokens += delta.tokens

    def usage_is_due(self, now: float) -> bool:
        """Whether it is time for running counts."""
        if now - self._usage_told < _USAGE_EVERY:
            return False
        self._usage_told = now
        return True

    def usage(self) -> Usage:
        """Counts so far: the engine tells its own only at the end."""
        return Usage(input_tokens=None, output_tokens=self.tokens, source=UsageSource.COUNTED)

    def completed(self, usage: Usage) -> Usage:
        """The engine's own counts, or ours where it has none."""
        return usage if usage.output_tokens is not None else replace(self.usage(), input_tokens=usage.input_tokens)

    def timings(self) -> Timings:
        """Where the time went."""
        return Timings(self._first_token, time.monotonic() - self.arrived, self.queued)
