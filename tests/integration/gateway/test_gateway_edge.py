"""What calls meet at the edge: compression, deadlines, slow readers, services that go away and come back."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.gateway.backends import Backends
from tests.integration.gateway.launched import Gateway, environment, free_ports, running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ZIPPED = {"accept-encoding": "gzip"}
CHAT = "/openai/v1/chat/completions"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Backends, Backends]]:
    """A gateway over two endpoints of inference."""
    first, second, *others = free_ports(4)
    names = dict(zip(("retrieval", "experiments"), others, strict=True))
    with Backends({"inference": first, **names}) as one, Backends({"inference": second}) as two:
        both = f"127.0.0.1:{first},127.0.0.1:{second}"
        settings = environment(tmp_path_factory.mktemp("pair"), one.ports, INFERENCE_ADDRESS=both)
        with running(settings) as gateway:
            wait_for(lambda: gateway.http.get("/healthz").status_code == 200)
            yield gateway, one, two


def test_plain_responses_are_compressed(gateway: Gateway) -> None:
    body = {"prompt": "word " * 400}
    zipped = gateway.http.post("/v1/generate", json=body, headers=ZIPPED)
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.json()["text"] == ("word " * 400).upper()
    plain = gateway.http.post("/v1/generate", json=body, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in gateway.http.post("/v1/generate", json={"prompt": "p"}, headers=ZIPPED).headers


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson", "application/json"])
def test_streams_are_never_compressed(gateway: Gateway, accept: str) -> None:
    stream = gateway.http.post("/v1/generate:stream", json={"prompt": "word " * 60}, headers={"accept": accept, **ZIPPED})
    assert len(stream.content) > 1024
    assert "content-encoding" not in stream.headers


def test_openai_s_bodies_are_compressed_and_its_streams_are_not(gateway: Gateway) -> None:
    big = {"model": "x", "messages": [{"role": "user", "content": "word " * 400}]}
    echoed = gateway.http.post("/openai/v1/embeddings", json=big, headers=ZIPPED)
    assert echoed.headers["content-encoding"] == "gzip"
    assert echoed.json() == big
    assert "content-encoding" not in gateway.http.post(CHAT, json={"model": "x", "stream": True}, headers=ZIPPED).headers


def test_a_reader_that_stops_reading_stops_the_service(gateway: Gateway, backends: Backends) -> None:
    """Each buffer on the way is bounded: the windows of HTTP/2, Envoy's buffers, the kernel's."""
    backends.seen.cancelled.clear()
    body = json.dumps({"prompt": "p", "model": "flood"}).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        head = (
            "POST /v1/generate:stream HTTP/1.1",
            "host: x",
            "content-type: application/json",
            f"content-length: {len(body)}",
        )
        reader.sendall("\r\n".join((*head, "", "")).encode() + body)
        assert reader.recv(1024).startswith(b"HTTP/1.1 200")
        before = -1

        def stands_still() -> bool:
            nonlocal before
            was, before = before, backends.seen.sent
            time.sleep(0.3)
            return was == backends.seen.sent > 0

        wait_for(stands_still)
        assert backends.seen.sent < 32 << 20
    assert backends.seen.cancelled.wait(10)


def test_a_deadline_in_a_header_ends_a_plain_call(gateway: Gateway, backends: Backends) -> None:
    backends.seen.hold.set()
    try:
        started = time.monotonic()
        late = gateway.http.post("/v1/generate", json={"prompt": "p"}, headers={"grpc-timeout": "300m"})
        assert time.monotonic() - started < 5
    finally:
        backends.seen.hold.clear()
    assert late.status_code == 504
    assert late.json()["details"][0]["reason"] == "DEADLINE_EXCEEDED"


def test_restarts_fail_no_call(pair: tuple[Gateway, Backends, Backends]) -> None:
    gateway, one, two = pair
    stop = threading.Event()

    def calls() -> list[int]:
        statuses = []
        with httpx.Client(base_url=f"http://{gateway.address}", timeout=20) as http:
            while not stop.is_set():
                statuses.append(http.post("/v1/generate", json={"prompt": "p"}).status_code)
        return statuses

    with ThreadPoolExecutor(8) as pool:
        running_calls = [pool.submit(calls) for _ in range(8)]
        try:
            for backend in (one, two):
                time.sleep(0.3)
                # As the chassis does: first the gateway is given time to see that nothing more should come.
                backend.stop("inference", grace=5, notice=3)
                backend.start("inference")
                seen = len(backend.seen.bodies)
                wait_for(lambda backend=backend, seen=seen: len(backend.seen.bodies) > seen)
        finally:
            stop.set()
        statuses = [status for call in running_calls for status in call.result()]
    assert len(statuses) > 50
    assert set(statuses) == {200}


@pytest.mark.parametrize(("verb", "path", "status"), [("GET", "/v1/models", 200), ("POST", "/v1/generate", 503)])
def test_what_may_be_repeated_is_asked_of_another_service(
    pair: tuple[Gateway, Backends, Backends], verb: str, path: str, status: int
) -> None:
    """One endpoint dies in the middle of a call. Only what changes nothing is tried again."""
    gateway, one, two = pair
    body = None if verb == "GET" else {"prompt": "p"}
    one.seen.started.clear()
    one.seen.hold.set()
    noted = len(two.seen.bodies)
    try:
        with ThreadPoolExecutor(1) as pool:
            answered = {"calls": 0}

            def call() -> int:
                while True:
                    code = gateway.http.request(verb, path, json=body).status_code
                    if one.seen.started.is_set():
                        return code
                    answered["calls"] += 1

            result = pool.submit(call)
            assert one.seen.started.wait(10)
            one.stop("inference")
            assert result.result(10) == status
    finally:
        one.seen.hold.clear()
        one.start("inference")
    if verb == "POST":
        assert len(two.seen.bodies) - noted == answered["calls"]
    wait_for(lambda: gateway.http.get("/healthz").status_code == 200)
