"""One shard of the engine: opened when first needed, its errors told apart.

The engine holds the interpreter lock in every call (measured: a 4.6 s index build stalls every
thread for 4.6 s), so a thread pool would add hand-overs and no parallelism: calls are made on the
event loop itself. What takes long is cut into steps, or done in a process of its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import qdrant_edge as edge

from deploy.local.qdrant_edge.refusals import of_engine

_Result = TypeVar("_Result")


class Shard:
    """The data of one generation of a collection."""

    def __init__(self, folder: Path, config: edge.EdgeConfig) -> None:
        self.folder = folder
        self._config = config
        self._engine: edge.EdgeShard | None = None
        self._is_dirty = False

    def call(self, action: Callable[[edge.EdgeShard], _Result]) -> _Result:
        """Run one call of the engine. Raises Refusal for what the engine refuses."""
        try:
            return action(self._opened())
        # A panic of the engine is not even an Exception.
        except BaseException as error:
            if refusal := of_engine(error):
                raise refusal from error
            raise

    def update(self, operation: edge.UpdateOperation) -> None:
        """Apply one write; it is in the write-ahead log when this returns."""
        self._is_dirty = True
        self.call(lambda engine: engine.update(operation))

    def flush(self) -> None:
        """Bring the data to disk and shorten the write-ahead log."""
        if self._is_dirty:
            self._is_dirty = False
            self.call(lambda engine: engine.flush())

    def close(self) -> None:
        """Flush and let go of the files; a later call opens them again."""
        if self._engine is not None:
            self.flush()
            self.call(lambda engine: engine.close())
            self._engine = None

    def _opened(self) -> edge.EdgeShard:
        if self._engine is None:
            if self.folder.exists():
                self._engine = edge.EdgeShard.load(str(self.folder), self._config)
            else:
                self.folder.mkdir(parents=True)
                self._engine = edge.EdgeShard.create(str(self.folder), self._config)
        return self._engine
