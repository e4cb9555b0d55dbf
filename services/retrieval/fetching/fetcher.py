"""Fetches one document by its URL.

Its sender chooses the URL, so this must not become a way into the network that the service stands in. Each hop is held against
the list of what is allowed; its host is resolved once, every address is checked, and the connection is made to a checked
address, so that a name that resolves to something else the next moment gains nothing by it.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urldefrag, urljoin

from services.chassis.errors import Failure, Reason
from services.retrieval.fetching.addresses import is_public, resolved
from services.retrieval.fetching.allowance import Allowance, Target
from services.retrieval.media_types import PLAIN, by_name, usual

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from services.retrieval.fetching.addresses import Address

SETTING: Final = "FETCH_ALLOWED"
_MOST_BYTES: Final = 64 * 1024**2
_LIMIT_SECONDS: Final = 60.0
_STALL_SECONDS: Final = 15.0
_MOST_HOPS: Final = 5
_AT_ONCE: Final = 4
_PORTION: Final = 64 * 1024
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"User-Agent": "penstock", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched.

    Attributes:
        name: The URL that was asked for, without a fragment: what its documents are known by.
        media_type: As the server says, where that says anything; empty if content and name are to tell.
        size: In bytes.
        url: Where it was found in the end.
    """

    name: str
    media_type: str
    size: int
    url: str


class Fetcher:
    """Fetches documents.

    Args:
        allowed: The rules of what may be fetched: see `Allowance`. Empty means nothing.
        most_bytes: The largest document.
        limit_seconds: The longest that one may take, redirects included.
        resolve: Gives all addresses of a host.
        is_permitted: Whether an address may be connected to.
        tls: How servers of https prove who they are; None means by the system's authorities.

    Raises:
        ValueError: a rule is none.
    """

    def __init__(
        self,
        allowed: Sequence[str],
        *,
        most_bytes: int = _MOST_BYTES,
        limit_seconds: float = _LIMIT_SECONDS,
        resolve: Callable[[str, int], list[Address]] = resolved,
        is_permitted: Callable[[Address], bool] = is_public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowance = Allowance(allowed)
        self._most_bytes = most_bytes
        self._limit_seconds = limit_seconds
        self._resolve = resolve
        self._is_permitted = is_permitted
        self._tls = tls
        self._room = asyncio.Semaphore(_AT_ONCE)

    def check(self, url: str) -> Target:
        """Tells whether a URL may be asked for, as far as that can be told without asking.

        Raises:
            Failure: FETCHING_DISABLED, URL_NOT_ALLOWED, or INVALID_FIELD for what is no URL.
        """
        if self._allowance.is_empty:
            raise Failure(
                Reason.FETCHING_DISABLED,
                f"this service fetches no URLs: its setting {SETTING} is empty; have it name the host, or upload the document",
                metadata={"setting": SETTING},
            )
        try:
            target = Target.of(url)
        except ValueError as error:
            raise Failure(Reason.INVALID_FIELD, f"the URL {url[:256]!r} {error}", metadata={"url": url[:256]}) from error
        if not self._allowance.allows(target):
            raise _not_allowed(url, f"is not among those that the setting {SETTING} allows")
        return target

    async def fetch(self, url: str, into: Path) -> Fetched:
        """Fetches a URL into a file, over what is there.

        Raises:
            Failure: FETCHING_DISABLED, URL_NOT_ALLOWED, INVALID_FIELD; DOCUMENT_UNREADABLE where the server has no such
                document, or one that is too large; URL_UNREACHABLE where it does not answer in time.
        """
        self.check(url)
        async with self._room:
            run = _Run(self, urldefrag(url).url, into, time.monotonic() + self._limit_seconds)
            try:
                async with asyncio.timeout(self._limit_seconds):
                    return await asyncio.to_thread(run.fetch)
            except TimeoutError as error:
                raise _unreachable(url, f"takes more than {self._limit_seconds:g} s") from error
            finally:
                # A thread cannot be cancelled, but what it waits for can be ended.
                run.stop()

    def open(self, url: str, target: Target, deadline: float) -> socket.socket:
        """Connects to a checked address of the target's host. Takes its time. Raises Failure and OSError."""
        addresses = self._resolve(target.host, target.port)
        permitted = [address for address in addresses if self._is_permitted(address)]
        if not permitted:
            raise _not_allowed(url, "leads to an address that is not of the public internet")
        problem: OSError | None = None
        for address in permitted:
            try:
                connection = socket.create_connection((str(address), target.port), timeout=_left(deadline))
            except OSError as error:
                problem = error
                continue
            if target.scheme == "http":
                return connection
            try:
                return (self._tls or ssl.create_default_context()).wrap_socket(connection, server_hostname=target.host)
            except BaseException:
                connection.close()
                raise
        raise problem or OSError("no address")

    @property
    def most_bytes(self) -> int:
        """The largest document."""
        return self._most_bytes


class _Run:
    """One URL being fetched, in a thread."""

    def __init__(self, fetcher: Fetcher, url: str, into: Path, deadline: float) -> None:
        self._fetcher = fetcher
        self._url = url
        self._into = into
        self._deadline = deadline
        self._connection: socket.socket | None = None
        self._stopped = False

    def stop(self) -> None:
        """Ends what the thread waits for."""
        self._stopped = True
        connection = self._connection
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def fetch(self) -> Fetched:
        """Follows redirects to the document. Raises Failure."""
        url = self._url
        try:
            for _ in range(_MOST_HOPS + 1):
                following = self._hop(url)
                if isinstance(following, Fetched):
                    return following
                if url.startswith("https:") and not following.startswith("https:"):
                    raise _not_allowed(self._url, "redirects from https to http")
                url = following
        except ssl.SSLError as error:
            raise _unreachable(self._url, f"has no certificate that holds ({error.reason or 'TLS'})") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(self._url, f"does not answer as a server of the web does ({type(error).__name__})") from error
        raise _unreadable(self._url, f"redirects more than {_MOST_HOPS} times")

    def _hop(self, url: str) -> Fetched | str:
        """The document, or the URL to go on with."""
        target = self._fetcher.check(url)
        self._connection = self._fetcher.open(url, target, self._deadline)
        with self._connection:
            if self._stopped:
                raise OSError("stopped")
            client = http.client.HTTPConnection(target.host, target.port)
            client.sock = self._connection
            with closing(client):
                client.request("GET", target.path, headers=_HEADERS)
                with client.getresponse() as response:
                    if response.status in _REDIRECTS:
                        return urldefrag(urljoin(url, response.headers.get("Location", ""))).url
                    self._check(response)
                    return Fetched(self._url, _media_type(response, url), self._save(response), url)

    def _check(self, response: http.client.HTTPResponse) -> None:
        if response.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR or response.status == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise _unreachable(self._url, f"answers {response.status}")
        if response.status != http.HTTPStatus.OK:
            raise _unreadable(self._url, f"answers {response.status}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _unreadable(self._url, "answers in a compressed form that was not asked for")
        if (response.length or 0) > self._fetcher.most_bytes:
            raise self._too_large()

    def _save(self, response: http.client.HTTPResponse) -> int:
        size = 0
        with self._into.open("wb") as file:
            while portion := response.read1(_PORTION):
                size += len(portion)
                if size > self._fetcher.most_bytes:
                    raise self._too_large()
                if self._stopped:
                    raise OSError("stopped")
                file.write(portion)
                if self._connection is not None:
                    self._connection.settimeout(_left(self._deadline))
        if response.length:
            raise _unreachable(self._url, f"breaks off {response.length} bytes before its end")
        return size

    def _too_large(self) -> Failure:
        return _unreadable(self._url, f"has more than {self._fetcher.most_bytes} bytes")


def _left(deadline: float) -> float:
    """Seconds until the deadline, as far as one wait may take; raises TimeoutError where it is over."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, _STALL_SECONDS)


def _media_type(response: http.client.HTTPResponse, url: str) -> str:
    """As the server says. Servers call `text/plain` whatever they do not know: there a name that tells more is believed."""
    said = response.headers.get("Content-Type", "")
    named = by_name(unquote(url.partition("?")[0]))
    return "" if usual(said) == PLAIN and named not in {"", PLAIN} else said


def _not_allowed(url: str, problem: str) -> Failure:
    return Failure(Reason.URL_NOT_ALLOWED, f"the URL {url[:256]!r} {problem}", metadata={"url": url[:256], "setting": SETTING})


def _unreachable(url: str, problem: str) -> Failure:
    return Failure(Reason.URL_UNREACHABLE, f"the URL {url[:256]!r} {problem}; try again later", metadata={"url": url[:256]})


def _unreadable(url: str, problem: str) -> Failure:
    return Failure(Reason.DOCUMENT_UNREADABLE, f"the URL {url[:256]!r} {problem}", metadata={"url": url[:256]})
