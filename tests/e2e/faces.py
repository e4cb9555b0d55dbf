"""The same calls over gRPC and over REST, so that one test runs on both.

A call is a method of the contract and a request message. The REST face does what a web developer does: it fills the path from
the `google.api.http` option, sends the rest as JSON, and reads JSON back into the response message; streams are read as
server-sent events.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import grpc
import httpx
from google.api import annotations_pb2
from google.protobuf import json_format, message_factory
from google.rpc import error_details_pb2, status_pb2
from penstock.experiments.v1 import (
    assignment_service_pb2,
    experiment_service_pb2,
    optimization_service_pb2,
    outcome_service_pb2,
    quality_service_pb2,
    result_service_pb2,
)
from penstock.inference.v1 import embedding_service_pb2, generation_service_pb2, model_service_pb2
from penstock.retrieval.v1 import (
    answer_service_pb2,
    collection_service_pb2,
    conversation_service_pb2,
    document_service_pb2,
    search_service_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

MODULES: tuple[Any, ...] = (
    generation_service_pb2,
    embedding_service_pb2,
    model_service_pb2,
    collection_service_pb2,
    document_service_pb2,
    search_service_pb2,
    answer_service_pb2,
    conversation_service_pb2,
    experiment_service_pb2,
    assignment_service_pb2,
    optimization_service_pb2,
    outcome_service_pb2,
    quality_service_pb2,
    result_service_pb2,
)
METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
SECONDS = 60.0


@dataclass(frozen=True)
class Refused(Exception):  # noqa: N818 - what the suite answered, as data
    """A typed failure, equal whichever face carried it."""

    code: str
    reason: str
    message: str
    fields: tuple[str, ...]
    request_id: str


def refused(status: status_pb2.Status) -> Refused:
    reason, fields, request_id = "", [], ""
    for detail in status.details:
        info, bad, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RequestInfo()
        if detail.Unpack(info):
            assert info.domain == "penstock"
            reason = info.reason
        elif detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
        elif detail.Unpack(request):
            request_id = request.request_id
    code = next(known.name for known in grpc.StatusCode if known.value[0] == status.code)
    return Refused(code, reason, status.message, tuple(fields), request_id)


class Face(Protocol):
    """One way into the suite."""

    name: str

    def call(self, method: str, request: Message) -> Any:
        """One response, or Refused."""

    def stream(self, method: str, request: Message) -> Iterator[Any]:
        """The events, or Refused. Closing the iterator cancels the call."""


class Grpc:
    """Native gRPC through the gateway."""

    name = "grpc"

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target, options=[("grpc.max_send_message_length", -1)])

    def call(self, method: str, request: Message) -> Any:
        descriptor = METHODS[method]
        try:
            return self._channel.unary_unary(*self._coders(descriptor))(request, timeout=SECONDS)
        except grpc.RpcError as error:
            raise self._refused(error) from None

    def stream(self, method: str, request: Message) -> Iterator[Any]:
        call = self._channel.unary_stream(*self._coders(METHODS[method]))(request, timeout=SECONDS)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._refused(error) from None
        finally:
            call.cancel()

    @staticmethod
    def _coders(descriptor: MethodDescriptor) -> tuple[str, Any, Any]:
        service = descriptor.containing_service.full_name
        response = message_factory.GetMessageClass(descriptor.output_type)
        return f"/{service}/{descriptor.name}", lambda message: message.SerializeToString(), response.FromString

    @staticmethod
    def _refused(error: Any) -> Refused:
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                return refused(status_pb2.Status.FromString(value))
        return Refused(error.code().name, "", error.details(), (), "")

    def close(self) -> None:
        self._channel.close()


class Rest:
    """JSON over HTTP/1.1, as curl speaks it."""

    name = "rest"

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=SECONDS)

    def call(self, method: str, request: Message) -> Any:
        descriptor = METHODS[method]
        answer = self.client.send(self._request(descriptor, request))
        if answer.status_code != httpx.codes.OK:
            raise self._refused(answer)
        return self._read(descriptor, answer.text)

    def stream(self, method: str, request: Message) -> Iterator[Any]:
        descriptor = METHODS[method]
        http = self._request(descriptor, request)
        http.headers["accept"] = "text/event-stream"
        answer = self.client.send(http, stream=True)
        try:
            if answer.status_code != httpx.codes.OK:
                answer.read()
                raise self._refused(answer)
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield self._read(descriptor, line.removeprefix("data:"))
        finally:
            answer.close()

    def _request(self, descriptor: MethodDescriptor, request: Message) -> httpx.Request:
        options: Any = descriptor.GetOptions()
        rule = options.Extensions[annotations_pb2.http]
        verb = rule.WhichOneof("pattern") or "get"
        fields = json_format.MessageToDict(request, preserving_proto_field_name=True)
        path = re.sub(r"\{(\w+)\}", lambda name: quote(str(fields.pop(name.group(1), "")), safe=""), getattr(rule, verb))
        body = fields if rule.body == "*" else fields.pop(rule.body, {})
        query = {} if rule.body == "*" else fields
        return self.client.build_request(verb.upper(), path, params=query, json=body if rule.body else None)

    @staticmethod
    def _read(descriptor: MethodDescriptor, text: str) -> Any:
        message = message_factory.GetMessageClass(descriptor.output_type)()
        return json_format.Parse(text, message)

    @staticmethod
    def _refused(answer: httpx.Response) -> Refused:
        assert answer.headers["content-type"].startswith("application/json"), answer.text
        status = status_pb2.Status()
        json_format.ParseDict(json.loads(answer.text), status)
        return refused(status)

    def close(self) -> None:
        self.client.close()
