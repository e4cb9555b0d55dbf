from __future__ import annotations

import json
from typing import TYPE_CHECKING

import openai
import pytest

from tests.integration.gateway.backends import OPENAI_ERROR

if TYPE_CHECKING:
    import httpx

    from tests.integration.gateway.backends import Backends
    from tests.integration.gateway.launched import Gateway

CHAT = "/openai/v1/chat/completions"


def openai_error(response: httpx.Response) -> tuple[int, str, str]:
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return response.status_code, error["type"], error["code"]


def test_server_sent_events_pass_as_they_are(gateway: Gateway) -> None:
    response = gateway.http.post(CHAT, json={"model": "x", "stream": True})
    assert response.headers["content-type"] == "text/event-stream"
    assert response.text == 'data: {"n": 1}\n\ndata: {"n": 2}\n\ndata: [DONE]\n\n'


def test_plain_json_comes_from_the_same_rpc(gateway: Gateway) -> None:
    response = gateway.http.post(CHAT, json={"model": "x"})
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"object": "chat.completion"}


def test_the_request_s_bytes_reach_the_service_unread(gateway: Gateway, backends: Backends) -> None:
    raw = b'{"model":  "x", "unknown": [1, 2.50]}'
    response = gateway.http.post("/openai/v1/embeddings", content=raw, headers={"content-type": "application/json"})
    assert response.content == raw
    assert backends.seen.bodies[-1].body.data == raw
    assert backends.seen.bodies[-1].body.content_type == "application/json"


def test_models(gateway: Gateway) -> None:
    assert gateway.http.get("/openai/v1/models").json() == {"object": "list", "data": []}


@pytest.mark.parametrize("stream", [True, False])
def test_the_service_s_error_object_is_passed_on(gateway: Gateway, stream: bool) -> None:
    response = gateway.http.post(CHAT, json={"model": "m", "stream": stream})
    assert response.status_code == 404
    assert response.json() == OPENAI_ERROR
    assert "x-openai-error" not in response.headers


@pytest.mark.parametrize(("model", "status", "code"), [("late", 408, "timeout"), ("large", 413, "request_too_large")])
def test_statuses_that_grpc_does_not_tell_apart(gateway: Gateway, model: str, status: int, code: str) -> None:
    response = gateway.http.post(CHAT, json={"model": model})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_unary_call_s_error_object_is_passed_on(gateway: Gateway) -> None:
    response = gateway.http.post("/openai/v1/embeddings", json={"input": "bad"})
    assert (response.status_code, response.json()) == (404, OPENAI_ERROR)


def test_an_error_without_openai_s_object_gets_one(gateway: Gateway) -> None:
    response = gateway.http.post(CHAT, json={"model": "plain"})
    assert openai_error(response) == (400, "invalid_request_error", "invalid_field")
    assert response.json()["error"]["message"] == 'a "quoted" field'


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/openai/v1/nothing", 404, "route_not_found"), ("GET", CHAT, 405, "route_not_found")],
)
def test_the_gateway_s_own_refusals_have_the_shape(gateway: Gateway, method: str, path: str, status: int, code: str) -> None:
    response = gateway.http.request(method, path)
    assert openai_error(response) == (status, "invalid_request_error", code)
    assert response.json()["error"]["param"] is None


def test_a_wrong_content_type_has_the_shape(gateway: Gateway) -> None:
    response = gateway.http.post(CHAT, content=b"model=x", headers={"content-type": "application/x-www-form-urlencoded"})
    assert openai_error(response) == (415, "invalid_request_error", "unsupported_content_type")


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_beyond_the_limit_has_the_shape(gateway: Gateway, announced: bool) -> None:
    body = json.dumps({"model": "x" * (33 << 20)}).encode()
    content = body if announced else (part for part in (body[: len(body) // 2], body[len(body) // 2 :]))
    response = gateway.http.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert openai_error(response) == (413, "invalid_request_error", "request_too_large")


def test_the_official_client_raises_its_typed_error(gateway: Gateway) -> None:
    with openai.OpenAI(base_url=f"http://{gateway.address}/openai/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"
