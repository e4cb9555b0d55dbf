"""What a worker and the process of the embedded engines say to each other, as MessagePack.

No proto stands for it: both are the same release, on one machine, and it is the engines' own values that travel.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.engine import Delta, Embeddings, End, Generation, Model, UsageSource

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICE: Final = "penstock.internal.Engines"


class Listing(msgspec.Struct, frozen=True):
    """Asks which models an engine has."""

    engine: str


class Generating(msgspec.Struct, frozen=True):
    """Asks an engine to generate."""

    engine: str
    generation: Generation


class Embedding(msgspec.Struct, frozen=True):
    """Asks an engine to embed."""

    engine: str
    model: str
    inputs: list[str]


class Tokenizing(msgspec.Struct, frozen=True):
    """Asks an engine to count."""

    engine: str
    model: str
    text: str


class Listed(msgspec.Struct, frozen=True, tag=True):
    """The models of an engine, and how many generations of one it runs at once; 0 where it does not say."""

    models: tuple[Model, ...]
    room: int


class More(msgspec.Struct, frozen=True, tag=True):
    """More of an answer."""

    delta: Delta


class Over(msgspec.Struct, frozen=True, tag=True):
    """The end of an answer."""

    end: End


class Vectors(msgspec.Struct, frozen=True, tag=True):
    """Vectors of one length each, one after the other, in single precision as the engines compute them."""

    length: int
    numbers: bytes
    input_tokens: int | None
    source: UsageSource

    @classmethod
    def of(cls, embeddings: Embeddings) -> Vectors:
        """Packs vectors."""
        numbers = array("f")
        for vector in embeddings.vectors:
            numbers.extend(vector)
        length = len(embeddings.vectors[0]) if embeddings.vectors else 0
        return cls(length, numbers.tobytes(), embeddings.input_tokens, embeddings.source)

    def unpacked(self) -> Embeddings:
        """The vectors."""
        numbers = array("f")
        numbers.frombytes(self.numbers)
        flat = numbers.tolist()
        vectors: Sequence[Sequence[float]] = [flat[at : at + self.length] for at in range(0, len(flat), self.length or 1)]
        return Embeddings(vectors, self.input_tokens, self.source)


class Counted(msgspec.Struct, frozen=True, tag=True):
    """The tokens of a text."""

    count: int
    ids: tuple[int, ...]
    source: UsageSource


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Why a call failed."""

    reason: Reason
    message: str
    metadata: dict[str, str]
    retry_after: float | None

    @classmethod
    def of(cls, failure: Failure) -> Failed:
        """What of a failure travels."""
        return cls(failure.reason, failure.message, failure.metadata, failure.retry_after)

    def failure(self) -> Failure:
        """The failure."""
        return Failure(self.reason, self.message, metadata=self.metadata, retry_after=self.retry_after)


Answer: TypeAlias = Listed | More | Over | Vectors | Counted | Failed

encode: Final = msgspec.msgpack.Encoder().encode
read_listing: Final = msgspec.msgpack.Decoder(Listing).decode
read_generating: Final = msgspec.msgpack.Decoder(Generating).decode
read_embedding: Final = msgspec.msgpack.Decoder(Embedding).decode
read_tokenizing: Final = msgspec.msgpack.Decoder(Tokenizing).decode
read_answer: Final = msgspec.msgpack.Decoder(Answer).decode
