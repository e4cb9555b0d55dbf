"""Anthropic's Messages API: what is asked, and what the events of an answer mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.chassis.errors import Failure, Reason, invalid_field
from services.inference.engine import Delta, End, FinishReason, Role, Usage, UsageSource
from services.inference.engines.remote import MALFORMED, failed, refused_in_stream
from services.inference.form import JsonSchema, ToolCallDelta, ToolUse
from services.inference.form_checks import check_object

if TYPE_CHECKING:
    from services.inference.engine import Generation, Message
    from services.inference.form import Form, Image

NAME: Final = "anthropic"
# The API wants a limit; all its models can write so much.
MAX_TOKENS: Final = 4096
_FINISH_REASONS: Final = {
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
_CHOICES: Final = {ToolUse.AUTO: "auto", ToolUse.NONE: "none", ToolUse.REQUIRED: "any"}
_OVERLOADED: Final = {"overloaded_error", "rate_limit_error"}


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None


class _Message(msgspec.Struct):
    usage: _Usage = msgspec.field(default_factory=_Usage)


class _Block(msgspec.Struct):
    type: str = ""
    id: str = ""
    name: str = ""


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode


def request(generation: Generation) -> bytes:
    """The body of a request for a stream. Raises MODEL_CAPABILITY_MISSING or INVALID_FIELD for what the API has no word for."""
    return msgspec.json.encode({**prompt(generation), **_sampling(generation), **_output(generation), "stream": True})


def prompt(generation: Generation) -> dict[str, Any]:
    """What the model reads: conversation and tools. This is also what is counted as its input."""
    system = "\n\n".join(message.text for message in generation.messages if message.role is Role.SYSTEM)
    turns: list[dict[str, Any]] = []
    for message in generation.messages:
        if message.role is not Role.SYSTEM:
            _append(turns, message)
    asked: dict[str, Any] = {"model": generation.model, "messages": turns}
    if system:
        asked["system"] = system
    if generation.form.tools:
        asked |= _tools(generation.form)
    return asked


def _append(turns: list[dict[str, Any]], message: Message) -> None:
    """Adds a message. What the user and the user's tools say in a row is one turn, as the API wants it."""
    role = "assistant" if message.role is Role.ASSISTANT else "user"
    blocks = _blocks(message)
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    elif blocks:
        turns.append({"role": role, "content": blocks})


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.role is Role.TOOL:
        return [{"type": "tool_result", "tool_use_id": message.tool_call, "content": message.text}]
    blocks: list[dict[str, Any]] = [{"type": "image", "source": _source(image)} for image in message.images]
    if message.text:
        blocks.append({"type": "text", "text": message.text})
    for call in message.tool_calls:
        check_object("tool_call.arguments", call.arguments)
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": msgspec.Raw(call.arguments.encode())})
    return blocks


def _source(image: Image) -> dict[str, str]:
    if image.url:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": image.media_type, "data": image.base64()}


def _tools(form: Form) -> dict[str, Any]:
    choice: dict[str, Any] = {"type": "tool", "name": form.tool_name} if form.tool_name else {"type": _CHOICES[form.tool_use]}
    if form.single_call and form.tool_use is not ToolUse.NONE:
        choice["disable_parallel_tool_use"] = True
    tools = [
        {
            "name": tool.name,
            "input_schema": msgspec.Raw((tool.parameters or '{"type":"object","properties":{}}').encode()),
            **({"description": tool.description} if tool.description else {}),
        }
        for tool in form.tools
    ]
    return {"tools": tools, "tool_choice": choice}


def _sampling(generation: Generation) -> dict[str, Any]:
    sampling = generation.sampling
    if sampling.temperature is not None and sampling.temperature > 1:
        raise invalid_field("sampling.temperature", "Anthropic takes 0 to 1")
    if sampling.presence_penalty or sampling.frequency_penalty:
        message = f"model: {generation.model} of Anthropic knows no penalties; leave them out"
        raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": generation.model})
    wanted = {
        "max_tokens": generation.max_tokens or MAX_TOKENS,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop_sequences": list(generation.stop) or None,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _output(generation: Generation) -> dict[str, Any]:
    output = generation.form.output
    if not isinstance(output, JsonSchema):
        return {}
    schema = msgspec.Raw(output.schema.encode())
    if not msgspec.json.decode(schema):
        message = f"model: {generation.model} of Anthropic wants a JSON Schema that says what is in the object; give one"
        raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": generation.model})
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


class Answer:
    """What has come of one message."""

    def __init__(self) -> None:
        self.is_done = False
        self._texts: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._places: dict[int, int] = {}
        self._pieces = 0
        self._tokens = 0
        self._stop_reason: str | None = None
        self._input: int | None = None
        self._output: int | None = None

    def read(self, batch: list[bytes]) -> Failure | None:
        """Takes in lines of server-sent events; returns what is wrong with them, after what is right has been taken in."""
        for line in batch:
            if not line.startswith(b"data:"):
                # Blank lines and names of events, which stand in the data as well.
                if line.startswith(b"{"):
                    return failed(NAME, "it sent something else than server-sent events")
                continue
            try:
                event = _decode_event(line[5:].strip())
            except MALFORMED:
                return failed(NAME, "it sent a malformed event")
            if event.type == "error":
                return _told(event.error)
            self._take_in(event)
            if event.type == "message_stop":
                self.is_done = True
                return None if self._stop_reason is not None else failed(NAME, "it ended without a reason to stop")
        return None

    def _take_in(self, event: _Event) -> None:
        """Takes in one event. Kinds that are not known, such as pings and those to come, are passed over as the API asks."""
        if event.message is not None:
            usage = event.message.usage
            read = (usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens)
            self._input = None if usage.input_tokens is None else sum(count or 0 for count in read)
        if event.usage is not None and event.usage.output_tokens is not None:
            self._output = event.usage.output_tokens
        block, delta = event.content_block, event.delta
        if block is not None and block.type == "tool_use":
            place = self._places[event.index] = len(self._places)
            self._calls.append(ToolCallDelta(place, block.id, block.name))
            self._pieces += 1
        if delta is None:
            return
        if delta.text:
            self._texts.append(delta.text)
            self._pieces += 1
        if delta.partial_json and event.index in self._places:
            self._calls.append(ToolCallDelta(self._places[event.index], arguments=delta.partial_json))
            self._pieces += 1
        if delta.stop_reason is not None:
            self._stop_reason = delta.stop_reason

    def take(self) -> Delta | None:
        """All that has come since the last time; each piece of it counts as one token."""
        if not self._pieces:
            return None
        delta = Delta("".join(self._texts), self._pieces, tool_calls=tuple(self._calls))
        self._tokens += self._pieces
        self._texts, self._calls, self._pieces = [], [], 0
        return delta

    def end(self) -> End:
        """The last event."""
        reason = _FINISH_REASONS.get(self._stop_reason or "", FinishReason.STOP)
        if self._output is None:
            return End(reason, Usage(self._input, self._tokens, UsageSource.COUNTED))
        return End(reason, Usage(self._input, self._output, UsageSource.REPORTED))


def _told(error: Any) -> Failure:
    kind = error.get("type") if isinstance(error, dict) else None
    if kind in _OVERLOADED:
        message = f"engine {NAME} takes no more requests for now; try again later"
        return Failure(Reason.ENGINE_OVERLOADED, message, metadata={"engine": NAME}, retry_after=1.0)
    return refused_in_stream(NAME, error)
