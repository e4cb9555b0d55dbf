"""The command line against a real server whose answers the tests decide."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from penstock.cli.app import app
from penstock.retrieval.v1 import search_pb2
from typer.testing import CliRunner

from tests.support.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

    from tests.integration.client.conftest import Backend


@pytest.fixture
def penstock(address: str) -> Any:
    """Runs a command in a thread: the server shares the test's event loop."""

    async def run(*arguments: str, stdin: str | None = None, url: str = address) -> Result:
        environment = {"PENSTOCK_URL": url, "PENSTOCK_API_KEY": "k-1"}
        return await asyncio.to_thread(CliRunner().invoke, app, list(arguments), input=stdin, env=environment)

    return run


async def test_ask_streams_over_all_collections(penstock: Any, backend: Backend) -> None:
    done = await penstock("ask", "tea?", "--top-k", "3", "--mode", "dense", "--user", "u")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("about tea?\n")
    request = backend.requests[-1]
    assert list(request.collections) == ["c0", "c1", "c2", "c3", "c4"]
    assert (request.top_k, request.mode, request.user) == (3, search_pb2.SEARCH_MODE_DENSE, "u")
    assert backend.metadata[-1]["authorization"] == "Bearer k-1"
    done = await penstock("ask", "-", "-c", "docs", stdin="from a pipe\n")
    assert done.stdout.startswith("about from a pipe\n")


async def test_a_conversation_keeps_its_id_until_it_is_told_to_begin_anew(penstock: Any, backend: Backend) -> None:
    done = await penstock("chat", "-c", "docs", stdin="one\n\ntwo\n/new\nthree\n/quit\nfour\n")
    assert done.exit_code == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("about")] == ["about one", "about two", "about three"]
    first, second, third = (request.conversation for request in backend.requests)
    assert first == second != third
    assert first in done.stderr


async def test_chat_gives_a_program_one_answer_a_line(penstock: Any) -> None:
    done = await penstock("chat", "-c", "docs", "--json", stdin="one\ntwo\n")
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["about one [1]", "about two [1]"]
    assert done.stderr == ""


async def test_search_shows_no_control_characters(penstock: Any) -> None:
    done = await penstock("search", "tea", "-c", "docs")
    assert done.stdout == "[1] docs/d1  relevance 0.50\n    green[31m tea\n"
    done = await penstock("--json", "search", "tea", "-c", "docs")
    assert json.loads(done.stdout)["hits"][0]["text"] == "green\x1b[31m tea"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for number in range(40):
        (tmp_path / "sub" / f"{number:02}.md").write_text(f"# {number}")
    (tmp_path / "bad.pdf").write_text("broken")
    (tmp_path / "sub" / "bad.md").write_text("broken too")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "photo.png").write_text("x")
    return tmp_path


async def test_a_folder_is_added_and_each_bad_file_fails_alone(penstock: Any, backend: Backend, folder: Path) -> None:
    done = await penstock("ingest", "docs", str(folder), "--json")
    assert done.exit_code == 6
    report = json.loads(done.stdout)
    assert sorted(one["document"] for one in report["documents"]) == [f"sub/{number:02}.md" for number in range(40)]
    assert {one["document"]: one["reason"] for one in report["refused"]} == {
        "bad.pdf": "DOCUMENT_UNREADABLE",
        "sub/bad.md": "DOCUMENT_UNREADABLE",
        "empty.txt": "EMPTY_FILE",
    }
    assert report["passed_over"] == ["photo.png"]
    assert backend.requests[1].documents[0].metadata["path"] == backend.requests[1].documents[0].document
    text = await penstock("ingest", "docs", str(folder))
    assert "not added: bad.pdf: must be positive (DOCUMENT_UNREADABLE)\n" in text.stdout
    assert text.stdout.endswith("3 not added; 1 passed over, of other kinds\n")


async def test_an_ingestion_makes_the_collection(penstock: Any, backend: Backend, folder: Path) -> None:
    backend.failures = [(grpc.StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND")]
    done = await penstock("ingest", "docs", str(folder / "sub" / "00.md"))
    assert (done.exit_code, done.stderr) == (0, "created the collection docs\n")
    assert backend.requests[1].collection.collection == "docs"


async def test_an_ingestion_stops_when_the_server_has_no_room(penstock: Any, backend: Backend, folder: Path) -> None:
    backend.pass_first = 3
    backend.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")]
    done = await penstock("ingest", "docs", str(folder), "--parallel", "1")
    assert done.exit_code == 5
    assert "stopped after 16 of 43 files; repeat the command to go on" in done.stderr
    assert len(backend.requests) == 4


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["models", "list"], "models"),
        (["models", "load", "m", "--device", "cpu"], "model"),
        (["models", "pull", "m"], "model"),
        (["models", "unload", "m", "--force"], "freed_bytes"),
        (["models", "delete", "m", "--yes"], "deleted_bytes"),
        (["collections", "list"], "collections"),
        (["collections", "create", "docs"], "collection"),
        (["collections", "delete", "docs", "--yes"], "collection"),
        (["experiments", "list"], "experiments"),
        (["experiments", "start", "e1"], "experiment"),
        (["experiments", "stop", "e1"], "experiment"),
        (["experiments", "results", "e1"], "variants"),
        (["health"], "services"),
        (["ask", "why", "-c", "docs"], "text"),
    ],
)
async def test_json_is_all_there_is_on_standard_output(penstock: Any, arguments: list[str], key: str) -> None:
    done = await penstock(*arguments, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert key in json.loads(done.stdout)
    assert (await penstock(*arguments)).exit_code == 0


async def test_a_load_that_breaks_off_tells_why(penstock: Any) -> None:
    assert (await penstock("models", "load", "m")).stdout == "loaded m in 0.0 s\n"
    done = await penstock("models", "load", "huge")
    assert (done.exit_code, done.stdout) == (5, "")
    assert "OUT_OF_MEMORY" in done.stderr


async def test_nothing_is_deleted_without_consent(penstock: Any, backend: Backend) -> None:
    for kind in ("collections", "models"):
        assert (await penstock(kind, "delete", "x", stdin="n\n")).exit_code == 1
        assert backend.requests == []
    assert (await penstock("collections", "delete", "x", stdin="y\n")).stdout.endswith("deleted x\n")


async def test_results_are_a_table(penstock: Any) -> None:
    done = await penstock("experiments", "results", "e1")
    assert [line.split() for line in done.stdout.splitlines()[2:-1]] == [
        ["control", "2", "4", "helpful", "3", "2", "0.5"],
        ["slow", "0", "0", "-"],
        [],
        ["against", "control"],
        ["VARIANT", "METRIC", "DIFFERENCE", "INTERVAL", "RELATIVE", "VERDICT"],
        ["short", "helpful", "-0.25", "-0.75", "to", "+0.25", "-50.0%", "inconclusive"],
        ["short", "slow", "-", "-", "-", "too", "few", "units"],
        [],
    ]
    assert done.stdout.endswith("not split as the weights say (p = 0.0001). Find out why before you trust any of this.\n")


async def test_an_experiment_out_of_options_and_out_of_a_file(penstock: Any, backend: Backend, tmp_path: Path) -> None:
    variants = [
        "--variant",
        "control=1",
        "--variant",
        "short=3",
        "--set",
        "short.prompt=Be brief: a=b.",
        "--set",
        "short.top_k=2",
    ]
    done = await penstock("experiments", "create", "e1", *variants, "--metric", "helpful", "--metric", "slow:decrease")
    assert done.exit_code == 0, done.stderr
    made = backend.requests[-1].experiment
    assert [(one.variant, one.weight) for one in made.variants] == [("control", 1), ("short", 3)]
    assert (made.variants[1].prompt, made.variants[1].top_k) == ("Be brief: a=b.", 2)
    assert [metric.direction for metric in made.metrics] == [1, 2]
    body: dict[str, Any] = {
        "experiment": "e2",
        "unit": "UNIT_REQUEST",
        "variants": [{"variant": "a", "weight": 1}],
        "hypothesis": "h",
    }
    body["analysis"] = {"method": "ANALYSIS_METHOD_FIXED_HORIZON", "duration": "60s"}
    file = tmp_path / "e2.json"
    file.write_text(json.dumps(body))
    assert (await penstock("experiments", "create", "--file", str(file))).exit_code == 0
    made = backend.requests[-1].experiment
    assert (made.experiment, made.unit, made.hypothesis, made.analysis.duration.seconds) == ("e2", 3, "h", 60)
    for wrong in ({**body, "salt": "s"}, {**body, "nonsense": 1}):
        file.write_text(json.dumps(wrong))
        assert (await penstock("experiments", "create", "--file", str(file))).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["ask"],
        ["ask", " "],
        ["search", "x", "-c", "docs", "--mode", "magic"],
        ["search", "x", "-c", "docs", "--top-k", "0"],
        ["ingest", "docs", "/no/such/folder"],
        ["collections", "delete", "docs", "--json"],
        ["experiments", "create", "e1", "--variant", "a=much"],
        ["experiments", "create", "e1", "--variant", "a=1", "--set", "b.prompt=x"],
        ["experiments", "create", "e1", "--unit", "galaxy"],
        ["models", "list", "--url", "nowhere"],
        ["models", "list", "--timeout", "0"],
    ],
)
async def test_wrong_usage_is_told_without_a_call(penstock: Any, backend: Backend, arguments: list[str]) -> None:
    done = await penstock(*arguments)
    assert done.exit_code == 2
    assert backend.requests == []


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.NOT_FOUND, 3),
        (grpc.StatusCode.INVALID_ARGUMENT, 4),
        (grpc.StatusCode.ALREADY_EXISTS, 4),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 5),
        (grpc.StatusCode.INTERNAL, 1),
    ],
)
async def test_failures_have_their_status_and_tell_why(
    penstock: Any, backend: Backend, code: grpc.StatusCode, status: int
) -> None:
    backend.failures = [(code, "SOME_REASON")]
    done = await penstock("ask", "why", "-c", "docs")
    assert done.exit_code == status
    assert done.stdout == ""
    assert "penstock: what was wrong" in done.stderr
    assert "SOME_REASON · request r-1" in done.stderr
    backend.failures = [(code, "SOME_REASON")]
    done = await penstock("ask", "why", "-c", "docs", "--json")
    assert (done.exit_code, done.stdout) == (status, "")
    assert json.loads(done.stderr)["error"]["reason"] == "SOME_REASON"


async def test_a_server_that_is_not_there(penstock: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = await penstock("models", "list", url=url)
    assert done.exit_code == 5
    assert f"nothing answers at {url}" in done.stderr
    done = await penstock("health", url=url)
    assert done.exit_code == 5
    assert done.stdout.count("fails") == 3


async def test_ctrl_c_stops_the_answer_and_not_the_conversation(address: str, backend: Backend) -> None:
    backend.hang = True
    terminal, stdin = pty.openpty()
    try:
        chat = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", "from penstock.cli import main; main()", "chat", "-c", "docs", "--url", address),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        os.write(terminal, b"why\n")
        async with asyncio.timeout(20):
            await backend.asked.wait()
            await asyncio.sleep(0.1)
            chat.send_signal(signal.SIGINT)
            await asyncio.wait_for(backend.cancelled.wait(), 2)
            backend.hang = False
            os.write(terminal, b"and now\n/quit\n")
            out, told = await chat.communicate()
    finally:
        os.close(terminal)
        os.close(stdin)
    assert chat.returncode == 0
    assert b"stopped" in told
    assert b"about and now" in out
