"""Reads requests of OpenAI's responses API, as the chat that they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.generation import CacheMode  # noqa: TC001 - msgspec reads the types of the fields
from services.inference.openai.collections import Retrieving  # noqa: TC001 - msgspec reads the types of the fields
from services.inference.openai.forms import FunctionTool, NamedTool, ResponseFormat
from services.inference.openai.parts import wrong_parameter
from services.inference.openai.requests import (
    Called,
    CalledFunction,
    ChatRequest,
    Limit,
    MetadataKey,
    MetadataValue,
    Name,
    Turn,
    decoded,
    request_of,
)

if TYPE_CHECKING:
    from services.inference.generation import Request

_STORED: Final = "nothing is stored here; send the whole conversation as `input`"
_PARTS: Final = {"input_text": "text", "output_text": "text", "text": "text", "input_image": "image_url"}
_INDEX: Final = re.compile(r"^messages\[(\d+)\]")


class _Tool(msgspec.Struct):
    type: str
    name: str = ""
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()


class _Choice(msgspec.Struct):
    type: str
    name: str = ""


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: str = "answer"
    schema: msgspec.Raw = msgspec.Raw()


class _Text(msgspec.Struct):
    format: _Format | None = None


class ResponseRequest(msgspec.Struct):
    """What of a request for a response has a meaning here; other parameters are ignored."""

    input: str | Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=1024)]
    model: Name = ""
    instructions: str | None = None
    stream: bool | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    max_output_tokens: Limit | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    text: _Text | None = None
    tools: Annotated[list[_Tool], msgspec.Meta(max_length=128)] | None = None
    tool_choice: str | _Choice | None = None
    parallel_tool_calls: bool | None = None
    user: Name | None = None
    service_tier: str | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], msgspec.Meta(max_length=50)] | None = None
    # Not of OpenAI's.
    seed: int | None = None
    cache: CacheMode | None = None
    penstock: Retrieving | None = None
    # Ignoring these would give something else than was asked for.
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None


_decode = msgspec.json.Decoder(ResponseRequest).decode


def parse_response(body: bytes) -> ResponseRequest:
    """Reads a request. Raises INVALID_OPENAI_REQUEST, naming the parameter, or REQUEST_TOO_LARGE."""
    asked = decoded(_decode, body)
    for parameter, given, why in (
        ("previous_response_id", asked.previous_response_id, _STORED),
        ("conversation", asked.conversation, _STORED),
        ("background", asked.background, "not supported here; stream the response"),
        ("prompt", asked.prompt, "not supported here; the prompts of this service are used by PromptService"),
    ):
        if given:
            raise wrong_parameter(parameter, why)
    return asked


def chat_of(asked: ResponseRequest) -> ChatRequest:
    """The chat that a response answers. Raises INVALID_OPENAI_REQUEST."""
    turns = [Turn("system", asked.instructions)] if asked.instructions else []
    items = [{"role": "user", "content": asked.input}] if isinstance(asked.input, str) else asked.input
    for index, item in enumerate(items):
        _add(turns, f"input[{index}]", item)
    with_logprobs = asked.top_logprobs is not None or "message.output_text.logprobs" in (asked.include or ())
    return ChatRequest(
        messages=turns,
        model=asked.model,
        stream=asked.stream,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        max_completion_tokens=asked.max_output_tokens,
        user=asked.user,
        service_tier=asked.service_tier,
        metadata=asked.metadata,
        logprobs=with_logprobs or None,
        top_logprobs=asked.top_logprobs,
        tools=[_tool(f"tools[{index}]", tool) for index, tool in enumerate(asked.tools or ())] or None,
        tool_choice=_choice(asked.tool_choice),
        parallel_tool_calls=asked.parallel_tool_calls,
        response_format=_format(asked.text),
        cache=asked.cache,
        penstock=asked.penstock,
    )


def response_request_of(asked: ResponseRequest, request_id: str) -> Request:
    """Turns it into the domain's. Raises INVALID_OPENAI_REQUEST with this API's names of the parameters."""
    try:
        return request_of(chat_of(asked), request_id)
    except Failure as failure:
        field = failure.metadata.get("field", "")
        if failure.reason is not Reason.INVALID_OPENAI_REQUEST or not field.startswith("messages["):
            raise
        # Instructions and items that join their neighbours shift the places: only the parameter is sure.
        rest = _INDEX.sub("", field).lstrip(".")
        raise wrong_parameter("input", f"{rest}: {failure.violations[0][1]}" if rest else failure.violations[0][1]) from failure


def _add(turns: list[Turn], field: str, item: dict[str, Any]) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if not isinstance(role, str):
            raise wrong_parameter(f"{field}.role", "it is required")
        turns.append(Turn(role, _content(f"{field}.content", item.get("content"))))
    elif kind == "function_call":
        call = Called(
            _string(item, field, "call_id"), CalledFunction(_string(item, field, "name"), _string(item, field, "arguments"))
        )
        if turns and turns[-1].role == "assistant":
            turns[-1].tool_calls = [*(turns[-1].tool_calls or ()), call]
        else:
            turns.append(Turn("assistant", None, [call]))
    elif kind == "function_call_output":
        output = item.get("output")
        content = output if isinstance(output, str) else _content(f"{field}.output", output)
        turns.append(Turn("tool", content, tool_call_id=_string(item, field, "call_id")))
    elif kind == "item_reference":
        raise wrong_parameter(field, _STORED)
    elif kind != "reasoning":
        raise wrong_parameter(f"{field}.type", f"{str(kind)[:40]!r} is none of message, function_call, function_call_output")


def _content(field: str, content: object) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong_parameter(field, "it must be a string or a list of parts")
    return [_part(f"{field}[{index}]", part) for index, part in enumerate(content)]


def _part(field: str, part: object) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in _PARTS:
        raise wrong_parameter(field, "only parts of type 'input_text', 'output_text' and 'input_image' are supported")
    if kind == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    return {"type": "text", "text": part.get("text")}


def _string(item: dict[str, Any], field: str, name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not (value or name == "arguments"):
        raise wrong_parameter(f"{field}.{name}", "it must be a string that is not empty")
    return value


def _tool(field: str, tool: _Tool) -> FunctionTool:
    if tool.type != "function":
        raise wrong_parameter(f"{field}.type", "only tools of type 'function' are there; ask a penstock/ model for documents")
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    if not bytes(tool.parameters):
        del function["parameters"]
    try:
        return msgspec.json.decode(msgspec.json.encode({"type": "function", "function": function}), type=FunctionTool)
    except msgspec.ValidationError as error:
        raise wrong_parameter(f"{field}.name", "it must have 1 to 64 letters, digits, `_` and `-`") from error


def _choice(choice: str | _Choice | None) -> Any:
    if choice is None or choice in ("auto", "none", "required"):
        return choice
    if isinstance(choice, _Choice) and choice.type == "function" and choice.name:
        return msgspec.convert({"type": "function", "function": {"name": choice.name}}, NamedTool)
    raise wrong_parameter("tool_choice", "it must be 'auto', 'none', 'required' or a function's name")


def _format(text: _Text | None) -> ResponseFormat | None:
    if text is None or text.format is None:
        return None
    wanted = text.format
    document: dict[str, Any] = {"type": wanted.type}
    if wanted.type == "json_schema":
        if not bytes(wanted.schema):
            raise wrong_parameter("text.format.schema", "it is required with type 'json_schema'")
        document["json_schema"] = {"name": wanted.name, "schema": wanted.schema}
    try:
        return msgspec.json.decode(msgspec.json.encode(document), type=ResponseFormat)
    except msgspec.ValidationError as error:
        raise wrong_parameter("text.format.name", "it must have 1 to 64 letters, digits, `_` and `-`") from error
