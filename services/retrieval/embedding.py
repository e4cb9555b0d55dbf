"""Vectors of texts, from whatever embeds, always those of the one embedder that a collection was made with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

AUTO: Final = "auto"
_PROBE: Final = "What is this text about?"
# Reasons that say the embedder is not there, as against not answering at the moment.
_GONE: Final = frozenset({Reason.MODEL_NOT_FOUND, Reason.MODEL_CAPABILITY_MISSING})


@dataclass(frozen=True, slots=True)
class EmbedderIdentity:
    """An embedder as of the day a collection was made with it.

    Attributes:
        name: As ListModels gives it.
        fingerprint: Of weights and pooling: vectors are comparable only under the same one.
        dimensions: Length of its vectors.
        languages: Those it knows, as BCP 47 tags; empty where it declares none.
    """

    name: str
    fingerprint: str
    dimensions: int
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, one a text in the order of the texts, and what made them."""

    vectors: Sequence[Sequence[float]]
    model: str
    fingerprint: str
    dimensions: int


class Embedder(Protocol):
    """Whatever embeds."""

    async def embed(self, model: str, texts: Sequence[str], fingerprint: str = "") -> Embedded:
        """Embeds 1 to 512 texts.

        Args:
            model: Name of the embedder.
            texts: What to embed.
            fingerprint: The one that the vectors should have, if it is known: then kept ones will do.

        Raises:
            Failure: MODEL_NOT_FOUND, MODEL_CAPABILITY_MISSING, ENGINE_UNAVAILABLE, SERVICE_UNAVAILABLE.
        """
        ...

    async def languages(self, model: str) -> tuple[str, ...]:
        """The languages that the model declares; empty where it declares none."""
        ...


async def identify(embedder: Embedder, model: str) -> EmbedderIdentity:
    """Finds out what a model is by letting it embed. An empty name means the one that `auto` resolves to.

    Raises:
        Failure: MODEL_NOT_FOUND, MODEL_CAPABILITY_MISSING, ENGINE_UNAVAILABLE, SERVICE_UNAVAILABLE.
    """
    probed = await embedder.embed(model or AUTO, [_PROBE])
    languages = await embedder.languages(probed.model)
    return EmbedderIdentity(probed.model, probed.fingerprint, probed.dimensions, languages)


async def embed_as(
    embedder: Embedder, identity: EmbedderIdentity, texts: Sequence[str], *, collection: str
) -> Sequence[Sequence[float]]:
    """Embeds with exactly the embedder that the collection was made with.

    Raises:
        Failure: EMBEDDER_UNAVAILABLE where it is gone or is no longer the same; ENGINE_UNAVAILABLE, SERVICE_UNAVAILABLE.
    """
    try:
        embedded = await embedder.embed(identity.name, texts, identity.fingerprint)
    except Failure as failure:
        if failure.reason in _GONE:
            raise _unavailable(identity, collection, "is not in reach") from failure
        raise
    if (embedded.fingerprint, embedded.dimensions) != (identity.fingerprint, identity.dimensions):
        raise _unavailable(identity, collection, "has changed since")
    return embedded.vectors


def _unavailable(identity: EmbedderIdentity, collection: str, problem: str) -> Failure:
    return Failure(
        Reason.EMBEDDER_UNAVAILABLE,
        f"collection {collection!r} was made with the embedder {identity.name!r}, which {problem}; bring it back, "
        "search with SEARCH_MODE_SPARSE, or add the documents to a new collection",
        metadata={"collection": collection, "embedder": identity.name},
    )
