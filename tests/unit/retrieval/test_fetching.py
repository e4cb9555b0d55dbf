"""Against real servers on this machine. What production forbids of their addresses, the constructor lets a test allow."""

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Failure, Reason
from services.retrieval.fetching.addresses import Address, is_public
from services.retrieval.fetching.allowance import Allowance, Target
from services.retrieval.fetching.fetcher import Fetcher

LOOPBACK = ip_address("127.0.0.1")
BODY = "Слова о насосах и шлюзах. " * 500


class _Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        pages = {
            "/text": lambda: self._answer(BODY.encode("koi8-r"), "text/html; charset=koi8-r"),
            "/notes.md": lambda: self._answer(b"# Notes", "text/plain"),
            "/large": lambda: self._answer(b"x" * 300_000, "text/plain"),
            "/packed": lambda: self._answer(gzip.compress(b"x"), "text/plain", ("Content-Encoding", "gzip")),
            "/around": lambda: self._redirect("/around"),
            "/relative": lambda: self._redirect("notes.md#top"),
            "/endless": self._drip,
            "/short": self._break_off,
        }
        if path.startswith("/to/"):
            self._redirect(f"http://{path.removeprefix('/to/')}")
        else:
            pages.get(path, lambda: self.send_error(404))()

    def _drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x" * 10)
            time.sleep(0.05)

    def _break_off(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"x")
        self.close_connection = True

    def _answer(self, body: bytes, kind: str, *more: tuple[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in more:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Says nothing."""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what some tests are about."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = _Quiet(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def fetcher(port: int, *more: str, permit: bool = True, limit: float = 5.0) -> Fetcher:
    """Resolves every name to this machine."""

    def resolve(_host: str, _port: int) -> list[Address]:
        return [LOOPBACK]

    rules = [f"docs.test:{port}", *more]
    if permit:
        return Fetcher(rules, resolve=resolve, is_permitted=LOOPBACK.__eq__, most_bytes=200_000, limit_seconds=limit)
    return Fetcher(rules, resolve=resolve, limit_seconds=limit)


async def refused(one: Fetcher, url: str, into: Path) -> Failure:
    with pytest.raises(Failure) as caught:
        await one.fetch(url, into)
    return caught.value


async def test_a_document_comes_with_its_type(port: int, tmp_path: Path) -> None:
    into = tmp_path / "it"
    url = f"http://docs.test:{port}/text?a=1"
    fetched = await fetcher(port).fetch(f"{url}#part", into)
    assert (fetched.name, fetched.media_type, fetched.size) == (url, "text/html; charset=koi8-r", len(BODY))
    assert into.read_bytes().decode("koi8-r") == BODY
    # Where the server says no more than that it is text, the name may say what text.
    assert (await fetcher(port).fetch(f"http://docs.test:{port}/notes.md", into)).media_type == ""
    followed = await fetcher(port).fetch(f"http://docs.test:{port}/relative", into)
    assert (followed.name, followed.url) == (f"http://docs.test:{port}/relative", f"http://docs.test:{port}/notes.md")


async def test_nothing_is_fetched_unless_a_setting_allows_it(tmp_path: Path) -> None:
    failure = await refused(Fetcher([]), "https://example.com/", tmp_path / "it")
    assert (failure.reason, failure.metadata["setting"]) == (Reason.FETCHING_DISABLED, "FETCH_ALLOWED")
    assert "FETCH_ALLOWED" in failure.message
    failure = await refused(Fetcher(["example.com"]), "https://example.org/", tmp_path / "it")
    assert failure.reason == Reason.URL_NOT_ALLOWED
    assert "FETCH_ALLOWED" in failure.message


@pytest.mark.parametrize(
    ("path", "reason", "said"),
    [
        ("/nothing", Reason.DOCUMENT_UNREADABLE, "404"),
        ("/large", Reason.DOCUMENT_UNREADABLE, "200000 bytes"),
        ("/packed", Reason.DOCUMENT_UNREADABLE, "compressed"),
        ("/around", Reason.DOCUMENT_UNREADABLE, "redirects more"),
        ("/to/other.test/", Reason.URL_NOT_ALLOWED, "FETCH_ALLOWED"),
        ("/to/169.254.169.254/latest/meta-data", Reason.URL_NOT_ALLOWED, "FETCH_ALLOWED"),
        ("/short", Reason.URL_UNREACHABLE, "breaks off"),
    ],
)
async def test_what_a_server_can_do_wrong(port: int, tmp_path: Path, path: str, reason: Reason, said: str) -> None:
    failure = await refused(fetcher(port), f"http://docs.test:{port}{path}", tmp_path / "it")
    assert failure.reason == reason
    assert said in failure.message


async def test_an_allowed_name_that_leads_inside_is_not_followed(port: int, tmp_path: Path) -> None:
    failure = await refused(fetcher(port, permit=False), f"http://docs.test:{port}/text", tmp_path / "it")
    assert failure.reason == Reason.URL_NOT_ALLOWED
    assert "public internet" in failure.message
    assert not (tmp_path / "it").exists()


async def test_each_hop_is_checked_by_its_own_address(port: int, tmp_path: Path) -> None:
    # The first hop is permitted here; the second is allowed by name, and leads to where nothing may be connected.
    one = Fetcher(
        [f"docs.test:{port}", "inside.test"],
        resolve=lambda host, _: [LOOPBACK if host == "docs.test" else ip_address("10.0.0.1")],
        is_permitted=lambda address: address == LOOPBACK,
    )
    failure = await refused(one, f"http://docs.test:{port}/to/inside.test/", tmp_path / "it")
    assert failure.reason == Reason.URL_NOT_ALLOWED
    assert "public internet" in failure.message


async def test_a_name_is_resolved_once_and_that_address_is_connected_to(port: int, tmp_path: Path) -> None:
    asked: list[str] = []

    def rebinding(host: str, _: int) -> list[Address]:
        asked.append(host)
        return [LOOPBACK] if len(asked) == 1 else [ip_address("10.0.0.1")]

    one = Fetcher([f"docs.test:{port}"], resolve=rebinding, is_permitted=LOOPBACK.__eq__)
    await one.fetch(f"http://docs.test:{port}/text", tmp_path / "it")
    assert asked == ["docs.test"]


async def test_a_slow_server_is_left(port: int, tmp_path: Path) -> None:
    started = time.monotonic()
    failure = await refused(fetcher(port, limit=0.3), f"http://docs.test:{port}/endless", tmp_path / "it")
    assert failure.reason == Reason.URL_UNREACHABLE
    assert time.monotonic() - started < 3


async def test_cancelling_ends_the_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        number = silent.getsockname()[1]
        fetching = asyncio.create_task(fetcher(number).fetch(f"http://docs.test:{number}/", tmp_path / "it"))
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            await asyncio.to_thread(connection.recv, 4096)
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
            connection.settimeout(5)
            assert await asyncio.to_thread(connection.recv, 1) == b""


# ruff: noqa: S104 - nothing is bound to these
@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200",
     "168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1",
     "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
     "2002:a00:1::", "fe80::1", "fec0::1", "fd00:ec2::254", "fc00::1", "ff02::1", "2001:db8::1",
     "2001:0:4136:e378:8000:63bf:3fff:fdd2", "100::1"],
)  # fmt: skip
def test_addresses_that_are_never_connected_to(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_address_in_another_is_judged_by_itself(address: Address) -> None:
    assert is_public(ip_address(f"::ffff:{address}")) == is_public(address)
    assert is_public(ip_address(int(ip_address("64:ff9b::")) + int(address))) == is_public(address)


@pytest.mark.parametrize(
    ("rule", "url", "allowed"),
    [
        ("example.com", "https://example.com/a", True),
        ("example.com", "http://EXAMPLE.com./a", True),
        ("example.com", "https://example.com:444/a", False),
        ("example.com:444", "https://example.com:444/a", True),
        ("example.com", "https://www.example.com/", False),
        ("*.example.com", "https://www.example.com/", True),
        ("*.example.com", "https://example.com/", False),
        ("*.example.com", "https://evilexample.com/", False),
        ("*", "https://anything.test/", True),
        ("https://example.com/docs/", "https://example.com/docs/a?b=c", True),
        ("https://example.com/docs/", "http://example.com/docs/a", False),
        ("https://example.com/docs/", "https://example.com/other", False),
        ("https://example.com/docs/", "https://example.com/docs/%2e%2e/other", False),
        ("https://example.com/docs/", "https://example.com/docs/..%5cother", False),
        ("[2606:4700::1111]", "https://[2606:4700::1111]/", True),
    ],
)
def test_rules(rule: str, url: str, allowed: bool) -> None:
    assert Allowance([rule]).allows(Target.of(url)) == allowed


@pytest.mark.parametrize("rule", ["", "ftp://example.com", "exa*mple.com", "user@example.com", "http://", "a:b"])
def test_what_is_no_rule(rule: str) -> None:
    with pytest.raises(ValueError, match="is no host"):
        Allowance([rule])


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com/", "file:///etc/passwd", "//example.com", "https://", "https://a:b@example.com/",
     "https://exa mple.com/", "https://example.com:port/", "https://example.com\\@127.0.0.1/", "http://example.com/\r\nHost: x",
     "javascript:1", ""],
)  # fmt: skip
async def test_what_is_no_url(url: str, tmp_path: Path) -> None:
    assert (await refused(Fetcher(["*"]), url, tmp_path / "it")).reason == Reason.INVALID_FIELD


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_this_machine_by_any_name(host: str, port: int, tmp_path: Path) -> None:
    failure = await refused(Fetcher([f"*:{port}"]), f"http://{host}:{port}/text", tmp_path / "it")
    assert failure.reason == Reason.URL_NOT_ALLOWED
