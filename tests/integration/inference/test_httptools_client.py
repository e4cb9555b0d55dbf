"""The HTTP client of engines against servers that say exactly what a test wants, on both event loops."""

from __future__ import annotations

import asyncio
import functools
import inspect
import ssl
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import pytest
import uvloop

from services.inference.engines.httptools_client import HttpClient
from services.inference.engines.httptools_connection import BrokenError, Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

    Script: TypeAlias = Callable[["Peer"], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def on_both_loops(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """The service runs on uvloop, whose transports are its own; the other tests of engines run on asyncio's."""

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    @functools.wraps(test)
    def both(run: Callable[[Coroutine[None, None, None]], None], **arguments: object) -> None:
        run(test(**arguments))

    first = inspect.Parameter("run", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    both.__signature__ = inspect.Signature([first, *inspect.signature(test).parameters.values()])
    wrapped: Callable[..., None] = both
    return wrapped


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number

    async def request(self) -> tuple[str, bytes]:
        """The next request's head and body; raises IncompleteReadError once the client is gone."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line[15:]) for line in head.splitlines() if line.startswith("Content-Length:")), 0)
        return head, await self.reader.readexactly(length)

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Waits until the client has closed its side."""
        while await self.reader.read(65536):
            pass


class Server:
    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[tuple[str, bytes]] = []
        self.address = ""


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Server, HttpClient]]:
    told = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.connections += 1
        peer = Peer(reader, writer, told.connections)
        inner = peer.request

        async def request() -> tuple[str, bytes]:
            got = await inner()
            told.requests.append(got)
            return got

        peer.request = request  # type: ignore[method-assign] # notes what was asked
        try:
            await script(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    client = HttpClient(f"{'https' if tls else 'http'}://127.0.0.1:{port}/base/", {"X-Key": " secret "}, 2.0)
    try:
        yield told, client
    finally:
        client.close()
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ask(client: HttpClient, body: bytes | None = b"{}", seconds: float = 5.0) -> Connection:
    return await client.ask("POST", "/path", body, asyncio.get_running_loop().time() + seconds)


async def whole(connection: Connection) -> bytes:
    pieces = []
    while piece := await connection.read():
        pieces.append(piece)
    connection.leave(is_done=False)
    return b"".join(pieces)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what it waits for happens inside the client
            await asyncio.sleep(0.005)


@on_both_loops
async def test_a_connection_serves_one_request_after_the_other() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(OK)

    async with serving(script) as (server, client):
        for _ in range(5):
            assert await whole(await ask(client)) == b"ok"
        head, body = server.requests[0]
        assert server.connections == 1
        assert head.startswith("POST /base/path HTTP/1.1\r\nHost: 127.0.0.1:")
        assert "\r\nX-Key: secret\r\n" in head
        assert "\r\nContent-Type: application/json\r\nContent-Length: 2\r\n" in head
        assert body == b"{}"


@on_both_loops
async def test_requests_at_once_have_connections_of_their_own() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(OK)

    async with serving(script) as (server, client):
        assert await asyncio.gather(*[whole(await one) for one in [ask(client)]]) == [b"ok"]
        together = await asyncio.gather(*(ask(client) for _ in range(4)))
        assert [await whole(one) for one in together] == [b"ok"] * 4
        assert server.connections == 4
        assert len(client.connections) == 4


@on_both_loops
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + OK,
        OK + b"garbage",
    ],
    ids=["close", "http-1.0", "two-answers", "more-than-asked"],
)
async def test_a_connection_that_cannot_be_trusted_is_not_used_again(answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(answer)
        await peer.gone()

    async with serving(script) as (server, client):
        for _ in range(2):
            assert await whole(await ask(client)) == b"ok"
        assert server.connections == 2
        await eventually(lambda: not client.connections)


@on_both_loops
async def test_what_is_said_between_two_requests_ends_the_connection() -> None:
    spoken = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        if peer.number == 1:
            await spoken.wait()
            await peer.say(OK)
        await peer.gone()

    async with serving(script) as (server, client):
        assert await whole(await ask(client)) == b"ok"
        spoken.set()
        await eventually(lambda: not client.connections)
        assert await whole(await ask(client)) == b"ok"
        assert server.connections == 2


@on_both_loops
async def test_a_request_on_a_connection_that_died_idle_goes_out_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.say(OK)
            # The next request is read, and not answered: to the client it looks as if it had come too late.
            await peer.request()
            return
        await peer.say(OK)
        await peer.gone()

    async with serving(script) as (server, client):
        assert await whole(await ask(client, b"1")) == b"ok"
        assert await whole(await ask(client, b"2")) == b"ok"
        assert [body for _, body in server.requests] == [b"1", b"2", b"2"]


@on_both_loops
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_no_request_goes_out_twice_once_it_may_have_been_read(said: bytes) -> None:
    """On a new connection it has been read; on an old one it has once some of an answer came."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if said and len(client.connections) == 1 and not peers:
            peers.append(peer)
            await peer.say(OK)
            await peer.request()
        await peer.say(said)

    peers: list[Peer] = []
    async with serving(script) as (server, client):
        if said:
            assert await whole(await ask(client)) == b"ok"
        with pytest.raises(BrokenError):
            await ask(client)
        assert len(server.requests) == (2 if said else 1)


@on_both_loops
@pytest.mark.parametrize(
    ("answer", "came"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"half"),
        (CHUNKED + b"4\r\nhalf\r\n", b"half"),
        (CHUNKED + b"9\r\nhalf", b"half"),
        (CHUNKED + b"4\r\nhalf\r\nzz\r\nmore\r\n", b"half"),
        (CHUNKED + b"4\r\nhalf\r\n-4\r\nmore\r\n", b"half"),
        (CHUNKED + b"4\r\nhalfmore", b"half"),
    ],
    ids=["length", "no-last-chunk", "within-a-chunk", "no-size", "negative-size", "no-end-of-chunk"],
)
async def test_a_body_that_is_cut_or_malformed_breaks_after_what_came(answer: bytes, came: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(answer)

    async with serving(script) as (_, client):
        connection = await ask(client)
        assert await connection.read() == came
        with pytest.raises(BrokenError):
            await connection.read()
        connection.leave(is_done=False)
        await eventually(lambda: not client.connections)


@on_both_loops
@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nbytes",
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"a" * 300_000,
        b"",
    ],
    ids=["ssh", "status", "two-lengths", "upgrade", "endless-head", "nothing"],
)
async def test_what_is_no_answer_breaks(answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(answer)
        if answer:
            await peer.gone()

    async with serving(script) as (_, client):
        with pytest.raises(BrokenError):
            await ask(client)
        await eventually(lambda: not client.connections)


@on_both_loops
async def test_trailers_without_end_break() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED + b"2\r\nok\r\n0\r\n")
        while True:
            await peer.say(b"X-More: " + b"a" * 1000 + b"\r\n")

    async with serving(script) as (_, client):
        connection = await ask(client)
        assert await connection.read() == b"ok"
        with pytest.raises(BrokenError):
            await connection.read()


@on_both_loops
async def test_interim_answers_are_passed_over_and_trailers_left_out() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        await peer.say(b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.say(b"2;a=b\r\nok\r\n0\r\nRetry-After: 9\r\n\r\n")
        await peer.gone()

    async with serving(script) as (_, client):
        connection = await ask(client)
        assert (connection.status, connection.headers[b"retry-after"], await whole(connection)) == (429, b"7", b"ok")
        assert b"link" not in connection.headers


@on_both_loops
async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\nall ")
        await peer.say(b"of it")

    async with serving(script) as (server, client):
        assert [await whole(await ask(client)) for _ in range(2)] == [b"all of it"] * 2
        assert server.connections == 2


@on_both_loops
async def test_a_slow_reader_stops_the_server_instead_of_filling_memory() -> None:
    size = 32 * 1024 * 1024
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        peer.writer.transport.set_write_buffer_limits(0)
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            await peer.say(bytes(64 * 1024))
            sent += 64 * 1024
        await peer.gone()

    async with serving(script) as (_, client):
        connection = await ask(client)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)
        # What lies in the sockets' own buffers is the kernel's affair.
        assert sent < size
        assert connection._size < 1024 * 1024
        assert len(await whole(connection)) == size
        assert len(client.connections) == 1


@on_both_loops
async def test_a_large_request_arrives_whole() -> None:
    body = bytes(range(256)) * 40_000

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        await peer.gone()

    async with serving(script) as (server, client):
        assert await whole(await ask(client, body)) == b"ok"
        assert server.requests[0][1] == body


@on_both_loops
@pytest.mark.parametrize("stage", ["head", "body"])
async def test_cancelling_closes_the_socket(stage: str) -> None:
    closed, waiting = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if stage == "body":
            await peer.say(CHUNKED + b"4\r\nhalf\r\n")
        waiting.set()
        await peer.gone()
        closed.set()

    async def consume() -> None:
        connection = await ask(client)
        try:
            while await connection.read():
                pass
        finally:
            connection.leave(is_done=False)

    async with serving(script) as (_, client):
        task = asyncio.create_task(consume())
        await waiting.wait()
        await asyncio.sleep(0.01)
        task.cancel()
        async with asyncio.timeout(1):
            await closed.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


@on_both_loops
async def test_a_wait_ends_at_its_deadline_which_may_be_moved() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED)
        for _ in range(4):
            await asyncio.sleep(0.1)
            await peer.say(b"4\r\nmore\r\n")
        await peer.gone()

    async with serving(script) as (_, client):
        loop = asyncio.get_running_loop()
        connection = await ask(client, seconds=0.3)
        for _ in range(4):
            assert await connection.read() == b"more"
            connection.deadline = loop.time() + 0.3
        began = loop.time()
        with pytest.raises(TimeoutError):
            await connection.read()
        assert 0.25 < loop.time() - began < 2
        connection.leave(is_done=False)
        await eventually(lambda: not client.connections)


@on_both_loops
async def test_a_deadline_may_come_closer() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED + b"4\r\nmore\r\n")
        await peer.gone()

    async with serving(script) as (_, client):
        connection = await ask(client, seconds=60)
        assert await connection.read() == b"more"
        connection.deadline = asyncio.get_running_loop().time() + 0.15
        async with asyncio.timeout(5):
            with pytest.raises(TimeoutError):
                await connection.read()


@on_both_loops
@pytest.mark.parametrize("comes", [True, False])
async def test_nobody_waits_for_the_formal_end(comes: bool) -> None:
    """Its connection is used again if the end comes soon, and closed otherwise."""
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED + b"4\r\ndone\r\n")
        await left.wait()
        if comes:
            await peer.say(b"4\r\nmore\r\n0\r\n\r\n")
        await peer.gone()

    async with serving(script) as (_, client):
        connection = await ask(client)
        assert await connection.read() == b"done"
        connection.leave(is_done=True)
        left.set()
        await eventually(lambda: bool(client._idle) if comes else not client.connections)


@on_both_loops
async def test_closing_breaks_what_is_under_way_and_all_that_follows() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with serving(script) as (_, client):
        task = asyncio.create_task(ask(client))
        await eventually(lambda: bool(client.connections))
        client.close()
        for broken in (task, ask(client)):
            with pytest.raises(BrokenError):
                await broken
        assert not client.connections


@on_both_loops
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://name.invalid:80", f"http://{'x' * 70}.invalid"])
async def test_a_server_that_is_not_there_breaks(address: str) -> None:
    client = HttpClient(address, {}, 2.0)
    with pytest.raises(BrokenError):
        await ask(client)


@on_both_loops
async def test_tls_holds_the_server_to_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(OK)

    names = ("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"))
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *files, *names)
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with serving(script, context) as (server, client):
        with pytest.raises(BrokenError):
            await ask(client)
        assert not server.requests
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    async with serving(script, context) as (server, client):
        assert [await whole(await ask(client)) for _ in range(2)] == [b"ok"] * 2
        assert server.connections == 1


def test_addresses_and_headers_that_cannot_be_written_are_refused() -> None:
    for address in ("127.0.0.1:8000", "ftp://host", "http://"):
        with pytest.raises(ValueError, match="no address of an HTTP server"):
            HttpClient(address, {}, 1.0)
    with pytest.raises(ValueError, match="X-Key") as caught:
        HttpClient("http://host", {"X-Key": "sk-1\r\nX-Other: 1"}, 1.0)
    assert "sk-1" not in str(caught.value)
