"""What the Postgres stores read rows from."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

from services.retrieval.calibration import Calibration
from services.retrieval.chunking.chunks import Chunk
from services.retrieval.chunking.settings import ChunkingSettings
from services.retrieval.fusion import Dbsf, Fusion, Rrf, Weighted

if TYPE_CHECKING:
    from collections.abc import Iterable

_FUSIONS: Final[dict[str, type[Rrf | Dbsf | Weighted]]] = {"rrf": Rrf, "dbsf": Dbsf, "weighted": Weighted}


class Row(Protocol):
    """A row of the driver, or a dict in its place."""

    def __getitem__(self, column: str, /) -> Any:
        """The value of a column."""
        ...

    def get(self, column: str, default: Any, /) -> Any:
        """The value of a column, or the default where there is no such column."""
        ...


def chunks_json(chunks: Iterable[Chunk]) -> str:
    """Chunks as they are kept: without their texts, which are spans of the document's."""
    return json.dumps([asdict(replace(chunk, text="")) for chunk in chunks], ensure_ascii=False)


def chunks_of_json(kept: str, text: str) -> tuple[Chunk, ...]:
    """Chunks that were kept, of a document's text."""
    return tuple(_chunk(one, text) for one in json.loads(kept))


def _chunk(kept: dict[str, Any], text: str) -> Chunk:
    lists: dict[str, Any] = {name: tuple(value) for name, value in kept.items() if isinstance(value, list)}
    return Chunk(**{**kept, **lists, "text": text[kept["start"] : kept["end"]]})


def plain_uuid(value: Any) -> UUID:
    """The domain's UUID: the driver's own is a subclass of Python's, which costs more to hash."""
    return UUID(int=value.int)


def fusion_json(fusion: Fusion) -> str:
    """A fusion as it is kept."""
    name = next(name for name, kind in _FUSIONS.items() if isinstance(fusion, kind))
    return json.dumps({"kind": name, **asdict(fusion)})


def fusion_of(text: str | None) -> Fusion:
    """A fusion that was kept; the service's own where none was."""
    if text is None:
        return Rrf()
    kept = json.loads(text)
    return _FUSIONS[kept.pop("kind")](**kept)


def calibration_of(text: str | None) -> Calibration | None:
    """A calibration that was kept."""
    return None if text is None else Calibration(**json.loads(text))


def chunking_of(text: str | None) -> ChunkingSettings:
    """Chunking settings that were kept; the service's own where none were."""
    return ChunkingSettings.from_json(json.loads(text) if text else None)
