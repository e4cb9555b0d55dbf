"""Adds the files of a folder to a collection: in batches, several at a time, each file failing alone.

A file's id is its path within the folder, and the server leaves a document alone whose content it has, so that an interrupted
run is taken up again by repeating it.
"""

from __future__ import annotations

import os
import re
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock import errors
from penstock.retrieval.v1 import document_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from penstock.client import Client

# The prose that the server can read. It reads code, data and logs too, but those are seldom meant by a folder of documents.
ENDINGS: Final = (".docx", ".htm", ".html", ".markdown", ".md", ".mdx", ".pdf", ".rst", ".text", ".txt", ".xhtml")
_MOST_BYTES: Final = 16 * 1024 * 1024
_BATCH_FILES: Final = 16
_BATCH_BYTES: Final = 4 * 1024 * 1024
_PLACE: Final = re.compile(r"documents\[(\d+)\]")


@dataclass(frozen=True)
class File:
    """A file to add. `document` is its id; `size` is in bytes."""

    path: Path
    document: str
    size: int


@dataclass(frozen=True)
class Added:
    """A file that is in the collection."""

    document: document_pb2.Document


@dataclass(frozen=True)
class Refused:
    """A file that is not, and why: in one word for programs, and in plain words."""

    document: str
    reason: str
    message: str


Outcome = Added | Refused


def find(root: Path, patterns: Sequence[str] = ()) -> tuple[list[File], list[str]]:
    """The files of a folder, or one file, folder by folder; hidden ones are left out.

    Args:
        root: The folder, or the file.
        patterns: Which files to take, such as `*.log`; none means `ENDINGS`.

    Returns:
        What to add, and the ids of what was passed over.

    Raises:
        OSError: The folder cannot be read.
    """
    if root.is_file():
        return [File(root, root.name, root.stat().st_size)], []
    taken: list[File] = []
    passed: list[str] = []
    for path in _walk(root):
        document = path.relative_to(root).as_posix()
        wanted = any(path.match(pattern) for pattern in patterns) if patterns else path.suffix.lower() in ENDINGS
        if wanted:
            taken.append(File(path, document, path.stat().st_size))
        else:
            passed.append(document)
    return taken, passed


def _walk(root: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path


def batches(files: Iterable[File]) -> Iterator[list[File]]:
    """The files in groups that are small enough for one call."""
    batch: list[File] = []
    total = 0
    for file in files:
        if batch and (len(batch) == _BATCH_FILES or total + file.size > _BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(file)
        total += file.size
    if batch:
        yield batch


def add(client: Client, collection: str, files: Iterable[File], parallel: int, tell: Callable[[Outcome], None]) -> None:
    """Adds files, telling of each as soon as its fate is known, from this thread.

    Args:
        client: The connection.
        collection: Where they go; it exists.
        files: What to add.
        parallel: Calls at a time.
        tell: Called once a file.

    Raises:
        PenstockError: The server cannot take more; what was told of is settled all the same.
    """
    waiting = deque(batches(files))
    running: set[Future[list[Outcome]]] = set()
    threads = ThreadPoolExecutor(parallel, thread_name_prefix="ingest")
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                running.add(threads.submit(_add_batch, client, collection, waiting.popleft()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                for outcome in future.result():
                    tell(outcome)
    finally:
        # After a failure nobody waits for the calls that still run: closing the client ends them.
        threads.shutdown(wait=False, cancel_futures=True)


def _add_batch(client: Client, collection: str, files: Sequence[File]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    inputs: list[document_pb2.DocumentInput] = []
    for file in files:
        read = _read(file)
        if isinstance(read, Refused):
            outcomes.append(read)
        else:
            inputs.append(read)
    return outcomes + _add_inputs(client, collection, inputs)


def _read(file: File) -> document_pb2.DocumentInput | Refused:
    """A file as a document, unless it can be told here that it is none."""
    try:
        file.document.encode()
    except UnicodeEncodeError:
        readable = file.document.encode(errors="backslashreplace").decode()
        return Refused(readable, "INVALID_NAME", "its name is not UTF-8")
    if file.size > _MOST_BYTES:
        return Refused(file.document, "REQUEST_TOO_LARGE", f"it has {file.size} bytes; a document may have {_MOST_BYTES}")
    try:
        data = file.path.read_bytes()
    except OSError as error:
        return Refused(file.document, "UNREADABLE_FILE", error.strerror or str(error))
    if not data:
        return Refused(file.document, "EMPTY_FILE", "it is empty")
    document = document_pb2.DocumentInput(document=file.document, data=data)
    document.metadata["path"] = file.document
    return document


def _add_inputs(client: Client, collection: str, inputs: Sequence[document_pb2.DocumentInput]) -> list[Outcome]:
    """Adds a batch; the server takes all or none, so those that it names as wrong are left out and the others sent again."""
    rest = list(inputs)
    outcomes: list[Outcome] = []
    while rest:
        try:
            return outcomes + [Added(kept) for kept in client.add_documents(collection, rest)]
        except (errors.InvalidArgumentError, errors.ResourceExhaustedError) as error:
            if isinstance(error, errors.ResourceExhaustedError) and error.retry_after is not None:
                raise
            wrong = _named(error, len(rest))
            if not wrong and len(rest) > 1:
                return outcomes + [one for each in rest for one in _add_inputs(client, collection, [each])]
            wrong = wrong or {0: error.message}
            reason = error.reason or error.code.name
            outcomes += [Refused(rest[number].document, reason, message) for number, message in sorted(wrong.items())]
            rest = [each for number, each in enumerate(rest) if number not in wrong]
    return outcomes


def _named(error: errors.PenstockError, count: int) -> dict[int, str]:
    """The documents of a batch that an error names, and what is wrong with them."""
    wrong: dict[int, str] = {}
    for place, message in {error.metadata.get("field", ""): error.message, **error.fields}.items():
        found = _PLACE.match(place)
        if found and int(found[1]) < count:
            wrong[int(found[1])] = message.removeprefix(f"{place}: ")
    return wrong
