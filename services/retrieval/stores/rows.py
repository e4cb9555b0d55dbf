"""What the Postgres stores read rows from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final, Protocol
from uuid import UUID

from services.retrieval.calibration import Calibration
from services.retrieval.fusion import Dbsf, Fusion, Rrf, Weighted

_FUSIONS: Final[dict[str, type[Rrf | Dbsf | Weighted]]] = {"rrf": Rrf, "dbsf": Dbsf, "weighted": Weighted}


class Row(Protocol):
    """A row of the driver, or a dict in its place."""

    def __getitem__(self, column: str, /) -> Any:
        """The value of a column."""
        ...

    def get(self, column: str, default: Any, /) -> Any:
        """The value of a column, or the default where there is no such column."""
        ...


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
