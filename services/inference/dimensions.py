"""Shorter vectors, of the models that are trained for them: the beginning of the vector, brought to length 1 again."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from services.chassis.errors import Failure, Reason, invalid_field
from services.inference.admission import Priority
from services.inference.engine import Capability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.inference.generation import Embedded
    from services.inference.models import Models
    from services.inference.serving import Streams

# Families whose authors say that they are trained so (Matryoshka representation learning), as servers name them.
_TRAINED: Final = re.compile(
    r"text-embedding-3|nomic-embed-text|embeddinggemma|qwen3-embedding|mxbai-embed-large|jina-embeddings-v[3-9]"
    r"|snowflake-arctic-embed2|arctic-embed-(?:m-v1\.5|[ml]-v2)",
    re.IGNORECASE,
)


def more(model: str) -> tuple[Capability, ...]:
    """DIMENSIONS, for an embedder of a family that is trained for shorter vectors."""
    return (Capability.DIMENSIONS,) if _TRAINED.search(model) else ()


async def embed(
    serving: Streams,
    models: Models,
    model: str,
    inputs: Sequence[str],
    dimensions: int | None,
    *,
    priority: Priority = Priority.DEFAULT,
) -> Embedded:
    """Embeds, in vectors of `dimensions` numbers where that is said.

    Raises:
        Failure: MODEL_CAPABILITY_MISSING for a shorter vector of a model that is not trained for it, told before any work;
            INVALID_FIELD for one longer than the model's.
    """
    known = models.embedder(model).model
    if dimensions not in {None, known.dimensions} and Capability.DIMENSIONS not in known.capabilities:
        own = known.dimensions or "a fixed number of"
        message = (
            f"model: the vectors of {known.name} have {own} dimensions, and it is trained for no fewer; leave `dimensions` out "
            "or choose a model with CAPABILITY_DIMENSIONS"
        )
        facts = {"model": known.name, "capability": Capability.DIMENSIONS.name}
        raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata=facts)
    embedded = await serving.embed(model, inputs, priority)
    return embedded if dimensions is None else _cut(embedded, dimensions)


def _cut(embedded: Embedded, dimensions: int) -> Embedded:
    vectors = np.asarray(embedded.embeddings.vectors, np.float32)
    if dimensions > vectors.shape[1]:
        raise invalid_field("dimensions", f"the vectors of {embedded.model.name} have {vectors.shape[1]}; ask for no more")
    if dimensions == vectors.shape[1]:
        return embedded
    beginnings = vectors[:, :dimensions]
    norms = np.linalg.norm(beginnings, axis=1, keepdims=True)
    unit = beginnings / np.where(norms > 0, norms, 1.0)
    return replace(embedded, embeddings=replace(embedded.embeddings, vectors=unit.tolist()))
