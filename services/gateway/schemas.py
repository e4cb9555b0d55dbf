"""Describes messages and enums as JSON Schema, in the form that the transcoder reads and writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.api import field_behavior_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

from services.gateway.rules import Limits, is_required, read_choices, read_limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.gateway.contract import Contract

_SCALARS: Final[Mapping[int, Mapping[str, Any]]] = {
    Field.TYPE_DOUBLE: {"type": "number", "format": "double"},
    Field.TYPE_FLOAT: {"type": "number", "format": "float"},
    Field.TYPE_INT32: {"type": "integer", "format": "int32"},
    Field.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    Field.TYPE_INT64: {"type": "string", "format": "int64"},
    Field.TYPE_UINT64: {"type": "string", "format": "uint64"},
    Field.TYPE_BOOL: {"type": "boolean"},
    Field.TYPE_STRING: {"type": "string"},
    Field.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
_WELL_KNOWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "examples": ["0.25s"],
    },
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "additionalProperties": True,
    },
}


class Schemas:
    """The schemas of a contract; those that were asked for, and what they refer to, gather in `components`."""

    def __init__(self, contract: Contract) -> None:
        self.components: dict[str, Any] = {}
        self._messages: dict[str, descriptor_pb2.DescriptorProto] = {}
        self._enums: dict[str, descriptor_pb2.EnumDescriptorProto] = {}
        self._comments: dict[str, str] = {}
        for file in contract.files.values():
            for message in file.message_type:
                self._index(file.package, message)
            for enum in file.enum_type:
                self._enums[f"{file.package}.{enum.name}"] = enum
            self._comments.update(_comments(file))

    def comment(self, name: str) -> str:
        """The comment beside a service, RPC, message, field, enum or value, by its full name."""
        return self._comments.get(name, "")

    def message(self, name: str) -> descriptor_pb2.DescriptorProto:
        """The descriptor of a message."""
        return self._messages[name]

    def reference(self, name: str) -> dict[str, Any]:
        """A schema for the message or enum, by reference where it has a name of its own in JSON."""
        if name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[name])
        if name not in self.components:
            self.components[name] = {}  # holds the place: messages may refer to themselves
            self.components[name] = self.object(name) if name in self._messages else self._enum(name)
        return {"$ref": f"#/components/schemas/{name}"}

    def object(self, name: str, without: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The message's own schema, without the named fields."""
        message = self._messages[name]
        properties: dict[str, Any] = {}
        required: list[str] = []
        for field in message.field:
            if field.name in without:
                continue
            properties[field.name] = self.field(name, field)
            if field_behavior_pb2.REQUIRED in _behavior(field) or read_limits(field).required:
                required.append(field.name)
        schema: dict[str, Any] = {"type": "object", "description": self.comment(name), "properties": properties}
        if required:
            schema["required"] = required
        if choices := self._choices(message):
            schema["allOf" if len(choices) > 1 else "oneOf"] = choices if len(choices) > 1 else choices[0]["oneOf"]
        return schema

    def field(self, message: str, field: Field) -> dict[str, Any]:
        """A field's schema, with its comment and limits."""
        limits = read_limits(field)
        entry = self._map_entry(field)
        if entry is not None:
            value = next(one for one in entry.field if one.name == "value")
            schema: dict[str, Any] = {"type": "object", "additionalProperties": self._single(value, Limits())}
            schema |= limits.keywords
        elif field.label == Field.LABEL_REPEATED:
            items = Limits(keywords=limits.items, excluded=limits.excluded)
            schema = {"type": "array", "items": self._single(field, items), **limits.keywords}
        else:
            schema = self._single(field, limits)
        if comment := self.comment(f"{message}.{field.name}"):
            schema["description"] = comment
        if field_behavior_pb2.OUTPUT_ONLY in _behavior(field):
            schema["readOnly"] = True
        return schema

    def _single(self, field: Field, limits: Limits) -> dict[str, Any]:
        if field.type not in {Field.TYPE_MESSAGE, Field.TYPE_ENUM}:
            return {**_SCALARS[field.type], **limits.keywords}
        name = field.type_name.removeprefix(".")
        schema = self.reference(name)
        if limits.excluded:
            allowed = [value.name for value in self._enums[name].value if value.number not in limits.excluded]
            schema = {**schema, "enum": allowed}
        return schema

    def _enum(self, name: str) -> dict[str, Any]:
        values = [value.name for value in self._enums[name].value]
        scope = name.rpartition(".")[0]
        lines = [f"- `{value}`: {self.comment(f'{scope}.{value}')}" for value in values]
        return {"type": "string", "description": "\n".join([self.comment(name), "", *lines]).strip(), "enum": values}

    def _choices(self, message: descriptor_pb2.DescriptorProto) -> list[dict[str, Any]]:
        """One entry per set of fields of which exactly one is there."""
        found: list[tuple[str, ...]] = [choice.fields for choice in read_choices(message.options) if choice.required]
        for index, oneof in enumerate(message.oneof_decl):
            fields = tuple(
                field.name
                for field in message.field
                if field.HasField("oneof_index") and field.oneof_index == index and not field.proto3_optional
            )
            # The events of a stream: each has exactly one, although servers need no rule to say so.
            if fields and (is_required(oneof.options) or oneof.name == "event"):
                found.append(fields)
        return [{"oneOf": [{"required": [name]} for name in fields]} for fields in found]

    def _map_entry(self, field: Field) -> descriptor_pb2.DescriptorProto | None:
        entry = self._messages.get(field.type_name.removeprefix(".")) if field.type == Field.TYPE_MESSAGE else None
        return entry if entry is not None and entry.options.map_entry else None

    def _index(self, scope: str, message: descriptor_pb2.DescriptorProto) -> None:
        name = f"{scope}.{message.name}"
        self._messages[name] = message
        for nested in message.nested_type:
            self._index(name, nested)
        for enum in message.enum_type:
            self._enums[f"{name}.{enum.name}"] = enum


def _behavior(field: Field) -> list[int]:
    behavior: Any = field_behavior_pb2.field_behavior  # typed as a plain descriptor, which the stubs of options do not take
    return list(field.options.Extensions[behavior])


def _comments(file: descriptor_pb2.FileDescriptorProto) -> dict[str, str]:
    """Comments by full name. A comment is attached to a path of field numbers and indexes from the file down."""
    return {
        name: " ".join(location.leading_comments.split())
        for location in file.source_code_info.location
        if location.leading_comments and (name := _name_at(file, list(location.path)))
    }


def _name_at(file: descriptor_pb2.FileDescriptorProto, path: list[int]) -> str:
    node: Any = file
    names = [file.package]
    while len(path) > 1:
        children = node.DESCRIPTOR.fields_by_number[path[0]]
        if children.message_type is None or not children.is_repeated:
            return ""
        is_value = isinstance(node, descriptor_pb2.EnumDescriptorProto)
        node = getattr(node, children.name)[path[1]]
        if not hasattr(node, "name"):
            return ""
        if is_value:
            names.pop()  # a value's full name stands beside its enum, not in it
        names.append(node.name)
        path = path[2:]
    return "" if path else ".".join(names)
