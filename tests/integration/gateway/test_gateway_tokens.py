"""JSON Web Tokens and TLS, through a real Envoy."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.integration.gateway.launched import environment, running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.gateway.backends import Backends
    from tests.integration.gateway.launched import Gateway

SECRET = b"a symmetric key, as long as a hash"
SEARCH, BODY = "/v1/search", {"query": "q"}
CLAIMS = {"JWT_ISSUER": "https://issuer.example", "JWT_AUDIENCES": "penstock", "JWT_TENANT_CLAIM": "org.id"}


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token(secret: bytes = SECRET, **changes: Any) -> str:
    claims = {
        "iss": "https://issuer.example",
        "aud": "penstock",
        "sub": "ann",
        "exp": int(time.time()) + 600,
        "org": {"id": "acme"},
        "scope": "openid retrieval:read",
        "groups": ["staff", "readers"],
        **changes,
    }
    head = encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "k"}).encode())
    signed = f"{head}.{encoded(json.dumps(claims).encode())}"
    return f"{signed}.{encoded(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def key_set() -> str:
    return json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "kid": "k", "k": encoded(SECRET)}]})


@pytest.fixture(scope="module")
def trusting(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("tokens")
    keys = folder / "jwks.json"
    keys.write_text(key_set())
    with running(environment(folder, backends.ports, JWT_JWKS=str(keys), **CLAIMS)) as gateway:
        wait_for(lambda: gateway.http.get("/healthz").status_code == 200)
        yield gateway


def ask(gateway: Gateway, bearer: str) -> httpx.Response:
    return gateway.http.post(SEARCH, json=BODY, headers={"authorization": f"Bearer {bearer}", "x-penstock-user": "root"})


def test_a_token_names_tenant_user_groups_and_scopes(trusting: Gateway, backends: Backends) -> None:
    assert ask(trusting, token()).status_code == 200
    told = backends.seen.metadata[-1]
    ours = {name.removeprefix("x-penstock-"): value for name, value in told.items() if name.startswith("x-penstock-")}
    assert ours == {"tenant": "acme", "user": "ann", "groups": "staff,readers", "scopes": "retrieval:read", "key": "jwt"}
    assert "authorization" not in told


@pytest.mark.parametrize(
    "wrong",
    [
        token(b"another key of the same good length"),
        token(iss="https://other.example"),
        token(aud="another application"),
        token(exp=int(time.time()) - 3600),
        token(org={}),
        token(org={"id": "a\r\nb"}),
        token(sub=None),
        token()[:-4],
        "no.token.at.all",
    ],
)
def test_tokens_that_are_not_good_are_refused(trusting: Gateway, wrong: str) -> None:
    response = ask(trusting, wrong)
    assert (response.status_code, response.json()["details"][0]["reason"]) == (401, "UNAUTHENTICATED")


def test_a_token_opens_what_its_scopes_say(trusting: Gateway) -> None:
    assert ask(trusting, token(scope=["experiments"])).status_code == 403
    assert ask(trusting, token(scope="")).status_code == 403
    assert ask(trusting, token(scope=["other", "retrieval:read"])).status_code == 200


@contextmanager
def served(content: str) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the signature is the library's)
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/keys"
    server.shutdown()
    server.server_close()


def test_the_key_set_is_fetched(backends: Backends, tmp_path: Path) -> None:
    with served(key_set()) as url, running(environment(tmp_path, backends.ports, JWT_JWKS=url, **CLAIMS)) as gateway:
        wait_for(lambda: ask(gateway, token()).status_code == 200, seconds=10)
        assert ask(gateway, token(b"another key of the same good length")).status_code == 401


def test_tls_with_a_certificate(backends: Backends, tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *named], check=True, capture_output=True)
    settings = environment(tmp_path, backends.ports, TLS_CERTIFICATE_FILE=str(certificate), TLS_KEY_FILE=str(key))
    trusted = ssl.create_default_context(cafile=str(certificate))
    with running(settings, verify=trusted) as gateway:
        page = gateway.http.get("/docs")
        assert page.headers["strict-transport-security"].startswith("max-age=")
        assert gateway.http.post(SEARCH, json=BODY).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://{gateway.address}/docs")
