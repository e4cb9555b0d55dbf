"""What is recorded of routed requests, and where: outcomes beside the decisions that led to them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.inference.auto.decision import Why
    from services.inference.auto.fitting import Fitted


class Ending(StrEnum):
    """How an answer ended, as far as it tells of the model."""

    WELL = "well"
    CUT = "cut"
    WITHHELD = "withheld"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Source(StrEnum):
    """Whose feedback it is. A person's goes before a program's."""

    USER = "user"
    EVALUATOR = "evaluator"


@dataclass(frozen=True, slots=True)
class Record:
    """One routed request that is over.

    Attributes:
        key: Finds its feedback: see `key_of`.
        alias: The entry of the policy by which it was routed.
        model: The model that answered, or that was to answer where none did.
        why: Why it was chosen.
        propensity: How likely it was to be chosen; 0 where another one had to answer in place of the one chosen.
        vector: Its features.
        ending: How it ended.
        output_tokens: How long the answer was; 0 where unknown.
        time: When it ended, in seconds since the epoch.
    """

    key: bytes
    alias: str
    model: str
    why: Why
    propensity: float
    vector: tuple[float, ...]
    ending: Ending
    output_tokens: int
    time: float


@dataclass(frozen=True, slots=True)
class Feedback:
    """How good an answer was: `reward` is 0 to 1."""

    key: bytes
    source: Source
    reward: float
    time: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A record and the reward that it got; None for none."""

    model: str
    why: str
    propensity: float
    vector: tuple[float, ...]
    ending: str
    output_tokens: int
    reward: float | None


class Records(Protocol):
    """Keeps records, feedback and fits, for all processes of a machine. All methods raise DATABASE_UNAVAILABLE."""

    async def add(self, records: Sequence[Record]) -> None:
        """Keeps records. Of requests with the same key the last one counts. The oldest of a model go when there are many."""

    async def add_feedback(self, feedback: Sequence[Feedback]) -> list[bool]:
        """Keeps feedback, durably once this returns; tells of each whether its request is recorded already.

        What the same source said before of the same request is replaced.
        """

    async def changes(self) -> int:
        """A number that grows with everything that is added."""

    async def outcomes(self, alias: str) -> list[Outcome]:
        """The records of an alias, oldest first."""

    async def fits(self) -> dict[str, Fitted]:
        """The latest fit of each alias; a fit of another version of this service is left out."""

    async def keep(self, alias: str, fitted: Fitted) -> None:
        """Keeps a fit in place of the earlier one."""

    async def lease(self, seconds: float) -> bool:
        """Takes or prolongs the right to fit by oneself, which one process has at a time."""

    async def close(self) -> None:
        """Lets the file go."""


def key_of(tenant: str, request_id: str) -> bytes:
    """What a request is found by: tenants can't tell of each other's requests."""
    return blake2b(f"{tenant}\0{request_id}".encode(), digest_size=16).digest()
