"""Reads tools and response formats out of the OpenAI API's requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from services.chassis.errors import invalid_field
from services.inference.form import Form, JsonSchema, Tool, ToolUse
from services.inference.form_checks import check_choice, check_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.inference.form import Output

_MAX_SCHEMA = 64 * 1024


class _Function(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
    description: Annotated[str, msgspec.Meta(max_length=16384)] | None = None
    # Raw: the order of a schema's properties is that of the model's answer.
    parameters: msgspec.Raw = msgspec.Raw()


class FunctionTool(msgspec.Struct):
    """A tool of the one type that there is here."""

    type: Literal["function"]
    function: _Function


class _Name(msgspec.Struct):
    name: str


class NamedTool(msgspec.Struct):
    """The one tool to call."""

    type: Literal["function"]
    function: _Name


class _Schema(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")] = "answer"
    schema: msgspec.Raw = msgspec.Raw()


class ResponseFormat(msgspec.Struct):
    """What the text has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


def form_of(tools: Sequence[FunctionTool], choice: str | NamedTool | None, response_format: ResponseFormat | None) -> Form:
    """Reads what form the answer is to take. Raises INVALID_FIELD with OpenAI's names of the parameters."""
    ours = tuple(_tool(f"tools[{index}].function.parameters", one.function) for index, one in enumerate(tools))
    name = choice.function.name if isinstance(choice, NamedTool) else ""
    use = ToolUse.REQUIRED if isinstance(choice, NamedTool) else ToolUse(choice or "auto")
    check_choice("tool_choice", ours, use, name)
    return Form(tools=ours, tool_use=use, tool_name=name, output=_output(response_format))


def _tool(field: str, function: _Function) -> Tool:
    parameters = _text(field, function.parameters)
    return Tool(function.name, function.description or "", parameters)


def _output(wanted: ResponseFormat | None) -> Output | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return JsonSchema("{}")
    schema = "" if wanted.json_schema is None else _text("response_format.json_schema.schema", wanted.json_schema.schema)
    if wanted.json_schema is None or not schema:
        raise invalid_field("response_format.json_schema.schema", "it is required with type 'json_schema'")
    return JsonSchema(schema, wanted.json_schema.name)


def _text(field: str, document: msgspec.Raw) -> str:
    text = bytes(document).decode()
    if text in {"", "null"}:
        return ""
    if len(text) > _MAX_SCHEMA:
        raise invalid_field(field, f"it is longer than {_MAX_SCHEMA} characters")
    check_object(field, text)
    return text
