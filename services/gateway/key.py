"""Makes, lists, rotates and revokes API keys: `make key`, or `python -m services.gateway.key`.

What it changes holds within a second for a running gateway on the same file. Each change is written into `<keys>.audit`.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.gateway.authorizer.keyring import (
    Key,
    Keyring,
    Limits,
    is_hashed,
    is_name,
    named,
    new_key,
    only_writer,
    outlived,
    read_keyring,
    revoked,
    write_keyring,
)
from services.gateway.authorizer.scopes import Scope, parse_scopes
from services.gateway.keys import KeysError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPAN: Final = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line asks; 1 with a message where that cannot be done."""
    wanted = _arguments(arguments)
    path = Path(wanted.file)
    try:
        with only_writer(path):
            keyring = _read(path)
            return int(wanted.run(wanted, path, keyring))
    except (KeysError, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _create(wanted: Any, path: Path, keyring: Keyring) -> int:
    tenant = wanted.tenant or wanted.name
    if not is_name(tenant) or not is_name(wanted.name):
        raise ValueError("NAME and TENANT must be 1 to 128 letters, digits and any of . _ @ -")
    limits = Limits(wanted.requests_per_minute, wanted.concurrency)
    lifetime = _span(wanted.expires_in) if wanted.expires_in else None
    key, secret = new_key(
        wanted.name, tenant, parse_scopes(wanted.scopes), now=datetime.now(UTC), lifetime=lifetime, limits=limits
    )
    write_keyring(path, Keyring((*keyring.keys, key), keyring.tenants))
    _audit(path, "created", key)
    return _show_once(wanted, path, key, secret)


def _rotate(wanted: Any, path: Path, keyring: Keyring) -> int:
    now = datetime.now(UTC)
    old = named(keyring, wanted.key)
    if not old.is_valid(now):
        raise ValueError(f"{old.key} is expired or revoked; create a key instead")
    key, secret = new_key(old.name, old.tenant, old.scopes, now=now, limits=old.limits)
    both = outlived(keyring, old.key, now + _span(wanted.overlap))
    write_keyring(path, Keyring((*both.keys, key), both.tenants))
    _audit(path, f"rotated to {key.key}", old)
    return _show_once(wanted, path, key, secret)


def _revoke(wanted: Any, path: Path, keyring: Keyring) -> int:
    write_keyring(path, revoked(keyring, wanted.key, datetime.now(UTC)))
    _audit(path, "revoked", named(keyring, wanted.key))
    sys.stdout.write(f"{wanted.key} is revoked\n")
    return 0


def _list(wanted: Any, _path: Path, keyring: Keyring) -> int:
    now = datetime.now(UTC)
    rows = [_told(key, now) for key in keyring.keys]
    if wanted.json:
        sys.stdout.write(f"{json.dumps(rows)}\n")
        return 0
    for row in rows:
        sys.stdout.write(f"{row['key']}  {row['state']:8}{row['name']}  tenant {row['tenant']}  {' '.join(row['scopes'])}\n")
    return 0


def _limit(wanted: Any, path: Path, keyring: Keyring) -> int:
    if not is_name(wanted.tenant):
        raise ValueError("TENANT must be 1 to 128 letters, digits and any of . _ @ -")
    limits = Limits(wanted.requests_per_minute, wanted.concurrency)
    others = {tenant: held for tenant, held in keyring.tenants.items() if tenant != wanted.tenant}
    write_keyring(path, Keyring(keyring.keys, {**others, wanted.tenant: limits} if limits else others))
    _write_audit(path, {"change": "limits", "tenant": wanted.tenant})
    sys.stdout.write(f"the limits of the tenant {wanted.tenant} are set\n")
    return 0


def _read(path: Path) -> Keyring:
    if not path.exists():
        return Keyring()
    if not is_hashed(path.read_text(encoding="utf-8")):
        raise ValueError(
            f"{path} holds keys in clear, of the old form; make keys in a file of their own, which --file names, hand them "
            "out, and name that file in API_KEYS_FILE"
        )
    return read_keyring(path)


def _show_once(wanted: Any, path: Path, key: Key, secret: str) -> int:
    if wanted.json:
        sys.stdout.write(json.dumps({**_told(key, datetime.now(UTC)), "secret": secret}) + "\n")
        return 0
    sys.stdout.write(
        f"{secret}\n\nThis is the key; it is shown this once, and only its hash is kept, in {path}.\n"
        f"It is good for {' '.join(sorted(key.scopes))}, in the name of the tenant {key.tenant}.\n"
        f"Start with API_KEYS_FILE={path}; callers send `Authorization: Bearer <key>`.\n"
    )
    return 0


def _told(key: Key, now: datetime) -> dict[str, Any]:
    state = "revoked" if key.revoked else "valid" if key.is_valid(now) else "expired"
    return {
        "key": key.key,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": sorted(key.scopes),
        "state": state,
        "expires": key.expires.isoformat() if key.expires else None,
    }


def _audit(path: Path, change: str, key: Key) -> None:
    _write_audit(path, {"change": change, "key": key.key, "name": key.name, "tenant": key.tenant})


def _write_audit(path: Path, told: dict[str, str]) -> None:
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "by": getpass.getuser(), **told}
    descriptor = os.open(path.with_name(f"{path.name}.audit"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        file.write(f"{json.dumps(line)}\n")


def _span(text: str) -> timedelta:
    found = _SPAN.fullmatch(text)
    if found is None or found[1].strip("0") == "":
        raise ValueError(f"{text!r} is no span of time; write 90d, 24h, 30m or 60s")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    folder = os.environ.get("DATA_DIR") or ".penstock"
    usual = os.environ.get("API_KEYS_FILE") or f"{folder}/api-keys.json"
    parser = argparse.ArgumentParser(prog="python -m services.gateway.key", description=__doc__)
    parser.add_argument("--file", default=usual, help=f"the file of keys ({usual})")
    parser.add_argument("--json", action="store_true", help="tell it as JSON")
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser("create", help="make a key, and show it once")
    create.add_argument("--name", required=True, help="whose key it is")
    create.add_argument("--scopes", required=True, help=f"what it is good for: {', '.join(Scope)}, or all")
    create.add_argument("--tenant", default="", help="on whose behalf it calls; NAME where it is left out")
    create.add_argument("--expires-in", default="", help="for how long it is good, such as 90d; for ever where it is left out")
    create.set_defaults(run=_create)
    listing = commands.add_parser("list", help="list the keys, without their secrets")
    listing.set_defaults(run=_list)
    rotate = commands.add_parser("rotate", help="make a key like another one, which ends after a while")
    rotate.add_argument("key", help="id of the key, as in psk_4f1d9a0b2c3e")
    rotate.add_argument("--overlap", default="24h", help="for how long both are good (24h)")
    rotate.set_defaults(run=_rotate)
    revoke = commands.add_parser("revoke", help="end a key at once")
    revoke.add_argument("key", help="id of the key, as in psk_4f1d9a0b2c3e")
    revoke.set_defaults(run=_revoke)
    limit = commands.add_parser("limit", help="set what a tenant may use with all of its keys")
    limit.add_argument("tenant")
    limit.set_defaults(run=_limit)
    for one in (create, limit):
        one.add_argument("--requests-per-minute", type=_count, default=0, help="0 for no limit (0)")
        one.add_argument("--concurrency", type=_count, default=0, help="calls under way at once; 0 for no limit (0)")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
