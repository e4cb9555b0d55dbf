"""One answer that an engine's server streams, whatever form its lines have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from services.inference.engines.remote import failed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.chassis.errors import Failure
    from services.inference.engine import Delta, End, Event
    from services.inference.engines.remote import RemoteServer


class Reader(Protocol):
    """Makes an answer out of lines."""

    @property
    def is_done(self) -> bool:
        """Whether its last line has been read."""

    def read(self, batch: list[bytes]) -> Failure | None:
        """Takes in lines; returns what is wrong with the first bad one, after what is right has been taken in."""

    def take(self) -> Delta | None:
        """All that has come since the last time."""

    def end(self) -> End:
        """How it ended; asked once it is done."""


async def remote_answer(
    server: RemoteServer, engine: str, path: str, body: bytes, answer: Reader, *, end_mark: str
) -> AsyncGenerator[Event, None]:
    """Asks the server, and streams what the reader makes of its lines. Raises Failure as `RemoteServer` and the reader do.

    Args:
        server: Which server.
        engine: Name of the engine, for failures.
        path: What is asked for.
        body: The request, in JSON.
        answer: Reads the lines.
        end_mark: What the last line says: without it the stream was cut.
    """
    async with server.stream(path, body) as lines:
        while not answer.is_done:
            batch = await lines.more()
            if batch is None:
                raise failed(engine, f"the stream ended without `{end_mark}`; the text may be cut")
            failure = answer.read(batch)
            delta = answer.take()
            if delta is not None:
                lines.content_came()
                yield delta
            if failure is not None:
                raise failure
        lines.finish()
        yield answer.end()
