"""Between the contract's prompts and those of the domain."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import struct_pb2, timestamp_pb2
from penstock.inference.v1 import generation_pb2, prompt_pb2

from services.chassis.errors import invalid_field
from services.inference.form_convert import ROLES, messages_of
from services.inference.prompts.use import PromptUse

if TYPE_CHECKING:
    from services.inference.engine import Message, Role
    from services.inference.prompts.use import PromptReference

# Values within values.
_DEEPEST: Final = 32


def use_of(message: prompt_pb2.PromptTemplate) -> PromptUse:
    """Reads how a request names a prompt."""
    variables = tuple(plain(message.variables, "prompt_template.variables").items())
    return PromptUse(message.name, message.version, variables, messages_of(message.messages))


def reference_message(reference: PromptReference | None) -> prompt_pb2.PromptReference | None:
    """Writes which version was rendered."""
    return prompt_pb2.PromptReference(name=reference.name, version=reference.version) if reference else None


def plain(message: struct_pb2.Struct, field: str) -> dict[str, Any]:
    """Reads a JSON object. Raises INVALID_FIELD for what no JSON has: numbers that are none, and great depth."""
    return {name: plain_value(value, f"{field}.{name[:64]}") for name, value in message.fields.items()}


def plain_value(value: struct_pb2.Value, field: str, depth: int = 0) -> Any:
    """Reads a JSON value. Raises INVALID_FIELD as `plain` does."""
    if depth > _DEEPEST:
        raise invalid_field(field, f"it is nested deeper than {_DEEPEST}")
    match value.WhichOneof("kind"):
        case "list_value":
            return [plain_value(one, field, depth + 1) for one in value.list_value.values]
        case "struct_value":
            return {name: plain_value(one, field, depth + 1) for name, one in value.struct_value.fields.items()}
        case "number_value":
            if not math.isfinite(value.number_value):
                raise invalid_field(field, "it is no number of JSON")
            return value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
    return None


def value_message(value: Any) -> struct_pb2.Value:
    """Writes a JSON value."""
    match value:
        case bool():
            return struct_pb2.Value(bool_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=value)
        case str():
            return struct_pb2.Value(string_value=value)
        case list():
            return struct_pb2.Value(list_value=struct_pb2.ListValue(values=map(value_message, value)))
        case dict():
            fields = {name: value_message(one) for name, one in value.items()}
            return struct_pb2.Value(struct_value=struct_pb2.Struct(fields=fields))
        case _:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)


def role_message(role: Role) -> generation_pb2.Role.ValueType:
    """Writes who speaks."""
    return next(number for number, one in ROLES.items() if one is role)


def message_message(message: Message) -> generation_pb2.Message:
    """Writes a rendered message."""
    return generation_pb2.Message(role=role_message(message.role), parts=[generation_pb2.Part(text=message.text)])


def timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    """Writes a moment, given in seconds since the epoch."""
    moment = timestamp_pb2.Timestamp()
    moment.FromNanoseconds(int(seconds * 1e9))
    return moment
