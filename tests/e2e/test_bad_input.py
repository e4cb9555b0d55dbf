"""Bad input gets the right code, a reason, and a message that names the field, over gRPC and over REST."""

from __future__ import annotations

import json
import socket
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from penstock.experiments.v1 import (
    assignment_service_pb2,
    experiment_pb2,
    experiment_service_pb2,
    outcome_pb2,
    outcome_service_pb2,
)
from penstock.inference.v1 import embedding_service_pb2, generation_pb2, generation_service_pb2
from penstock.retrieval.v1 import (
    answer_service_pb2,
    collection_pb2,
    collection_service_pb2,
    document_pb2,
    document_service_pb2,
    search_service_pb2,
)

from tests.e2e.faces import Face, Grpc, Refused, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from tests.support.suite import Suite

MEBIBYTE = 1 << 20
DOCS = "penstock-docs"


@pytest.fixture(params=[Grpc, Rest], ids=["grpc", "rest"])
def face(request: pytest.FixtureRequest, suite: Suite) -> Iterator[Face]:
    face = request.param(suite.grpc if request.param is Grpc else suite.url)
    yield face
    face.close()


def variants(*names: str) -> list[experiment_pb2.Variant]:
    return [experiment_pb2.Variant(variant=name, weight=1) for name in names]


def documents(**content: Any) -> document_service_pb2.AddDocumentsRequest:
    return document_service_pb2.AddDocumentsRequest(
        collection=DOCS, documents=[document_pb2.DocumentInput(document="bad", **content)]
    )


CASES: list[tuple[str, str, Message, str, str, str]] = [
    (
        "empty prompt",
        "Generate",
        generation_service_pb2.GenerateRequest(prompt=""),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "prompt",
    ),
    (
        "a prompt over 1 MiB",
        "Generate",
        generation_service_pb2.GenerateRequest(prompt="x" * (MEBIBYTE + 1)),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "prompt",
    ),
    (
        "no prompt at all",
        "Generate",
        generation_service_pb2.GenerateRequest(model="auto"),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "prompt",
    ),
    (
        "temperature out of range",
        "Generate",
        generation_service_pb2.GenerateRequest(prompt="x", sampling=generation_pb2.Sampling(temperature=-0.1)),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "sampling.temperature",
    ),
    (
        "unknown model",
        "Generate",
        generation_service_pb2.GenerateRequest(prompt="x", model="gpt-nowhere"),
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "gpt-nowhere",
    ),
    (
        "an embedder asked to write",
        "Generate",
        generation_service_pb2.GenerateRequest(prompt="x", model="all-minilm-l6-v2"),
        "FAILED_PRECONDITION",
        "MODEL_CAPABILITY_MISSING",
        "all-minilm-l6-v2",
    ),
    (
        "nothing to embed",
        "Embed",
        embedding_service_pb2.EmbedRequest(),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "inputs",
    ),
    (
        "unknown collection in a search",
        "Search",
        search_service_pb2.SearchRequest(collections=["nowhere"], query="x"),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
        "nowhere",
    ),
    (
        "unknown collection in an answer",
        "Answer",
        answer_service_pb2.AnswerRequest(collections=["nowhere"], query="x"),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
        "nowhere",
    ),
    (
        "negative top_k",
        "Search",
        search_service_pb2.SearchRequest(collections=[DOCS], query="x", top_k=-1),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "top_k",
    ),
    (
        "unknown model in an answer",
        "Answer",
        answer_service_pb2.AnswerRequest(collections=[DOCS], query="x", model="gpt-nowhere"),
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "gpt-nowhere",
    ),
    (
        "a corrupt PDF",
        "AddDocuments",
        documents(data=b"%PDF-1.7\nnothing of the kind", media_type="application/pdf"),
        "INVALID_ARGUMENT",
        "DOCUMENT_UNREADABLE",
        "documents[0].data",
    ),
    (
        "an unknown media type",
        "AddDocuments",
        documents(data=b"\x89PNG\r\n\x1a\n", media_type="image/png"),
        "INVALID_ARGUMENT",
        "UNSUPPORTED_MEDIA_TYPE",
        "image/png",
    ),
    (
        "a document without content",
        "AddDocuments",
        documents(),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "documents[0].content",
    ),
    (
        "a collection id with a space",
        "CreateCollection",
        collection_service_pb2.CreateCollectionRequest(collection=collection_pb2.Collection(collection="a b")),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "collection.collection",
    ),
    (
        "a collection that exists",
        "CreateCollection",
        collection_service_pb2.CreateCollectionRequest(collection=collection_pb2.Collection(collection=DOCS)),
        "ALREADY_EXISTS",
        "COLLECTION_ALREADY_EXISTS",
        DOCS,
    ),
    (
        "an experiment with one arm",
        "CreateExperiment",
        experiment_service_pb2.CreateExperimentRequest(
            experiment=experiment_pb2.Experiment(experiment="x", unit=experiment_pb2.UNIT_USER, variants=variants("a"))
        ),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "experiment.variants",
    ),
    (
        "an unknown experiment",
        "Assign",
        assignment_service_pb2.AssignRequest(experiment="nowhere", unit_id="u"),
        "NOT_FOUND",
        "EXPERIMENT_NOT_FOUND",
        "nowhere",
    ),
    (
        "an outcome of nothing",
        "RecordOutcomes",
        outcome_service_pb2.RecordOutcomesRequest(
            outcomes=[outcome_pb2.Outcome(outcome="o", assignment="invented", metric="m", value=1)]
        ),
        "NOT_FOUND",
        "ASSIGNMENT_NOT_FOUND",
        "invented",
    ),
]


@pytest.mark.parametrize(
    ("method", "message", "code", "reason", "named"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_refusal_is_typed_and_names_what_is_wrong(
    face: Face, method: str, message: Message, code: str, reason: str, named: str
) -> None:
    with pytest.raises(Refused) as refused:
        face.call(method, message)
    assert (refused.value.code, refused.value.reason) == (code, reason)
    assert named in refused.value.message
    assert refused.value.request_id
    if reason == "INVALID_FIELD" and refused.value.fields:
        assert refused.value.fields == (named,)


@pytest.fixture
def rest(suite: Suite) -> Iterator[Rest]:
    rest = Rest(suite.url)
    yield rest
    rest.close()


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b'{"prompt": ', JSON, 400, "MALFORMED_REQUEST"),
        (b'{"prompt": "\xff\xfe"}', JSON, 400, "MALFORMED_REQUEST"),
        (b'{"prompt": 3}', JSON, 400, "MALFORMED_REQUEST"),
        (b"prompt=hi", {"content-type": "application/x-www-form-urlencoded"}, 415, "UNSUPPORTED_CONTENT_TYPE"),
        (b"<prompt>hi</prompt>", {"content-type": "text/xml"}, 415, "UNSUPPORTED_CONTENT_TYPE"),
        (b'{"prompt": "' + b"x" * 50_000_000 + b'"}', JSON, 413, "REQUEST_TOO_LARGE"),
    ],
    ids=["half an object", "broken UTF-8", "a number for text", "a form", "XML", "50 MB"],
)
def test_bodies_that_are_no_request(rest: Rest, body: bytes, headers: dict[str, str], status: int, reason: str) -> None:
    answer = rest.client.post("/v1/generate", content=body, headers=headers)
    assert answer.status_code == status
    told = answer.json()
    info = next(detail for detail in told["details"] if detail["@type"].endswith("ErrorInfo"))
    assert info["reason"] == reason
    assert told["message"]
    assert answer.headers["x-request-id"]


def test_broken_utf8_over_grpc_names_the_field(suite: Suite) -> None:
    grpc_face = Grpc(suite.grpc)
    call: Any = grpc_face._channel.unary_unary("/penstock.inference.v1.GenerationService/Generate")
    with pytest.raises(Exception, match="prompt: the text is not valid UTF-8") as caught:
        call(b"\x12\x02\xff\xfe", timeout=10)
    assert Grpc._refused(caught.value).reason == "MALFORMED_REQUEST"
    grpc_face.close()


def test_50_mb_over_grpc_is_too_large(suite: Suite) -> None:
    grpc_face = Grpc(suite.grpc)
    with pytest.raises(Refused) as refused:
        grpc_face.call("Generate", generation_service_pb2.GenerateRequest(prompt="x" * 50_000_000))
    assert (refused.value.code, refused.value.reason) == ("RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE")
    grpc_face.close()


def test_unknown_paths_are_said_so(rest: Rest) -> None:
    answer = rest.client.get("/v1/nowhere")
    assert answer.status_code == 404
    assert "ROUTE_NOT_FOUND" in answer.text


def test_a_bare_socket_gets_an_answer(suite: Suite) -> None:
    host, port = suite.grpc.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as bare:
        bare.sendall(b"nonsense\r\n\r\n")
        assert b"400" in bare.recv(4096)


def test_request_id_is_kept(rest: Rest) -> None:
    request_id = str(uuid.uuid4())
    answer = rest.client.post("/v1/generate", content=b"{}", headers={**JSON, "x-request-id": request_id})
    assert answer.headers["x-request-id"] == request_id
    assert request_id in json.dumps(answer.json())
