"""What callers are told about requests that break the limits of their protos."""

from __future__ import annotations

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
