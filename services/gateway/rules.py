"""Reads the limits that the protos state by buf.validate, as keywords of JSON Schema.

The descriptors carry the rules as options whose own descriptors were cut away, so they are read here by their numbers in
buf/validate/validate.proto. Only rules with a counterpart in JSON Schema are read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import empty_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.unknown_fields import UnknownFieldSet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

OPTION: Final = 1159
REQUIRED: Final = 25
STRING: Final = 14
BYTES: Final = 15
ENUM: Final = 16
REPEATED: Final = 18
MAP: Final = 19
MESSAGE_ONEOF: Final = 4
# The number of a scalar type's rules in FieldRules. 64-bit integers are strings in JSON, which have no ranges.
NUMBERS: Final[Mapping[int, int]] = {
    Field.TYPE_FLOAT: 1,
    Field.TYPE_DOUBLE: 2,
    Field.TYPE_INT32: 3,
    Field.TYPE_UINT32: 5,
}
RANGE: Final = {2: "exclusiveMaximum", 3: "maximum", 4: "exclusiveMinimum", 5: "minimum"}
TEXT: Final = {2: "minLength", 3: "maxLength", 6: "pattern"}
TEXT_LENGTH: Final = 19
TEXT_MAX_BYTES: Final = 5
BYTES_MAX: Final = 3
ENUM_NOT_IN: Final = 4
ITEMS: Final = {1: "minItems", 2: "maxItems"}
ITEMS_UNIQUE: Final = 3
ITEMS_RULES: Final = 4
PAIRS: Final = {1: "minProperties", 2: "maxProperties"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a field may hold."""

    required: bool = False
    keywords: Mapping[str, Any] = field(default_factory=dict)
    """For the whole field: of the list where it is one."""
    items: Mapping[str, Any] = field(default_factory=dict)
    """For each element of a list."""
    excluded: frozenset[int] = frozenset()
    """Numbers of enum values that are not allowed."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Fields of which only one may be set."""

    fields: tuple[str, ...]
    required: bool


def read_limits(field: Field) -> Limits:
    """The limits that the field states."""
    rules = _option(field.options)
    required = _flag(rules, REQUIRED)
    if field.label != Field.LABEL_REPEATED:
        keywords, excluded = _value(field.type, rules)
        return Limits(required, keywords, {}, excluded)
    pairs = _named(_message(rules, MAP), PAIRS)
    lists = _message(rules, REPEATED)
    keywords = {**pairs, **_named(lists, ITEMS)}
    if _flag(lists, ITEMS_UNIQUE):
        keywords["uniqueItems"] = True
    items, excluded = _value(field.type, _message(lists, ITEMS_RULES))
    return Limits(required, keywords, items, excluded)


def read_choices(options: Message) -> list[Choice]:
    """The choices that a message states by option, besides its oneofs."""
    return [
        Choice(tuple(name.decode() for name in rule.get(1, [])), required=_flag(rule, 2))
        for rule in (_parse(data) for data in _option(options).get(MESSAGE_ONEOF, []))
    ]


def is_required(options: Message) -> bool:
    """Whether a oneof has to be set."""
    return _flag(_option(options), 1)


def _value(kind: int, rules: Mapping[int, list[Any]]) -> tuple[dict[str, Any], frozenset[int]]:
    """Keywords for a single value of the type, and the enum values that it must not be."""
    if kind == Field.TYPE_STRING:
        return _text(_message(rules, STRING)), frozenset()
    if kind == Field.TYPE_BYTES:
        longest = _message(rules, BYTES).get(BYTES_MAX)
        # In JSON, bytes are base64: four characters for three bytes.
        return ({"maxLength": -(-longest[-1] // 3) * 4} if longest else {}), frozenset()
    if kind == Field.TYPE_ENUM:
        return {}, frozenset(_numbers(_message(rules, ENUM).get(ENUM_NOT_IN, [])))
    if kind in NUMBERS:
        found = _message(rules, NUMBERS[kind])
        return {name: _number(kind, found[number][-1]) for number, name in RANGE.items() if number in found}, frozenset()
    return {}, frozenset()


def _text(rules: Mapping[int, list[Any]]) -> dict[str, Any]:
    keywords = _named(rules, TEXT)
    if isinstance(keywords.get("pattern"), bytes):
        keywords["pattern"] = keywords["pattern"].decode()
    if TEXT_LENGTH in rules:
        keywords["minLength"] = keywords["maxLength"] = rules[TEXT_LENGTH][-1]
    if TEXT_MAX_BYTES in rules:
        # A character takes a byte at least.
        keywords["maxLength"] = min(rules[TEXT_MAX_BYTES][-1], keywords.get("maxLength", rules[TEXT_MAX_BYTES][-1]))
    return keywords


def _number(kind: int, raw: int) -> float | int:
    if kind == Field.TYPE_DOUBLE:
        return _whole(struct.unpack("<d", struct.pack("<Q", raw))[0])
    if kind == Field.TYPE_FLOAT:
        return _whole(struct.unpack("<f", struct.pack("<I", raw))[0])
    return _signed(raw)


def _whole(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _signed(raw: int) -> int:
    return raw - (1 << 64) if raw >= 1 << 63 else raw


def _numbers(values: list[Any]) -> list[int]:
    """Repeated numbers, packed into bytes or not."""
    numbers: list[int] = []
    for value in values:
        if isinstance(value, int):
            numbers.append(_signed(value))
            continue
        number = shift = 0
        for byte in value:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # noqa: PLR2004 (the last byte of a varint)
                numbers.append(_signed(number))
                number = shift = 0
    return numbers


def _option(options: Message) -> dict[int, list[Any]]:
    merged = b"".join(found.data for found in _unknown(options) if found.field_number == OPTION)
    return _parse(merged)


def _message(rules: Mapping[int, list[Any]], number: int) -> dict[int, list[Any]]:
    return _parse(b"".join(rules.get(number, [])))


def _parse(data: bytes) -> dict[int, list[Any]]:
    """Fields of a message of unknown type, by number."""
    fields: dict[int, list[Any]] = {}
    for found in _unknown(empty_pb2.Empty.FromString(data)):
        fields.setdefault(found.field_number, []).append(found.data)
    return fields


def _unknown(message: Message) -> list[Any]:
    fields = UnknownFieldSet(message)
    return [fields[index] for index in range(len(fields))]


def _named(rules: Mapping[int, list[Any]], names: Mapping[int, str]) -> dict[str, Any]:
    return {name: rules[number][-1] for number, name in names.items() if number in rules}


def _flag(rules: Mapping[int, list[Any]], number: int) -> bool:
    return bool(rules.get(number, [0])[-1])
