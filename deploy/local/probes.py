"""Asking a server whether it is ready, at the price of one small request each.

A probe returns when the server answers as it should and raises `NotReadyError` or `OSError` when it does not. PostgreSQL,
Redis and HTTP are spoken by hand, a few bytes each: their clients would stay in the launcher's memory for as long as it runs.
"""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import grpc.aio
from grpc_health.v1 import health_pb2

Probe = Callable[[], Awaitable[None]]
_POSTGRES_PROTOCOL = 3 << 16
_DEFAULT_PORTS = {"postgresql": 5432, "postgres": 5432, "redis": 6379, "rediss": 6379, "http": 80, "https": 443}


class NotReadyError(Exception):
    """The server answers, but not yet as it should; the message says how."""


def postgres_answers(url: str) -> Probe:
    """PostgreSQL takes connections. Whether the name and password are right is for the migrations to find out."""
    target = urlsplit(url)

    async def probe() -> None:
        user = unquote(target.username or "penstock")
        parameters = f"user\0{user}\0database\0{user}\0\0".encode()
        message = struct.pack("!II", len(parameters) + 8, _POSTGRES_PROTOCOL) + parameters
        async with _connected(target) as (reader, writer):
            writer.write(message)
            # R asks for authentication. E refuses us alone (TLS is demanded, no such user), unless it is still starting.
            kind = await reader.readexactly(1)
            refusal = await reader.read(400) if kind == b"E" else b""
        if kind not in {b"R", b"E", b"v"} or b"C57P03\0" in refusal:
            raise NotReadyError("PostgreSQL is still starting")

    return probe


def redis_answers(url: str) -> Probe:
    """Redis or Valkey answers a PING, be it with the demand for a password."""
    target = urlsplit(url)

    async def probe() -> None:
        async with _connected(target, tls=target.scheme == "rediss") as (reader, writer):
            writer.write(b"PING\r\n")
            answer = await reader.readline()
        if not answer.startswith((b"+PONG", b"-NOAUTH", b"-NOPERM")):
            raise NotReadyError(f"answered {answer[:60]!r} to PING")

    return probe


def http_answers(url: str, status: int | None = None) -> Probe:
    """An HTTP server answers a GET, with `status` if one is given and with any otherwise."""
    target = urlsplit(url)

    async def probe() -> None:
        async with _connected(target, tls=target.scheme == "https") as (reader, writer):
            request = f"GET {target.path or '/'} HTTP/1.1\r\nhost: {place(url)}\r\nconnection: close\r\n\r\n"
            writer.write(request.encode())
            protocol, _, answer = (await reader.readline()).decode("latin-1").partition(" ")
        if not protocol.startswith("HTTP/"):
            raise NotReadyError("does not speak HTTP")
        if status is not None and not answer.startswith(str(status)):
            raise NotReadyError(f"answered {answer.strip()} instead of {status}")

    return probe


def grpc_serves(address: str, *, tls: bool = False, known: bool = True) -> Probe:
    """A gRPC server says SERVING by grpc.health.v1; with `known` false any gRPC answer will do."""

    async def probe() -> None:
        credentials = grpc.ssl_channel_credentials() if tls else None
        connect = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
        async with connect as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer = await check(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.aio.AioRpcError as error:
                if not known and error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                    return
                raise NotReadyError(f"health check: {error.code().name}") from error
        if known and answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise NotReadyError(f"health check: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")

    return probe


def place(url: str) -> str:
    """Host and port of a URL, to show: never its name and password."""
    target = urlsplit(url)
    return _socket_folder(target) or f"{target.hostname}:{_port(target)}"


@asynccontextmanager
async def _connected(
    target: SplitResult, *, tls: bool = False
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    folder = _socket_folder(target)
    if folder:
        reader, writer = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{_port(target)}")
    else:
        context = ssl.create_default_context() if tls else None
        reader, writer = await asyncio.open_connection(target.hostname, _port(target), ssl=context)
    try:
        yield reader, writer
    except asyncio.IncompleteReadError as error:
        raise NotReadyError("closed the connection without an answer") from error
    finally:
        writer.close()


def _port(target: SplitResult) -> int:
    return target.port or _DEFAULT_PORTS.get(target.scheme, 0)


def _socket_folder(target: SplitResult) -> str:
    """The folder of PostgreSQL's Unix socket in `postgresql:///name?host=/folder`, or nothing."""
    host = parse_qs(target.query).get("host", [""])[0]
    return host if host.startswith("/") and not target.hostname else ""
