"""The parts of the command line that need no server."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import grpc
import penstock
import pytest
from penstock.cli.app import hoisted
from penstock.cli.exits import CommandError, Exit, status_of, told
from penstock.cli.ingestion import ENDINGS, File, batches, find
from penstock.errors import _CLASSES

from services.retrieval import media_types

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["ask", "why", "--json"], ["--json", "ask", "why"]),
        (["ask", "--url", "h:1", "why", "--api-key=k"], ["--url", "h:1", "--api-key=k", "ask", "why"]),
        (["ask", "--", "--json", "--url"], ["ask", "--", "--json", "--url"]),
        (["ask", "--url"], ["--url", "ask"]),
    ],
)
def test_shared_options_may_stand_anywhere(given: list[str], expected: list[str]) -> None:
    assert hoisted(given) == expected


def test_every_class_of_error_has_a_status() -> None:
    statuses = {kind.__name__: status_of(kind("x")) for kind in _CLASSES.values()}
    assert {name for name, status in statuses.items() if status is Exit.FAILED} == {"InternalError"}
    assert statuses["NotFoundError"] is Exit.NOT_FOUND
    assert statuses["UnavailableError"] is Exit.UNAVAILABLE
    assert status_of(penstock.ResourceExhaustedError("too large")) is Exit.REFUSED
    assert status_of(penstock.ResourceExhaustedError("full", retry_after=1)) is Exit.UNAVAILABLE
    assert status_of(CommandError("x")) is Exit.USAGE


def test_errors_are_told_with_fields_reason_and_request_id() -> None:
    error = penstock.InvalidArgumentError(
        "top_k: too small",
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="INVALID_FIELD",
        fields={"top_k": "too small", "mode": "unknown"},
        request_id="r-1",
    )
    assert told(error, "here") == ["top_k: too small", "  mode: unknown", "  INVALID_FIELD · request r-1"]
    assert "nothing answers at here" in told(penstock.UnavailableError("refused"), "here")[0]
    assert "PENSTOCK_API_KEY" in "".join(told(penstock.UnauthenticatedError("no key"), "here"))


def test_files_are_found_by_their_endings(tmp_path: Path) -> None:
    for name in ("b.MD", "a.txt", "sub/c.pdf", "picture.png", ".hidden.md", ".git/d.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    files, passed = find(tmp_path)
    assert [file.document for file in files] == ["a.txt", "b.MD", "sub/c.pdf"]
    assert passed == ["picture.png"]
    assert [file.document for file in find(tmp_path, ["*.png"])[0]] == ["picture.png"]
    assert [file.document for file in find(tmp_path / "sub" / "c.pdf")[0]] == ["c.pdf"]


def test_the_endings_are_those_that_retrieval_reads_as_prose() -> None:
    prose = {media_types.MARKDOWN, media_types.HTML, media_types.PLAIN}
    read = {f".{ending}" for ending, kind in media_types._ENDINGS.items() if kind in prose}
    assert set(ENDINGS) == read - {".log"} | {".pdf", ".docx"}


def test_batches_are_bounded_and_lose_nothing(tmp_path: Path) -> None:
    sizes = [10, 5_000_000, 10, 3_000_000, 3_000_000, *[1] * 40]
    files = [File(tmp_path, str(number), size) for number, size in enumerate(sizes)]
    found = list(batches(files))
    assert [file for batch in found for file in batch] == files
    assert all(len(batch) == 1 or sum(file.size for file in batch) <= 4 * 1024 * 1024 for batch in found)
    assert max(len(batch) for batch in found) == 16


def test_without_the_extra_it_says_how_to_get_it() -> None:
    script = "import sys; sys.modules['typer'] = None; from penstock.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr == "penstock: the command line needs more packages: pip install 'penstock[cli]'\n"
