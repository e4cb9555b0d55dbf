"""Passages as they are kept outside of this process."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final

from services.retrieval.passages import Hit

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIELDS: Final = tuple(field.name for field in fields(Hit) if field.name != "explanation")
_LISTS: Final = frozenset({"headings"})
# Its numbers know no bounds.
_FREE: Final = "metadata"


def kept_hits(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Passages as plain values. Why a passage is where it is, is not kept."""
    return [{name: _plain(name, getattr(hit, name)) for name in _FIELDS} for hit in hits]


def read_hits(kept: Sequence[dict[str, Any]]) -> tuple[Hit, ...]:
    """The passages; raises TypeError or ValueError for what is none."""
    return tuple(Hit(**{name: _read(name, value) for name, value in one.items()}) for one in kept)


def _plain(name: str, value: Any) -> Any:
    if name == _FREE:
        return json.dumps(value)
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _read(name: str, value: Any) -> Any:
    if name == _FREE:
        return json.loads(value)
    return tuple(value) if name in _LISTS else value
