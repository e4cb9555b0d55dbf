"""One HTTP/1.1 connection to an engine, over httptools: as little work as possible for each token of an answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

import httptools

if TYPE_CHECKING:
    from services.inference.engines.httptools_client import HttpClient

# A reader that is behind by so many bytes stops the server by TCP's own means.
_ROOM: Final = 256 * 1024
# Most bytes of headers, trailers or chunk extensions without a byte of body between them.
_MOST_OVERHEAD: Final = 256 * 1024
# How long an answer whose text is complete may take to its formal end, so that its connection can be used again.
_GRACE: Final = 0.02
_FIRST_FINAL_STATUS: Final = 200


class BrokenError(Exception):
    """The connection cannot be made, is lost, or carries something else than HTTP/1.1."""


class Connection(asyncio.Protocol):
    """One connection: one request after the other, each with one reader.

    A wait that is over `deadline`, on the clock of the event loop, raises TimeoutError. One timer serves all waits, for a timer
    a wait would cost more than the token that is waited for.
    """

    def __init__(self, client: HttpClient) -> None:
        self.deadline = 0.0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.is_untouched = True
        """Whether nothing of an answer has come yet."""
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._pieces: list[bytes] = []
        self._size = 0
        self._overhead = 0
        self._fault: BrokenError | None = None
        self._has_head = self._is_complete = self._is_paused = self._may_stay = False
        self._lingering: asyncio.TimerHandle | None = None
        self.idle_since = 0.0

    # Reading an answer.

    async def exchange(self, head: bytes, body: bytes, deadline: float) -> None:
        """Sends a request, and waits for the head of the answer. Raises BrokenError and TimeoutError."""
        self.deadline = deadline
        self.status, self.is_untouched = 0, True
        self._has_head = self._is_complete = self._may_stay = False
        self._overhead = 0
        if self._transport is None or self._transport.is_closing():
            raise self._fault or BrokenError("the connection is closed")
        self._transport.writelines((head, body))
        while not self._has_head:
            if self._fault is not None:
                raise self._fault
            await self._wait()

    async def read(self) -> bytes:
        """All of the body that has come, after a wait if nothing has; empty at its end. Raises BrokenError and TimeoutError."""
        while not self._pieces:
            if self._is_complete:
                return b""
            if self._fault is not None:
                raise self._fault
            await self._wait()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._drop()
        return data

    async def _wait(self) -> None:
        if self._timer is None or self._timer_at > self.deadline:
            self._set_timer()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self.deadline
        self._timer = self._loop.call_at(self.deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        # Timers go by milliseconds, and may be early by a part of one.
        if self._loop.time() < self.deadline - 0.001:
            self._set_timer()
        else:
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _drop(self) -> None:
        self._pieces.clear()
        self._size = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    # Ending an exchange.

    def leave(self, *, is_done: bool) -> None:
        """Ends the exchange. What the reader is done with may serve the next request; anything else is closed at once."""
        if is_done:
            self._drop()
        if self._is_complete:
            self._go_back()
        elif is_done and self._fault is None:
            # The end of an answer often comes a moment after its text. The reader need not wait for that.
            self._lingering = self._loop.call_later(_GRACE, self.abort)
        else:
            self.abort()

    def _go_back(self) -> None:
        transport = self._transport
        is_idle = not self._pieces and transport is not None and not transport.is_closing()
        if self._may_stay and is_idle and transport is not None and not transport.get_write_buffer_size():
            self._client.take_back(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Closes the socket at once."""
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        # uvloop's transport has the methods, but not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._client.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; an answer without a length ends so."""
        has_length = b"content-length" in self.headers or b"transfer-encoding" in self.headers
        if self._has_head and not has_length and exc is None:
            self._is_complete = True
        elif not self._is_complete:
            self._fault = self._fault or BrokenError("the connection is lost")
        for timer in (self._timer, self._lingering):
            if timer is not None:
                timer.cancel()
        # The parser and this object hold each other.
        self._transport = self._parser = self._timer = self._lingering = None
        self._client.connections.discard(self)
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Some of the answer is there."""
        if self._parser is None or self.idle_since:
            # Nothing was asked.
            self.abort()
            return
        self.is_untouched = False
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("what came is not HTTP")
        if self._overhead > _MOST_OVERHEAD and not self._is_complete:
            self._fail("its headers do not end")
        if self._lingering is not None:
            self._drop()
            if self._is_complete:
                self._lingering.cancel()
                self._lingering = None
                self._go_back()
            return
        if self._size > _ROOM and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def _fail(self, why: str) -> None:
        self._fault = self._fault or BrokenError(why)
        self._may_stay = False
        self.abort()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """The first byte of an answer."""
        if self._is_complete:
            # Two answers to one request.
            self._may_stay = False
        else:
            self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which nobody wants."""
        if not self._has_head:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is there; one of a status below 200 only announces another."""
        if self._parser is not None and not self._is_complete:
            self.status = self._parser.get_status_code()
            self._has_head = self.status >= _FIRST_FINAL_STATUS

    def on_body(self, body: bytes) -> None:
        """A piece of the body: all of it that one chunk has of what was read together."""
        if not self._is_complete:
            self._pieces.append(body)
            self._size += len(body)
            self._overhead = 0

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._has_head and not self._is_complete and self._parser is not None:
            self._is_complete = True
            self._may_stay = self._parser.should_keep_alive()
