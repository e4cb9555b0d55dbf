"""What callers are told about requests that break the limits of their protos."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from penstock.experiments.v1 import experiment_pb2, experiment_service_pb2
from penstock.inference.v1 import generation_pb2, generation_service_pb2
from penstock.retrieval.v1 import collection_pb2, collection_service_pb2, document_pb2, document_service_pb2

from services.chassis.errors import Failure, Reason
from services.chassis.validation import Validation

LIMIT = 1 << 20


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            document_service_pb2.AddDocumentsRequest(collection="a", documents=[document_pb2.DocumentInput(document="x")]),
            "documents[0].content: give one of text, data",
        ),
        (
            collection_service_pb2.CreateCollectionRequest(collection=collection_pb2.Collection(collection="Two/" + "w" * 100)),
            f"collection.collection: 'Two/{'w' * 60}' does not fit the pattern ^[a-z0-9]([a-z0-9._-]{{0,62}}[a-z0-9])?$",
        ),
        (collection_service_pb2.CreateCollectionRequest(), "collection: value is required"),
        (
            experiment_service_pb2.CreateExperimentRequest(
                experiment=experiment_pb2.Experiment(
                    experiment="e",
                    variants=[experiment_pb2.Variant(variant=name, weight=1) for name in "ab"],
                )
            ),
            "experiment.unit: must be given",
        ),
        (
            generation_service_pb2.GenerateRequest(
                messages=[generation_pb2.Message(role=generation_pb2.ROLE_USER, parts=[generation_pb2.Part()])]
            ),
            "messages[0].parts[0].content: give one of text, tool_call, tool_result, image",
        ),
    ],
)
def test_a_refusal_speaks_of_names_and_values(request_: Any, message: str) -> None:
    with pytest.raises(Failure) as caught:
        Validation(LIMIT).receive(request_)
    assert caught.value.reason is Reason.INVALID_FIELD
    assert caught.value.message == message


def field(number: int, content: bytes) -> bytes:
    """A field as protobuf encodes it."""
    size, length = len(content), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def received(request: bytes) -> Any:
    handler = SimpleNamespace(request_deserializer=document_service_pb2.AddDocumentsRequest.FromString)
    return Validation(LIMIT).deserializer(handler, "/method")(request)


def with_metadata(value: bytes) -> bytes:
    struct = field(1, field(1, b"k") + field(2, value))
    return field(2, field(document_pb2.DocumentInput.METADATA_FIELD_NUMBER, struct))


def test_a_text_that_is_not_utf_8_is_named() -> None:
    refused = received(field(2, field(1, b"fine")) + field(2, field(1, b"\xff")))
    assert isinstance(refused, Failure)
    assert (refused.reason, refused.metadata) == (Reason.MALFORMED_REQUEST, {"field": "documents[1].document"})


@pytest.mark.parametrize("depth", [60, 2000])
def test_bytes_of_great_depth_cost_nothing_and_are_refused(depth: int) -> None:
    value = field(3, b"a" * (LIMIT // 2))
    for _ in range(depth):
        # A list that holds a list.
        value = field(6, field(1, value))
    request = with_metadata(value)
    assert isinstance(received(with_metadata(field(3, b"a"))), document_service_pb2.AddDocumentsRequest)
    tracemalloc.start()
    try:
        refused = received(request)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(refused, Failure)
    assert refused.reason is Reason.MALFORMED_REQUEST
    assert most < LIMIT
