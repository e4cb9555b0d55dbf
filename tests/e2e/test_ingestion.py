"""Ingestions through the gateway: files as plain bodies, progress as server-sent events."""

from __future__ import annotations

import io
import json
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import penstock
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.suite import Suite

MIB = 1024 * 1024


@pytest.fixture
def http(suite: Suite) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=suite.url, timeout=60) as client:
        yield client


@pytest.fixture
def collection(http: httpx.Client) -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:12]}"
    assert http.post("/v1/collections", json={"collection": name}).status_code == 200
    yield name
    http.delete(f"/v1/collections/{name}")


def events(http: httpx.Client, ingestion: str) -> list[dict[str, Any]]:
    """What the stream says of an ingestion, to its end."""
    with http.stream("GET", f"/v1/ingestions/{ingestion}:watch", headers={"accept": "text/event-stream"}) as response:
        assert response.headers["content-type"] == "text/event-stream"
        lines = [line.removeprefix("data:") for line in response.iter_lines() if line.startswith("data:")]
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [list(event) for event in found[:-1]] == [["progress"]] * (len(found) - 1)
    assert list(found[-1]) == ["finished"]
    return found


def upload(http: httpx.Client, collection: str, content: Any, **query: str) -> dict[str, Any]:
    path = f"/v1/collections/{collection}/ingestions:upload"
    response = http.post(path, params=query, content=content, headers={"content-type": "text/markdown"})
    assert response.status_code == 200, response.text
    ingestion: dict[str, Any] = response.json()["ingestion"]
    return ingestion


def test_a_file_as_a_plain_body(http: httpx.Client, collection: str) -> None:
    text = "# Penstocks\n\n" + "The penstock of Finstown is 512 metres long. " * 3
    made = upload(http, collection, text.encode(), name="notes/finstown.md", ttl="3600s")
    finished = events(http, made["ingestion"])[-1]["finished"]
    assert (finished["state"], finished["stages"][3]["documents_done"]) == ("INGESTION_STATE_SUCCEEDED", "1")
    document = http.get(f"/v1/collections/{collection}/documents/notes%2Ffinstown.md").json()["document"]
    assert (document["media_type"], document["state"]) == ("text/markdown", "DOCUMENT_STATE_INDEXED")
    assert document["expire_time"] > document["create_time"]
    found = http.post("/v1/search", json={"collections": [collection], "query": "How long is the penstock of Finstown?"}).json()
    assert found["hits"][0]["document"] == "notes/finstown.md"
    listed = http.get(f"/v1/collections/{collection}/ingestions").json()["ingestions"]
    assert [one["ingestion"] for one in listed] == [made["ingestion"]]
    assert http.get(f"/v1/ingestions/{made['ingestion']}").json()["ingestion"]["state"] == "INGESTION_STATE_SUCCEEDED"
    # It has ended: that stays so.
    ended = http.post(f"/v1/ingestions/{made['ingestion']}:cancel", json={}).json()["ingestion"]
    assert ended["state"] == "INGESTION_STATE_SUCCEEDED"
    refused = http.post(f"/v1/ingestions/{made['ingestion']}:retry", json={"stage": "INGESTION_STAGE_READ"})
    assert refused.status_code == 400
    assert refused.json()["details"][0]["reason"] == "INGESTION_STATE"


def test_inline_documents(http: httpx.Client, collection: str) -> None:
    documents = [{"document": "a", "text": "Stromness has a harbour."}, {"document": "b", "data": "AAAA"}]
    body = {"documents": {"documents": documents}}
    made = http.post(f"/v1/collections/{collection}/ingestions", json=body).json()["ingestion"]
    finished = events(http, made["ingestion"])[-1]["finished"]
    assert (finished["failed_count"], finished["stages"][3]["documents_done"]) == ("1", "1")
    assert finished["failures"][0]["name"] == "b"
    failures = http.get(f"/v1/ingestions/{made['ingestion']}/failures").json()["failures"]
    assert failures == finished["failures"]


def test_a_file_larger_than_any_buffer(http: httpx.Client, collection: str) -> None:
    # Beyond what the gateway takes of any other body; it is not read as a document, but it is taken whole.
    made = upload(http, collection, (bytes(MIB) for _ in range(48)), name="zeros.bin")
    finished = events(http, made["ingestion"])[-1]["finished"]
    assert (finished["state"], finished["failed_count"]) == ("INGESTION_STATE_FAILED", "1")
    assert finished["stages"][0]["bytes_done"] == str(48 * MIB)
    whole = http.post(f"/v1/collections/{collection}/ingestions:upload", content=b"")
    assert (whole.status_code, whole.json()["details"][0]["reason"]) == (400, "INVALID_FIELD")


def test_the_client_uploads_and_watches(suite: Suite, collection: str) -> None:
    with penstock.Client(suite.url) as client:
        made = client.upload(collection, io.BytesIO(b"The lighthouse of Hoy."), name="hoy.txt")
        with client.watch_ingestion(made.ingestion) as told:
            finished = [*told][-1].finished
        assert finished.stages[3].documents_done == 1
        assert client.get_document(collection, "hoy.txt").text == "The lighthouse of Hoy."
        again = client.ingest(collection, [{"document": "hoy.txt", "text": "The lighthouse of Hoy."}])
        assert client.cancel_ingestion(again.ingestion).ingestion == again.ingestion
        assert client.expire_documents(collection, 1) == 0


def test_no_address_is_fetched_unless_told(http: httpx.Client, collection: str) -> None:
    body = {"url": {"url": "http://169.254.169.254/latest"}}
    made = http.post(f"/v1/collections/{collection}/ingestions", json=body).json()["ingestion"]
    finished = events(http, made["ingestion"])[-1]["finished"]
    assert [failure["reason"] for failure in finished["failures"]] == ["ERROR_REASON_FETCHING_DISABLED"]


def test_documents_expire(http: httpx.Client, collection: str) -> None:
    path = f"/v1/collections/{collection}/documents"
    http.post(path, json={"documents": [{"document": "a", "text": "An old tale of Birsay."}]})
    assert http.post(f"{path}:expire", json={"older_than_days": 1}).json() == {"deleted_count": "0"}
    assert http.post(f"{path}:expire", json={"older_than_days": 1e-9}).json() == {"deleted_count": "1"}
    found = http.post("/v1/search", json={"collections": [collection], "query": "Birsay"}).json()
    assert found["hits"] == []
