"""One open collection: reads are answered at once, writes one after the other."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.local.qdrant_edge.catalog import CollectionRecord
from deploy.local.qdrant_edge.operations import Operation, VectorShapes
from deploy.local.qdrant_edge.points import EngineId, EngineVector
from deploy.local.qdrant_edge.refusals import Refusal, wrong_input
from deploy.local.qdrant_edge.schema import engine_config
from deploy.local.qdrant_edge.shard import Shard

# Writes made during a rebuild are kept to be made again; beyond this the rebuild is given up.
MAX_JOURNAL_BYTES = 128 * 2**20


class Journal:
    """The writes since a copy was taken, to be made again on the copy."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._bytes = 0

    def add(self, operation: Operation, size: int) -> None:
        """Keep a write of about `size` bytes."""
        self._bytes += size
        if self.is_overfull:
            self.operations.clear()
        else:
            self.operations.append(operation)

    @property
    def is_overfull(self) -> bool:
        """Whether it lost writes, because they were too many."""
        return self._bytes > MAX_JOURNAL_BYTES


class Collection:
    """The data of one collection.

    Args:
        record: what the catalog says about it.
        folder: holds one folder a generation.
    """

    def __init__(self, record: CollectionRecord, folder: Path) -> None:
        self.record = record
        self.folder = folder
        self.shapes = VectorShapes(record.config)
        self.shard = self.shard_of(record.generation)
        self.last_write = 0.0
        self._writing = asyncio.Lock()
        self._journal: Journal | None = None
        self._writes = 0

    def shard_of(self, generation: int) -> Shard:
        """The shard of one generation; its files need not be there yet."""
        return Shard(self.folder / str(generation), engine_config(self.record.config))

    async def apply(self, operations: Sequence[Operation], size: int) -> int:
        """Make writes durable, in order; searches are answered in between.

        Args:
            operations: what to write; the first one that the engine refuses ends it.
            size: bytes of the request they came from.

        Returns:
            The number of this write, counted from the start of the process.
        """
        async with self._writing:
            for operation in operations:
                if self._journal is not None:
                    # Also what the engine refuses: made again, it is refused again.
                    self._journal.add(operation, size // len(operations))
                self.shard.update(operation)
                await asyncio.sleep(0)
            self.last_write = time.monotonic()
            self._writes += 1
            return self._writes

    async def flush(self) -> None:
        """Bring all writes to their place on disk."""
        async with self._writing:
            self.shard.flush()

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Let no write happen inside; reads go on."""
        async with self._writing:
            yield

    def start_journal(self) -> Journal:
        """Keep all writes from now on. Call it inside `quiet`."""
        self._journal = Journal()
        return self._journal

    def end_journal(self) -> None:
        """Keep writes no longer."""
        self._journal = None

    def take_over(self, shard: Shard, record: CollectionRecord) -> None:
        """Answer from another generation from now on; the old shard is closed."""
        self.shard, old = shard, self.shard
        self.record = record
        old.close()

    def stored_vector(self, point_id: EngineId, name: str) -> EngineVector:
        """Raises Refusal when there is no such point, or it has no such vector."""
        records = self.shard.call(lambda engine: engine.retrieve([point_id], False, True))
        if not records:
            raise wrong_input(f"No point with id {point_id} found")
        vectors = records[0].vector
        vector = vectors.get(name) if isinstance(vectors, dict) else vectors
        if vector is None:
            raise wrong_input(f"point {point_id} has no vector `{name}`")
        return vector  # type: ignore[return-value]  # multi-vectors are refused at creation


async def replay(operations: Sequence[Operation], shard: Shard) -> None:
    """Make journalled writes on another shard; what was refused before is refused again."""
    for operation in operations:
        try:
            shard.update(operation)
        except Refusal:
            continue
        await asyncio.sleep(0)
