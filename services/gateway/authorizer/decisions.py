"""The decision: who calls, and whether they may."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from services.chassis.errors import Failure, Reason
from services.chassis.seal import GROUPS_HEADER, IDENTITY, KEY_HEADER, SCOPES_HEADER, SEAL_HEADER, TENANT_HEADER, USER_HEADER
from services.gateway.authorizer.calls import scope_of
from services.gateway.authorizer.keyring import NO_LIMITS, Keyring, Limits, is_name
from services.gateway.authorizer.scopes import Scope, parse_scopes
from services.gateway.headers import JWT_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.chassis.seal import Seal
    from services.gateway.authorizer.calls import Calls
    from services.gateway.authorizer.keyring import Key

CREDENTIALS: Final = ("authorization", "x-api-key", JWT_HEADER)

_NO_KEY: Final = "no valid API key; send one as `Authorization: Bearer <key>` or `x-api-key: <key>`"
_RESIGNED_SECONDS: Final = 30.0
"""How long a caller's signed headers are sent again: a small part of what services take a signature for."""
_MOST_CALLERS: Final = 10_000
_LONGEST_GROUPS: Final = 4096

_audit = logging.getLogger("penstock.audit")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as services are told."""

    key: str
    tenant: str
    scopes: frozenset[Scope]
    user: str = ""
    groups: str = ""
    limits: Limits = NO_LIMITS
    expires: float | None = None
    """In seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Which claims of a token say what. A claim within another is reached by a dot, as in `realm.tenant`."""

    tenant: str = "tenant"
    scopes: str = "scope"
    groups: str = "groups"


class Authorizer:
    """Decides by the keys it was given last.

    Args:
        calls: Names the RPC of a request.
        seal: Signs what services are told; None where they take it unsigned.
        claims: How tokens are read.
    """

    def __init__(self, calls: Calls, seal: Seal | None, claims: Claims | None = None) -> None:
        self._calls = calls
        self._seal = seal
        self._claims = claims or Claims()
        self._keys: dict[bytes, Caller] = {}
        self._tenants: Mapping[str, Limits] = {}
        self._granted: dict[Caller, tuple[float, bytes]] = {}

    def take(self, keyring: Keyring) -> None:
        """Uses these keys from now on."""
        now = datetime.now(UTC)
        self._keys = {key.digest: _caller(key) for key in keyring.keys if key.is_valid(now)}
        self._tenants = keyring.tenants
        self._granted = {}

    def caller(self, verb: str, path: str, headers: Mapping[str, str]) -> Caller:
        """Who makes the request, if they may.

        Raises:
            Failure: UNAUTHENTICATED, PERMISSION_DENIED, or METHOD_NOT_FOUND.
        """
        who = self._known(headers)
        if who is None:
            raise Failure(Reason.UNAUTHENTICATED, _NO_KEY)
        method = self._calls.method(verb, path)
        try:
            scope = scope_of(method)
        except KeyError as error:
            raise Failure(
                Reason.METHOD_NOT_FOUND, "no such method is open to callers; /docs and the gateway's reflection list them"
            ) from error
        if scope is not None and scope not in who.scopes:
            raise Failure(
                Reason.PERMISSION_DENIED,
                f"the key {who.key} lacks the scope {scope.value!r}, which this call asks for; use one that has it",
                metadata={"key": who.key, "scope": scope.value},
            )
        if scope is Scope.ADMIN:
            told = {"key": who.key, "tenant": who.tenant, "user": who.user, "method": method, "path": path.partition("?")[0]}
            _audit.info("admin call", extra={**told, "called_by": headers.get("x-request-id", "")})
        return who

    def granted(self, who: Caller) -> bytes:
        """The headers that Envoy is to set for the services, and those that it is to remove, as lines of HTTP/1.1."""
        now = time.time()
        known = self._granted.get(who)
        if known is not None and now < known[0]:
            return known[1]
        told = {
            TENANT_HEADER: who.tenant,
            USER_HEADER: who.user,
            GROUPS_HEADER: who.groups,
            SCOPES_HEADER: " ".join(sorted(who.scopes)),
            KEY_HEADER: who.key,
        }
        told = {name: told[name] for name in IDENTITY if told[name]}
        if self._seal is not None:
            told[SEAL_HEADER] = self._seal.sign(told, now)
        told["x-envoy-auth-headers-to-remove"] = ", ".join(CREDENTIALS)
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items()).encode()
        if len(self._granted) >= _MOST_CALLERS:
            self._granted.clear()
        self._granted[who] = (now + _RESIGNED_SECONDS, lines)
        return lines

    def tenant_limits(self, who: Caller) -> Limits:
        """What the caller's tenant may use in all."""
        return self._tenants.get(who.tenant, NO_LIMITS)

    def _known(self, headers: Mapping[str, str]) -> Caller | None:
        if claims := headers.get(JWT_HEADER):
            return self._by_token(claims)
        secret = headers.get("x-api-key") or headers.get("authorization", "")
        if secret[:7].lower() == "bearer ":
            secret = secret[7:].strip()
        found = self._keys.get(hashlib.sha256(secret.encode("latin-1")).digest())
        if found is None or (found.expires is not None and found.expires <= time.time()):
            return None
        return found

    def _by_token(self, text: str) -> Caller | None:
        """The caller that a token names. Envoy has verified its signature, issuer, audience and time."""
        try:
            claims = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            tenant, user = _claim(claims, self._claims.tenant), _claim(claims, "sub")
            scopes = _words(_claim(claims, self._claims.scopes))
            groups = ",".join(_words(_claim(claims, self._claims.groups)))
        except ValueError:
            return None
        if not isinstance(tenant, str) or not is_name(tenant) or not isinstance(user, str) or not _fits(user):
            return None
        # A token names scopes of others too; those that are not ours say nothing here.
        ours = [scope for scope in scopes if scope in set(Scope)]
        scopes_held = parse_scopes(" ".join(ours)) if ours else frozenset()
        return Caller("jwt", tenant, scopes_held, user, groups if _fits(groups, _LONGEST_GROUPS) else "")


def _caller(key: Key) -> Caller:
    expires = key.expires.timestamp() if key.expires else None
    return Caller(key.key, key.tenant, key.scopes, limits=key.limits, expires=expires)


def _claim(claims: Any, path: str) -> Any:
    for name in path.split("."):
        claims = claims.get(name) if isinstance(claims, dict) else None
    return claims


def _words(value: Any) -> list[str]:
    """A claim that lists: a JSON list of texts, or one text with spaces between the words."""
    if isinstance(value, str):
        return value.split()
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _fits(value: str, most: int = 256) -> bool:
    """Whether it may stand in a header, and stand for itself there."""
    return len(value) <= most and value.isascii() and value.isprintable() and value == value.strip()
