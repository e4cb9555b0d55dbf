"""`kill -9` of any one process while documents are being added loses no acknowledged document."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.support.suite import Suite

PROCESSES = ("retrieval", "inference", "experiments", "gateway", "postgres", "qdrant", "valkey")
# Long enough for a killed process to be back and working.
HEALED_SECONDS = 60


class Writer(threading.Thread):
    """Adds documents one after the other, and remembers those that were acknowledged."""

    def __init__(self, suite: Suite, collection: str) -> None:
        super().__init__()
        self.acknowledged: list[str] = []
        self.refused = 0
        self._client = httpx.Client(base_url=suite.url, timeout=30)
        self._collection = collection
        self._enough = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._enough.is_set():
            name = f"d{number}"
            number += 1
            text = f"Document {name} tells of the marker word{number} and of nothing else."
            try:
                answer = self._client.post(
                    f"/v1/collections/{self._collection}/documents", json={"documents": [{"document": name, "text": text}]}
                )
            except httpx.HTTPError:
                self.refused += 1
                continue
            if answer.status_code == httpx.codes.OK:
                self.acknowledged.append(name)
            else:
                self.refused += 1
                time.sleep(0.05)

    def stop(self) -> None:
        self._enough.set()
        self.join(60)
        self._client.close()


def wait_until(what: str, holds: object) -> None:
    deadline = time.monotonic() + HEALED_SECONDS
    while not (callable(holds) and holds()):
        assert time.monotonic() < deadline, f"{what} took more than {HEALED_SECONDS} s"
        time.sleep(0.1)


@pytest.mark.parametrize("process", PROCESSES)
def test_no_acknowledged_document_is_lost(hurt_suite: Suite, process: str) -> None:
    collection = f"kill-{process}-{uuid.uuid4().hex[:6]}"
    with httpx.Client(base_url=hurt_suite.url, timeout=30) as client:

        def healthy() -> bool:
            try:
                return client.get("/healthz").status_code == httpx.codes.OK
            except httpx.HTTPError:
                return False

        wait_until("the suite's health", healthy)
        assert client.post("/v1/collections", json={"collection": collection}).status_code == httpx.codes.OK
        writer = Writer(hurt_suite, collection)
        writer.start()
        wait_until("the first documents", lambda: len(writer.acknowledged) >= 10)
        victim = hurt_suite.processes()[process]
        os.kill(victim, signal.SIGKILL)
        wait_until("the restart", lambda: hurt_suite.processes()[process] != victim)
        wait_until("the suite's health", healthy)
        before = len(writer.acknowledged)
        wait_until("writing again", lambda: len(writer.acknowledged) >= before + 10)
        writer.stop()

        def indexed() -> bool:
            answers = [client.get(f"/v1/collections/{collection}/documents/{name}") for name in writer.acknowledged]
            assert [answer.status_code for answer in answers] == [httpx.codes.OK] * len(answers)
            return all(answer.json()["document"]["state"] == "DOCUMENT_STATE_INDEXED" for answer in answers)

        wait_until("indexing", indexed)
        for name in (writer.acknowledged[0], writer.acknowledged[-1]):
            word = f"word{int(name[1:]) + 1}"
            found = client.post("/v1/search", json={"collections": [collection], "query": word, "mode": "SEARCH_MODE_SPARSE"})
            assert found.json()["hits"][0]["document"] == name
