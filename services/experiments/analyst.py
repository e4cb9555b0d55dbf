"""Analyses in a process of its own: its libraries are large, and mathematics would hold up the calls of others.

One child at most; it is started by the first question and ended when it has been idle for a while. Both ends speak pickles,
each after its length; both are ours.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, overload

from services.chassis.errors import Failure, Reason
from services.experiments.analysis import Analysis, PowerAnswer, PowerQuestion, Question
from services.experiments.optimization.proposals import Proposal, Proposed
from services.experiments.quality.trends import Trended, Trends

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import BinaryIO

    Asked: TypeAlias = Question | PowerQuestion | Proposal | Trends
    Answer: TypeAlias = Analysis | PowerAnswer | Proposed | Trended

_log = logging.getLogger(__name__)

_LENGTH_BYTES: Final = 8
_MOST_ANSWER_BYTES: Final = 64 * 1024**2
# Not `-m`: pickles name classes by module, and in them this one must not be `__main__`.
_CHILD: Final = "from services.experiments.analyst import main; main()"
_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Refused:
    """A question that has no answer. `problem` begins with the field to blame."""

    problem: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A defect met by a question, as text for the log."""

    defect: str


class Analyst:
    """Answers questions one after the other.

    Args:
        limit: Seconds after which a question is given up, the wait for the ones before it included.
        idle: Seconds without a question after which the child is ended.
    """

    def __init__(self, limit: float = 20.0, idle: float = 60.0) -> None:
        self._limit = limit
        self._idle = idle
        self._turn = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None
        self._rest: asyncio.TimerHandle | None = None

    @property
    def process_id(self) -> int | None:
        """The child's, while there is one."""
        return None if self._child is None else self._child.pid

    @overload
    async def ask(self, question: Question) -> Analysis: ...

    @overload
    async def ask(self, question: PowerQuestion) -> PowerAnswer: ...

    @overload
    async def ask(self, question: Proposal) -> Proposed: ...

    @overload
    async def ask(self, question: Trends) -> Trended: ...

    async def ask(self, question: Asked) -> Answer:
        """Answers one question.

        Raises:
            Failure: ANALYSIS_UNAVAILABLE; INVALID_FIELD for a question that has no answer.
        """
        try:
            async with asyncio.timeout(self._limit), self._turn:
                answer = await self._answer(question)
        except TimeoutError:
            raise _unavailable(f"it took more than {self._limit:.0f} s") from None
        except (asyncio.IncompleteReadError, BrokenPipeError, ConnectionResetError):
            raise _unavailable("its process ended") from None
        if isinstance(answer, Refused):
            field, _, problem = answer.problem.partition(": ")
            raise Failure(Reason.INVALID_FIELD, answer.problem, metadata={"field": field}, violations=[(field, problem)])
        if isinstance(answer, Broken):
            _log.error("defect in the analysis: %s", answer.defect)
            raise _unavailable("it met a defect, which the log tells")
        return answer

    async def _answer(self, question: Asked) -> Answer | Refused | Broken:
        async with self._awake() as child:
            # A pipe that is known to be closed is no place to write to: uvloop raises RuntimeError then.
            if child.stdin is None or child.stdout is None or child.stdin.is_closing():
                raise BrokenPipeError
            body = pickle.dumps(question)
            child.stdin.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
            await child.stdin.drain()
            length = int.from_bytes(await child.stdout.readexactly(_LENGTH_BYTES), "big")
            answer: Answer | Refused | Broken = pickle.loads(  # noqa: S301 - from our own child
                await child.stdout.readexactly(min(length, _MOST_ANSWER_BYTES))
            )
        return answer

    @asynccontextmanager
    async def _awake(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """The child; one that was left in the middle of an answer is ended, for the next question would get that answer."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._child is not None and self._child.returncode is not None:
            self._child = None
        child = self._child = self._child or await _start()
        answered = False
        try:
            yield child
            answered = True
        finally:
            if answered:
                self._rest = asyncio.get_running_loop().call_later(self._idle, self._retire, child)
            else:
                _end(child)
                self._child = None
                await child.wait()

    def _retire(self, child: asyncio.subprocess.Process) -> None:
        """Ends an idle child. The next question gets another one, even before this one is seen to have ended."""
        self._child = None
        _end(child)

    async def close(self) -> None:
        """Ends the child."""
        if self._rest is not None:
            self._rest.cancel()
        child, self._child = self._child, None
        if child is not None:
            _end(child)
            await child.wait()


def _unavailable(problem: str) -> Failure:
    return Failure(Reason.ANALYSIS_UNAVAILABLE, f"the analysis has no answer: {problem}; ask again", retry_after=1.0)


async def _start() -> asyncio.subprocess.Process:
    passed = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _CHILD,
        cwd=_ROOT,
        # None of the service's secrets; and small matrices need no threads.
        env={**{name: os.environ[name] for name in passed if name in os.environ}, "OPENBLAS_NUM_THREADS": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.kill()


def main() -> None:
    """The child: answers questions from standard input until it ends."""
    # What libraries print must not stand between answers.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while length := sys.stdin.buffer.read(_LENGTH_BYTES):
        question = pickle.loads(sys.stdin.buffer.read(int.from_bytes(length, "big")))  # noqa: S301 - from our own parent
        _put(out, _answer_to(question))


def _answer_to(question: Asked) -> Answer | Refused | Broken:
    # Here and not above: the parent imports this module too, and must stay light.
    from services.experiments.conclusions import analyse  # noqa: PLC0415 - see above
    from services.experiments.power import NoAnswerError, compute  # noqa: PLC0415 - as above

    try:
        if isinstance(question, Proposal):
            from services.experiments.optimization.search import propose  # noqa: PLC0415 - as above, and only for searches

            return Proposed(propose(question))
        if isinstance(question, Trends):
            from services.experiments.quality.theil_sen import trend  # noqa: PLC0415 - as above

            return Trended(tuple(trend(series) for series in question.series))
        return analyse(question) if isinstance(question, Question) else compute(question)
    except NoAnswerError as error:
        return Refused(str(error))
    except (ArithmeticError, ValueError) as error:
        return Broken(repr(error))


def _put(out: BinaryIO, answer: object) -> None:
    body = pickle.dumps(answer)
    out.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
    out.flush()
