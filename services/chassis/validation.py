"""Holds requests to the limits that their protos state, before any handler sees them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import protovalidate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from services.chassis.errors import Failure, Reason, invalid_field
from services.chassis.interceptors import Context, Interceptor

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import Descriptor

# Wire types of the protobuf encoding.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}
# Characters of a refused value that a message repeats.
_SHOWN = 64
# Messages within messages that protobuf itself reads.
_DEEPEST = 100


class Validation(Interceptor):
    """Innermost: bytes must be a message, and the message must keep the limits of its proto.

    Bytes that are no message reach this class as the failure itself instead of a message, since grpc answers an exception
    in a deserializer with INTERNAL.
    """

    def __init__(self, max_request_bytes: int) -> None:
        super().__init__()
        self._max_request_bytes = max_request_bytes

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:  # noqa: ARG002 - nothing to do around
        """Nothing around the call: all is done message by message."""
        return nullcontext()

    def receive(self, message: Any) -> Any:
        """Returns the message if it keeps the limits; raises INVALID_FIELD with every violation otherwise."""
        if isinstance(message, Failure):
            raise message
        if isinstance(message, bytes):
            # Between processes of one service, where no proto stands.
            return message
        violations = protovalidate.collect_violations(message)
        if violations:
            raise _refusal(message, violations)
        return message

    def deserializer(self, handler: Any, method: str) -> Callable[[bytes], Any]:
        """Reads a message, or returns the failure that says why it cannot."""
        read = handler.request_deserializer
        if read is None:
            return lambda data: data
        # The generated deserializer is the message class's FromString.
        descriptor: Descriptor | None = getattr(getattr(read, "__self__", None), "DESCRIPTOR", None)

        def deserialize(data: bytes) -> Any:
            if len(data) > self._max_request_bytes:
                return _too_large(len(data), self._max_request_bytes)
            try:
                return read(data)
            except DecodeError:
                field = _broken_text(descriptor, memoryview(data)) if descriptor else None
                if field:
                    return invalid_field(field, "the text is not valid UTF-8", Reason.MALFORMED_REQUEST)
                return Failure(Reason.MALFORMED_REQUEST, f"the bytes are no request message of {method}")

        return deserialize


def _too_large(size: int, limit: int) -> Failure:
    return Failure(
        Reason.REQUEST_TOO_LARGE,
        f"the request has {size} bytes; the limit is {limit}; send less at a time",
        metadata={"limit_bytes": str(limit)},
    )


def _refusal(request: Any, violations: list[Any]) -> Failure:
    problems = [(_path(violation.proto.field), _problem(request, violation)) for violation in violations]
    message = "; ".join(f"{field}: {problem}" if field else problem for field, problem in problems)
    # A rule over several fields has no path; its message names them.
    named = [(field, problem) for field, problem in problems if field]
    metadata = {"field": named[0][0]} if named else {}
    return Failure(Reason.INVALID_FIELD, message, metadata=metadata, violations=named)


def _problem(request: Any, violation: Any) -> str:
    """What is wrong in words for callers, who know names and values and not the rules that are broken."""
    rule = violation.proto.rule_id
    if rule == "string.pattern":
        return f"{violation.field_value[:_SHOWN]!r} does not fit the pattern {violation.rule_value}"
    if rule == "enum.not_in" and list(violation.rule_value) == [0]:
        return "must be given"
    choices = _choices(request.DESCRIPTOR, violation.proto.field.elements) if rule == "required" else []
    return f"give one of {', '.join(choices)}" if choices else str(violation.proto.message)


def _choices(descriptor: Descriptor, path: Any) -> list[str]:
    """The fields of the oneof that a path ends with; none if it ends with a field."""
    for element in path:
        if not element.field_number:
            return [field.name for field in descriptor.oneofs_by_name[element.field_name].fields]
        kind = descriptor.fields_by_number[element.field_number].message_type
        if kind is not None and kind.GetOptions().map_entry:
            kind = kind.fields_by_name["value"].message_type
        if kind is None:
            return []
        descriptor = kind
    return []


def _path(path: Any) -> str:
    """Writes a field path as `documents[0].text`."""
    written = ""
    for element in path.elements if path is not None else ():
        written += f".{element.field_name}" if written else element.field_name
        subscript = element.subscript
        if subscript is not None:
            written += f"[{subscript.value!r}]"
    return written


def _broken_text(descriptor: Descriptor, data: memoryview, prefix: str = "", depth: int = 0) -> str | None:
    """Names the first string field that is not UTF-8, or None where the encoding itself is broken."""
    if depth > _DEEPEST:
        return None
    position = 0
    seen: dict[str, int] = {}
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            wire_type = tag & 7
            if wire_type == _VARINT:
                _, position = _varint(data, position)
            elif wire_type in _SIZES:
                position += _SIZES[wire_type]
            elif wire_type == _BYTES:
                size, position = _varint(data, position)
                chunk, position = data[position : position + size], position + size
                field = descriptor.fields_by_number.get(tag >> 3)
                found = _broken_field(field, chunk, prefix, seen, depth) if field else None
                if found:
                    return found
            else:
                return None
    except IndexError:
        return None
    return None


def _broken_field(field: FieldDescriptor, chunk: memoryview, prefix: str, seen: dict[str, int], depth: int) -> str | None:
    name = prefix + field.name
    if field.is_repeated:
        index = seen[field.name] = seen.get(field.name, -1) + 1
        name += f"[{index}]"
    if field.message_type is not None:
        return _broken_text(field.message_type, chunk, f"{name}.", depth + 1)
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            str(chunk, "utf-8")
        except UnicodeDecodeError:
            return name
    return None


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit of a varint
            return value, position
        shift += 7
