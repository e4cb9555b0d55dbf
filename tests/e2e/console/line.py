"""A line between browser and suite that can be made slow, so that what goes by in milliseconds can be watched."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PIECE_BYTES = 160


class Line:
    """Passes bytes on as they come; while `slow`, what the suite sends arrives in small pieces with pauses between."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self.slow = False
        self.pause_seconds = 0.04
        """Between two pieces, while it is slow."""
        self.port = 0

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[Line]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._upstream)
        ways = [
            asyncio.create_task(self._carry(reader, upstream_writer)),
            asyncio.create_task(self._carry(upstream_reader, writer, downwards=True)),
        ]
        # Either side's end is the end of both, so that a browser that goes away is seen by the suite.
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, upstream_writer):
            end.close()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, downwards: bool = False) -> None:
        while piece := await source.read(PIECE_BYTES if downwards and self.slow else 65536):
            if downwards and self.slow:
                await asyncio.sleep(self.pause_seconds)
            sink.write(piece)
            await sink.drain()
