"""Writes the OpenAI API's responses, its server-sent events and its errors."""

from __future__ import annotations

import base64
import json
import struct
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.engine import Delta, FinishReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.inference.answers import Answer
    from services.inference.engine import Usage
    from services.inference.form import TokenLogprob, ToolCall, ToolCallDelta
    from services.inference.generation import Completed, Embedded, Started
    from services.inference.models import Listed
    from services.inference.openai_requests import EmbeddingsRequest

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
DONE: Final = b"data: [DONE]\n\n"

_MAX_MESSAGE: Final = 1000

_ERROR_TYPES: Final = {
    Reason.ENGINE_OVERLOADED: ("rate_limit_exceeded", "rate_limit_exceeded"),
    Reason.MODEL_NOT_FOUND: ("invalid_request_error", "model_not_found"),
    Reason.MODEL_CAPABILITY_MISSING: ("invalid_request_error", "model_not_supported"),
    Reason.CONTEXT_TOO_LONG: ("invalid_request_error", "context_length_exceeded"),
    Reason.OVERLOADED: ("rate_limit_exceeded", "rate_limit_exceeded"),
    Reason.CONTENT_POLICY: ("invalid_request_error", "content_policy_violation"),
    Reason.REQUEST_TOO_LARGE: ("invalid_request_error", "request_too_large"),
    Reason.INVALID_FIELD: ("invalid_request_error", None),
    Reason.INVALID_OPENAI_REQUEST: ("invalid_request_error", None),
    Reason.ENGINE_UNAVAILABLE: ("server_error", "engine_unavailable"),
    Reason.DEADLINE_EXCEEDED: ("server_error", "timeout"),
}


class ChunkWriter:
    """Writes the server-sent events of one chat completion."""

    def __init__(self, started: Started, include_usage: bool, alternatives: int = 1) -> None:
        self._include_usage = include_usage
        self._alternatives = alternatives
        self._head = {
            "id": f"chatcmpl-{started.request_id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": started.model,
        }
        self._penstock = _origin(started)
        # Most chunks with text are alike but for the text.
        whole = _encoded(self._chunk({"content": ""}))
        self._before, _, self._after = whole.partition(b'"content":""')

    def first(self) -> bytes:
        """Who speaks, and what was decided."""
        opening = {"role": "assistant", "content": ""}
        chunks = [self._chunk(opening, index=index) for index in range(self._alternatives)]
        chunks[0]["penstock"] = self._penstock
        return b"".join(map(_encoded, chunks))

    def delta(self, delta: Delta) -> bytes:
        """More of an answer."""
        if not (delta.alternative or delta.tool_calls or delta.logprobs):
            return b"".join((self._before, b'"content":', msgspec.json.encode(delta.text), self._after))
        said: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.tool_calls:
            said["tool_calls"] = [_tool_call_piece(piece) for piece in delta.tool_calls]
        return _encoded(self._chunk(said, index=delta.alternative, logprobs=_logprobs(delta.logprobs)))

    def last(self, reasons: Sequence[FinishReason], usage: Usage) -> bytes:
        """The end: why each answer ended, the usage if it was asked for, and `[DONE]`."""
        parts = [_encoded(self._chunk({}, reason.value, index=index)) for index, reason in enumerate(reasons)]
        if self._include_usage:
            parts.append(_encoded({**self._head, "choices": [], "usage": _usage(usage)}))
        return b"".join((*parts, DONE))

    def _chunk(
        self, delta: dict[str, Any], reason: str | None = None, *, index: int = 0, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._include_usage else {}
        return {**self._head, "choices": [choice], **usage}


def error_event(failure: Failure) -> bytes:
    """An error after the first content; nothing follows it, not even `[DONE]`."""
    return _encoded(error_of(failure))


def completion(completed: Completed) -> bytes:
    """A whole chat completion."""
    started, finished = completed.started, completed.finished
    reasons = finished.finish_reasons or (finished.finish_reason or FinishReason.STOP,)
    choices = [
        {
            "index": index,
            "message": _message(answer),
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
            "usage": _usage(finished.usage),
            "penstock": _origin(started),
        }
    )


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
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
    content = [{**_likely(token), "top_logprobs": [_likely(one) for one in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _likely(token: TokenLogprob) -> dict[str, Any]:
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


def model_list(listed: Sequence[Listed]) -> bytes:
    """The models; `created` is 0, for engines do not tell it."""
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": engine}
        for name, engine in dict.fromkeys((one.model.name, one.model.engine) for one in listed)
    ]
    return msgspec.json.encode({"object": "list", "data": data})


def error_of(failure: Failure) -> dict[str, Any]:
    """OpenAI's error object."""
    kind, code = _ERROR_TYPES.get(failure.reason, ("server_error", failure.reason.value.lower()))
    param = failure.metadata.get("field")
    if failure.reason is Reason.MODEL_NOT_FOUND:
        param = "model"
    message = failure.message if len(failure.message) <= _MAX_MESSAGE else f"{failure.message[:_MAX_MESSAGE]}..."
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def with_error_body(failure: Failure) -> Failure:
    """The same failure with OpenAI's error object in a trailer; the gateway makes it the body of the HTTP response."""
    # Metadata holds ASCII only.
    trailers = {**failure.trailers, "x-openai-error": json.dumps(error_of(failure), ensure_ascii=True)}
    return Failure(
        failure.reason,
        failure.message,
        metadata=failure.metadata,
        violations=failure.violations,
        retry_after=failure.retry_after,
        trailers=trailers,
    )


def _encoded(document: dict[str, Any]) -> bytes:
    return b"".join((b"data: ", msgspec.json.encode(document), b"\n\n"))


def _usage(usage: Usage) -> dict[str, int]:
    """OpenAI's counts have no notion of unknown: it is 0 there, and told apart in the typed API."""
    prompt, output = usage.input_tokens or 0, usage.output_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def _origin(started: Started) -> dict[str, Any]:
    """What OpenAI's format has no place for: who answered, and for which experiment."""
    origin: dict[str, Any] = {"engine": started.engine}
    if started.assignment is not None:
        origin["variant"] = started.assignment.variant
        origin["assignment"] = started.assignment.key
    if started.cached:
        origin["cached"] = True
    return origin


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
