"""Finds out which RPC a request is for, by the very paths that Envoy routes by."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from services.gateway.authorizer.scopes import FOREIGN, SCOPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.gateway.authorizer.scopes import Scope
    from services.gateway.contract import Rpc

_OWN: Final = "/penstock."


class Calls:
    """Names the RPC of a request.

    Args:
        rpcs: The contract's RPCs with their REST paths.
    """

    def __init__(self, rpcs: Iterable[Rpc]) -> None:
        self._exact: dict[tuple[str, str], str] = {}
        patterns: dict[str, list[tuple[str, str]]] = defaultdict(list)
        # Routes with patterns are tried with the longest first, as routes._cost has it.
        for rpc in sorted(rpcs, key=lambda one: -len(one.template)):
            method = f"/{rpc.service}/{rpc.name}"
            if rpc.pattern:
                patterns[rpc.verb].append((rpc.pattern, method))
            else:
                self._exact[rpc.verb, rpc.template] = method
        self._methods = {verb: [method for _, method in found] for verb, found in patterns.items()}
        # One expression over all of them: the number of the group that matched says which.
        self._patterns = {verb: re.compile("|".join(f"({one})" for one, _ in found)) for verb, found in patterns.items()}

    def method(self, verb: str, path: str) -> str:
        """The gRPC path of the RPC, such as `/penstock.retrieval.v1.SearchService/Search`; empty where there is none."""
        if path in SCOPES:
            return path
        if path.startswith(_OWN):
            return ""
        path = path.partition("?")[0]
        if found := self._exact.get((verb, path)):
            return found
        pattern = self._patterns.get(verb)
        matched = pattern.fullmatch(path) if pattern else None
        if matched:
            return self._methods[verb][(matched.lastindex or 1) - 1]
        return path if any(path.startswith(prefix) for prefix, _ in FOREIGN) else ""


def scope_of(method: str) -> Scope | None:
    """What a method that `Calls` named asks for; None where any valid key will do.

    Raises:
        KeyError: It is open to no key.
    """
    if method in SCOPES:
        return SCOPES[method]
    for prefix, scope in FOREIGN:
        if method.startswith(prefix):
            return scope
    raise KeyError(method)
