"""One shard of the engine: opened when first needed, its errors told apart.

The engine holds the interpreter lock in every call (measured: a 4.6 s index build stalls every
thread for 4.6 s), so a thread pool would add hand-overs and no parallelism: calls are made on the
event loop itself. What takes long is cut into steps, or done in a process of its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc
import qdrant_edge as edge

from deploy.local.qdrant_edge.refusals import Refusal, of_engine

_Result = TypeVar("_Result")


class Shard:
    """The data of one generation of a collection."""

    def __init__(self, folder: Path, config: edge.EdgeConfig) -> None:
        self.folder = folder
        self._config = config
        self._engine: edge.EdgeShard | None = None
        self._is_dirty = False
        self._is_closed = False

    def call(self, action: Callable[[edge.EdgeShard], _Result]) -> _Result:
        """Run one call of the engine. Raises Refusal for what the engine refuses."""
        return _translated(lambda: action(self._opened()))

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
        """Flush and let go of the files for good; later calls are refused as UNAVAILABLE."""
        if self._engine is not None:
            self.flush()
            self.call(lambda engine: engine.close())
            self._engine = None
        self._is_closed = True

    def create(self) -> None:
        """Make the files of an empty shard."""
        self.folder.mkdir(parents=True)
        self._engine = _translated(lambda: edge.EdgeShard.create(str(self.folder), self._config))

    def _opened(self) -> edge.EdgeShard:
        if self._is_closed:
            # A call that waited while the collection was deleted, or while the process ends.
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "the collection was just closed or deleted")
        if self._engine is None:
            self._engine = edge.EdgeShard.load(str(self.folder), self._config)
        return self._engine


def _translated(action: Callable[[], _Result]) -> _Result:
    try:
        return action()
    # A panic of the engine is not even an Exception.
    except BaseException as error:
        if refusal := of_engine(error):
            raise refusal from error
        raise
