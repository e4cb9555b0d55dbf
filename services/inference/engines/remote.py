"""Talks to an engine's HTTP server: one pool of connections, streamed lines, and failures in the terms of the domain."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.engines.httptools_client import HttpClient
from services.inference.engines.httptools_connection import BrokenError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from services.inference.engines.httptools_connection import Connection

# What a decoder raises for bytes that it cannot read; RecursionError where they are nested too deep.
MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_MAX_LINE: Final = 4 * 1024 * 1024
_MAX_WHOLE: Final = 256 * 1024 * 1024
_MAX_ERROR: Final = 64 * 1024
_MAX_TOLD: Final = 200

_TOO_LONG: Final = re.compile(
    r"context[ _](length|size|window)|maximum context|max_model_len|prompt is too long", re.IGNORECASE
)
# The codes of OpenAI and of Azure for a request that their content policy refuses.
_POLICY: Final = re.compile(rb'"code"\s*:\s*"(content_filter|content_policy_violation)"')
_PRIVATE: Final = re.compile(r"\w+://\S+|(?<!\w)(?:/[\w.@-]+){2,}/?|\b(?:sk|hf|key)[-_][\w-]+")


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that an engine may take: to connect, to its first content, and between two contents."""

    connect: float = 2.0
    first_token: float = 120.0
    inter_token: float = 60.0


class Lines:
    """The lines of a streamed response, in batches of what arrived together."""

    def __init__(self, engine: str, connection: Connection, limits: Limits) -> None:
        self._engine = engine
        self._connection = connection
        self._limits = limits
        self._time = asyncio.get_running_loop().time
        self._left = self._time()
        self._has_content = False
        self.is_done = False
        self._tail = b""

    def content_came(self) -> None:
        """Grants the engine its time for the next content. Lines without content, such as pings, grant none."""
        self._has_content = True
        self._connection.deadline = self._time() + self._limits.inter_token

    async def more(self) -> list[bytes] | None:
        """Waits for at least one whole line; None at the end. Raises GENERATION_FAILED if the response is cut or stalls."""
        connection = self._connection
        # A client that reads slowly takes nothing from the engine's time.
        connection.deadline += self._time() - self._left
        try:
            while True:
                data = await connection.read()
                if not data:
                    rest, self._tail = self._tail, b""
                    return [rest] if rest else None
                lines = (self._tail + data).split(b"\n")
                self._tail = lines.pop()
                if lines:
                    return lines
                if len(self._tail) > _MAX_LINE:
                    raise failed(self._engine, f"it sent a line of more than {_MAX_LINE} bytes")
        except TimeoutError:
            raise self._stalled() from None
        except BrokenError as error:
            raise failed(self._engine, "the connection broke before the end of the text") from error
        finally:
            self._left = self._time()

    def finish(self) -> None:
        """Says that the answer is complete: its connection can be used again."""
        self.is_done = True

    def _stalled(self) -> Failure:
        if self._has_content:
            return failed(self._engine, f"no more text came for {self._limits.inter_token:g} s")
        return unavailable(self._engine, f"it gave no text within {self._limits.first_token:g} s")


class RemoteServer:
    """An engine's HTTP server.

    Args:
        engine: Name of the engine, for failures.
        base_url: What all paths are appended to.
        headers: Sent with each request.
        limits: How long the server may take.
    """

    def __init__(self, engine: str, base_url: str, *, headers: Mapping[str, str] | None = None, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self._client = HttpClient(base_url, headers or {}, limits.connect)

    async def close(self) -> None:
        """Closes all connections, busy ones too."""
        self._client.close()

    async def get(self, path: str) -> bytes:
        """Fetches a document. Raises Failure as `refusal` says."""
        return await self._whole("GET", path, None)

    async def post(self, path: str, body: bytes, *, limits: Limits | None = None) -> bytes:
        """Sends JSON, and fetches the whole answer. Raises Failure as `refusal` says."""
        return await self._whole("POST", path, body, limits)

    async def delete(self, path: str, body: bytes) -> None:
        """Has something deleted. Raises Failure as `refusal` says."""
        await self._whole("DELETE", path, body)

    @asynccontextmanager
    async def stream(self, path: str, body: bytes, *, limits: Limits | None = None) -> AsyncIterator[Lines]:
        """Sends JSON, and streams the answer. Leaving before its end closes the socket at once: that stops the engine."""
        limits = limits or self._limits
        connection = await self._ask("POST", path, body, limits)
        lines = Lines(self._engine, connection, limits)
        try:
            yield lines
        finally:
            connection.leave(is_done=lines.is_done)

    async def _whole(self, method: str, path: str, body: bytes | None, limits: Limits | None = None) -> bytes:
        connection = await self._ask(method, path, body, limits or self._limits)
        try:
            return await self._rest(connection, _MAX_WHOLE)
        except TimeoutError as error:
            raise unavailable(self._engine, "it did not answer in time") from error
        except BrokenError as error:
            raise unavailable(self._engine, "the connection broke while it answered") from error
        finally:
            connection.leave(is_done=False)

    async def _rest(self, connection: Connection, most: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while data := await connection.read():
            pieces.append(data)
            size += len(data)
            if size > most:
                raise failed(self._engine, f"it sent more than {most} bytes")
        return b"".join(pieces)

    async def _ask(self, method: str, path: str, body: bytes | None, limits: Limits) -> Connection:
        deadline = asyncio.get_running_loop().time() + limits.first_token
        try:
            connection = await self._client.ask(method, path, body, deadline)
        except TimeoutError as error:
            raise unavailable(self._engine, "it did not answer in time") from error
        except BrokenError as error:
            raise unavailable(self._engine, "it cannot be connected to, or closed the connection") from error
        if connection.status != 200:  # noqa: PLR2004 - the one status that these APIs succeed with
            raise await self._refusal(connection)
        return connection

    async def _refusal(self, connection: Connection) -> Failure:
        told = b""
        connection.deadline = asyncio.get_running_loop().time() + self._limits.connect
        try:
            while len(told) < _MAX_ERROR and (data := await connection.read()):
                told += data
        except (BrokenError, TimeoutError):
            # What has come of it must do.
            pass
        finally:
            connection.leave(is_done=False)
        retry_after = connection.headers.get(b"retry-after", b"").decode("latin-1")
        return refusal(self._engine, connection.status, retry_after, told[:_MAX_ERROR])


def failed(engine: str, why: str) -> Failure:
    """GENERATION_FAILED: what has come of the text is not all of it."""
    return Failure(Reason.GENERATION_FAILED, f"engine {engine} failed while it generated: {why}", metadata={"engine": engine})


def unavailable(engine: str, why: str) -> Failure:
    """ENGINE_UNAVAILABLE: nothing has come of the text; trying again may help."""
    message = f"engine {engine} is not available: {why}; try again, or choose another model"
    return Failure(Reason.ENGINE_UNAVAILABLE, message, metadata={"engine": engine})


def refusal(engine: str, status: int, retry_after: str, body: bytes) -> Failure:  # noqa: PLR0911 - a table of statuses
    """What an HTTP status other than 200 means."""
    told = told_by(body)
    facts = {"engine": engine}
    if status in {401, 403}:
        # The text of such an error tends to hold a part of the key.
        message = f"engine {engine} refuses the key penstock has for it (HTTP {status}); its operator must set another"
        return Failure(Reason.ENGINE_REFUSED_CREDENTIALS, message, metadata=facts)
    if status in {429, 529} or (status == 503 and retry_after):  # noqa: PLR2004 - HTTP's own numbers, and Anthropic's for overload
        message = f"engine {engine} takes no more requests for now (HTTP {status}); try again later"
        return Failure(Reason.ENGINE_OVERLOADED, message, metadata=facts, retry_after=_seconds(retry_after))
    if _is_policy(body):
        return Failure(
            Reason.CONTENT_POLICY, f"the content policy of engine {engine} refuses the request: {told}", metadata=facts
        )
    if _is_too_long(body, told):
        return Failure(Reason.CONTEXT_TOO_LONG, f"the prompt does not fit into the model's context: {told}", metadata=facts)
    if status == 404:  # noqa: PLR2004 - as above
        return Failure(Reason.MODEL_NOT_FOUND, f"engine {engine} does not have the model (any more): {told}", metadata=facts)
    if status in {405, 501}:
        message = f"engine {engine} does not offer this for the model (HTTP {status}): {told}"
        return Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata=facts)
    if status == 500:  # noqa: PLR2004 - as above
        return failed(engine, f"HTTP {status}: {told}")
    if 400 <= status < 500:  # noqa: PLR2004 - as above
        return Failure(Reason.INVALID_FIELD, f"engine {engine} refuses the request (HTTP {status}): {told}", metadata=facts)
    return unavailable(engine, f"it answered with HTTP {status}")


def refused_in_stream(engine: str, error: Any) -> Failure:
    """What an error object in the midst of a stream means."""
    body = msgspec.json.encode({"error": error})
    told = told_by(body)
    if _is_policy(body):
        message = f"the content policy of engine {engine} holds the text back: {told}"
        return Failure(Reason.CONTENT_POLICY, message, metadata={"engine": engine})
    if _is_too_long(body, told):
        return Failure(
            Reason.CONTEXT_TOO_LONG, f"the text does not fit into the model's context: {told}", metadata={"engine": engine}
        )
    return failed(engine, told)


def told_by(body: bytes) -> str:
    """A short form of what the engine says of an error, without addresses, paths and keys: it may go to a client."""
    try:
        document = msgspec.json.decode(body)
    except MALFORMED:
        return "no reason given"
    text: Any = document
    for key in ("error", "message", "detail"):
        if isinstance(text, dict) and key in text:
            text = text[key]
    if not isinstance(text, str) or not text.strip():
        return "no reason given"
    clean = " ".join(_PRIVATE.sub("...", "".join(one if one.isprintable() else " " for one in text)).split())
    return clean if len(clean) <= _MAX_TOLD else f"{clean[:_MAX_TOLD]}..."


def _is_too_long(body: bytes, told: str) -> bool:
    return b"context_length_exceeded" in body or b"exceed_context_size" in body or _TOO_LONG.search(told) is not None


def _is_policy(body: bytes) -> bool:
    return _POLICY.search(body) is not None


def _seconds(retry_after: str) -> float:
    """Reads Retry-After, a number of seconds or a date; 1 s where the engine does not say."""
    if not retry_after:
        return 1.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 1.0
