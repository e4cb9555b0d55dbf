"""Writes chat completions, embeddings and the list of models: as bodies, and as server-sent events."""

from __future__ import annotations

import base64
import struct
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.inference.engine import Delta, FinishReason
from services.inference.openai.annotations import source_of, url_citation
from services.inference.openai.collections import PREFIX
from services.inference.openai.errors import error_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.chassis.errors import Failure
    from services.inference.answers import Answer
    from services.inference.engine import Usage
    from services.inference.form import TokenLogprob, ToolCall, ToolCallDelta
    from services.inference.generation import Completed, Embedded, Started
    from services.inference.models import Listed
    from services.inference.openai.collections import Cited, Source
    from services.inference.openai.requests import EmbeddingsRequest

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
DONE: Final = b"data: [DONE]\n\n"


class ChunkWriter:
    """Writes the server-sent events of one chat completion."""

    def __init__(self, started: Started, include_usage: bool, alternatives: int = 1, sources: Sequence[Source] = ()) -> None:
        self._include_usage = include_usage
        self._alternatives = alternatives
        self._head = {
            "id": f"chatcmpl-{started.request_id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": started.model,
        }
        self._penstock = origin(started, sources)
        # Most chunks with text are alike but for the text.
        whole = encoded(self._chunk({"content": ""}))
        self._before, _, self._after = whole.partition(b'"content":""')

    def first(self) -> bytes:
        """Who speaks, and what was decided."""
        opening = {"role": "assistant", "content": ""}
        chunks = [self._chunk(opening, index=index) for index in range(self._alternatives)]
        chunks[0]["penstock"] = self._penstock
        return b"".join(map(encoded, chunks))

    def delta(self, delta: Delta) -> bytes:
        """More of an answer."""
        if not (delta.alternative or delta.tool_calls or delta.logprobs):
            return b"".join((self._before, b'"content":', msgspec.json.encode(delta.text), self._after))
        said: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.tool_calls:
            said["tool_calls"] = [_tool_call_piece(piece) for piece in delta.tool_calls]
        return encoded(self._chunk(said, index=delta.alternative, logprobs=_logprobs(delta.logprobs)))

    def cited(self, cited: Cited) -> bytes:
        """That a sentence written before rests on a source."""
        return encoded(self._chunk({"annotations": [url_citation(cited)]}))

    def failed(self, failure: Failure) -> bytes:
        """An error after the first content; nothing follows it, not even `[DONE]`."""
        return encoded(error_of(failure))

    def last(self, reasons: Sequence[FinishReason], usage: Usage) -> bytes:
        """The end: why each answer ended, the usage if it was asked for, and `[DONE]`."""
        parts = [encoded(self._chunk({}, reason.value, index=index)) for index, reason in enumerate(reasons)]
        if self._include_usage:
            parts.append(encoded({**self._head, "choices": [], "usage": usage_of(usage)}))
        return b"".join((*parts, DONE))

    def _chunk(
        self, delta: dict[str, Any], reason: str | None = None, *, index: int = 0, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._include_usage else {}
        return {**self._head, "choices": [choice], **usage}


def completion(completed: Completed, sources: Sequence[Source] = (), cited: Sequence[Cited] = ()) -> bytes:
    """A whole chat completion; what was cited stands in its message's annotations."""
    started, finished = completed.started, completed.finished
    reasons = finished.finish_reasons or (finished.finish_reason or FinishReason.STOP,)
    choices = [
        {
            "index": index,
            "message": _message(answer, cited),
            "logprobs": _logprobs(answer.logprobs),
            "finish_reason": reason.value,
        }
        for index, (answer, reason) in enumerate(zip(completed.answers, reasons, strict=True))
    ]
    return msgspec.json.encode(
        {
            "id": f"chatcmpl-{started.request_id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": started.model,
            "choices": choices,
            "usage": usage_of(finished.usage),
            "penstock": origin(started, sources),
        }
    )


def _message(answer: Answer, cited: Sequence[Cited]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if cited:
        message["annotations"] = [url_citation(one) for one in cited]
    if answer.tool_calls:
        message |= {"content": answer.text or None, "tool_calls": [_tool_call(call) for call in answer.tool_calls]}
    return message


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _tool_call_piece(piece: ToolCallDelta) -> dict[str, Any]:
    if not piece.name:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not tokens:
        return None
    content = [{**likely(token), "top_logprobs": [likely(one) for one in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def likely(token: TokenLogprob) -> dict[str, Any]:
    """A token and how likely it was."""
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.token.encode())}


def embeddings(request: EmbeddingsRequest, embedded: Embedded) -> bytes:
    """Vectors as lists of floats, or each as base64 of little-endian 32-bit floats."""
    vectors = embedded.embeddings.vectors
    as_base64 = request.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    tokens = embedded.embeddings.input_tokens or 0
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": embedded.model.name, "usage": usage})


def model_list(listed: Sequence[Listed], collections: Sequence[str] = ()) -> bytes:
    """The models, and the collections as models that answer from them; `created` is 0, for engines do not tell it."""
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": engine}
        for name, engine in dict.fromkeys((one.model.name, one.model.engine) for one in listed)
    ]
    data += [{"id": f"{PREFIX}{name}", "object": "model", "created": 0, "owned_by": "penstock"} for name in collections]
    return msgspec.json.encode({"object": "list", "data": data})


def encoded(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"".join((b"data: ", msgspec.json.encode(document), b"\n\n"))


def usage_of(usage: Usage) -> dict[str, int]:
    """OpenAI's counts have no notion of unknown: it is 0 there, and told apart in the typed API."""
    prompt, output = usage.input_tokens or 0, usage.output_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def origin(started: Started, sources: Sequence[Source] = ()) -> dict[str, Any]:
    """What OpenAI's format has no place for: who answered, for which experiment, and from what."""
    told: dict[str, Any] = {"engine": started.engine}
    if started.assignment is not None:
        told["variant"] = started.assignment.variant
        told["assignment"] = started.assignment.key
    if started.cached:
        told["cached"] = True
    if sources:
        told["sources"] = [source_of(source) for source in sources]
    return told


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
