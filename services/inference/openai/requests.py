"""Reads the OpenAI API's requests: what has a meaning here, and a refusal that names the parameter for what is wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import msgspec

from services.chassis.call import current_call
from services.chassis.errors import Failure, Reason
from services.inference.admission import Priority
from services.inference.engine import Message, Role, Sampling
from services.inference.form import Form, Image, ToolCall
from services.inference.generation import CacheMode, Request
from services.inference.openai.collections import Retrieving  # noqa: TC001 - msgspec reads the types of the fields
from services.inference.openai.forms import FunctionTool, NamedTool, ResponseFormat, form_of
from services.inference.openai.parts import part_of, wrong_parameter

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_BODY: Final = 8 * 1024 * 1024
_MAX_INPUTS: Final = 512
_MAX_TEXT: Final = 1024 * 1024

_ROLES: Final = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}

# OpenAI's tiers that stand for a class of priority here; all others are the default.
_TIERS: Final = {"priority": Priority.INTERACTIVE, "flex": Priority.BULK}

Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=131072)]
StopText = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
MetadataKey = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
MetadataValue = Annotated[str, msgspec.Meta(max_length=512)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class CalledFunction(msgspec.Struct):
    """What was called."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    arguments: str = ""


class Called(msgspec.Struct):
    """A call of a tool that the assistant asked for."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    function: CalledFunction


class Turn(msgspec.Struct):
    """One message of the conversation."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Called] | None = None
    tool_call_id: str = ""


class StreamOptions(msgspec.Struct):
    """What a stream holds beside the answer."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct):
    """What of a chat completion request has a meaning here; other parameters are ignored."""

    messages: Annotated[list[Turn], msgspec.Meta(min_length=1, max_length=1024)]
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
    max_completion_tokens: Limit | None = None
    stop: StopText | Annotated[list[StopText], msgspec.Meta(max_length=16)] | None = None
    user: Name | None = None
    service_tier: str | None = None
    # What is known of the request, for the targeting of experiments: OpenAI's own limits.
    metadata: Annotated[dict[MetadataKey, MetadataValue], msgspec.Meta(max_length=50)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=16)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[FunctionTool], msgspec.Meta(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None
    parallel_tool_calls: bool | None = None
    # Not of OpenAI's.
    cache: CacheMode | None = None
    penstock: Retrieving | None = None
    # Ignoring these would give something else than was asked for.
    functions: list[Any] | None = None
    modalities: list[str] | None = None


class EmbeddingsRequest(msgspec.Struct):
    """What of an embeddings request has a meaning here."""

    input: _Text | Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=_MAX_INPUTS)]
    model: Name = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=65536)] | None = None

    def inputs(self) -> list[str]:
        """The texts, also where there is one only."""
        return [self.input] if isinstance(self.input, str) else self.input


_T = TypeVar("_T")

_decode_chat = msgspec.json.Decoder(ChatRequest).decode
_decode_embeddings = msgspec.json.Decoder(EmbeddingsRequest).decode


def parse_chat(body: bytes) -> ChatRequest:
    """Reads a chat completion request. Raises INVALID_OPENAI_REQUEST, naming the parameter, or REQUEST_TOO_LARGE."""
    request = decoded(_decode_chat, body)
    for unsupported, given in (
        ("functions", request.functions),
        ("modalities", request.modalities not in (None, [], ["text"])),
    ):
        if given:
            raise wrong_parameter(unsupported, "not supported here; leave it out")
    return request


def parse_embeddings(body: bytes) -> EmbeddingsRequest:
    """Reads an embeddings request. Raises INVALID_OPENAI_REQUEST, naming the parameter, or REQUEST_TOO_LARGE."""
    request = decoded(_decode_embeddings, body)
    for index, text in enumerate(request.inputs()):
        _check_length(f"input[{index}]", text)
    return request


def decoded(decode: Callable[[bytes], _T], body: bytes) -> _T:
    """Reads a body. Raises INVALID_OPENAI_REQUEST, naming the parameter, or REQUEST_TOO_LARGE."""
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
        raise wrong_parameter(field, problem[:1].lower() + problem[1:]) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise wrong_parameter("", "the body is not valid JSON in UTF-8") from error
    except RecursionError as error:
        raise wrong_parameter("", "the body is nested too deep") from error


def _check_length(field: str, text: str) -> None:
    # Characters first: encoding a text only to measure it costs.
    if len(text) > _MAX_TEXT or (len(text) * 4 > _MAX_TEXT and len(text.encode()) > _MAX_TEXT):
        raise wrong_parameter(field, f"the text is longer than {_MAX_TEXT} bytes in UTF-8")


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
        attributes={**(chat.metadata or {}), "tenant": current_call().tenant},
        priority=_TIERS.get(chat.service_tier or "", Priority.DEFAULT),
        form=_form(chat),
        cache=chat.cache or CacheMode.USE,
    )


def _form(chat: ChatRequest) -> Form:
    if chat.top_logprobs is not None and not chat.logprobs:
        raise wrong_parameter("top_logprobs", "it needs `logprobs` to be true")
    try:
        form = form_of(chat.tools or (), chat.tool_choice, chat.response_format)
    except Failure as failure:
        raise wrong_parameter(failure.metadata["field"], failure.violations[0][1]) from failure
    top = (chat.top_logprobs or 0) if chat.logprobs else None
    single = chat.parallel_tool_calls is False
    return replace(form, single_call=single, top_logprobs=top, alternatives=chat.n or 1)


def _message(index: int, turn: Turn) -> Message:
    field = f"messages[{index}]"
    role = _ROLES.get(turn.role)
    if role is None:
        raise wrong_parameter(f"{field}.role", f"{turn.role[:40]!r} is none of {', '.join(_ROLES)}")
    content = turn.content
    images: tuple[Image, ...] = ()
    if isinstance(content, list):
        parts = [part_of(f"{field}.content[{place}]", part) for place, part in enumerate(content)]
        text = "".join(part for part in parts if isinstance(part, str))
        images = tuple(part for part in parts if isinstance(part, Image))
    else:
        text = content or ""
    if images and role is not Role.USER:
        raise wrong_parameter(f"{field}.content", "only the user shows images")
    if not text and not images and role not in {Role.ASSISTANT, Role.TOOL}:
        raise wrong_parameter(f"{field}.content", "it is empty")
    _check_length(f"{field}.content", text)
    if turn.tool_calls and role is not Role.ASSISTANT:
        raise wrong_parameter(f"{field}.tool_calls", "only the assistant calls tools")
    if (role is Role.TOOL) != bool(turn.tool_call_id):
        raise wrong_parameter(f"{field}.tool_call_id", "it goes with role 'tool', and that with it")
    calls = (ToolCall(call.id, call.function.name, call.function.arguments or "{}") for call in turn.tool_calls or ())
    return Message(role, text, tuple(calls), turn.tool_call_id, images)
