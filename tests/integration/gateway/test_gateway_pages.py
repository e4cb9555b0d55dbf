from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from openapi_spec_validator import validate

if TYPE_CHECKING:
    from tests.integration.gateway.launched import Gateway


def test_the_description_is_valid_openapi(gateway: Gateway) -> None:
    response = gateway.http.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert document["openapi"] == "3.1.0"
    validate(document)


@pytest.mark.parametrize(("path", "kind"), [("/docs", "text/html"), ("/docs/docs.js", "text/javascript")])
def test_pages_are_typed_guarded_and_revalidated(gateway: Gateway, path: str, kind: str) -> None:
    response = gateway.http.get(path)
    assert response.headers["content-type"] == f"{kind}; charset=utf-8"
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"
    again = gateway.http.get(path, headers={"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_pages_are_compressed_and_streams_are_not(gateway: Gateway) -> None:
    zipped = {"accept-encoding": "gzip"}
    assert gateway.http.get("/openapi.json", headers=zipped).headers["content-encoding"] == "gzip"
    stream = gateway.http.post(
        "/v1/generate:stream", json={"prompt": "word " * 200}, headers={"accept": "text/event-stream", **zipped}
    )
    assert "content-encoding" not in stream.headers


def test_pages_without_the_slash_and_with(gateway: Gateway) -> None:
    assert gateway.http.get("/docs/", follow_redirects=True).url.path == "/docs"


def test_pages_know_only_reading(gateway: Gateway) -> None:
    assert gateway.http.head("/docs").status_code == 200
    assert gateway.http.post("/docs").headers["allow"] == "GET, HEAD"


def test_envoy_s_metrics_are_on_its_admin_address(gateway: Gateway) -> None:
    text = httpx.get(f"http://127.0.0.1:{gateway.admin_port}/stats/prometheus").text
    assert "envoy_cluster_membership_healthy" in text
