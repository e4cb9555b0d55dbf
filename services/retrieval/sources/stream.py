"""Reads a file that may hold many documents in a process of its own, one document after the other.

What `reader_process` says holds here too: files come from strangers. The child announces what takes long before it reads it, so
that when it crashes, hangs or eats memory that document alone is refused, and another child goes on with the next. The pipe
between the two holds little: a child reads no faster than its parent takes.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import resource
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from services.retrieval.sources.entries import Entry, Refused, refused
from services.retrieval.sources.files import items

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

# Of one document, seconds.
_LIMIT_SECONDS: Final = 60.0
_MEMORY_BYTES: Final = 2 * 1024**3
_LENGTH_BYTES: Final = 8
_MOST_ANSWER_BYTES: Final = 1 << 30
_FLUSH_BYTES: Final = 64 * 1024
_AT_ONCE: Final = 4
# How often a child tells how far it is.
_TELL_BYTES: Final = 64 * 1024
_CHILD: Final = "from services.retrieval.sources.stream import main; main()"
_ROOT: Final = Path(__file__).resolve().parents[3]

_room = asyncio.Semaphore(_AT_ONCE)


@dataclass(frozen=True, slots=True)
class _Begun:
    """That an item is being read."""

    name: str


@dataclass(slots=True)
class Position:
    """How many bytes of a file are read, and never less than before."""

    size: int = 0


@dataclass(frozen=True, slots=True)
class _At:
    """How many bytes of the file are read."""

    size: int


@dataclass(frozen=True, slots=True)
class _Task:
    path: Path
    name: str
    media_type: str
    is_text: bool
    skip: int


async def read_source(
    path: Path, *, name: str, media_type: str = "", is_text: bool = False, skip: int = 0, position: Position | None = None
) -> AsyncGenerator[Entry | Refused, None]:
    """Reads the documents in a file: see `files.items`. Each is an entry or a refusal; the order is always the same.

    Args:
        path: The file, on this machine.
        name: Its name as its sender knows it.
        media_type: As its sender gave it; empty means that content and name tell.
        is_text: Whether the content was given as text, so that it is in UTF-8.
        skip: How many of the first to leave out, unread.
        position: Kept up to what of the file has been read for the documents that were given out.
    """
    done, is_over = skip, False
    async with _room:
        while not is_over:
            before = done
            announced = ""
            problem = "makes its reader fail: the file is corrupt"
            async with _child(_Task(path, name, media_type, is_text, done)) as out:
                try:
                    while (message := await _message(out)) is not None:
                        if isinstance(message, _Begun):
                            announced = message.name
                            continue
                        if isinstance(message, _At):
                            if position is not None:
                                position.size = max(position.size, message.size)
                            continue
                        announced = ""
                        done += 1
                        yield message
                    is_over = True
                except TimeoutError:
                    problem = f"takes more than {_LIMIT_SECONDS:.0f} s to read; split it"
                except (asyncio.IncompleteReadError, ConnectionResetError):
                    pass
            if not is_over:
                done += 1
                yield refused(announced or name, problem)
                # Where nothing was begun it is no document that fails but the file, and it would again.
                is_over = not announced and done == before + 1


@asynccontextmanager
async def _child(task: _Task) -> AsyncIterator[asyncio.StreamReader]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _CHILD,
        cwd=_ROOT,
        # None of the service's secrets.
        env={name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        if child.stdin is None or child.stdout is None:
            raise BrokenPipeError
        with suppress(BrokenPipeError, ConnectionResetError):
            child.stdin.write(pickle.dumps(task))
            await child.stdin.drain()
            child.stdin.close()
        yield child.stdout
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
        await child.wait()


async def _message(out: asyncio.StreamReader) -> Entry | Refused | _Begun | _At | None:
    """The next message; None at the end."""
    async with asyncio.timeout(_LIMIT_SECONDS):
        length = int.from_bytes(await out.readexactly(_LENGTH_BYTES), "big")
        body = await out.readexactly(min(length, _MOST_ANSWER_BYTES))
    message: Entry | Refused | _Begun | _At | None
    if len(body) < _FLUSH_BYTES:
        message = pickle.loads(body)  # noqa: S301 - from our own child
    else:
        message = await asyncio.to_thread(pickle.loads, body)
    return message


def main() -> None:
    """The child: reads its task from standard input, writes what it reads to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    task: _Task = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    out = os.fdopen(os.dup(1), "wb", _FLUSH_BYTES)
    # Libraries that print must not print between answers.
    os.dup2(2, 1)

    def send(message: Any) -> None:
        body = pickle.dumps(message)
        out.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)

    files: list[IO[bytes]] = []
    told = 0
    found = items(task.path, name=task.name, media_type=task.media_type, is_text=task.is_text, opened=files.append)
    for number, item in enumerate(found):
        if number < task.skip:
            continue
        if not item.is_quick:
            send(_Begun(item.name))
            out.flush()
        outcome = item.read()
        at = files[0].tell() if files else 0
        if at >= told + _TELL_BYTES:
            send(_At(told := at))
        send(outcome)
        if not item.is_quick:
            out.flush()
    send(None)
    out.flush()
