from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx

    from tests.integration.gateway.backends import Backends
    from tests.integration.gateway.launched import Gateway

STREAM = "/v1/generate:stream"
MIB = 1 << 20


def error_of(response: httpx.Response) -> tuple[int, int, str]:
    """The HTTP status, the gRPC code and the reason, once the body has the one shape of errors."""
    assert response.headers["content-type"] == "application/json"
    status = response.json()
    info, *others = status["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert info["domain"] == "penstock"
    assert status["message"]
    ids = [detail["request_id"] for detail in others if detail["@type"] == "type.googleapis.com/google.rpc.RequestInfo"]
    assert ids == [response.headers["x-request-id"]]
    return response.status_code, status["code"], info["reason"]


def test_unary_json_has_proto_names_enum_names_and_zeros(gateway: Gateway) -> None:
    response = gateway.http.post("/v1/search", json={"collections": ["c"], "query": "q", "mode": "SEARCH_MODE_DENSE"})
    assert response.status_code == 200
    body = response.json()
    assert body["mode"] == "SEARCH_MODE_DENSE"
    assert body["hits"][0]["score"] == 0
    assert "mode_note" in body


def test_path_fields_may_hold_escaped_slashes(gateway: Gateway) -> None:
    document = gateway.http.get("/v1/collections/docs/documents/a%2Fb.md").json()["document"]
    assert (document["collection"], document["document"]) == ("docs", "a/b.md")


def test_a_custom_verb_is_no_part_of_the_id(gateway: Gateway, backends: Backends) -> None:
    assigned = gateway.http.post("/v1/experiments/e1:assign", json={"unit_id": "user-1"}).json()
    assert (assigned["variant"], backends.seen.bodies[-1].experiment) == ("user-1", "e1")
    misused = gateway.http.get("/v1/experiments/e1:assign")
    assert misused.status_code in {404, 405}


def test_query_parameters_fill_fields(gateway: Gateway, backends: Backends) -> None:
    watched = gateway.http.get("/v1/configuration:watch?watcher=a+b%26c").json()
    assert backends.seen.bodies[-1].watcher == "a b&c"
    # JavaScript would round it as a number.
    assert watched == [{"revision": "9007199254740993", "experiments": [], "promotions": [], "holdout": 0}]


def test_a_client_stream_is_an_array(gateway: Gateway, backends: Backends) -> None:
    batches = [{"exposures": [{"exposure": "a"}, {"exposure": "b"}]}, {"exposures": [{"exposure": "c"}]}]
    assert gateway.http.post("/v1/exposures", json=batches).json() == {"recorded": "3", "duplicates": "0"}
    assert backends.seen.bodies[-1] == [2, 1]


def test_sse_when_asked_for(gateway: Gateway) -> None:
    response = gateway.http.post(STREAM, json={"prompt": "one two"}, headers={"accept": "text/event-stream"})
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["x-accel-buffering"] == "no"
    events = [json.loads(block.removeprefix("data: ")) for block in response.text.strip().split("\n\n")]
    assert [next(iter(event)) for event in events] == ["started", "delta", "delta", "finished"]


def test_ndjson_when_asked_for(gateway: Gateway) -> None:
    response = gateway.http.post(STREAM, json={"prompt": "one"}, headers={"accept": "application/x-ndjson"})
    assert response.headers["content-type"] == "application/x-ndjson"
    assert [next(iter(json.loads(line))) for line in response.text.splitlines()] == ["started", "delta", "finished"]


def test_json_array_otherwise(gateway: Gateway) -> None:
    response = gateway.http.post(STREAM, json={"prompt": "one"}, headers={"accept": "application/json"})
    assert response.headers["content-type"] == "application/json"
    assert [next(iter(event)) for event in response.json()] == ["started", "delta", "finished"]


def test_a_stream_arrives_while_it_is_made_and_leaving_cancels_it(gateway: Gateway, backends: Backends) -> None:
    body = {"prompt": "now", "model": "endless"}
    with gateway.http.stream("POST", STREAM, json=body, headers={"accept": "text/event-stream"}) as response:
        lines = response.iter_lines()
        assert "started" in next(lines)
        assert backends.seen.started.wait(5)
        assert not backends.seen.cancelled.is_set()
    left = time.monotonic()
    assert backends.seen.cancelled.wait(5)
    assert time.monotonic() - left < 0.5


@pytest.mark.parametrize("path", ["/v1/generate", STREAM])
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "application/x-ndjson"])
def test_a_service_s_error_keeps_code_reason_and_details(gateway: Gateway, path: str, accept: str) -> None:
    headers = {"accept": accept, "x-request-id": "r1"}
    response = gateway.http.post(path, json={"prompt": "p", "model": "missing"}, headers=headers)
    assert error_of(response) == (404, 5, "MODEL_NOT_FOUND")
    assert response.json()["details"][0]["metadata"] == {"model": "missing"}


def test_overload_says_when_to_come_back(gateway: Gateway) -> None:
    response = gateway.http.post("/v1/generate", json={"prompt": "p", "model": "busy"}, headers={"x-request-id": "r1"})
    assert error_of(response) == (429, 8, "ENGINE_OVERLOADED")
    assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    "body",
    [b'{"query":', b'{"query": "\xff\xfe"}', b'{"mode": "NO_SUCH_MODE"}', b'{"top_k": "many"}', b"[]"],
    ids=["cut", "no utf-8", "unknown enum", "wrong type", "no object"],
)
def test_unreadable_json_is_a_malformed_request(gateway: Gateway, body: bytes) -> None:
    response = gateway.http.post("/v1/search", content=body, headers={"content-type": "application/json"})
    assert error_of(response) == (400, 3, "MALFORMED_REQUEST")


def test_unknown_query_parameters_are_refused_by_name(gateway: Gateway) -> None:
    response = gateway.http.get("/v1/experiments/e/results?bogus=1")
    assert error_of(response) == (400, 3, "MALFORMED_REQUEST")
    assert "bogus" in response.json()["message"]


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"])
def test_other_content_types_are_refused_with_advice(gateway: Gateway, content_type: str) -> None:
    response = gateway.http.post("/v1/search", content=b'{"query": "q"}', headers={"content-type": content_type})
    assert error_of(response) == (415, 3, "UNSUPPORTED_CONTENT_TYPE")
    assert "content-type: application/json" in response.json()["message"]
    assert response.json()["details"][0]["metadata"] == {"content_type": content_type}


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"])
def test_json_by_any_of_its_names_is_taken(gateway: Gateway, content_type: str) -> None:
    response = gateway.http.post("/v1/search", content=b'{"query": "q"}', headers={"content-type": content_type})
    assert response.status_code == 200


def test_unknown_paths_are_not_found(gateway: Gateway) -> None:
    response = gateway.http.get("/v1/nothing?secret=1")
    assert error_of(response) == (404, 5, "ROUTE_NOT_FOUND")
    assert response.json()["details"][0]["metadata"] == {"method": "GET", "path": "/v1/nothing"}


def test_unknown_methods_name_the_known_ones(gateway: Gateway) -> None:
    response = gateway.http.put("/v1/collections/c/documents/d")
    assert error_of(response) == (405, 5, "ROUTE_NOT_FOUND")
    assert response.headers["allow"] == "DELETE, GET"


def chunks(count: int) -> Any:
    for _ in range(count):
        yield b"a" * MIB


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_beyond_the_limit_is_too_large(gateway: Gateway, announced: bool) -> None:
    headers = {"content-type": "application/json"}
    # Without an announced length the body grows past the limit while it is read.
    content = b"a" * (50 * MIB) if announced else chunks(50)
    response = gateway.http.post("/v1/search", content=content, headers=headers)
    assert error_of(response) == (413, 8, "REQUEST_TOO_LARGE")
    assert response.json()["details"][0]["metadata"] == {"limit_bytes": str(32 * MIB)}


def test_a_body_below_the_limit_passes(gateway: Gateway, backends: Backends) -> None:
    assert gateway.http.post("/v1/search", json={"query": "a" * (31 * MIB)}).status_code == 200
    assert len(backends.seen.bodies[-1].query) == 31 * MIB


def test_request_ids_are_kept_passed_on_and_returned(gateway: Gateway, backends: Backends) -> None:
    response = gateway.http.post("/v1/search", json={"query": "q"}, headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert backends.seen.metadata[-1]["x-request-id"] == "mine-1"


def test_request_ids_are_made_where_there_is_none(gateway: Gateway, backends: Backends) -> None:
    response = gateway.http.post("/v1/search", json={"query": "q"})
    assert len(response.headers["x-request-id"]) == 36
    assert backends.seen.metadata[-1]["x-request-id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:8080", "http://[::1]:5173"])
def test_preflights_from_loopback_are_permitted(gateway: Gateway, origin: str) -> None:
    asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    response = gateway.http.options("/v1/answer:stream", headers=asked)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == origin
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "content-type" in response.headers["access-control-allow-headers"]


def test_other_origins_are_not_permitted(gateway: Gateway) -> None:
    asked = {"origin": "http://localhost.example.com", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in gateway.http.options("/v1/search", headers=asked).headers


def test_errors_can_be_read_across_origins(gateway: Gateway) -> None:
    response = gateway.http.get("/v1/nothing", headers={"origin": "http://localhost:3000"})
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "x-request-id" in response.headers["access-control-expose-headers"]
