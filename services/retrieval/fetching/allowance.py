"""Which URLs may be fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

PORTS: Final = {"http": 80, "https": 443}
ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads.

    Attributes:
        scheme: `http` or `https`.
        host: In small letters, in ASCII, without brackets.
        port: Its port.
        path: What is asked of the server: path and query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Target:
        """Where it leads. Raises ValueError, which continues "the URL ...", for what is no plain URL of the web."""
        if not url.isascii() or any(character <= " " for character in url):
            raise ValueError("holds characters that have to be percent-encoded")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError("is none") from error
        if parts.scheme not in PORTS:
            raise ValueError("is neither http nor https")
        if parts.username is not None or parts.password is not None:
            raise ValueError("carries a user name or password")
        if not parts.hostname or "\\" in url:
            raise ValueError("names no host")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, parts.hostname.rstrip("."), PORTS[parts.scheme] if port is None else port, path)


@dataclass(frozen=True, slots=True)
class _Rule:
    scheme: str
    host: str
    port: int | None
    path: str

    def allows(self, target: Target) -> bool:
        port = self.port or PORTS[target.scheme]
        named = self.host in {ANY, target.host} or (self.host.startswith("*.") and target.host.endswith(self.host[1:]))
        return named and self.scheme in {"", target.scheme} and target.port == port and self._allows_path(target)

    def _allows_path(self, target: Target) -> bool:
        path = target.path.partition("?")[0]
        # Servers resolve `..` in their own ways.
        steps = unquote(unquote(path)).replace("\\", "/").split("/")
        return not self.path or (path.startswith(self.path) and not {".", ".."} & set(steps))


class Allowance:
    """A list of what may be fetched.

    Args:
        rules: `docs.example.com` for a host, `*.example.com` for all below it, `*` for any; with `:port` for another port than
            those of http and https, with `https://` before it for that alone, and with a path behind it for what begins so.

    Raises:
        ValueError: a rule is none of these.
    """

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules = [_rule(rule) for rule in rules]

    @property
    def is_empty(self) -> bool:
        """Whether nothing may be fetched."""
        return not self._rules

    def allows(self, target: Target) -> bool:
        """Whether some rule does."""
        return any(rule.allows(target) for rule in self._rules)


def _rule(rule: str) -> _Rule:
    try:
        parts: SplitResult = urlsplit(rule if "://" in rule else f"//{rule}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    plain = host == ANY or "*" not in host.removeprefix("*.")
    if not host or not plain or parts.scheme not in {"", *PORTS} or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{rule!r} is no host, *.host, *, or the beginning of a URL")
    return _Rule(parts.scheme, host, port, parts.path if parts.path != "/" else "")
