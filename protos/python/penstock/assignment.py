"""Which variant a unit gets: the versioned hash, as a pure function that any process can evaluate.

Version 1: the first 8 bytes, big-endian, of SHA-256 over `salt:unit_id` in UTF-8, divided by 2^64, are the unit's point from 0
up to 1. The variants lie side by side on that line in their order, each as wide as its share of the summed weights, and the
one that holds the point is the unit's. `VECTORS` are cases that any other implementation must reproduce.
"""

from __future__ import annotations

import base64
import hashlib
import re
from bisect import bisect_right
from dataclasses import dataclass, fields
from enum import Enum, IntEnum
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from penstock.audience import EVERYONE, Exclusion, point

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from penstock.audience import Audience

HASH_VERSIONS: Final = frozenset({1})

_KEY: Final = re.compile(r"1~([a-z0-9._-]{1,64})~([a-z0-9._-]{1,64})~([A-Za-z0-9_-]{22})")


class RequestType(IntEnum):
    """Which kind of call takes part. The numbers are those of penstock.experiments.v1.RequestType."""

    GENERATE = 1
    ANSWER = 2


class Unit(Enum):
    """What an experiment randomises."""

    USER = "user"
    CONVERSATION = "conversation"
    REQUEST = "request"


class PromptVersion(NamedTuple):
    """A version of a prompt that inference keeps."""

    name: str
    version: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a variant may change. A setting that is None leaves the request as it came.

    Attributes:
        model: Model to use instead of the requested one.
        prompt: System prompt to use instead of the service's own.
        temperature: Randomness, 0 to 2.
        top_p: Nucleus mass, above 0 to 1.
        max_tokens: Most tokens to generate, 1 to 131072.
        top_k: Passages to ground an answer in, 1 to 100.
        fusion: How two rankings become one: RRF, DBSF or WEIGHTED.
        reranker: Model that reorders passages; empty for none.
        min_relevance: Less relevant passages are left out, 0 to 1.
        prompt_version: Version of a kept prompt to render in place of the request's prompt or system message.
    """

    model: str | None = None
    prompt: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    top_k: int | None = None
    fusion: str | None = None
    reranker: str | None = None
    min_relevance: float | None = None
    prompt_version: PromptVersion | None = None

    def changes(self) -> dict[str, Any]:
        """The settings that are given, by name."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}


SETTINGS: Final = tuple(field.name for field in fields(Settings))


@dataclass(frozen=True)
class Treatment(Settings):
    """What one request gets.

    Attributes:
        assignment: Opaque key that outcomes name; empty where the settings are promoted ones and no experiment takes part.
        experiment: Id of the experiment.
        variant: Id of the variant.
        unit_id: The unit it was evaluated for.
        also: What the request meets in experiments of other layers; the settings here include theirs.
    """

    assignment: str
    experiment: str
    variant: str
    unit_id: str
    also: tuple[Treatment, ...] = ()


@dataclass(frozen=True)
class Arm(Settings):
    """One variant: its id, its weight above 0, and what it changes."""

    variant: str
    weight: float


class AssignmentKey(NamedTuple):
    """What an assignment key says: the experiment, the variant, and a digest that stands for the unit."""

    experiment: str
    variant: str
    unit_digest: str


def bounds(weights: Iterable[float]) -> list[float]:
    """Where each variant but the first begins on the line from 0 to 1. Plain sums from the left, the same in any language."""
    ends = list(accumulate(weights))
    return [end / ends[-1] for end in ends[:-1]]


def assignment_key(experiment: str, variant: str, unit_id: str) -> str:
    """The key of an assignment: at most 154 characters, safe in a URL, the same for the same unit, experiment and variant.

    It names experiment and variant, so that an outcome needs no look-up, and hides the unit behind a digest.
    """
    digest = hashlib.sha256(f"{experiment}:{unit_id}".encode()).digest()[:16]
    return f"1~{experiment}~{variant}~{base64.urlsafe_b64encode(digest)[:22].decode()}"


def parse_assignment_key(key: str) -> AssignmentKey | None:
    """Reads a key that `assignment_key` wrote; None if it is none."""
    found = _KEY.fullmatch(key)
    return AssignmentKey(*found.groups()) if found else None


class Plan:
    """One running experiment, ready to be evaluated.

    Args:
        experiment: Its id.
        salt: Its salt.
        hash_version: One of HASH_VERSIONS; ValueError otherwise, for guessing would move units.
        unit: What it randomises.
        arms: Its variants in their order, at least one.
        request_types: Which calls take part; empty means all.
        audience: Which units take part.
        paused: Ids of variants whose units take no part for now.
    """

    def __init__(
        self,
        *,
        experiment: str,
        salt: str,
        hash_version: int,
        unit: Unit,
        arms: Sequence[Arm],
        request_types: Iterable[RequestType] = (),
        audience: Audience = EVERYONE,
        paused: Iterable[str] = (),
    ) -> None:
        if hash_version not in HASH_VERSIONS:
            raise ValueError(f"experiment {experiment}: hash version {hash_version} is unknown here; known: {HASH_VERSIONS}")
        self.experiment = experiment
        self.unit = unit
        self.request_types = frozenset(request_types) or frozenset(RequestType)
        self.audience = audience
        self._salt = salt
        self._arms = tuple((arm, arm.changes()) for arm in arms)
        self._bounds = bounds(arm.weight for arm in arms)
        self._paused = frozenset(paused)

    def exclusion(self, unit_id: str, attributes: Mapping[str, str]) -> Exclusion | None:
        """Why the unit takes no part; None where it does."""
        if self.audience is not EVERYONE:
            excluded = self.audience.exclusion(self._salt, unit_id, attributes)
            if excluded is not None:
                return excluded
        return Exclusion.PAUSED if self._paused and self.arm_of(unit_id).variant in self._paused else None

    def arm_of(self, unit_id: str) -> Arm:
        """The variant of the unit, if it takes part."""
        return self._arms[bisect_right(self._bounds, point(self._salt, unit_id))][0]

    def treat(self, unit_id: str) -> Treatment:
        """What the unit gets, if it takes part."""
        arm, changes = self._arms[bisect_right(self._bounds, point(self._salt, unit_id))]
        key = assignment_key(self.experiment, arm.variant, unit_id)
        return Treatment(key, self.experiment, arm.variant, unit_id, **changes)


def combine(treatments: Sequence[Treatment], promoted: Settings | None = None) -> Treatment | None:
    """One treatment of those that a request meets in different layers, on top of what was promoted.

    Where two change the same setting the earlier one holds. None where there is nothing at all.
    """
    if not treatments:
        return Treatment("", "", "", "", **promoted.changes()) if promoted is not None else None
    first, *others = treatments
    if not others and promoted is None:
        return first
    changes: dict[str, Any] = {} if promoted is None else promoted.changes()
    for treatment in reversed(treatments):
        changes.update(treatment.changes())
    return Treatment(first.assignment, first.experiment, first.variant, first.unit_id, tuple(others), **changes)


class Vector(NamedTuple):
    """One published case of hash version 1: the point, and which variant, from 0, among those weights."""

    salt: str
    unit_id: str
    point: float
    weights: tuple[float, ...]
    arm: int


VECTORS: Final = (
    Vector("salt", "user-1", 0.7441716137127822, (1, 1), 1),
    Vector("salt", "user-2", 0.435662934174239, (1, 1), 0),
    Vector("salt", "", 0.9041008515631962, (1, 1), 1),
    Vector("", "user-1", 0.5430342977493744, (1, 1), 1),
    Vector("s1", "пользователь", 0.9649888601994048, (0.5, 0.3, 0.2), 2),
    Vector("s1", "用户-7", 0.8528055850583918, (0.5, 0.3, 0.2), 2),
    Vector("0f9c1d", "a:b", 0.8665966548021389, (90, 9, 1), 0),
    Vector("x", "u" * 256, 0.8646960799216593, (0.1, 0.2, 0.7), 2),
)
