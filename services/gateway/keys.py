"""Reads the file of API keys."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LINE = re.compile(r"(?P<client>[A-Za-z0-9._-]+)(?:\s*:\s*|\s+)(?P<key>[!-~]+)")


class KeysError(ValueError):
    """The file of keys cannot be used; the message says which line, never a key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key and the client that it stands for."""

    client: str
    key: str = field(repr=False)


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Reads one `name: key` or `name key` a line. Empty lines and lines that begin with `#` are skipped.

    Raises:
        KeysError: The file cannot be read, has no key, a malformed line, or the same key twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"API_KEYS_FILE: {path} cannot be read: {error.__class__.__name__}") from error
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            raise KeysError(f"API_KEYS_FILE: line {number} of {path} must be `name: key`, both without spaces")
        if found["key"] in keys:
            raise KeysError(f"API_KEYS_FILE: line {number} of {path} repeats the key of an earlier line")
        keys[found["key"]] = ApiKey(found["client"], found["key"])
    if not keys:
        raise KeysError(f"API_KEYS_FILE: {path} holds no key; write one `name: key` a line")
    return tuple(keys.values())
