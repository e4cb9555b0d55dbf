"""`penstock` as a user runs it, against the real suite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.suite import Suite

PENSTOCK = Path(sys.executable).with_name("penstock")


class Terminal:
    """Runs `penstock`, told by its environment where the suite is."""

    def __init__(self, url: str) -> None:
        self.environment = {**os.environ, "PENSTOCK_URL": url}

    def run(self, *arguments: str, stdin: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(PENSTOCK), *arguments]
        done = subprocess.run(
            command, input=stdin, env=self.environment, check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status, done.stderr
        return done

    def json(self, *arguments: str, stdin: str = "", status: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", stdin=stdin, status=status).stdout)


@pytest.fixture(scope="module")
def terminal(suite: Suite) -> Terminal:
    return Terminal(suite.url)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "plants").mkdir()
    (folder / "plants" / "kirkwall.md").write_text("# Kirkwall\n\nThe penstock of Kirkwall is 412 metres long.\n")
    (folder / "tea.html").write_text("<html><body><p>Green tea is steeped at 80 degrees.</p></body></html>")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4\nno more")
    return folder


@pytest.fixture(scope="module")
def collection(terminal: Terminal, folder: Path) -> Iterator[str]:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    done = terminal.run("ingest", name, str(folder), status=6)
    assert "not added: broken.pdf" in done.stdout
    assert f"2 files are in {name} (2 chunks); 1 not added" in done.stdout
    yield name
    terminal.run("collections", "delete", name, "--yes")
    terminal.run("search", "tea", "-c", name, status=3)


def test_ingesting_again_changes_nothing_but_what_changed(terminal: Terminal, folder: Path, collection: str) -> None:
    before = terminal.json("ingest", collection, str(folder), status=6)
    assert [one["document"] for one in before["documents"]] == ["plants/kirkwall.md", "tea.html"]
    assert [(one["document"], one["reason"]) for one in before["refused"]] == [("broken.pdf", "DOCUMENT_UNREADABLE")]
    (folder / "tea.html").write_text("<html><body><p>Green tea is steeped at 80 degrees, for 2 minutes.</p></body></html>")
    after = terminal.json("ingest", collection, str(folder), status=6)
    assert [one["version"] for one in after["documents"]] == [1, 2]


def test_search_ask_and_chat(terminal: Terminal, collection: str) -> None:
    hits = terminal.json("search", "How long is the penstock?", "-c", collection, "--top-k", "1")["hits"]
    assert [hit["document"] for hit in hits] == ["plants/kirkwall.md"]
    done = terminal.run("ask", "How long is the penstock of Kirkwall?", "-c", collection)
    assert "412 metres" in done.stdout
    assert f"*[1] Kirkwall · {collection}/plants/kirkwall.md" in done.stdout
    questions = "How long is the penstock of Kirkwall?\nHow hot is green tea steeped?\n"
    done = terminal.run("chat", "-c", collection, "--json", stdin=questions)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert "412" in answers[0]["text"]
    assert "80" in answers[1]["text"]
    assert answers[0]["conversation"] == answers[1]["conversation"] != ""


def test_an_experiment_from_beginning_to_end(terminal: Terminal) -> None:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    terminal.run("experiments", "create", name, "--variant", "a=1", "--variant", "b=1", "--unit", "user", "--metric", "helpful")
    assert terminal.json("experiments", "start", name)["state"] == "EXPERIMENT_STATE_RUNNING"
    assert [one["variant"] for one in terminal.json("experiments", "results", name)["variants"]] == ["a", "b"]
    assert "helpful" in terminal.run("experiments", "results", name).stdout
    assert terminal.json("experiments", "stop", name)["state"] == "EXPERIMENT_STATE_STOPPED"
    error = json.loads(terminal.run("experiments", "start", name, "--json", status=4).stderr)["error"]
    assert error["reason"] == "EXPERIMENT_STATE"
    assert error["request_id"]


def test_models_and_health(terminal: Terminal) -> None:
    assert "extractive" in [model["model"] for model in terminal.json("models", "list")["models"]]
    error = terminal.run("models", "load", "no-such-model", "--json", status=3).stderr
    assert json.loads(error)["error"]["reason"] == "MODEL_NOT_FOUND"
    assert [one["failure"] for one in terminal.json("health")["services"]] == ["", "", ""]


def test_failures_have_their_status(terminal: Terminal, collection: str) -> None:
    assert "COLLECTION_NOT_FOUND" in terminal.run("ask", "why", "-c", "no-such-collection", status=3).stderr
    assert "MODEL_NOT_FOUND" in terminal.run("ask", "why", "-c", collection, "--model", "no-such-model", status=3).stderr
    assert "INVALID_FIELD" in terminal.run("collections", "create", "No Such Name", status=4).stderr
    terminal.run("collections", "create", collection, status=4)
    terminal.run("ask", status=2)


def test_a_suite_that_does_not_run() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert f"nothing answers at {url}" in Terminal(url).run("ask", "why", status=5).stderr


def test_ctrl_c_ends_a_conversation_quietly(terminal: Terminal, collection: str) -> None:
    chat = subprocess.Popen(
        [PENSTOCK, "chat", "-c", collection],
        env=terminal.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert chat.stderr is not None
    assert "conversation chat-" in chat.stderr.readline()
    time.sleep(0.2)
    chat.send_signal(signal.SIGINT)
    _, told = chat.communicate(timeout=10)
    assert chat.returncode == 130
    assert "Traceback" not in told
