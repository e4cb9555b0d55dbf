from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.answers import Answer
from services.inference.engine import Delta, Embeddings, FinishReason, Usage, UsageSource
from services.inference.form import TokenLogprob, ToolCall, ToolCallDelta
from services.inference.generation import Assignment, Completed, Embedded, Finished, Started
from services.inference.models import Listed
from services.inference.openai import errors, face
from services.inference.openai.requests import parse_embeddings
from services.inference.progress import Timings
from tests.unit.inference.scripted_engine import embedder, writer

STARTED = Started("m", "openai", None, "r1")
USAGE = Usage(3, 4, UsageSource.REPORTED)


def document_of(event: bytes) -> Any:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    return json.loads(event[6:])


def test_chunks_are_those_of_openai() -> None:
    chunks = face.ChunkWriter(STARTED, include_usage=False)
    first, text = document_of(chunks.first()), document_of(chunks.delta(Delta('Вода "水"\n')))
    last = chunks.last([FinishReason.LENGTH], USAGE)
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert text["choices"] == [{"index": 0, "delta": {"content": 'Вода "水"\n'}, "logprobs": None, "finish_reason": None}]
    assert {key: text[key] for key in ("id", "object", "model")} == {
        "id": "chatcmpl-r1",
        "object": "chat.completion.chunk",
        "model": "m",
    }
    assert "usage" not in text
    ended, _, done = last.partition(b"\n\n")
    assert json.loads(ended[6:])["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert done == b"data: [DONE]\n\n"


def test_a_text_like_the_template_is_written_as_it_is() -> None:
    started = Started('"content":""', "openai", None, '"content":""')
    chunk = document_of(face.ChunkWriter(started, include_usage=True).delta(Delta('"content":""')))
    assert chunk["choices"][0]["delta"] == {"content": '"content":""'}
    assert chunk["model"] == '"content":""'


def test_usage_comes_only_where_it_was_asked_for_and_in_a_chunk_of_its_own() -> None:
    chunks = face.ChunkWriter(STARTED, include_usage=True)
    assert document_of(chunks.delta(Delta("x")))["usage"] is None
    _, usage, done, rest = chunks.last([FinishReason.STOP], USAGE).split(b"\n\n")
    document = json.loads(usage[6:])
    assert document["choices"] == []
    assert document["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert (done, rest) == (b"data: [DONE]", b"")


def test_a_completion_is_that_of_openai_and_names_its_variant() -> None:
    started = Started("m", "openai", Assignment("key", "e1", "b"), "r1")
    completed = Completed(started, (Answer("Hello"),), Finished(FinishReason.STOP, USAGE, Timings(0.1, 0.2)))
    document = json.loads(face.completion(completed))
    assert document["object"] == "chat.completion"
    assert document["choices"][0]["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert document["choices"][0]["finish_reason"] == "stop"
    assert document["usage"]["total_tokens"] == 7
    assert document["penstock"] == {"engine": "openai", "variant": "b", "assignment": "key"}


def test_embeddings_are_floats_or_base64_of_the_same() -> None:
    embedded = Embedded(embedder("e"), Embeddings([[0.5, -1.0], [2.0, 0.25]], 6, UsageSource.COUNTED))
    floats = json.loads(face.embeddings(parse_embeddings(b'{"input": ["a", "b"]}'), embedded))
    packed = json.loads(face.embeddings(parse_embeddings(b'{"input": ["a", "b"], "encoding_format": "base64"}'), embedded))
    assert [one["embedding"] for one in floats["data"]] == [[0.5, -1.0], [2.0, 0.25]]
    assert [one["index"] for one in floats["data"]] == [0, 1]
    assert [struct.unpack("<2f", base64.b64decode(one["embedding"])) for one in packed["data"]] == [(0.5, -1.0), (2.0, 0.25)]
    assert floats["usage"] == {"prompt_tokens": 6, "total_tokens": 6}


def test_the_list_of_models_is_that_of_openai() -> None:
    listed = [Listed(writer("m", "openai"), True), Listed(embedder("e"), False)]
    assert json.loads(face.model_list(listed)) == {
        "object": "list",
        "data": [
            {"id": "m", "object": "model", "created": 0, "owned_by": "openai"},
            {"id": "e", "object": "model", "created": 0, "owned_by": "minilm"},
        ],
    }


@pytest.mark.parametrize(
    ("failure", "kind", "code", "param"),
    [
        (Failure(Reason.MODEL_NOT_FOUND, "m"), "invalid_request_error", "model_not_found", "model"),
        (Failure(Reason.ENGINE_OVERLOADED, "m", retry_after=2), "rate_limit_exceeded", "rate_limit_exceeded", None),
        (Failure(Reason.CONTEXT_TOO_LONG, "m"), "invalid_request_error", "context_length_exceeded", None),
        (Failure(Reason.INVALID_OPENAI_REQUEST, "m", metadata={"field": "n"}), "invalid_request_error", None, "n"),
        (Failure(Reason.GENERATION_FAILED, "m"), "server_error", "generation_failed", None),
        (Failure(Reason.ENGINE_UNAVAILABLE, "m"), "server_error", "engine_unavailable", None),
    ],
)
def test_errors_are_those_of_openai(failure: Failure, kind: str, code: str | None, param: str | None) -> None:
    assert errors.error_of(failure) == {"error": {"message": "m", "type": kind, "param": param, "code": code}}
    assert document_of(face.ChunkWriter(STARTED, include_usage=False).failed(failure)) == errors.error_of(failure)


def test_the_trailer_is_ascii_and_short_and_the_rest_stays() -> None:
    failure = Failure(Reason.MODEL_NOT_FOUND, "модель\n" * 1000, metadata={"model": "м"}, retry_after=3)
    told = errors.with_error_body(failure)
    trailer = told.trailers["x-openai-error"]
    assert trailer.isascii()
    assert trailer.isprintable()
    assert len(trailer) < 8000
    assert json.loads(trailer)["error"]["message"].startswith("модель\nмодель")
    assert (told.reason, told.message, told.metadata, told.retry_after) == (
        failure.reason,
        failure.message,
        failure.metadata,
        failure.retry_after,
    )


def test_tool_calls_come_whole_and_in_pieces() -> None:
    chunks = face.ChunkWriter(STARTED, include_usage=False)
    begun = document_of(chunks.delta(Delta("", tool_calls=(ToolCallDelta(0, "c1", "now", ""),))))["choices"][0]
    more = document_of(chunks.delta(Delta("", alternative=1, tool_calls=(ToolCallDelta(0, arguments="{}"),))))["choices"][0]
    assert begun["delta"] == {
        "tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "now", "arguments": ""}}]
    }
    assert (more["index"], more["delta"]) == (1, {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})
    answer = Answer("", (ToolCall("c1", "now", "{}"),))
    done = Finished(FinishReason.TOOL_CALLS, USAGE, Timings(0.1, 0.2))
    (choice,) = json.loads(face.completion(Completed(STARTED, (answer,), done)))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
    }


def test_several_answers_have_an_index_and_a_reason_each() -> None:
    reasons = (FinishReason.STOP, FinishReason.LENGTH)
    done = Finished(reasons[0], USAGE, Timings(0.1, 0.2), finish_reasons=reasons)
    completion = json.loads(face.completion(Completed(STARTED, (Answer("a"), Answer("b")), done)))
    assert [(one["index"], one["message"]["content"], one["finish_reason"]) for one in completion["choices"]] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]
    chunks = face.ChunkWriter(STARTED, include_usage=False, alternatives=2)
    first, second, _ = chunks.first().split(b"\n\n")
    assert [json.loads(event[6:])["choices"][0]["index"] for event in (first, second)] == [0, 1]
    endings = chunks.last(reasons, USAGE).split(b"\n\n")[:2]
    assert [json.loads(event[6:])["choices"][0]["finish_reason"] for event in endings] == ["stop", "length"]


def test_probabilities_are_written_as_openai_writes_them() -> None:
    token = TokenLogprob("ж", -0.5, (TokenLogprob("ж", -0.5), TokenLogprob("x", -1.5)))
    chunk = document_of(face.ChunkWriter(STARTED, include_usage=False).delta(Delta("ж", logprobs=(token,))))
    assert chunk["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "ж",
                "logprob": -0.5,
                "bytes": [208, 182],
                "top_logprobs": [
                    {"token": "ж", "logprob": -0.5, "bytes": [208, 182]},
                    {"token": "x", "logprob": -1.5, "bytes": [120]},
                ],
            }
        ],
        "refusal": None,
    }
