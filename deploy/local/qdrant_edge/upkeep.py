"""What is done in the background: flushing, and rebuilding the index of a collection that grew.

The engine builds an index in one call that stops everything else, so a copy of the data is built
in a process of its own. Its writes meanwhile are journalled, made again on the copy, and the copy
becomes the collection's next generation by one change of the catalog. A crash at any point leaves
the old generation in force.
"""

import asyncio
import logging
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.qdrant_edge import rebuild
from deploy.local.qdrant_edge.collection import Collection, Journal, replay
from deploy.local.qdrant_edge.refusals import Refusal
from deploy.local.qdrant_edge.schema import dense_vectors, indexing_threshold_kb, sparse_vectors
from deploy.local.qdrant_edge.store import Store

if TYPE_CHECKING:
    # Only the type stubs have this name.
    from qdrant_edge import ShardInfo

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
# A rebuild waits for a pause in the writes, so that it is not made in vain.
QUIET_SECONDS = 2.0
# The engine drops deleted vectors from an index once they are more than this part of it.
DELETED_PART = 0.2
DELETED_LEAST = 1000
# After a rebuild that found nothing to improve, the next waits for this much change in size.
CHANGE_PART = 0.2


class Upkeep:
    """Runs until it is cancelled."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # By folder, the number of points at which a rebuild had nothing to improve.
        self._settled: dict[str, int] = {}

    async def run(self) -> None:
        """Look after all collections in use, every few seconds."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            for name, collection in self._store.opened():
                try:
                    await collection.flush()
                    if self.is_due(collection):
                        await self.rebuild(name, collection)
                except (Refusal, OSError):
                    log.exception("upkeep of collection %s failed, it is tried again", name)

    def is_due(self, collection: Collection) -> bool:
        """Whether many vectors stand outside the index, or many in it are deleted."""
        if time.monotonic() - collection.last_write < QUIET_SECONDS:
            return False
        info = collection.shard.call(lambda engine: engine.info())
        settled = self._settled.get(collection.record.folder)
        if settled is not None and abs(info.points_count - settled) <= settled * CHANGE_PART:
            return False
        return _is_index_stale(collection, info)

    async def rebuild(self, name: str, collection: Collection) -> None:
        """Build the next generation of a collection and put it in force."""
        started = time.monotonic()
        record = collection.record
        target = collection.shard_of(record.generation + 1)
        try:
            async with collection.quiet():
                collection.shard.flush()
                process = await _start(collection.shard.folder, target.folder)
                journal = collection.start_journal()
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                process.kill()
                raise
            if status == 0 and not journal.is_overfull:
                await self._put_in_force(name, collection, journal)
                log.info("rebuilt %s in %.1f s", name, time.monotonic() - started)
                return
            if status == rebuild.NOTHING_TO_IMPROVE:
                points = collection.shard.call(lambda engine: engine.info().points_count)
                self._settled[record.folder] = points
            else:
                log.warning("the rebuild of %s ended with %d, it is tried again", name, status)
        finally:
            collection.end_journal()
            if collection.record.generation == record.generation:
                await asyncio.to_thread(shutil.rmtree, target.folder, ignore_errors=True)

    async def _put_in_force(self, name: str, collection: Collection, journal: Journal) -> None:
        record = collection.record
        shard = collection.shard_of(record.generation + 1)
        made = 0
        # The bulk is made again while writes go on; the last few while they wait.
        while len(journal.operations) - made > 1:
            missing = journal.operations[made:]
            await replay(missing, shard)
            made += len(missing)
        async with collection.quiet():
            await replay(journal.operations[made:], shard)
            shard.flush()
            if journal.is_overfull or not self._store.holds(name, collection):
                shard.close()
                return
            successor = replace(record, generation=record.generation + 1)
            self._store.save_record(name, successor)
            old_folder = collection.shard.folder
            collection.take_over(shard, successor)
        await asyncio.to_thread(shutil.rmtree, old_folder)


async def _start(source: Path, target: Path) -> asyncio.subprocess.Process:
    """Start the rebuild; the copy is complete when this returns, or the process has ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        rebuild.__name__,
        source,
        target,
        stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    if process.stdout is not None:
        await process.stdout.readline()
    return process


def _is_index_stale(collection: Collection, info: "ShardInfo") -> bool:
    config = collection.record.config
    dense = dense_vectors(config)
    if not dense:
        return False
    names = len(dense) + len(sparse_vectors(config))
    # The engine counts a point once for every vector name it is indexed under.
    expected = info.points_count * names
    outside = expected - info.indexed_vectors_count
    largest = max(params.size for params in dense.values())
    if outside * largest * 4 / 1024 > indexing_threshold_kb(config):
        return True
    deleted = -outside
    return deleted > max(DELETED_LEAST * names, DELETED_PART * info.indexed_vectors_count)
