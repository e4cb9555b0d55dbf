"""Completions, the API before chat: a text is put to the model as a user's message, for the models here are made for chat."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from services.inference.engine import Delta, FinishReason
from services.inference.generation import CacheMode  # noqa: TC001 - msgspec reads the types of the fields
from services.inference.openai.collections import Retrieving  # noqa: TC001 - msgspec reads the types of the fields
from services.inference.openai.errors import error_of
from services.inference.openai.face import DONE, encoded, origin, usage_of
from services.inference.openai.parts import wrong_parameter
from services.inference.openai.requests import ChatRequest, Limit, Name, Penalty, StopText, StreamOptions, Turn, decoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.chassis.errors import Failure
    from services.inference.engine import Usage
    from services.inference.form import TokenLogprob
    from services.inference.generation import Completed, Started
    from services.inference.openai.collections import Cited, Source


class CompletionRequest(msgspec.Struct):
    """What of a completion request has a meaning here; other parameters are ignored."""

    prompt: str | list[Any]
    model: Name = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    seed: int | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    max_tokens: Limit | None = None
    stop: StopText | Annotated[list[StopText], msgspec.Meta(max_length=16)] | None = None
    user: Name | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=16)] | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    # Not of OpenAI's.
    cache: CacheMode | None = None
    penstock: Retrieving | None = None
    # Ignoring these would give something else than was asked for.
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    logit_bias: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(CompletionRequest).decode


def parse_completion(body: bytes) -> ChatRequest:
    """Reads a completion request as the chat that it becomes. Raises INVALID_OPENAI_REQUEST, naming the parameter."""
    asked = decoded(_decode, body)
    for unsupported, given, why in (
        ("echo", asked.echo, "the prompt is not given back; put it before the text yourself"),
        ("suffix", asked.suffix, "filling in between two texts is not supported"),
        ("best_of", asked.best_of is not None and asked.best_of > (asked.n or 1), "not supported; ask for `n` and choose"),
        ("logit_bias", asked.logit_bias, "not supported here; leave it out"),
    ):
        if given:
            raise wrong_parameter(unsupported, why)
    return ChatRequest(
        messages=[Turn("user", _prompt(asked.prompt))],
        model=asked.model,
        stream=asked.stream,
        stream_options=asked.stream_options,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        seed=asked.seed,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        max_tokens=asked.max_tokens,
        stop=asked.stop,
        user=asked.user,
        n=asked.n,
        logprobs=None if asked.logprobs is None else True,
        top_logprobs=asked.logprobs,
        cache=asked.cache,
        penstock=asked.penstock,
    )


def _prompt(given: str | list[Any]) -> str:
    if isinstance(given, list):
        if len(given) != 1 or not isinstance(given[0], str):
            raise wrong_parameter("prompt", "it must be one text, no tokens; send a request for each of several")
        given = given[0]
    if not given:
        raise wrong_parameter("prompt", "it is empty")
    return given


class CompletionWriter:
    """Writes the server-sent events of one completion."""

    def __init__(self, started: Started, include_usage: bool, alternatives: int = 1, sources: Sequence[Source] = ()) -> None:
        self._include_usage = include_usage
        self._head = _head(started)
        self._penstock = origin(started, sources)
        # Where in each text the next piece begins, in characters.
        self._offsets = [0] * alternatives

    def first(self) -> bytes:
        """What was decided; no text yet."""
        return encoded({**self._chunk(0, ""), "penstock": self._penstock})

    def delta(self, delta: Delta) -> bytes:
        """More of a text."""
        offset = self._offsets[delta.alternative]
        self._offsets[delta.alternative] += len(delta.text)
        return encoded(self._chunk(delta.alternative, delta.text, logprobs=_logprobs(delta.logprobs, offset)))

    def cited(self, cited: Cited) -> bytes:  # noqa: ARG002 - of one form with the other writers
        """Nothing: completions have no place for it but their sources."""
        return b""

    def failed(self, failure: Failure) -> bytes:
        """An error after the first content; nothing follows it, not even `[DONE]`."""
        return encoded(error_of(failure))

    def last(self, reasons: Sequence[FinishReason], usage: Usage) -> bytes:
        """The end: why each text ended, the usage if it was asked for, and `[DONE]`."""
        parts = [encoded(self._chunk(index, "", reason.value)) for index, reason in enumerate(reasons)]
        if self._include_usage:
            parts.append(encoded({**self._head, "choices": [], "usage": usage_of(usage)}))
        return b"".join((*parts, DONE))

    def _chunk(
        self, index: int, text: str, reason: str | None = None, *, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._include_usage else {}
        return {**self._head, "choices": [choice], **usage}


def text_completion(completed: Completed, sources: Sequence[Source] = (), cited: Sequence[Cited] = ()) -> bytes:  # noqa: ARG001 - as above
    """A whole completion."""
    started, finished = completed.started, completed.finished
    reasons = finished.finish_reasons or (finished.finish_reason or FinishReason.STOP,)
    choices = [
        {"index": index, "text": answer.text, "logprobs": _logprobs(answer.logprobs), "finish_reason": reason.value}
        for index, (answer, reason) in enumerate(zip(completed.answers, reasons, strict=True))
    ]
    whole = {**_head(started), "choices": choices, "usage": usage_of(finished.usage), "penstock": origin(started, sources)}
    return msgspec.json.encode(whole)


def _head(started: Started) -> dict[str, Any]:
    return {
        "id": f"cmpl-{started.request_id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": started.model,
    }


def _logprobs(tokens: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any] | None:
    """As this API had them: parallel lists."""
    if not tokens:
        return None
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{one.token: one.logprob for one in token.top} for token in tokens],
        "text_offset": offsets,
    }
