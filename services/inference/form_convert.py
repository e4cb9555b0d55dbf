"""Between the contract's tools, outputs, tool calls and probabilities and those of the domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from penstock.inference.v1 import form_pb2, generation_pb2, generation_service_pb2

from services.chassis.errors import invalid_field
from services.inference.engine import Message, Role
from services.inference.form import Form, Image, JsonSchema, OneOf, Regex, Tool, ToolCall, ToolUse
from services.inference.form_checks import check_choice, check_object, check_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from services.inference.engine import Delta
    from services.inference.form import Output, TokenLogprob

GenerationMessage: TypeAlias = generation_service_pb2.GenerateRequest | generation_service_pb2.StreamGenerateRequest

ROLES: Final = {
    generation_pb2.ROLE_SYSTEM: Role.SYSTEM,
    generation_pb2.ROLE_USER: Role.USER,
    generation_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
    generation_pb2.ROLE_TOOL: Role.TOOL,
}
# Parts that go with one role only.
_PLACES: Final = {"tool_result": Role.TOOL, "tool_call": Role.ASSISTANT, "image": Role.USER}
TOOL_USES: Final = {
    form_pb2.TOOL_USE_UNSPECIFIED: ToolUse.AUTO,
    form_pb2.TOOL_USE_AUTO: ToolUse.AUTO,
    form_pb2.TOOL_USE_NONE: ToolUse.NONE,
    form_pb2.TOOL_USE_REQUIRED: ToolUse.REQUIRED,
}


def form_of(message: GenerationMessage) -> Form:
    """Reads what form the answer is to take. Raises INVALID_FIELD for what no engine could make sense of."""
    tools = tuple(Tool(one.name, one.description, one.parameters) for one in message.tools)
    for index, tool in enumerate(tools):
        check_object(f"tools[{index}].parameters", tool.parameters or "{}")
    use = TOOL_USES[message.tool_choice.use]
    check_choice("tool_choice", tools, use, message.tool_choice.tool)
    output = _output_of(message.output) if message.HasField("output") else None
    if output is not None and tools and use is ToolUse.REQUIRED:
        raise invalid_field("output", "an answer that has to call a tool has no text to hold to a form; leave one of them out")
    return Form(
        tools=tools,
        tool_use=use,
        tool_name=message.tool_choice.tool,
        single_call=message.tool_choice.single,
        output=output,
        top_logprobs=message.top_logprobs if message.HasField("top_logprobs") else None,
        alternatives=message.alternatives if message.HasField("alternatives") else 1,
    )


def _output_of(message: form_pb2.Output) -> Output:
    kind = message.WhichOneof("form")
    if kind == "regex":
        check_pattern("output.regex", message.regex)
        return Regex(message.regex)
    if kind == "choice":
        return OneOf(tuple(message.choice.texts))
    check_object("output.json_schema", message.json_schema)
    return JsonSchema(message.json_schema)


def messages_of(messages: Iterable[generation_pb2.Message]) -> tuple[Message, ...]:
    """Reads a conversation: a message with the results of several tools becomes one message a result."""
    return tuple(message for index, one in enumerate(messages) for message in _messages(f"messages[{index}]", one))


def _messages(field: str, message: generation_pb2.Message) -> Iterator[Message]:
    role = ROLES[message.role]
    texts: list[str] = []
    images: list[Image] = []
    calls: list[ToolCall] = []
    results: list[form_pb2.ToolResult] = []
    for place, part in enumerate(message.parts):
        kind = part.WhichOneof("content")
        if _PLACES.get(kind or "", role) is not role or (role is Role.TOOL and kind != "tool_result"):
            raise invalid_field(
                f"{field}.parts[{place}]", f"a part {kind!r} does not go with {generation_pb2.Role.Name(message.role)}"
            )
        if kind == "tool_result":
            results.append(part.tool_result)
        elif kind == "tool_call":
            calls.append(ToolCall(part.tool_call.id, part.tool_call.name, part.tool_call.arguments or "{}"))
        elif kind == "image":
            images.append(image_of(f"{field}.parts[{place}].image", part.image))
        else:
            texts.append(part.text)
    if role is Role.TOOL:
        yield from (Message(role, result.text, tool_call=result.id) for result in results)
    else:
        yield Message(role, "".join(texts), tuple(calls), images=tuple(images))


def image_of(field: str, image: generation_pb2.Image) -> Image:
    """Reads an image. Raises INVALID_FIELD for bytes that are not said to be any kind of image."""
    if image.WhichOneof("source") == "data" and not image.media_type:
        raise invalid_field(f"{field}.media_type", "it is required with `data`")
    return Image(image.data, image.media_type, image.url)


def delta_events(delta: Delta) -> Iterator[generation_service_pb2.StreamGenerateResponse]:
    """Writes a delta: its text, then a message for each piece of a tool call."""
    respond = generation_service_pb2.StreamGenerateResponse
    if delta.text:
        content = generation_service_pb2.GenerationDelta(text=delta.text, alternative=delta.alternative)
        if delta.logprobs:
            content.logprobs.extend(map(logprob, delta.logprobs))
        yield respond(delta=content)
    for piece in delta.tool_calls:
        yield respond(
            tool_call=generation_service_pb2.ToolCallDelta(
                index=piece.index, id=piece.id, name=piece.name, arguments=piece.arguments, alternative=delta.alternative
            )
        )


def tool_call(call: ToolCall) -> form_pb2.ToolCall:
    """Writes a tool call."""
    return form_pb2.ToolCall(id=call.id, name=call.name, arguments=call.arguments)


def logprob(one: TokenLogprob) -> form_pb2.TokenLogprob:
    """Writes a token's probability."""
    return form_pb2.TokenLogprob(token=one.token, logprob=one.logprob, top=[logprob(other) for other in one.top])
