"""The OpenAI API as JSON: reads its requests, and writes its responses, its server-sent events and its errors."""

from __future__ import annotations

import base64
import json
import re
import struct
import time
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.engine import FinishReason, Message, Role, Sampling
from services.inference.inference import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.inference.engine import Usage
    from services.inference.inference import Completed, Embedded, Started
    from services.inference.models import Listed

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
DONE: Final = b"data: [DONE]\n\n"

_MAX_BODY: Final = 8 * 1024 * 1024
_MAX_MESSAGE: Final = 1000
_MAX_INPUTS: Final = 512
_MAX_TEXT: Final = 1024 * 1024

_ROLES: Final = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}
_ERROR_TYPES: Final = {
    Reason.ENGINE_OVERLOADED: ("rate_limit_exceeded", "rate_limit_exceeded"),
    Reason.MODEL_NOT_FOUND: ("invalid_request_error", "model_not_found"),
    Reason.MODEL_CAPABILITY_MISSING: ("invalid_request_error", "model_not_supported"),
    Reason.CONTEXT_TOO_LONG: ("invalid_request_error", "context_length_exceeded"),
    Reason.REQUEST_TOO_LARGE: ("invalid_request_error", "request_too_large"),
    Reason.INVALID_FIELD: ("invalid_request_error", None),
    Reason.INVALID_OPENAI_REQUEST: ("invalid_request_error", None),
    Reason.ENGINE_UNAVAILABLE: ("server_error", "engine_unavailable"),
    Reason.DEADLINE_EXCEEDED: ("server_error", "timeout"),
}

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Limit = Annotated[int, msgspec.Meta(ge=1, le=131072)]
_StopText = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Name = Annotated[str, msgspec.Meta(max_length=256)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Turn(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str


class ChatRequest(msgspec.Struct):
    """What of a chat completion request has a meaning here; other parameters are ignored."""

    messages: Annotated[list[_Turn], msgspec.Meta(min_length=1, max_length=1024)]
    model: _Name = ""
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    seed: int | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    max_tokens: _Limit | None = None
    max_completion_tokens: _Limit | None = None
    stop: _StopText | Annotated[list[_StopText], msgspec.Meta(max_length=16)] | None = None
    user: _Name | None = None
    # Ignoring these would give something else than was asked for.
    n: int | None = None
    logprobs: bool | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: _ResponseFormat | None = None
    modalities: list[str] | None = None


class EmbeddingsRequest(msgspec.Struct):
    """What of an embeddings request has a meaning here."""

    input: _Text | Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=_MAX_INPUTS)]
    model: _Name = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    def inputs(self) -> list[str]:
        """The texts, also where there is one only."""
        return [self.input] if isinstance(self.input, str) else self.input


_T = TypeVar("_T")

_decode_chat = msgspec.json.Decoder(ChatRequest).decode
_decode_embeddings = msgspec.json.Decoder(EmbeddingsRequest).decode


def parse_chat(body: bytes) -> ChatRequest:
    """Reads a chat completion request. Raises INVALID_OPENAI_REQUEST, naming the parameter, or REQUEST_TOO_LARGE."""
    request = _decoded(_decode_chat, body)
    for unsupported, given in (
        ("n", request.n not in {None, 1}),
        ("logprobs", request.logprobs),
        ("tools", request.tools),
        ("functions", request.functions),
        ("response_format", request.response_format is not None and request.response_format.type != "text"),
        ("modalities", request.modalities not in (None, [], ["text"])),
    ):
        if given:
            raise _wrong(unsupported, "not supported here; leave it out")
    return request


def parse_embeddings(body: bytes) -> EmbeddingsRequest:
    """Reads an embeddings request. Raises INVALID_OPENAI_REQUEST, naming the parameter, or REQUEST_TOO_LARGE."""
    request = _decoded(_decode_embeddings, body)
    for index, text in enumerate(request.inputs()):
        _check_length(f"input[{index}]", text)
    return request


def _decoded(decode: Callable[[bytes], _T], body: bytes) -> _T:
    if len(body) > _MAX_BODY:
        message = f"the request has {len(body)} bytes; the limit is {_MAX_BODY}; send less at a time"
        raise Failure(Reason.REQUEST_TOO_LARGE, message, metadata={"limit_bytes": str(_MAX_BODY)})
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `")
        field = re.sub(r"^\$\.?", "", path.rstrip("`"))
        missing = re.search(r"missing required field `(\w+)`", problem)
        if missing:
            field = f"{field}.{missing[1]}" if field else missing[1]
            problem = "it is required"
        raise _wrong(field, problem[:1].lower() + problem[1:]) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _wrong("", "the body is not valid JSON in UTF-8") from error


def _wrong(field: str, problem: str) -> Failure:
    message = f"{field}: {problem}" if field else problem
    return Failure(
        Reason.INVALID_OPENAI_REQUEST,
        message,
        metadata={"field": field} if field else {},
        violations=[(field, problem)] if field else (),
    )


def _check_length(field: str, text: str) -> None:
    # Characters first: encoding a text only to measure it costs.
    if len(text) > _MAX_TEXT or (len(text) * 4 > _MAX_TEXT and len(text.encode()) > _MAX_TEXT):
        raise _wrong(field, f"the text is longer than {_MAX_TEXT} bytes in UTF-8")


def request_of(chat: ChatRequest, request_id: str) -> Request:
    """Turns a chat completion request into the domain's. Raises INVALID_OPENAI_REQUEST."""
    stop = (chat.stop,) if isinstance(chat.stop, str) else tuple(chat.stop or ())
    return Request(
        request_id=request_id,
        model=chat.model,
        messages=tuple(_message(index, turn) for index, turn in enumerate(chat.messages)),
        sampling=Sampling(chat.temperature, chat.top_p, chat.top_k, chat.seed, chat.presence_penalty, chat.frequency_penalty),
        max_tokens=chat.max_tokens if chat.max_completion_tokens is None else chat.max_completion_tokens,
        stop=stop,
        user=chat.user or "",
    )


def _message(index: int, turn: _Turn) -> Message:
    field = f"messages[{index}]"
    role = _ROLES.get(turn.role)
    if role is None:
        raise _wrong(f"{field}.role", f"{turn.role[:40]!r} is none of {', '.join(_ROLES)}")
    content = turn.content
    if isinstance(content, list):
        text = "".join(_part(f"{field}.content[{place}]", part) for place, part in enumerate(content))
    else:
        text = content or ""
    if not text and role is not Role.ASSISTANT:
        raise _wrong(f"{field}.content", "it is empty")
    _check_length(f"{field}.content", text)
    return Message(role, text)


def _part(field: str, part: dict[str, Any]) -> str:
    if part.get("type") != "text":
        raise _wrong(f"{field}.type", "only parts of type 'text' are supported")
    text = part.get("text")
    if not isinstance(text, str):
        raise _wrong(f"{field}.text", "it must be a string")
    return text


class ChunkWriter:
    """Writes the server-sent events of one chat completion."""

    def __init__(self, started: Started, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._head = {
            "id": f"chatcmpl-{started.request_id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": started.model,
        }
        self._penstock = _origin(started)
        # All chunks with text are alike but for the text.
        whole = _encoded(self._chunk({"content": ""}))
        self._before, _, self._after = whole.partition(b'"content":""')

    def first(self) -> bytes:
        """Who speaks, and what was decided."""
        return _encoded({**self._chunk({"role": "assistant", "content": ""}), "penstock": self._penstock})

    def text(self, text: str) -> bytes:
        """More text."""
        return b"".join((self._before, b'"content":', msgspec.json.encode(text), self._after))

    def last(self, reason: FinishReason, usage: Usage) -> bytes:
        """The end: why, the usage if it was asked for, and `[DONE]`."""
        parts = [_encoded(self._chunk({}, reason.value))]
        if self._include_usage:
            parts.append(_encoded({**self._head, "choices": [], "usage": _usage(usage)}))
        return b"".join((*parts, DONE))

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self._include_usage else {}
        return {**self._head, "choices": [choice], **usage}


def error_event(failure: Failure) -> bytes:
    """An error after the first content; nothing follows it, not even `[DONE]`."""
    return _encoded(error_of(failure))


def completion(completed: Completed) -> bytes:
    """A whole chat completion."""
    started, finished = completed.started, completed.finished
    reason = finished.finish_reason or FinishReason.STOP
    message = {"role": "assistant", "content": completed.text, "refusal": None}
    return msgspec.json.encode(
        {
            "id": f"chatcmpl-{started.request_id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": started.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason.value}],
            "usage": _usage(finished.usage),
            "penstock": _origin(started),
        }
    )


def embeddings(request: EmbeddingsRequest, embedded: Embedded) -> bytes:
    """Vectors as lists of floats, or each as base64 of little-endian 32-bit floats. Raises INVALID_OPENAI_REQUEST."""
    vectors = embedded.embeddings.vectors
    width = len(vectors[0]) if len(vectors) else 0
    if request.dimensions is not None and request.dimensions != width:
        raise _wrong("dimensions", f"the vectors of model {embedded.model.name!r} have {width}; leave it out")
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


def _origin(started: Started) -> dict[str, str]:
    """What OpenAI's format has no place for: who answered, and for which experiment."""
    origin = {"engine": started.engine}
    if started.assignment is not None:
        origin["variant"] = started.assignment.variant
        origin["assignment"] = started.assignment.key
    return origin


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
