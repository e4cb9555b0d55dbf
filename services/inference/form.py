"""What form an answer is to take, and what an answer holds beside its text: tool calls, structure, probabilities."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import msgspec


@dataclass(frozen=True, slots=True)
class Image:
    """An image to read: its bytes and what they are, such as `image/png`, or its address."""

    data: bytes = b""
    media_type: str = ""
    url: str = ""

    def address(self) -> str:
        """Its address; one that holds the image itself where there is no other."""
        return self.url or f"data:{self.media_type};base64,{self.base64()}"

    def base64(self) -> str:
        """Its bytes as text."""
        return b64encode(self.data).decode()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. `arguments` is the text of a JSON object, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a tool call: `id` and `name` come with its first piece, `arguments` is the text to append."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability; `top` has the likeliest tokens at its place, likeliest first."""

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to have called. `parameters` is the text of a JSON Schema of an object."""

    name: str
    description: str = ""
    parameters: str = ""


class ToolUse(StrEnum):
    """Whether the model is to call tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class JsonSchema(msgspec.Struct, frozen=True, tag=True):
    """The text is JSON that fits the schema, itself given as the text of a JSON object: `{}` lets any JSON object through."""

    schema: str
    name: str = "answer"


class Regex(msgspec.Struct, frozen=True, tag=True):
    """The whole text matches the pattern."""

    pattern: str


class OneOf(msgspec.Struct, frozen=True, tag=True):
    """The text is one of these."""

    texts: tuple[str, ...]


Output: TypeAlias = JsonSchema | Regex | OneOf


@dataclass(frozen=True, slots=True)
class Form:
    """What form the answer is to take. Each part that is set needs a capability of the model (`requirements.check`).

    Attributes:
        tools: What the model may ask to have called.
        tool_use: Whether it is to call them.
        tool_name: With REQUIRED: the one tool to call; empty for any.
        single_call: At most one call an answer.
        output: What the text has to be; None for free text.
        top_logprobs: How many of the likeliest tokens to tell beside each chosen one, with their logarithmic probabilities;
            0 for the chosen one alone, None for none.
        alternatives: How many answers to generate side by side, from 1.
    """

    tools: tuple[Tool, ...] = ()
    tool_use: ToolUse = ToolUse.AUTO
    tool_name: str = ""
    single_call: bool = False
    output: Output | None = None
    top_logprobs: int | None = None
    alternatives: int = 1
