"""Reads the API's contract: which RPCs there are and how REST reaches them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from google.api import annotations_pb2, httpbody_pb2
from google.protobuf import any_pb2, descriptor_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

PACKAGE: Final = "penstock."
_VARIABLE = re.compile(r"\{([a-z0-9_.]+)(?:=([^}]*))?\}")
_Options = descriptor_pb2.MethodOptions
_RAW: Final = httpbody_pb2.HttpBody.DESCRIPTOR.full_name
# What an error's details may hold; without these descriptors the transcoder would answer errors with empty bodies.
_ERROR_FILES: Final = (any_pb2, duration_pb2, status_pb2, error_details_pb2)


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC that REST can reach."""

    service: str
    """Full name, as in `penstock.inference.v1.GenerationService`."""
    name: str
    verb: str
    """HTTP method in capitals."""
    template: str
    """Path as in google.api.http, as in `/v1/collections/{collection}`."""
    body: str
    """Field that the HTTP body fills: `*` for all, empty for none."""
    response_body: str
    input_type: str
    output_type: str
    client_streaming: bool
    server_streaming: bool
    idempotent: bool
    """Whether doing it again changes nothing, as the contract's `idempotency_level` says."""
    raw: bool
    """Whether the response is a google.api.HttpBody, passed on as it is."""
    raw_body: bool
    """Whether the request is a stream of google.api.HttpBody: a body of any size and type, passed on as it comes."""

    @property
    def backend(self) -> str:
        """The service process that serves it: the package's second part."""
        return self.service.removeprefix(PACKAGE).split(".", 1)[0]

    @property
    def variables(self) -> tuple[str, ...]:
        """The fields that the path fills."""
        return tuple(found[1] for found in _VARIABLE.finditer(self.template))

    @property
    def pattern(self) -> str:
        """A regular expression over whole paths; empty where the path has no variables."""
        if not self.variables:
            return ""
        pieces: list[str] = []
        end = 0
        for found in _VARIABLE.finditer(self.template):
            pieces += [re.escape(self.template[end : found.start()]), ".+" if found[2] == "**" else "[^/]+"]
            end = found.end()
        return "".join([*pieces, re.escape(self.template[end:])])


class Contract:
    """The API as its descriptors tell it."""

    def __init__(self, files: Iterable[descriptor_pb2.FileDescriptorProto]) -> None:
        self.files: Mapping[str, descriptor_pb2.FileDescriptorProto] = {file.name: file for file in files}

    @classmethod
    def read(cls, path: Path) -> Contract:
        """Reads a descriptor set and adds what errors are told with, should it lack them."""
        stored = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
        files = {file.name: file for file in stored.file}
        for module in _ERROR_FILES:
            if module.DESCRIPTOR.name not in files:
                added = descriptor_pb2.FileDescriptorProto()
                module.DESCRIPTOR.CopyToProto(added)
                files[added.name] = added
        return cls(files.values())

    @cached_property
    def packages(self) -> tuple[str, ...]:
        """Packages with services, as in `penstock.inference.v1`, sorted."""
        return tuple(sorted({file.package for file in self.files.values() if file.service and self._own(file)}))

    @cached_property
    def rpcs(self) -> tuple[Rpc, ...]:
        """All RPCs with a REST path, by path and verb."""
        found = [
            rpc
            for file in self.files.values()
            if self._own(file)
            for service in file.service
            for method in service.method
            for rpc in self._bindings(f"{file.package}.{service.name}", method)
        ]
        return tuple(sorted(found, key=lambda rpc: (rpc.template, rpc.verb)))

    def descriptors(self, services: Iterable[str]) -> bytes:
        """A serialized descriptor set of just these services, what they need and what errors need, without comments."""
        kept: dict[str, descriptor_pb2.FileDescriptorProto] = {}
        for name in self._files_of(services):
            self._add(name, kept)
        for module in _ERROR_FILES:
            self._add(module.DESCRIPTOR.name, kept)
        return descriptor_pb2.FileDescriptorSet(file=kept.values()).SerializeToString(deterministic=True)

    def _files_of(self, services: Iterable[str]) -> list[str]:
        wanted = set(services)
        return [
            file.name
            for file in self.files.values()
            if any(f"{file.package}.{service.name}" in wanted for service in file.service)
        ]

    def _add(self, name: str, kept: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
        if name in kept:
            return
        for dependency in self.files[name].dependency:
            self._add(dependency, kept)
        bare = descriptor_pb2.FileDescriptorProto()
        bare.CopyFrom(self.files[name])
        bare.ClearField("source_code_info")
        kept[name] = bare

    def _bindings(self, service: str, method: descriptor_pb2.MethodDescriptorProto) -> list[Rpc]:
        http: Any = annotations_pb2.http  # typed as a plain descriptor, which the stubs of options do not take
        if not method.options.HasExtension(http):
            return []
        rule = method.options.Extensions[http]
        bindings: list[Rpc] = []
        for one in (rule, *rule.additional_bindings):
            verb = one.WhichOneof("pattern") or ""
            bindings.append(
                Rpc(
                    service=service,
                    name=method.name,
                    verb=one.custom.kind if verb == "custom" else verb.upper(),
                    template=one.custom.path if verb == "custom" else getattr(one, verb),
                    body=one.body,
                    response_body=one.response_body,
                    input_type=method.input_type.removeprefix("."),
                    output_type=method.output_type.removeprefix("."),
                    client_streaming=method.client_streaming,
                    server_streaming=method.server_streaming,
                    idempotent=method.options.idempotency_level != _Options.IDEMPOTENCY_UNKNOWN,
                    raw=self._field_type(method.output_type.removeprefix("."), one.response_body) == _RAW,
                    raw_body=method.client_streaming
                    and self._field_type(method.input_type.removeprefix("."), one.body) == _RAW,
                )
            )
        return bindings

    def _field_type(self, message: str, field: str) -> str:
        if not field:
            return message
        for file in self.files.values():
            for one in file.message_type:
                if f"{file.package}.{one.name}" == message:
                    return next((f.type_name.removeprefix(".") for f in one.field if f.name == field), "")
        return ""

    @staticmethod
    def _own(file: descriptor_pb2.FileDescriptorProto) -> bool:
        return file.package.startswith(PACKAGE)
