"""An HTTP server that says exactly what a test scripts, byte by byte, and notices when its client is gone."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Script: TypeAlias = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request, and the means to answer it."""

    def __init__(self, writer: asyncio.StreamWriter, head: str, body: bytes) -> None:
        self.head = head
        self.body = body
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, status: int, document: Any, *headers: str) -> None:
        """A whole answer in JSON."""
        data = json.dumps(document).encode()
        lines = (f"HTTP/1.1 {status} Scripted", "Content-Type: application/json", f"Content-Length: {len(data)}", *headers)
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    async def begin(self, content_type: str = "text/event-stream") -> None:
        """The head of a streamed answer."""
        await self.send(f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())

    async def piece(self, data: bytes) -> None:
        """A piece of a streamed answer."""
        await self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def end(self) -> None:
        """The proper end of a streamed answer."""
        await self.send(b"0\r\n\r\n")

    def cut(self) -> None:
        """Closes the connection, whatever has been said."""
        self._writer.close()


class ScriptedServer:
    """Answers each request by the script that is set; requests are served one a connection at a time."""

    def __init__(self) -> None:
        self.script: Script | None = None
        self.requests = 0
        self.client_gone = asyncio.Event()
        self.gone_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                length = next((int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length:")), 0)
                self.requests += 1
                exchange = Exchange(writer, head, await reader.readexactly(length))
                assert self.script is not None
                task = asyncio.ensure_future(self.script(exchange))
                watch = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
                if not task.done():
                    self.gone_at = time.monotonic()
                    self.client_gone.set()
                    task.cancel()
                    return
                task.result()
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone_at = self.gone_at or time.monotonic()
            self.client_gone.set()
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return ""


@asynccontextmanager
async def scripted_server() -> AsyncIterator[tuple[ScriptedServer, str]]:
    """Runs one; gives it and its address."""
    scripted = ScriptedServer()
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    try:
        yield scripted, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
