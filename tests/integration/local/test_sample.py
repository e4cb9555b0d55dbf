"""The sample documents, against a small HTTP server that answers as the gateway does."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.sample import Rest, SampleError, add, documents
from tests.integration.local.launcher import free_port


class Gateway(http.server.ThreadingHTTPServer):
    """Keeps collections and documents in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.collections: set[str] = set()
        self.documents: list[str] = []
        self.keys: set[str | None] = set()
        self.refuse = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.keys.add(self.headers["authorization"])
        if self.path == "/v1/collections":
            known = body["collection"] in self.server.collections
            self.server.collections.add(body["collection"])
            self.answer(409 if known else 200, {})
        elif self.path == "/v1/search":
            self.answer(200, {"hits": [{}] if self.server.documents else []})
        elif self.server.refuse and body["documents"][0]["document"] == self.server.refuse:
            self.answer(503, {"message": "the database is away"})
        else:
            self.server.documents += [entry["document"] for entry in body["documents"]]
            self.answer(200, {})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name of the base class)
        """Nothing."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "decisions").mkdir(parents=True)
    (tmp_path / "README.md").write_text("intro\n# The project\ntext")
    (tmp_path / "docs" / "empty.md").write_text(" \n")
    (tmp_path / "docs" / "decisions" / "0001.md").write_text("no heading")
    return tmp_path


def test_the_documents_are_those_with_text_titled_by_their_heading(project: Path) -> None:
    assert [(entry["document"], entry["title"]) for entry in documents(project)] == [
        ("README.md", "The project"),
        ("docs/decisions/0001.md", "docs/decisions/0001.md"),
    ]


def test_they_are_added_once(gateway: Gateway, project: Path) -> None:
    rest, marker = Rest(gateway.url, "key-1"), project / "sample"
    assert add(rest, marker, documents(project)) == "2 documents in penstock-docs"
    assert add(rest, marker, documents(project)) == "kept"
    assert gateway.documents == ["README.md", "docs/decisions/0001.md"]
    assert gateway.keys == {"Bearer key-1"}


def test_a_deleted_sample_does_not_come_back(gateway: Gateway, project: Path) -> None:
    rest, marker = Rest(gateway.url, ""), project / "sample"
    add(rest, marker, documents(project))
    gateway.collections.clear()
    assert add(rest, marker, documents(project)) == "kept"
    assert gateway.collections == set()


def test_an_interrupted_run_is_taken_up_again(gateway: Gateway, project: Path) -> None:
    rest, marker = Rest(gateway.url, ""), project / "sample"
    gateway.refuse = "docs/decisions/0001.md"
    with pytest.raises(SampleError, match=r"gave 503.*the database is away"):
        add(rest, marker, documents(project))
    gateway.refuse = ""
    assert add(rest, marker, documents(project)) == "2 documents in penstock-docs"
    assert set(gateway.documents) == {"README.md", "docs/decisions/0001.md"}


def test_somebody_elses_collection_is_left_alone(gateway: Gateway, project: Path) -> None:
    gateway.collections.add("penstock-docs")
    assert add(Rest(gateway.url, ""), project / "sample", documents(project)).startswith("left alone")
    assert gateway.documents == []


def test_nobody_there_is_said_with_the_call(project: Path) -> None:
    with pytest.raises(SampleError, match=r"POST /v1/collections: .*refused"):
        add(Rest(f"http://127.0.0.1:{free_port()}", ""), project / "sample", documents(project))
