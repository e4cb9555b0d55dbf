"""An HTTP/1.1 client for engines, over httptools: as little work as possible for each request and each token of an answer.

It does what engines need and no more: keep-alive, TLS, answers read in bounded pieces, a deadline on each wait, and a socket
that is closed at once when nobody wants the answer any more. There are no redirects, cookies, compression and proxies.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urlsplit

from services.inference.engines.httptools_connection import BrokenError, Connection

if TYPE_CHECKING:
    from collections.abc import Mapping

# uvicorn, under most engines' servers, closes idle connections after 5 s: one kept longer may be dead when it is used.
_KEEP_IDLE: Final = 4.0


class HttpClient:
    """Connections to one server, as many as there are requests at once: to limit these is the service's affair.

    Args:
        url: What all paths are appended to.
        headers: Sent with each request.
        connect_seconds: How long it may take to connect, TLS included.

    Raises:
        ValueError: The address or a header cannot be written.
    """

    def __init__(self, url: str, headers: Mapping[str, str], connect_seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is no address of an HTTP server; it should look like http://127.0.0.1:8000")
        self.connections: set[Connection] = set()
        self._is_secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port or (443 if self._is_secure else 80)
        self._path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        self._connect_seconds = connect_seconds
        given = {"Host": parts.netloc.rpartition("@")[2], "User-Agent": "penstock", "Accept-Encoding": "identity"}
        if parts.username is not None:
            who = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            given["Authorization"] = f"Basic {b64encode(who.encode()).decode()}"
        self._common = "".join(_line(name, value) for name, value in (given | dict(headers)).items())
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: list[Connection] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def ask(self, method: str, path: str, body: bytes | None, deadline: float) -> Connection:
        """Sends a request, and waits for the head of the answer. Whoever gets the connection ends by `Connection.leave`.

        Raises BrokenError and TimeoutError.
        """
        head, body = self._head(method, path, body), body or b""
        connection = self._idle_one()
        if connection is not None:
            try:
                return await _exchanged(connection, head, body, deadline)
            except BrokenError:
                # A server may close an idle connection just as it is used again. It has not read the request then.
                if not connection.is_untouched:
                    raise
        return await _exchanged(await self._connect(deadline), head, body, deadline)

    def take_back(self, connection: Connection) -> None:
        """Keeps a connection for the next request."""
        connection.idle_since = self._now()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_KEEP_IDLE, self._close_old)

    def close(self) -> None:
        """Closes all connections, busy ones too."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self.connections):
            connection.abort()

    def _head(self, method: str, path: str, body: bytes | None) -> bytes:
        known = self._heads.get((method, path))
        if known is None:
            # Engines have a handful of paths, none of which a client chooses.
            known = f"{method} {self._path}{path} HTTP/1.1\r\n{self._common}".encode("latin-1")
            self._heads[method, path] = known
        if body is None:
            return known + b"\r\n"
        return b"%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (known, len(body))

    def _idle_one(self) -> Connection | None:
        """The one used last, for it is the least likely to have been closed by the server."""
        fresh = self._now() - _KEEP_IDLE
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since > fresh and connection in self.connections:
                connection.idle_since = 0.0
                return connection
            connection.abort()
        return None

    def _close_old(self) -> None:
        fresh = self._now() - _KEEP_IDLE
        for connection in self._idle:
            if connection.idle_since <= fresh:
                connection.abort()
        self._idle = [one for one in self._idle if one.idle_since > fresh and one in self.connections]
        again = self._idle and not self._is_closed
        self._sweep = asyncio.get_running_loop().call_later(_KEEP_IDLE, self._close_old) if again else None

    async def _connect(self, deadline: float) -> Connection:
        loop = asyncio.get_running_loop()
        if self._is_closed:
            raise BrokenError("it has been closed on this side")
        tls = self._tls if self._is_secure else None
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + self._connect_seconds)):
                _, connection = await loop.create_connection(lambda: Connection(self), self._host, self._port, ssl=tls)
        except (OSError, UnicodeError) as error:
            if isinstance(error, TimeoutError):
                raise BrokenError("it cannot be connected to in time") from error
            raise BrokenError("it cannot be connected to") from error
        return connection

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


async def _exchanged(connection: Connection, head: bytes, body: bytes, deadline: float) -> Connection:
    try:
        await connection.exchange(head, body, deadline)
    except BaseException:
        connection.abort()
        raise
    return connection


def _line(name: str, value: str) -> str:
    written = value.strip()
    if not written.isprintable() or not written.isascii():
        raise ValueError(f"the header {name} holds characters that HTTP does not allow there")
    return f"{name}: {written}\r\n"
