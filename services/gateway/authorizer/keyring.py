"""API keys as the gateway keeps them: hashes, with what each key is good for, in a file of JSON.

Only the hash of a key is stored. A key has 256 random bits, so one round of SHA-256 cannot be undone by guessing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from services.gateway.authorizer.scopes import ALL, parse_scopes
from services.gateway.keys import KeysError, parse_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from services.gateway.authorizer.scopes import Scope

_BEGINNING: Final = "psk"
_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_VERSION: Final = 1
_LARGEST_LIMIT: Final = 2**53


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key, or one tenant, may use over all gateways together; 0 is no limit."""

    requests_per_minute: int = 0
    concurrency: int = 0
    """Calls under way at once, streams for as long as they last."""

    def __bool__(self) -> bool:
        return bool(self.requests_per_minute or self.concurrency)


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without its secret."""

    key: str
    """Its id, which is also what the key itself begins with, as in `psk_4f1d9a0b2c3e`."""
    digest: bytes = field(repr=False)
    """SHA-256 of the whole key."""
    name: str
    tenant: str
    scopes: frozenset[Scope]
    created: datetime | None = None
    expires: datetime | None = None
    revoked: datetime | None = None
    limits: Limits = NO_LIMITS

    def is_valid(self, now: datetime) -> bool:
        """Whether it opens anything at that time."""
        return self.revoked is None and (self.expires is None or now < self.expires)


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys, and the limits of tenants."""

    keys: tuple[Key, ...] = ()
    tenants: Mapping[str, Limits] = field(default_factory=dict)


def digest_of(secret: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(secret.encode()).digest()


def new_key(
    name: str,
    tenant: str,
    scopes: frozenset[Scope],
    *,
    now: datetime,
    lifetime: timedelta | None = None,
    limits: Limits = NO_LIMITS,
) -> tuple[Key, str]:
    """Makes a key. The second value is the key itself, to be shown once: it is nowhere else."""
    key = f"{_BEGINNING}_{secrets.token_hex(_ID_BYTES)}"
    secret = f"{key}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    expires = now + lifetime if lifetime else None
    return Key(key, digest_of(secret), name, tenant, scopes, now, expires, None, limits), secret


def read_keyring(path: Path) -> Keyring:
    """Reads a file that `make key` wrote, or one of the old form with a `name: key` a line, each good for everything.

    Raises:
        KeysError: The file cannot be read or is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"API_KEYS_FILE: {path} cannot be read: {error.__class__.__name__}") from error
    if not is_hashed(text):
        old = parse_keys(text, path)
        return Keyring(tuple(Key(one.client, digest_of(one.key), one.client, one.client, ALL) for one in old))
    try:
        return _parsed(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeysError(f"API_KEYS_FILE: {path} is malformed: {error.__class__.__name__}: {error}") from error


def is_hashed(text: str) -> bool:
    """Whether the file holds hashes, not keys in clear."""
    return text.lstrip().startswith("{")


def write_keyring(path: Path, keyring: Keyring) -> None:
    """Replaces the file at once and whole, for this user alone, so that a reader never sees half of it."""
    rows = [_row(key) for key in keyring.keys]
    tenants = {tenant: _limits_row(limits) for tenant, limits in keyring.tenants.items()}
    text = json.dumps({"version": _VERSION, "keys": rows, "tenants": tenants}, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keeps others from changing the file between a read and a write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def revoked(keyring: Keyring, key: str, now: datetime) -> Keyring:
    """The same keys, but this one opens nothing any more.

    Raises:
        KeysError: There is no such key.
    """
    return _changed(keyring, key, lambda one: one if one.revoked else replace(one, revoked=now))


def outlived(keyring: Keyring, key: str, end: datetime) -> Keyring:
    """The same keys, but this one ends at that time at the latest.

    Raises:
        KeysError: There is no such key.
    """
    return _changed(keyring, key, lambda one: replace(one, expires=min(end, one.expires) if one.expires else end))


def named(keyring: Keyring, key: str) -> Key:
    """The key of this id.

    Raises:
        KeysError: There is none.
    """
    for one in keyring.keys:
        if one.key == key:
            return one
    raise KeysError(f"there is no key {key!r}; list them to see their ids")


def _changed(keyring: Keyring, key: str, change: Any) -> Keyring:
    named(keyring, key)
    return replace(keyring, keys=tuple(change(one) if one.key == key else one for one in keyring.keys))


def _parsed(document: Any) -> Keyring:
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']!r} is not known; this penstock reads {_VERSION}")
    keys = tuple(_key(row) for row in document["keys"])
    if len({one.digest for one in keys}) < len(keys) or len({one.key for one in keys}) < len(keys):
        raise ValueError("a key is there twice")
    return Keyring(keys, {_word(tenant): _limits(row) for tenant, row in document.get("tenants", {}).items()})


def _key(row: Any) -> Key:
    digest = bytes.fromhex(row["sha256"])
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("sha256 must be 64 hexadecimal digits")
    return Key(
        key=_word(row["key"]),
        digest=digest,
        name=str(row["name"]),
        tenant=_word(row["tenant"]),
        scopes=parse_scopes(" ".join(row["scopes"])),
        created=_time(row.get("created")),
        expires=_time(row.get("expires")),
        revoked=_time(row.get("revoked")),
        limits=_limits(row.get("limits", {})),
    )


def _word(value: Any) -> str:
    """A name that may stand in a header."""
    if not isinstance(value, str) or not is_name(value):
        raise ValueError(f"{value!r} must be 1 to 128 letters, digits and any of . _ @ -")
    return value


def is_name(value: str) -> bool:
    """Whether a tenant or a key may be called so."""
    return 0 < len(value) <= 128 and value.isascii() and all(one.isalnum() or one in "._@-" for one in value)  # noqa: PLR2004 - the longest name


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _limits(row: Any) -> Limits:
    unknown = row.keys() - {"requests_per_minute", "concurrency"}
    if unknown:
        raise ValueError(f"{min(unknown)!r} is no limit; there are requests_per_minute and concurrency")
    for name, value in row.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_LIMIT:
            raise ValueError(f"{name} must be a whole number, 0 for no limit")
    return Limits(**row)


def _limits_row(limits: Limits) -> dict[str, int]:
    found = {"requests_per_minute": limits.requests_per_minute, "concurrency": limits.concurrency}
    return {name: value for name, value in found.items() if value}


def _row(key: Key) -> dict[str, Any]:
    times = {"created": key.created, "expires": key.expires, "revoked": key.revoked}
    return {
        "key": key.key,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": sorted(key.scopes),
        "sha256": key.digest.hex(),
        **{name: time.isoformat(timespec="seconds") for name, time in times.items() if time},
        **({"limits": _limits_row(key.limits)} if key.limits else {}),
    }
