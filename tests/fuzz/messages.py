"""Sends random messages to every RPC. No answer may be UNKNOWN or INTERNAL: whatever comes, it is the caller's fault."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor

from tests.fuzz.names import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, MethodDescriptor

CONTRACT = Path(__file__).parents[2] / "services" / "gateway" / "api.binpb"
DEFECTS = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}
TIME_LIMIT_S = 5.0
# A watch ends only when the client goes away.
WATCHED_S = 0.2
MOST_EVENTS = 50
MOST_DEPTH = 5

TEXTS = (
    "",
    NAME,
    NAME,
    NAME,
    "auto",
    "a",
    "A b",
    "a\0b",
    "ä日本\u202e",
    "../..",
    "%00",
    "x" * 300,
    "{}",
    '{"model": "auto"}',
    "[1,",
)
WHOLE = (0, 1, 1, 2, 3, 5, 100, -1, 251, 2**31 - 1, -(2**31))
LONG = (*WHOLE, 2**63 - 1, -(2**63))
BROKEN = (0.0, 0.5, 1.0, 1.0, 2.0, -1.0, 1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan)
BYTES = (
    b"",
    b"text",
    b"\xff\x00",
    b"%PDF-1.4",
    b"PK\x03\x04",
    b'{"model": "auto", "messages": [{"role": "user", "content": "x"}]}',
)
SIGNED_64 = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64}
UNSIGNED = {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}


class Fuzzer:
    """A source of random messages; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secrets here
        pool = descriptor_pool.DescriptorPool()
        files = descriptor_pb2.FileDescriptorSet.FromString(CONTRACT.read_bytes())
        for file in files.file:
            pool.Add(file)
        found = [pool.FindFileByName(file.name) for file in files.file if file.package.startswith("penstock.")]
        self.methods: list[MethodDescriptor] = [
            method for file in found for service in file.services_by_name.values() for method in service.methods
        ]

    def message(self, kind: Descriptor, depth: int = 0) -> Any:
        """A message with some of its fields set; those that a request cannot do without are mostly there."""
        built = message_factory.GetMessageClass(kind)()
        often = 0.7 if depth < 2 else 0.4  # deep ones are rare, so that they stay small
        for field in kind.fields:
            if depth < MOST_DEPTH and self._random.random() < often:
                self._set(built, field, depth)
        return built

    def _set(self, built: Any, field: FieldDescriptor, depth: int) -> None:
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            value_field = entry.fields_by_name["value"]
            for _ in range(self._random.randrange(3)):
                key = self._scalar(entry.fields_by_name["key"])
                if value_field.message_type is not None:
                    getattr(built, field.name)[key].CopyFrom(self.message(value_field.message_type, depth + 1))
                else:
                    getattr(built, field.name)[key] = self._scalar(value_field)
        elif field.is_repeated:
            for _ in range(self._random.choice((0, 1, 1, 2, 3))):
                if entry is not None:
                    getattr(built, field.name).add().CopyFrom(self.message(entry, depth + 1))
                else:
                    getattr(built, field.name).append(self._scalar(field))
        elif entry is not None:
            getattr(built, field.name).CopyFrom(self.message(entry, depth + 1))
        else:
            setattr(built, field.name, self._scalar(field))

    def _scalar(self, field: FieldDescriptor) -> Any:
        choice = self._random.choice
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return choice(BYTES) if field.type == FieldDescriptor.TYPE_BYTES else choice(TEXTS)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return choice((True, False))
        if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            return choice((*(value.number for value in field.enum_type.values), 99))
        if field.cpp_type in {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}:
            return choice(BROKEN)
        if field.cpp_type in UNSIGNED:
            return abs(choice(WHOLE)) % 2**31
        return choice(LONG if field.type in SIGNED_64 else WHOLE)


def fuzz(target: str, seconds: float, seed: int) -> list[str]:
    """What was answered by UNKNOWN or INTERNAL, after calling all methods in turn for so many seconds."""
    fuzzer = Fuzzer(seed)
    codes: Counter[str] = Counter()
    defects: list[str] = []
    with grpc.insecure_channel(target) as channel:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for method in fuzzer.methods:
                request = fuzzer.message(method.input_type)
                code, details = _call(channel, method, request)
                codes[code.name] += 1
                if code in DEFECTS:
                    defects.append(f"{method.full_name}: {code.name}: {details}\n{request}")
    print(f"{len(fuzzer.methods)} methods, seed {seed}: {dict(codes.most_common())}")  # noqa: T201 - a program's output
    return defects


def _call(channel: grpc.Channel, method: MethodDescriptor, request: Any) -> tuple[grpc.StatusCode, str]:
    path = f"/{method.containing_service.full_name}/{method.name}"
    serializers = {"request_serializer": type(request).SerializeToString, "response_deserializer": None}
    streaming = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    given: Any = iter([request]) if method.client_streaming else request
    try:
        limit = WATCHED_S if method.name.startswith("Watch") else TIME_LIMIT_S
        answer = getattr(channel, streaming)(path, **serializers)(given, timeout=limit)
        if method.server_streaming:
            _read(answer)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def _read(events: Iterator[bytes]) -> None:
    for number, _ in enumerate(events):
        if number == MOST_EVENTS:
            break
    events.cancel()  # type: ignore[attr-defined]  # a call is its own iterator
