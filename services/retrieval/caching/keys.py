"""What a kept result is kept by: everything that could make it another.

A key holds the state of each collection as of this very request: its index, its settings, its embedder, and the count of all
changes that were committed to it. Nothing has to be thrown away when documents come and go: their results have other keys. What
the caller may see is checked before a key is made (`Catalog.named`), so that a permission taken away acts at once.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from services.retrieval.analysis import ANALYZER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.retrieval.catalog import Collection

# Raise it when what is kept under the same key would come out otherwise by a new version of this service.
_FORMAT = 1


def states(targets: Sequence[Collection]) -> tuple[object, ...]:
    """The state of the collections: results of the same state are the same."""
    return tuple(
        (
            one.tenant,
            one.collection,
            str(one.index_uid),
            one.revision,
            one.changes,
            one.embedder.name,
            one.embedder.fingerprint,
            one.has_vectors,
        )
        for one in targets
    )


def key_of(kind: str, *parts: Any) -> bytes:
    """A key of 32 bytes. The parts are frozen dataclasses and plain values, whose representation tells all of them."""
    return hashlib.sha256(repr((_FORMAT, ANALYZER, kind, parts)).encode()).digest()
