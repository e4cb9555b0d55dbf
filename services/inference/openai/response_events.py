"""Writes what OpenAI's responses API answers: a body, or typed server-sent events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.inference.answers import Gathering
from services.inference.engine import Delta, FinishReason
from services.inference.form import ToolCall
from services.inference.openai.annotations import annotation
from services.inference.openai.errors import error_of
from services.inference.openai.face import likely, origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.chassis.errors import Failure
    from services.inference.answers import Answer
    from services.inference.engine import Usage
    from services.inference.form import TokenLogprob, ToolCallDelta
    from services.inference.generation import Completed, Started
    from services.inference.openai.collections import Cited, Source
    from services.inference.openai.responses import ResponseRequest

_INCOMPLETE: Final = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.CONTENT_FILTER: "content_filter",
}


class ResponseWriter:
    """Writes the server-sent events of one response.

    Output items come one after the other: the message, and the calls of tools. Each event carries the next number, and the
    last one is `response.completed`, `response.incomplete` or `response.failed`.
    """

    def __init__(self, asked: ResponseRequest, started: Started, sources: Sequence[Source] = ()) -> None:
        self._body = _body(asked, started, sources)
        self._id = started.request_id
        self._sequence = 0
        self._gathering = Gathering()
        self._cited: list[Cited] = []
        self._output: list[dict[str, Any]] = []
        self._is_writing = False
        self._calls = 0

    def first(self) -> bytes:
        """That the response has begun."""
        response = {**self._body, "status": "in_progress", "output": []}
        return self._event("response.created", response=response) + self._event("response.in_progress", response=response)

    def delta(self, delta: Delta) -> bytes:
        """More of the text, and of the calls of tools."""
        self._gathering.add(delta)
        parts: list[bytes] = []
        if delta.text:
            if not self._is_writing:
                parts.append(self._open_message())
            logprobs = [_logprob(token) for token in delta.logprobs]
            parts.append(self._in_text("response.output_text.delta", delta=delta.text, logprobs=logprobs))
        parts += [self._call_piece(piece) for piece in delta.tool_calls]
        return b"".join(parts)

    def cited(self, cited: Cited) -> bytes:
        """That a sentence written before rests on a source."""
        self._cited.append(cited)
        index = len(self._cited) - 1
        return self._in_text("response.output_text.annotation.added", annotation_index=index, annotation=annotation(cited))

    def failed(self, failure: Failure) -> bytes:
        """The last event of a response that failed after it had begun."""
        error = error_of(failure)["error"]
        told = {"code": error["code"] or error["type"], "message": error["message"]}
        response = {**self._body, "status": "failed", "error": told, "output": self._output}
        return self._event("response.failed", response=response)

    def last(self, reasons: Sequence[FinishReason], usage: Usage) -> bytes:
        """The end of the items that are open, and of the response."""
        answer = self._gathering.answers()[0]
        parts = [self._close_message(answer)] if self._is_writing else []
        if not self._output and not self._calls:
            # An empty answer is a message all the same.
            parts += [self._open_message(), self._close_message(answer)]
        parts += [self._close_call(call) for call in answer.tool_calls]
        response = {**self._body, **_ended(reasons[0]), "output": self._output, "usage": _usage(usage)}
        kind = "response.completed" if response["status"] == "completed" else "response.incomplete"
        return b"".join((*parts, self._event(kind, response=response)))

    def _open_message(self) -> bytes:
        self._is_writing = True
        item = {**_message(self._id, None), "status": "in_progress"}
        added = self._event("response.output_item.added", output_index=0, item=item)
        return added + self._in_text("response.content_part.added", part=_part("", (), ()))

    def _close_message(self, answer: Answer) -> bytes:
        self._is_writing = False
        part = _part(answer.text, answer.logprobs, self._cited)
        item = _message(self._id, part)
        self._output.append(item)
        return b"".join(
            (
                self._in_text("response.output_text.done", text=answer.text, logprobs=part["logprobs"]),
                self._in_text("response.content_part.done", part=part),
                self._event("response.output_item.done", output_index=0, item=item),
            )
        )

    def _call_piece(self, piece: ToolCallDelta) -> bytes:
        parts: list[bytes] = []
        if piece.name:
            # Engines that write text and calls write the text first.
            if self._is_writing:
                parts.append(self._close_message(self._gathering.answers()[0]))
            item = _call_item(_call_id(self._id, piece.index), ToolCall(piece.id, piece.name, ""), "in_progress")
            parts.append(self._event("response.output_item.added", output_index=self._place(piece.index), item=item))
            self._calls = max(self._calls, piece.index + 1)
        if piece.arguments:
            parts.append(
                self._event(
                    "response.function_call_arguments.delta",
                    output_index=self._place(piece.index),
                    item_id=_call_id(self._id, piece.index),
                    delta=piece.arguments,
                )
            )
        return b"".join(parts)

    def _close_call(self, call: ToolCall) -> bytes:
        index = sum(item["type"] == "function_call" for item in self._output)
        item = _call_item(_call_id(self._id, index), call)
        place = len(self._output)
        self._output.append(item)
        done = self._event(
            "response.function_call_arguments.done",
            output_index=place,
            item_id=item["id"],
            name=call.name,
            arguments=call.arguments,
        )
        return done + self._event("response.output_item.done", output_index=place, item=item)

    def _place(self, index: int) -> int:
        return index + len([item for item in self._output if item["type"] == "message"])

    def _in_text(self, kind: str, **members: Any) -> bytes:
        return self._event(kind, item_id=_message_id(self._id), output_index=0, content_index=0, **members)

    def _event(self, kind: str, **members: Any) -> bytes:
        document = {"type": kind, "sequence_number": self._sequence, **members}
        self._sequence += 1
        return b"".join((b"event: ", kind.encode(), b"\ndata: ", msgspec.json.encode(document), b"\n\n"))


def response_body(
    asked: ResponseRequest, completed: Completed, sources: Sequence[Source] = (), cited: Sequence[Cited] = ()
) -> bytes:
    """A whole response."""
    started, finished, answer = completed.started, completed.finished, completed.answers[0]
    output: list[dict[str, Any]] = []
    if answer.text or not answer.tool_calls:
        output.append(_message(started.request_id, _part(answer.text, answer.logprobs, cited)))
    output += [_call_item(_call_id(started.request_id, index), call) for index, call in enumerate(answer.tool_calls)]
    ended = _ended(finished.finish_reason or FinishReason.STOP)
    return msgspec.json.encode({**_body(asked, started, sources), **ended, "output": output, "usage": _usage(finished.usage)})


def _body(asked: ResponseRequest, started: Started, sources: Sequence[Source]) -> dict[str, Any]:
    return {
        "id": f"resp_{started.request_id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "model": started.model,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": None,
        "store": False,
        "temperature": asked.temperature,
        "text": asked.text or {"format": {"type": "text"}},
        "tool_choice": asked.tool_choice or "auto",
        "tools": [{"strict": None, **msgspec.to_builtins(tool)} for tool in asked.tools or ()],
        "top_p": asked.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": asked.user,
        "penstock": origin(started, sources),
    }


def _ended(reason: FinishReason) -> dict[str, Any]:
    why = _INCOMPLETE.get(reason)
    return {"status": "incomplete", "incomplete_details": {"reason": why}} if why else {"status": "completed"}


def _message(request_id: str, part: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": _message_id(request_id),
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [] if part is None else [part],
    }


def _part(text: str, logprobs: Sequence[TokenLogprob], cited: Sequence[Cited]) -> dict[str, Any]:
    return {
        "type": "output_text",
        "text": text,
        "annotations": [annotation(one) for one in cited],
        "logprobs": [_logprob(token) for token in logprobs],
    }


def _call_item(item_id: str, call: ToolCall, status: str = "completed") -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _message_id(request_id: str) -> str:
    return f"msg_{request_id}"


def _call_id(request_id: str, index: int) -> str:
    return f"fc_{request_id}_{index}"


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {**likely(token), "top_logprobs": [likely(one) for one in token.top]}


def _usage(usage: Usage) -> dict[str, Any]:
    taken, written = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "input_tokens": taken,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": taken + written,
    }
