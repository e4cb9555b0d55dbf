"""Puts answers together from their deltas, and holds them to the form that was asked for."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.chassis.errors import Failure, Reason
from services.inference.engine import Delta, FinishReason
from services.inference.form import OneOf, Regex, ToolCall
from services.inference.form_checks import compiled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.engine import Event, Generation
    from services.inference.form import Output, TokenLogprob, ToolCallDelta


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Gathering:
    """Takes deltas in and gives whole answers."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._calls: dict[tuple[int, int], _Call] = {}
        self._logprobs: dict[int, list[TokenLogprob]] = {}

    def add(self, delta: Delta) -> None:
        """Takes in one delta."""
        self._texts.setdefault(delta.alternative, []).append(delta.text)
        for piece in delta.tool_calls:
            self._calls.setdefault((delta.alternative, piece.index), _Call()).add(piece)
        if delta.logprobs:
            self._logprobs.setdefault(delta.alternative, []).extend(delta.logprobs)

    def answers(self, count: int = 1) -> tuple[Answer, ...]:
        """What has come of each answer."""
        return tuple(map(self._answer, range(count)))

    def _answer(self, alternative: int) -> Answer:
        return Answer(
            "".join(self._texts.get(alternative, ())),
            tuple(call.whole() for (owner, _), call in sorted(self._calls.items()) if owner == alternative),
            tuple(self._logprobs.get(alternative, ())),
        )


class _Call:
    """A tool call as far as it has come."""

    def __init__(self) -> None:
        self._id = ""
        self._name = ""
        self._arguments: list[str] = []

    def add(self, piece: ToolCallDelta) -> None:
        self._id = self._id or piece.id
        self._name = self._name or piece.name
        self._arguments.append(piece.arguments)

    def whole(self) -> ToolCall:
        return ToolCall(self._id, self._name, "".join(self._arguments))


def joined(deltas: Sequence[Delta]) -> list[Delta]:
    """Deltas that wait together as one, or as one for each answer side by side."""
    if len(deltas) < 2:  # noqa: PLR2004 - nothing to join
        return list(deltas)
    together: dict[int, list[Delta]] = {}
    for delta in deltas:
        together.setdefault(delta.alternative, []).append(delta)
    return [
        Delta(
            "".join(one.text for one in several),
            sum(one.tokens for one in several),
            alternative,
            tuple(piece for one in several for piece in one.tool_calls),
            tuple(token for one in several for token in one.logprobs),
        )
        for alternative, several in sorted(together.items())
    ]


async def held(generation: Generation, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The same events; GENERATION_FAILED in place of the end where a complete text is not of the form that was asked for.

    Engines are told the form and keep it by themselves. This is for the one that was told and did not know what it was told.
    """
    output = generation.form.output
    gathering = Gathering()
    async with aclosing(events):
        async for event in events:
            if output is None:
                yield event
                continue
            if isinstance(event, Delta):
                gathering.add(event)
            else:
                reasons = event.finish_reasons or (event.finish_reason,)
                for reason, answer in zip(reasons, gathering.answers(len(reasons)), strict=True):
                    _check(output, reason, answer.text)
            yield event


def _check(output: Output, reason: FinishReason, text: str) -> None:
    # One that was cut at its limit may well be incomplete, and says so by its reason.
    if reason is FinishReason.STOP and not _fits(output, text):
        message = (
            "output: the engine did not hold the text to the form that was asked for; choose another model or a simpler form"
        )
        raise Failure(Reason.GENERATION_FAILED, message)


def _fits(output: Output, text: str) -> bool:
    if isinstance(output, OneOf):
        return text in output.texts
    if isinstance(output, Regex):
        return compiled(output.pattern).fullmatch(text) is not None
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
