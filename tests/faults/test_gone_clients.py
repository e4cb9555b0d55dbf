"""A client that goes away stops the engine within 100 ms, whichever face it came by."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from penstock.inference.v1 import generation_pb2, generation_service_pb2
from penstock.retrieval.v1 import answer_service_pb2

from tests.e2e.faces import Face, Grpc, Refused, Rest, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

    from tests.faults.slow_engine import SlowEngine
    from tests.support.suite import Suite

WITHIN = 0.1


@pytest.fixture(params=[Grpc, Rest], ids=["grpc", "rest"])
def face(request: pytest.FixtureRequest, hurt_suite: Suite) -> Iterator[Face]:
    face = request.param(hurt_suite.grpc if request.param is Grpc else hurt_suite.url)
    yield face
    face.close()


def seconds_until_closed(engine: SlowEngine, go_away: Callable[[], None]) -> float:
    before = len(engine.closed_at)
    left = time.monotonic()
    go_away()
    while len(engine.closed_at) == before:
        assert time.monotonic() - left < 5, "the engine was never told"
        time.sleep(0.005)
    return engine.closed_at[-1] - left


def stops_in_time(engine: SlowEngine, begin: Callable[[], Callable[[], None]]) -> None:
    """The quickest of three counts: the machine may be busy with something else. `begin` returns what goes away."""
    assert min(seconds_until_closed(engine, begin()) for _ in range(3)) < WITHIN
    assert engine.in_flight == 0


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("StreamGenerate", generation_service_pb2.StreamGenerateRequest(prompt="x", model="slow")),
        (
            "StreamAnswer",
            answer_service_pb2.StreamAnswerRequest(collections=["penstock-docs"], query="What is penstock?", model="slow"),
        ),
    ],
    ids=["generate", "answer"],
)
def test_stream_left_midway_stops_the_engine(face: Face, engine: SlowEngine, method: str, message: Message) -> None:
    def begin() -> Callable[[], None]:
        events: Any = face.stream(method, message)
        texts = 0
        for event in events:
            texts += event.WhichOneof("event") in {"delta", "token"}
            if texts == 3:
                break
        close: Callable[[], None] = events.close
        return close

    stops_in_time(engine, begin)


def test_openai_stream_left_midway_stops_the_engine(hurt_suite: Suite, engine: SlowEngine) -> None:
    body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with httpx.Client() as client:

        def begin() -> Callable[[], None]:
            request = client.build_request("POST", f"{hurt_suite.url}/openai/v1/chat/completions", json=body)
            response = client.send(request, stream=True)
            assert next(response.iter_lines()).startswith("data: ")
            return response.close

        stops_in_time(engine, begin)


def test_single_response_given_up_stops_the_engine(hurt_suite: Suite, engine: SlowEngine) -> None:
    started = engine.started
    with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{hurt_suite.url}/v1/generate", json={"prompt": "x", "model": "slow"}, timeout=0.5)
    left = time.monotonic()
    while engine.in_flight:
        assert time.monotonic() - left < 1
        time.sleep(0.005)
    assert engine.started == started + 1
    assert engine.closed_at[-1] - left < 1


def test_silent_engine_is_left_when_its_client_leaves(hurt_suite: Suite, engine: SlowEngine) -> None:
    with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{hurt_suite.url}/v1/generate", json={"prompt": "x", "model": "quiet"}, timeout=0.5)
    left = time.monotonic()
    while engine.in_flight:
        assert time.monotonic() - left < 1
        time.sleep(0.005)


def test_cut_stream_ends_in_a_typed_error(face: Face, engine: SlowEngine) -> None:
    request = generation_service_pb2.StreamGenerateRequest(prompt="x", model="cut")
    stream = face.stream("StreamGenerate", request)
    events = [next(stream)]
    while events[-1].WhichOneof("event") != "finished":
        events.append(next(stream))
    finished = events[-1].finished
    assert finished.finish_reason == generation_pb2.FINISH_REASON_ERROR
    assert refused(finished.error).reason == "GENERATION_FAILED"
    if face.name == "grpc":
        # JSON over HTTP has no status left to give; over gRPC the status says it too.
        with pytest.raises(Refused) as status:
            next(stream)
        assert status.value.reason == "GENERATION_FAILED"
    assert "".join(event.delta.text for event in events) == "t0 t1 t2 "
    assert engine.in_flight == 0


def test_cut_engine_never_looks_like_a_short_answer(face: Face) -> None:
    with pytest.raises(Refused) as whole:
        face.call("Generate", generation_service_pb2.GenerateRequest(prompt="x", model="cut"))
    assert whole.value.reason == "GENERATION_FAILED"
