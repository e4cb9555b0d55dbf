"""Reads documents in a process of its own.

Files come from strangers, and the libraries that read PDF, DOCX and source code are large and native: in here they may crash,
hang or eat memory without harm to the service, and even well-made large ones would hold the interpreter's lock for too long. A
child lives for one request. Its input is one pickle of all contents; it answers with one pickle each, in order. Both ends are
ours.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from services.retrieval.media_types import DOCX, PDF, is_code
from services.retrieval.parsing import UnsupportedMediaTypeError, media_type_of, parse
from services.retrieval.reading import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.retrieval.reading import Reading

# Below this size, text formats are read in a thread: a few milliseconds.
_SMALL_BYTES: Final = 256 * 1024
_LIMIT_SECONDS: Final = 60.0
_MEMORY_BYTES: Final = 2 * 1024**3
_LENGTH_BYTES: Final = 8
_MOST_ANSWER_BYTES: Final = 1 << 30
_AT_ONCE: Final = 2
# Not `-m`: pickles name classes by module, and in them this one must not be `__main__`.
_CHILD: Final = "from services.retrieval.reader_process import main; main()"
_ROOT: Final = Path(__file__).resolve().parents[2]

_room = asyncio.Semaphore(_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Content:
    """A document's content: see `parsing.parse`."""

    content: str | bytes
    media_type: str
    document: str


Outcome: TypeAlias = "tuple[str, Reading] | UnreadableError | UnsupportedMediaTypeError"


async def read_all(contents: Sequence[Content]) -> list[Outcome]:
    """Reads all contents: small texts in a thread, everything else in one child. Failures are returned, not raised."""
    outcomes: dict[int, Outcome] = {}
    apart: list[int] = []
    for number, content in enumerate(contents):
        if _is_harmless(content):
            outcomes[number] = await asyncio.to_thread(_outcome, content)
        else:
            apart.append(number)
    if apart:
        outcomes.update(zip(apart, await _read_apart([contents[number] for number in apart]), strict=True))
    return [outcomes[number] for number in range(len(contents))]


def _is_harmless(content: Content) -> bool:
    if len(content.content) > _SMALL_BYTES:
        return False
    try:
        kind = media_type_of(content.content, content.media_type, content.document)
        # What native code reads is read apart, however small.
        return kind not in (PDF, DOCX) and not is_code(kind)
    except (UnreadableError, UnsupportedMediaTypeError):
        # Refused without being read.
        return True


def _outcome(content: Content) -> Outcome:
    try:
        return parse(content.content, media_type=content.media_type, document=content.document)
    except (UnreadableError, UnsupportedMediaTypeError) as error:
        return error
    except (MemoryError, RecursionError):
        return UnreadableError("needs more memory to be read than a document may")


async def _read_apart(contents: Sequence[Content]) -> list[Outcome]:
    """What a child says of each; the content at which it ended early, or took too long, is to blame for that."""
    outcomes: list[Outcome] = []
    async with _room:
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
        problem = "makes its reader fail: the file is corrupt"
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                await _exchange(child, contents, outcomes)
        except TimeoutError:
            problem = f"takes more than {_LIMIT_SECONDS:.0f} s to read; split it"
        except (asyncio.IncompleteReadError, BrokenPipeError, ConnectionResetError):
            pass
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
    missing = len(contents) - len(outcomes)
    return [*outcomes, *[UnreadableError(problem)] * missing]


async def _exchange(child: asyncio.subprocess.Process, contents: Sequence[Content], outcomes: list[Outcome]) -> None:
    if child.stdin is None or child.stdout is None:
        raise BrokenPipeError
    child.stdin.write(await asyncio.to_thread(pickle.dumps, list(contents)))
    await child.stdin.drain()
    child.stdin.close()
    while len(outcomes) < len(contents):
        length = int.from_bytes(await child.stdout.readexactly(_LENGTH_BYTES), "big")
        body = await child.stdout.readexactly(min(length, _MOST_ANSWER_BYTES))
        outcomes.append(await asyncio.to_thread(pickle.loads, body))


def main() -> None:
    """The child: reads contents from standard input, writes outcomes to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    out = os.fdopen(os.dup(1), "wb")
    # Libraries that print must not print between answers.
    os.dup2(2, 1)
    contents: list[Any] = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    for content in contents:
        body = pickle.dumps(_outcome(content))
        out.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
        out.flush()
