"""Interrupts a stream whose engine has fallen silent, or whose time is up, at almost no cost a token."""

from __future__ import annotations

import asyncio
import time
from typing import Self

from services.chassis.errors import Failure, Reason


class StreamWatch:
    """Watches one stream's waits for its engine.

    A timer a token would cost more than the token. Here the stream notes when it begins to wait and when it has stopped, and
    one timer looks at these notes when the wait could have become too long. It only ever interrupts a wait: a client that
    reads slowly is no fault of the engine.

    Args:
        engine: Its name, for the failure.
        inter_token: Seconds that the engine may be silent.
        deadline: On the clock of `time.monotonic`, when the whole generation must be over; None for never.
    """

    __slots__ = ("_cancelling", "_deadline", "_engine", "_inter_token", "_is_waiting", "_since", "_task", "_timer", "_why")

    def __init__(self, engine: str, inter_token: float, deadline: float | None) -> None:
        self._engine = engine
        self._inter_token = inter_token
        self._deadline = deadline
        self._is_waiting = False
        self._since = 0.0
        self._why: Failure | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Begins to watch the task that runs now."""
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0
        self._since = time.monotonic()
        self._set_timer(self._since)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends watching; raises the failure in place of the cancellation that this watch has caused."""
        self._is_waiting = False
        if self._timer is not None:
            self._timer.cancel()
        if self._why is None or self._task is None:
            return
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._why from None

    def waits(self, now: float) -> None:
        """The stream waits for its engine from `now` on. Raises DEADLINE_EXCEEDED where its time is up already."""
        # An engine that is always ready is never waited for long enough to be interrupted.
        if self._deadline is not None and now >= self._deadline:
            raise _late()
        self._since = now
        self._is_waiting = True

    def goes_on(self) -> None:
        """The engine has said something."""
        self._is_waiting = False

    def _set_timer(self, now: float) -> None:
        due = self._since + self._inter_token
        if not self._is_waiting or due <= now:
            # It is the client who is waited for; the engine's time has not begun.
            due = now + self._inter_token
        if self._deadline is not None:
            due = min(due, max(self._deadline, now + 0.05))
        self._timer = asyncio.get_running_loop().call_later(due - now, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        if self._is_waiting and self._task is not None:
            if self._deadline is not None and now >= self._deadline:
                self._why = _late()
            elif now - self._since >= self._inter_token:
                self._why = silent(self._engine, self._inter_token)
            if self._why is not None:
                self._task.cancel()
                return
        self._set_timer(now)


def _late() -> Failure:
    return Failure(Reason.DEADLINE_EXCEEDED, "the time allowed for this generation has passed")


def silent(engine: str, seconds: float) -> Failure:
    """The engine has begun its text, and has stopped in the midst of it."""
    message = f"engine {engine} failed while it generated: no more text came for {seconds:g} s"
    return Failure(Reason.GENERATION_FAILED, message, metadata={"engine": engine})
