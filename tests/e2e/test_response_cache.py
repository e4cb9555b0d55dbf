"""The same question twice: the second answer is the first one, and says so."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import openai
import pytest
from penstock.inference.v1 import embedding_service_pb2, generation_pb2, generation_service_pb2

from tests.e2e.faces import Face, Grpc, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.suite import Suite


@pytest.fixture(params=[Grpc, Rest], ids=["grpc", "rest"])
def face(request: pytest.FixtureRequest, suite: Suite) -> Iterator[Face]:
    face = request.param(suite.grpc if request.param is Grpc else suite.url)
    yield face
    face.close()


def passage() -> generation_pb2.Passage:
    """One that nobody has asked about before."""
    return generation_pb2.Passage(text=f"The penstock of plant {uuid.uuid4().hex} is 412 metres long and of steel.")


def test_the_same_request_twice_is_answered_from_the_cache_and_a_bypass_is_not(face: Face) -> None:
    request = generation_service_pb2.GenerateRequest(model="extractive", prompt="How long is it?", passages=[passage()])
    first, second = (face.call("Generate", request) for _ in range(2))
    assert (first.cached, second.cached) == (False, True)
    assert (second.text, second.usage, second.finish_reason) == (first.text, first.usage, first.finish_reason)
    assert second.request_id != first.request_id
    for mode in (generation_pb2.CACHE_MODE_BYPASS, generation_pb2.CACHE_MODE_REFRESH):
        request.cache = mode
        anew = face.call("Generate", request)
        assert (anew.cached, anew.text) == (False, first.text)
    request.cache = generation_pb2.CACHE_MODE_USE
    assert face.call("Generate", request).cached
    request.user = "someone else"
    assert not face.call("Generate", request).cached


def test_a_cached_answer_comes_as_a_stream_too(face: Face) -> None:
    request = generation_service_pb2.StreamGenerateRequest(model="extractive", prompt="How long is it?", passages=[passage()])
    streams = [list(face.stream("StreamGenerate", request)) for _ in range(2)]
    assert [events[0].started.cached for events in streams] == [False, True]
    for events in streams:
        kinds = [event.WhichOneof("event") for event in events]
        assert (kinds[0], kinds[-1], kinds.count("finished")) == ("started", "finished", 1)
        assert "412 metres" in "".join(event.delta.text for event in events)
        assert events[-1].finished.usage == streams[0][-1].finished.usage


def test_cached_vectors_are_the_same_vectors(face: Face) -> None:
    text = uuid.uuid4().hex
    alone = face.call("Embed", embedding_service_pb2.EmbedRequest(inputs=[text]))
    again = face.call("Embed", embedding_service_pb2.EmbedRequest(inputs=[text, f"{text} too", text]))
    assert [list(one.values) for one in again.embeddings][::2] == [list(alone.embeddings[0].values)] * 2
    assert (again.model, again.dimensions, again.fingerprint) == (alone.model, alone.dimensions, alone.fingerprint)
    assert again.usage.input_tokens > 2 * alone.usage.input_tokens


def test_openai_clients_are_told_and_may_opt_out(suite: Suite) -> None:
    with openai.OpenAI(base_url=f"{suite.url}/openai/v1", api_key="none") as client:

        def asked(**extra: str) -> object:
            completion = client.chat.completions.create(
                model="extractive", messages=[{"role": "user", "content": question}], extra_body=extra
            )
            assert completion.model_extra is not None
            return completion.model_extra["penstock"].get("cached", False)

        question = f"What is {uuid.uuid4().hex}?"
        assert [asked(), asked(), asked(cache="bypass"), asked(cache="use")] == [False, True, False, True]
