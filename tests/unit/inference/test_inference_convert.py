from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2
from penstock.experiments.v1 import assignment_pb2
from penstock.inference.v1 import generation_pb2, generation_service_pb2, model_pb2

from services.chassis.errors import Failure, Reason
from services.inference import convert, form_convert
from services.inference.answers import Answer
from services.inference.engine import (
    Capability,
    Delta,
    Embeddings,
    FinishReason,
    Message,
    ModelState,
    Passage,
    Role,
    Sampling,
    Usage,
    UsageSource,
)
from services.inference.generation import Assignment, Completed, Embedded, Event, Finished, Started
from services.inference.models import Listed
from services.inference.progress import Timings
from tests.unit.inference.scripted_engine import embedder

ASSIGNMENT = Assignment("key", "e1", "b")
REQUESTS = (generation_service_pb2.GenerateRequest, generation_service_pb2.StreamGenerateRequest)


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_prompt_is_one_user_message(kind: type[convert.GenerationMessage]) -> None:
    request = convert.request_of(kind(prompt="Hello"), "r1")
    assert request.messages == (Message(Role.USER, "Hello"),)
    assert request.sampling == Sampling()
    assert (request.max_tokens, request.stop, request.assignment, request.request_id) == (None, (), None, "r1")


@pytest.mark.parametrize("kind", REQUESTS)
def test_all_of_a_request_is_read_and_zero_is_a_value(kind: type[convert.GenerationMessage]) -> None:
    parts = [generation_pb2.Part(text="Hel"), generation_pb2.Part(text="lo")]
    message = kind(
        model="m",
        messages=[
            generation_pb2.Message(role=generation_pb2.ROLE_SYSTEM, parts=parts[:1]),
            generation_pb2.Message(role=generation_pb2.ROLE_ASSISTANT, parts=parts),
        ],
        passages=[generation_pb2.Passage(text="p", title="t")],
        sampling=generation_pb2.Sampling(temperature=0, top_p=0.5, top_k=1, seed=0, presence_penalty=0, frequency_penalty=0),
        max_tokens=9,
        stop=["x", "y"],
        user="u",
        conversation="c",
        assignment=assignment_pb2.Assignment(assignment="key", experiment="e1", variant="b"),
    )
    request = convert.request_of(message, "r1")
    assert request.messages == (Message(Role.SYSTEM, "Hel"), Message(Role.ASSISTANT, "Hello"))
    assert request.passages == (Passage("p", "t"),)
    assert request.sampling == Sampling(0.0, 0.5, 1, 0, 0.0, 0.0)
    assert (request.model, request.max_tokens, request.stop, request.user, request.conversation) == (
        "m",
        9,
        ("x", "y"),
        "u",
        "c",
    )
    assert request.assignment == ASSIGNMENT


def written(event: Event) -> generation_service_pb2.StreamGenerateResponse:
    (message,) = convert.events_of(event, "r1")
    return message


def test_each_event_becomes_its_own_message() -> None:
    started = written(Started("m", "ollama", ASSIGNMENT, "r1")).started
    assert (started.model, started.engine, started.variant, started.assignment.assignment) == ("m", "ollama", "b", "key")
    assert written(Delta("text")).delta.text == "text"
    usage = written(Usage(None, 0, UsageSource.COUNTED)).usage
    assert not usage.HasField("input_tokens")
    assert usage.HasField("output_tokens")
    finished = written(Finished(FinishReason.LENGTH, Usage(1, 2, UsageSource.REPORTED), Timings(None, 1.5))).finished
    assert finished.finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert not finished.HasField("error")
    assert not finished.timings.HasField("first_token")
    assert finished.timings.total.ToTimedelta().total_seconds() == 1.5


def test_without_an_experiment_there_is_no_assignment() -> None:
    started = written(Started("m", "ollama", None, "r1")).started
    assert started.variant == ""
    assert not started.HasField("assignment")


def test_a_failure_in_the_stream_carries_the_status_of_a_failed_call() -> None:
    failure = Failure(Reason.ENGINE_OVERLOADED, "busy", metadata={"engine": "ollama"}, retry_after=2)
    finished = written(Finished(None, Usage(None, 3, UsageSource.COUNTED), Timings(0.1, 0.2), failure)).finished
    assert finished.finish_reason == generation_pb2.FINISH_REASON_ERROR
    assert finished.error.code == 8
    info = error_details_pb2.ErrorInfo()
    finished.error.details[0].Unpack(info)
    assert (info.reason, info.metadata["engine"]) == ("ENGINE_OVERLOADED", "ollama")


def test_a_whole_generation() -> None:
    done = Finished(FinishReason.STOP, Usage(1, 2, UsageSource.REPORTED), Timings(0.25, 0.5))
    response = convert.response_of(
        Completed(
            Started("m", "ollama", replace(ASSIGNMENT, also=(Assignment("key2", "e2", "x"),)), "r1"), (Answer("Hello"),), done
        )
    )
    assert json_format.MessageToDict(response, preserving_proto_field_name=True) == {
        "text": "Hello",
        "finish_reason": "FINISH_REASON_STOP",
        "usage": {"input_tokens": "1", "output_tokens": "2", "source": "USAGE_SOURCE_REPORTED"},
        "model": "m",
        "engine": "ollama",
        "variant": "b",
        "assignment": {"assignment": "key", "experiment": "e1", "variant": "b"},
        "assignments": [
            {"assignment": "key", "experiment": "e1", "variant": "b"},
            {"assignment": "key2", "experiment": "e2", "variant": "x"},
        ],
        "timings": {"first_token": "0.250s", "total": "0.500s"},
        "request_id": "r1",
    }


def test_embeddings_name_their_model() -> None:
    response = convert.embed_response_of(Embedded(embedder("e"), Embeddings([[0.5, 1.0]], 3, UsageSource.COUNTED)))
    assert [list(one.values) for one in response.embeddings] == [[0.5, 1.0]]
    assert (response.model, response.dimensions, response.fingerprint, response.usage.input_tokens) == ("e", 2, "e:1", 3)


def test_a_model_is_listed_with_all_that_is_known() -> None:
    listed = convert.model_of(Listed(embedder("e"), True))
    assert (listed.model, listed.engine, listed.is_auto, listed.dimensions) == ("e", "minilm", True, 2)
    assert listed.state == model_pb2.MODEL_STATE_READY


def test_the_tables_know_every_value_of_the_domain_and_of_the_contract() -> None:
    tables = (
        (form_convert.ROLES.values(), Role, form_convert.ROLES, generation_pb2.Role),
        (convert._FINISH_REASONS, FinishReason, convert._FINISH_REASONS.values(), generation_pb2.FinishReason),
        (convert._SOURCES, UsageSource, convert._SOURCES.values(), generation_pb2.UsageSource),
        (convert._CAPABILITIES, Capability, convert._CAPABILITIES.values(), model_pb2.Capability),
        (convert._STATES, ModelState, convert._STATES.values(), model_pb2.ModelState),
    )
    for ours, domain, theirs, contract in tables:
        assert set(ours) == set(domain)
        # Never sent: 0; told by the presence of a failure: FINISH_REASON_ERROR.
        left_out = {0, generation_pb2.FINISH_REASON_ERROR} if contract is generation_pb2.FinishReason else {0}
        assert set(theirs) == set(contract.values()) - left_out
