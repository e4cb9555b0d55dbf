"""Chats in Ollama's own format: what is asked, and what the lines of an answer mean."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.engine import Delta, End, FinishReason, Role, Usage, UsageSource
from services.inference.engines.openai_chat import Token, logprob_of
from services.inference.engines.remote import MALFORMED, failed, refused_in_stream
from services.inference.form import JsonSchema, ToolCallDelta, ToolUse
from services.inference.form_checks import check_object
from services.inference.requirements import check_addresses

if TYPE_CHECKING:
    from services.inference.engine import Generation, Message
    from services.inference.form import Form, TokenLogprob

_NAME: Final = "ollama"


class _Function(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str = ""


class _Content(msgspec.Struct):
    content: str = ""
    tool_calls: list[_ToolCall] | None = None


class _Piece(msgspec.Struct):
    message: _Content = msgspec.field(default_factory=_Content)
    done: bool = False
    done_reason: str = ""
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    logprobs: list[Token] | None = None
    error: Any = None


_decode_piece = msgspec.json.Decoder(_Piece).decode


def request(generation: Generation, keep_alive: str | int | None = None) -> bytes:
    """The body of a chat. Raises MODEL_CAPABILITY_MISSING for what Ollama has no word for."""
    check_addresses(_NAME, generation)
    sampling, form = generation.sampling, generation.form
    options = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "num_predict": generation.max_tokens,
        "stop": list(generation.stop) or None,
    }
    return msgspec.json.encode(
        {
            "model": generation.model,
            "messages": _messages(generation),
            "stream": True,
            "options": {name: value for name, value in options.items() if value is not None},
            **({} if keep_alive is None else {"keep_alive": keep_alive}),
            **_form(generation.model, form),
        }
    )


def _messages(generation: Generation) -> list[dict[str, Any]]:
    called = {call.id: call.name for message in generation.messages for call in message.tool_calls}
    return [_message(message, called) for message in generation.messages]


def _message(message: Message, called: dict[str, str]) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role.value, "content": message.text}
    if message.role is Role.TOOL:
        # Ollama knows calls by the tool's name, not by an id.
        written["tool_name"] = called.get(message.tool_call, message.tool_call)
    if message.images:
        written["images"] = [image.base64() for image in message.images]
    for call in message.tool_calls:
        check_object("tool_call.arguments", call.arguments)
    if message.tool_calls:
        written["tool_calls"] = [
            {"function": {"name": call.name, "arguments": msgspec.Raw(call.arguments.encode())}} for call in message.tool_calls
        ]
    return written


def _form(model: str, form: Form) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if form.tool_use is ToolUse.REQUIRED:
        message = f"model: {model} of Ollama chooses tools by itself and cannot be made to call one; leave the choice to it"
        raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": model, "capability": "TOOLS"})
    if form.tools and form.tool_use is ToolUse.AUTO:
        asked["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": msgspec.Raw((tool.parameters or '{"type":"object","properties":{}}').encode()),
                },
            }
            for tool in form.tools
        ]
    if form.top_logprobs is not None:
        asked |= {"logprobs": True, "top_logprobs": form.top_logprobs}
    if isinstance(form.output, JsonSchema):
        schema = msgspec.Raw(form.output.schema.encode())
        asked["format"] = schema if msgspec.json.decode(schema) else "json"
    return asked


class Answer:
    """What has come of one chat."""

    def __init__(self, form: Form) -> None:
        self.is_done = False
        self._single_call = form.single_call
        self._top = form.top_logprobs or 0
        self._logprobs: list[TokenLogprob] = []
        self._last: _Piece | None = None
        self._texts: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._told_calls = 0
        self._pieces = 0
        self._tokens = 0

    def read(self, batch: list[bytes]) -> Failure | None:
        """Takes in lines; returns what is wrong with the first bad one, after what is right has been taken in."""
        for line in batch:
            if not line.strip():
                continue
            try:
                piece = _decode_piece(line)
            except MALFORMED:
                return failed(_NAME, "it sent a malformed line")
            if piece.error is not None:
                return refused_in_stream(_NAME, piece.error)
            self._take_in(piece.message)
            if piece.logprobs:
                self._logprobs.extend(logprob_of(token, self._top) for token in piece.logprobs)
            if piece.done:
                self._last = piece
                self.is_done = True
                return None
        return None

    def _take_in(self, message: _Content) -> None:
        if message.content:
            self._texts.append(message.content)
        for call in message.tool_calls or ():
            # Calls come whole, and most versions give them no id.
            index = self._told_calls
            if self._single_call and index:
                break
            self._told_calls += 1
            identity = call.id or f"call_{secrets.token_hex(8)}"
            self._calls.append(ToolCallDelta(index, identity, call.function.name, bytes(call.function.arguments).decode()))
        self._pieces += bool(message.content or message.tool_calls)

    def take(self) -> Delta | None:
        """All that has come since the last time; each line of it counts as one token."""
        if not self._texts and not self._calls:
            return None
        calls, logprobs = tuple(self._calls), tuple(self._logprobs)
        delta = Delta("".join(self._texts), max(1, self._pieces), tool_calls=calls, logprobs=logprobs)
        self._tokens += delta.tokens
        self._texts, self._calls, self._logprobs, self._pieces = [], [], [], 0
        return delta

    def end(self) -> End:
        """The last event."""
        last = self._last or _Piece()
        reason = FinishReason.LENGTH if last.done_reason == "length" else FinishReason.STOP
        if self._told_calls and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        if last.eval_count is None:
            return End(reason, Usage(last.prompt_eval_count, self._tokens, UsageSource.COUNTED))
        return End(reason, Usage(last.prompt_eval_count, last.eval_count, UsageSource.REPORTED))
