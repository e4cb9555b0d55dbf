"""Reads the old form of the file of API keys, which holds them in clear: a `name: key` a line."""

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
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"API_KEYS_FILE: {path} cannot be read: {error.__class__.__name__}") from error
    return parse_keys(text, path)


def first_key(path: Path) -> str:
    """A key that the file holds in clear; empty where it holds hashes.

    Raises:
        KeysError: The file cannot be read or is malformed.
    """
    try:
        if path.read_bytes().lstrip().startswith(b"{"):
            return ""
    except OSError as error:
        raise KeysError(f"API_KEYS_FILE: {path} cannot be read: {error.__class__.__name__}") from error
    return read_keys(path)[0].key


def parse_keys(content: str, path: Path) -> tuple[ApiKey, ...]:
    """The keys in a file's content; `path` is for messages.

    Raises:
        KeysError: It has no key, a malformed line, or the same key twice.
    """
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(content.splitlines(), start=1):
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
