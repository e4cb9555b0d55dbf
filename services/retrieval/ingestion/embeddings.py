"""Vectors by the content of what was embedded: the same text is embedded once, in whatever document or collection it stands.

They are kept in the system of record, and so are the checkpoint of embedding too: what was embedded before a process died
is not embedded again.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from services.chassis.errors import Failure, Reason
from services.retrieval.embedding import embed_as

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from services.retrieval.embedding import Embedder, EmbedderIdentity

_FLOAT_BYTES = 4


class VectorRecords(Protocol):
    """Vectors in the system of record. Every method may raise Failure(DATABASE_UNAVAILABLE)."""

    async def known(self, fingerprint: str, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those that are there, as floats of 4 bytes, and notes that they were of use today."""
        ...

    async def keep(self, fingerprint: str, vectors: Mapping[bytes, bytes]) -> None:
        """Keeps vectors; one that is there already stays."""
        ...

    async def forget(self, days: int, most: int) -> int:
        """Drops vectors that were of no use for so many days, and says how many."""
        ...


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors in the order of their texts, and how many of them needed no embedding."""

    vectors: Sequence[Sequence[float]]
    reused: int


class Embeddings:
    """Embeds what was not embedded before."""

    def __init__(self, records: VectorRecords, embedder: Embedder) -> None:
        self._records = records
        self._embedder = embedder
        self._coming: dict[tuple[str, bytes], asyncio.Future[bytes]] = {}

    async def vectors_of(self, identity: EmbedderIdentity, texts: Sequence[str], *, collection: str) -> Vectors:
        """Vectors of up to 512 texts by the embedder that the collection was made with.

        Raises:
            Failure: what `embedding.embed_as` raises, DATABASE_UNAVAILABLE.
        """
        hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
        by_hash = dict(zip(hashes, texts, strict=True))
        # Another task may be embedding the very same text at the moment; it may also end while the records are asked.
        coming = self._among_coming(identity, by_hash)
        found = await self._records.known(identity.fingerprint, list(by_hash))
        coming |= self._among_coming(identity, by_hash)
        mine = {key: text for key, text in by_hash.items() if key not in found and key not in coming}
        found |= await self._embed(identity, mine, collection)
        for key, task in coming.items():
            if key not in found:
                found[key] = await _waited(task)
        floats = {key: _floats(packed) for key, packed in found.items()}
        return Vectors([floats[key] for key in hashes], len(hashes) - len(mine))

    def _among_coming(self, identity: EmbedderIdentity, hashes: Iterable[bytes]) -> dict[bytes, asyncio.Future[bytes]]:
        keys = ((key, (identity.fingerprint, key)) for key in hashes)
        return {key: self._coming[full] for key, full in keys if full in self._coming}

    async def _embed(self, identity: EmbedderIdentity, texts: Mapping[bytes, str], collection: str) -> dict[bytes, bytes]:
        if not texts:
            return {}
        coming = asyncio.get_running_loop().create_future
        tasks = {key: coming() for key in texts}
        self._coming |= {(identity.fingerprint, key): task for key, task in tasks.items()}
        try:
            vectors = await embed_as(self._embedder, identity, list(texts.values()), collection=collection)
            packed = {key: array("f", vector).tobytes() for key, vector in zip(texts, vectors, strict=True)}
            await self._records.keep(identity.fingerprint, packed)
            for key, task in tasks.items():
                task.set_result(packed[key])
        finally:
            for key, task in tasks.items():
                del self._coming[identity.fingerprint, key]
                task.cancel()
        return packed


async def _waited(task: asyncio.Future[bytes]) -> bytes:
    # Not the future itself: whoever waits may be cancelled without harm to the others who wait.
    await asyncio.wait({task})
    if task.cancelled():
        raise Failure(Reason.SERVICE_UNAVAILABLE, "an equal text could not be embedded; it is tried again", retry_after=1)
    return task.result()


def _floats(packed: bytes) -> array[float]:
    floats = array("f")
    floats.frombytes(packed)
    return floats
