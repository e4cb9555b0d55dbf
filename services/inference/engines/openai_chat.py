"""Chat completions in OpenAI's format: what is asked, and what the chunks of an answer mean. llama.cpp speaks it as well."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.inference.engine import Delta, End, FinishReason, Role, Usage, UsageSource
from services.inference.form import JsonSchema, TokenLogprob, ToolCallDelta, ToolUse

if TYPE_CHECKING:
    from services.inference.engine import Generation, Message
    from services.inference.form import Form, OneOf, Tool

_FINISH_REASONS: Final = {
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Content(msgspec.Struct, gc=False):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Likely(msgspec.Struct):
    token: str
    logprob: float


class Token(msgspec.Struct):
    """A token and its probability; Ollama writes it so as well."""

    token: str
    logprob: float
    top_logprobs: list[_Likely] | None = None


class _Logprobs(msgspec.Struct):
    content: list[Token] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Content = msgspec.field(default_factory=_Content)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class Chunk(msgspec.Struct, gc=False):
    """A piece of an answer."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


def messages(generation: Generation) -> list[dict[str, Any]]:
    """The conversation."""
    return [_message(message) for message in generation.messages]


def _message(message: Message) -> dict[str, Any]:
    if message.role is Role.TOOL:
        return {"role": "tool", "tool_call_id": message.tool_call, "content": message.text}
    if message.images:
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": one.address()}} for one in message.images]
        text = [{"type": "text", "text": message.text}] if message.text else []
        return {"role": message.role.value, "content": parts + text}
    if not message.tool_calls:
        return {"role": message.role.value, "content": message.text}
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    return {"role": message.role.value, "content": message.text or None, "tool_calls": calls}


def form(wanted: Form) -> dict[str, Any]:
    """Tools, JSON Schema, probabilities and the number of answers. Other outputs are each server's own."""
    asked: dict[str, Any] = {}
    if wanted.tools:
        asked["tools"] = [{"type": "function", "function": _function(tool)} for tool in wanted.tools]
        named = {"type": "function", "function": {"name": wanted.tool_name}} if wanted.tool_name else None
        if wanted.tool_use is not ToolUse.AUTO:
            asked["tool_choice"] = named or wanted.tool_use.value
        if wanted.single_call:
            asked["parallel_tool_calls"] = False
    if isinstance(wanted.output, JsonSchema):
        asked["response_format"] = _response_format(wanted.output)
    if wanted.top_logprobs is not None:
        # llama.cpp takes 0 for none at all.
        asked |= {"logprobs": True, "top_logprobs": max(1, wanted.top_logprobs)}
    if wanted.alternatives > 1:
        asked["n"] = wanted.alternatives
    return asked


def narrowed(wanted: Form) -> Form:
    """The same for llama.cpp, which can be told to call a tool, but not which: that one is then all there is."""
    if not wanted.tool_name:
        return wanted
    return replace(wanted, tools=tuple(tool for tool in wanted.tools if tool.name == wanted.tool_name), tool_name="")


def _function(tool: Tool) -> dict[str, Any]:
    parameters = msgspec.Raw(tool.parameters.encode()) if tool.parameters else {"type": "object", "properties": {}}
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "parameters": parameters}


def _response_format(output: JsonSchema) -> dict[str, Any]:
    # Passed on as it was written: a model fills in the properties in the order in which the schema has them.
    schema = msgspec.Raw(output.schema.encode())
    if not msgspec.json.decode(schema):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": output.name, "schema": schema, "strict": True}}


def one_of_grammar(output: OneOf) -> str:
    """The same in llama.cpp's grammar."""
    return "root ::= " + " | ".join(msgspec.json.encode(text).decode() for text in output.texts)


class Answers:
    """What has come of one completion: one answer, or several side by side."""

    def __init__(self, wanted: Form) -> None:
        self._answers = [_Answer(index, wanted) for index in range(wanted.alternatives)]
        self.may_be_cut = wanted.single_call
        self._tokens = 0
        self._usage: _Usage | None = None

    def take_in(self, chunk: Chunk) -> None:
        """Takes in one chunk. Raises ValueError for an answer that was not asked for."""
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices:
            if not 0 <= choice.index < len(self._answers):
                raise ValueError(f"answer {choice.index} was not asked for")
            self._answers[choice.index].take_in(choice)

    def take(self) -> list[Delta]:
        """All that has come since the last time, one delta an answer; each chunk of it counts as one token."""
        deltas = [delta for answer in self._answers if (delta := answer.take()) is not None]
        self._tokens += sum(delta.tokens for delta in deltas)
        return deltas

    def is_complete(self) -> bool:
        """Whether every answer has said why it ended."""
        return all(answer.finish_reason is not None for answer in self._answers)

    def is_cut(self) -> bool:
        """Whether all that goes on would go on with calls beyond the one that was asked for: no use in waiting for that."""
        open_ones = [answer for answer in self._answers if answer.finish_reason is None]
        return bool(open_ones) and all(answer.is_enough for answer in open_ones)

    def end(self) -> End:
        """The last event."""
        reasons = tuple(answer.ended() for answer in self._answers)
        several = reasons if len(reasons) > 1 else ()
        usage = self._usage
        if usage is None or usage.completion_tokens is None:
            return End(reasons[0], Usage(None, self._tokens, UsageSource.COUNTED), several)
        if several and usage.completion_tokens < self._tokens:
            # llama.cpp reports what one of them took.
            return End(reasons[0], Usage(usage.prompt_tokens, self._tokens, UsageSource.COUNTED), several)
        return End(reasons[0], Usage(usage.prompt_tokens, usage.completion_tokens, UsageSource.REPORTED), several)


class _Answer:
    """One of the answers."""

    def __init__(self, index: int, wanted: Form) -> None:
        self.finish_reason: str | None = None
        self.is_enough = False
        self._index = index
        self._single_call = wanted.single_call
        self._top = wanted.top_logprobs or 0
        self._calls_tools = False
        self._texts: list[str] = []
        self._tokens = 0
        self._tool_calls: list[ToolCallDelta] = []
        self._logprobs: list[TokenLogprob] = []

    def take_in(self, choice: _Choice) -> None:
        delta = choice.delta
        if delta.tool_calls:
            self._take_calls(delta.tool_calls)
        if self.is_enough:
            return
        if delta.content:
            self._texts.append(delta.content)
        if delta.content or delta.tool_calls:
            self._tokens += 1
        if choice.logprobs is not None and choice.logprobs.content:
            self._logprobs.extend(logprob_of(token, self._top) for token in choice.logprobs.content)
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason

    def _take_calls(self, calls: list[_ToolCall]) -> None:
        self.is_enough = self.is_enough or (self._single_call and any(call.index for call in calls))
        if not self.is_enough:
            self._tool_calls.extend(map(_piece, calls))

    def take(self) -> Delta | None:
        if not self._tokens:
            return None
        delta = Delta("".join(self._texts), self._tokens, self._index, tuple(self._tool_calls), tuple(self._logprobs))
        self._calls_tools = self._calls_tools or bool(self._tool_calls)
        self._texts, self._tokens, self._tool_calls, self._logprobs = [], 0, [], []
        return delta

    def ended(self) -> FinishReason:
        reason = _FINISH_REASONS.get(self.finish_reason or "", FinishReason.STOP)
        # vLLM says `stop` where it was told which tool to call.
        calls = self._calls_tools and (reason is FinishReason.STOP or self.is_enough)
        return FinishReason.TOOL_CALLS if calls else reason


def _piece(call: _ToolCall) -> ToolCallDelta:
    return ToolCallDelta(call.index, call.id or "", call.function.name or "", call.function.arguments or "")


def logprob_of(token: Token, count: int) -> TokenLogprob:
    """Reads a token with as many of the likeliest at its place."""
    top = tuple(TokenLogprob(one.token, one.logprob) for one in (token.top_logprobs or ())[:count])
    return TokenLogprob(token.token, token.logprob, top)
