"""What the Postgres stores read rows from."""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID


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
