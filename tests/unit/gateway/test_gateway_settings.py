from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from services.gateway.keys import KeysError, read_keys
from services.gateway.settings import GatewaySettings, is_loopback, parse_address

if TYPE_CHECKING:
    from pathlib import Path


def test_off_loopback_needs_keys() -> None:
    with pytest.raises(ValidationError, match="API_KEYS_FILE"):
        GatewaySettings(listen_host="0.0.0.0")  # noqa: S104 (what must be refused)


@pytest.mark.parametrize(
    "wrong",
    [
        {"admin_address": "0.0.0.0:9901"},
        {"inference_address": "nowhere"},
        {"retrieval_address": "host:0"},
        {"log_level": "loud"},
        {"port": 0},
        {"listen_host": "my.host"},
        {"metrics_address": "my.host:9090"},
        {"experiments_address": " , "},
    ],
)
def test_unusable_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings(**wrong)


def test_localhost_is_loopback() -> None:
    settings = GatewaySettings(listen_host="localhost", admin_address="localhost:9901")
    assert (settings.listen_host, settings.admin_address) == ("127.0.0.1", "127.0.0.1:9901")


def test_lists_come_by_comma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "https://a.example, https://b.example")
    assert GatewaySettings().cors_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    ("text", "parsed"), [("h:1", ("h", 1)), ("[::1]:50051", ("::1", 50051)), ("10.0.0.1:65535", ("10.0.0.1", 65535))]
)
def test_addresses(text: str, parsed: tuple[str, int]) -> None:
    assert parse_address(text) == parsed


@pytest.mark.parametrize("text", ["", "h", "h:", ":1", "h:x", "h:65536"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("::", False), ("a.b", False)]
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_keys_are_read_in_both_spellings(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# comment\n\nalice: k1\nbob   k2\ncarol : a:b\n")
    assert [(one.client, one.key) for one in read_keys(file)] == [("alice", "k1"), ("bob", "k2"), ("carol", "a:b")]
    assert "k1" not in repr(read_keys(file))


@pytest.mark.parametrize("text", ["", "# only a comment\n", "alice\n", "a: k\nb: k\n", "a: two words\n"])
def test_unusable_files_of_keys_are_refused_without_telling_keys(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(KeysError) as caught:
        read_keys(file)
    assert "words" not in str(caught.value)


def test_a_missing_file_of_keys_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="missing"):
        read_keys(tmp_path / "missing")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"gateway_secret": "s" * 40}, "API_KEYS_FILE or JWT_JWKS"),
        ({"gateway_secret": "short", "api_keys_file": "keys"}, "32 characters"),
        ({"jwt_jwks": "https://id.example/keys"}, "JWT_AUDIENCES"),
        ({"jwt_jwks": "/nowhere/keys", "jwt_issuer": "i", "jwt_audiences": "a"}, "neither a URL nor a file"),
        ({"tls_key_file": "key.pem"}, "belong together"),
        ({"tls_key_file": "/nowhere/key.pem", "tls_certificate_file": "/nowhere/tls.pem"}, "no file"),
    ],
)
def test_settings_of_security_that_contradict_each_other_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        GatewaySettings(**wrong)


def test_tokens_guard_like_keys() -> None:
    told: dict[str, Any] = {"jwt_jwks": "https://id.example/keys", "jwt_issuer": "i", "jwt_audiences": "a, b"}
    settings = GatewaySettings(listen_host="0.0.0.0", **told)  # noqa: S104 (with tokens)
    assert (settings.is_guarded, settings.jwt_audiences) == (True, ("a", "b"))
