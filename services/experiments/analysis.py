"""What an analysis is asked and what it says. Light, so that the serving process can hold it; the mathematics stand elsewhere.

Effects compare each variant with the control, which is the experiment's first variant. The unit of analysis is always the unit
of assignment, however many outcomes it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Below this p-value the split of the units is not to be trusted, and nothing is concluded.
SAMPLE_RATIO_SIGNIFICANCE: Final = 0.001


class Kind(StrEnum):
    """How a metric is made of outcomes: see the proto's MetricKind."""

    MEAN = "MEAN"
    PROPORTION = "PROPORTION"
    RATIO = "RATIO"


class Role(StrEnum):
    """What a metric is watched for."""

    PRIMARY = "PRIMARY"
    SECONDARY = "SECONDARY"
    GUARDRAIL = "GUARDRAIL"


class Direction(StrEnum):
    """Which direction of a metric is the better one."""

    INCREASE = "INCREASE"
    DECREASE = "DECREASE"


class Method(StrEnum):
    """When and how the data may decide: see the proto's AnalysisMethod."""

    FIXED_HORIZON = "FIXED_HORIZON"
    GROUP_SEQUENTIAL = "GROUP_SEQUENTIAL"
    ALWAYS_VALID = "ALWAYS_VALID"


class Boundary(StrEnum):
    """Where the bounds of a group-sequential analysis lie."""

    O_BRIEN_FLEMING = "O_BRIEN_FLEMING"
    POCOCK = "POCOCK"
    O_BRIEN_FLEMING_SPENDING = "O_BRIEN_FLEMING_SPENDING"
    POCOCK_SPENDING = "POCOCK_SPENDING"


class Correction(StrEnum):
    """How p-values are corrected for the number of comparisons."""

    HOLM = "HOLM"
    BENJAMINI_HOCHBERG = "BENJAMINI_HOCHBERG"


class Uncomputable(StrEnum):
    """Why a number is missing: see the proto's enum of the same name."""

    TOO_FEW_UNITS = "TOO_FEW_UNITS"
    NO_VARIANCE = "NO_VARIANCE"
    ZERO_BASELINE = "ZERO_BASELINE"
    VALUE_OUT_OF_RANGE = "VALUE_OUT_OF_RANGE"
    VALUE_TOO_LARGE = "VALUE_TOO_LARGE"
    SAMPLE_RATIO_MISMATCH = "SAMPLE_RATIO_MISMATCH"
    NO_LOOK_YET = "NO_LOOK_YET"
    NOT_FINISHED = "NOT_FINISHED"
    ANALYSIS_FAILED = "ANALYSIS_FAILED"
    NOT_STARTED = "NOT_STARTED"
    NOT_ADJUSTABLE = "NOT_ADJUSTABLE"
    COVARIATE_IMBALANCE = "COVARIATE_IMBALANCE"


class Verdict(StrEnum):
    """What a comparison has shown."""

    BETTER = "BETTER"
    WORSE = "WORSE"
    EQUIVALENT = "EQUIVALENT"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured. `minimal_effect` is the smallest difference that matters, above 0, in the metric's own unit."""

    metric: str
    direction: Direction = Direction.INCREASE
    kind: Kind = Kind.MEAN
    role: Role = Role.SECONDARY
    minimal_effect: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How an experiment is analysed.

    Attributes:
        method: None leaves it to the duration: GROUP_SEQUENTIAL with one, ALWAYS_VALID without.
        significance: Chance of a false discovery that one accepts.
        duration: Seconds that the experiment is meant to run.
        looks: Planned looks, evenly spaced over the duration.
        boundary: Where the bounds at the looks lie.
        correction: How p-values are corrected.
    """

    method: Method | None = None
    significance: float = 0.05
    duration: float | None = None
    looks: int = 5
    boundary: Boundary = Boundary.O_BRIEN_FLEMING
    correction: Correction = Correction.HOLM

    @property
    def effective_method(self) -> Method:
        """The method, chosen by the duration where none is named."""
        if self.method is not None:
            return self.method
        return Method.ALWAYS_VALID if self.duration is None else Method.GROUP_SEQUENTIAL

    def look_at(self, seconds: float) -> int:
        """How many planned looks have passed after so many seconds."""
        if self.duration is None:
            return 0
        return min(int(seconds / self.duration * self.looks), self.looks)


@dataclass(frozen=True, slots=True)
class Moments:
    """One metric of one variant, summed up over its units. Sums of squares and products are centred.

    Attributes:
        units: Units with at least one outcome.
        mean: Mean of the units' mean outcomes.
        squares: Sum of squares of the units' mean outcomes around `mean`.
        total: Mean of the units' sums.
        count: Mean of the units' numbers of outcomes.
        total_squares: Sum of squares of the units' sums.
        count_squares: Sum of squares of the units' numbers.
        products: Sum of products of the units' sums and numbers.
        lowest: Smallest outcome.
        highest: Largest outcome.
    """

    units: int
    mean: float
    squares: float
    total: float
    count: float
    total_squares: float
    count_squares: float
    products: float
    lowest: float
    highest: float


def pooled(parts: Sequence[Moments]) -> Moments:
    """The moments of several groups of units together (Chan, Golub and LeVeque's pairwise update)."""
    units = sum(one.units for one in parts)

    def mean(name: str) -> float:
        return math.fsum(one.units / units * getattr(one, name) for one in parts)

    def around(inner: str, first: str, second: str) -> float:
        within = math.fsum(getattr(one, inner) for one in parts)
        a, b = mean(first), mean(second)
        return within + math.fsum(one.units * (getattr(one, first) - a) * (getattr(one, second) - b) for one in parts)

    return Moments(
        units=units,
        mean=mean("mean"),
        squares=around("squares", "mean", "mean"),
        total=mean("total"),
        count=mean("count"),
        total_squares=around("total_squares", "total", "total"),
        count_squares=around("count_squares", "count", "count"),
        products=around("products", "total", "count"),
        lowest=min(one.lowest for one in parts),
        highest=max(one.highest for one in parts),
    )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was recorded by some moment, by variant and metric. None stands for outcomes that are too large to be squared."""

    moments: Mapping[tuple[str, str], Moments | None] = field(default_factory=dict)

    def by_group(self, group_of: Mapping[str, str]) -> Evidence:
        """The evidence of groups of variants; variants without a group are left out."""
        parts: dict[tuple[str, str], list[Moments | None]] = {}
        for (variant, metric), moments in self.moments.items():
            if variant in group_of:
                parts.setdefault((group_of[variant], metric), []).append(moments)
        whole = {key: [one for one in found if one is not None] for key, found in parts.items()}
        return Evidence({key: pooled(whole[key]) if len(whole[key]) == len(found) else None for key, found in parts.items()})


@dataclass(frozen=True, slots=True)
class Covariate:
    """The covariate of one metric over one variant's units with an outcome; units without one have the average of all.

    Attributes:
        units: Units with an outcome.
        known: Those of them with a covariate.
        mean: Mean of the covariate.
        squares: Sum of its squares around `mean`.
        products: Sum of its products with the units' mean outcomes, both around their means.
    """

    units: int
    known: int
    mean: float
    squares: float
    products: float


@dataclass(frozen=True, slots=True)
class Question:
    """All that an analysis needs.

    Attributes:
        weights: Weight by variant; the first is the control.
        exposed: Different units exposed, by variant.
        metrics: In the experiment's order.
        plan: How it is analysed.
        evidence: As of now.
        look: The number of the latest planned look, 0 before the first.
        seen: The evidence as of that look.
        finished: Whether the experiment was stopped or its duration has passed.
        uneven: Variants that were paused by themselves at some time: their share of the units says nothing.
        covariates: By variant and metric, where there are any.
    """

    weights: Mapping[str, float]
    exposed: Mapping[str, int]
    metrics: tuple[Metric, ...]
    plan: Plan
    evidence: Evidence
    look: int
    seen: Evidence
    finished: bool
    uneven: frozenset[str] = frozenset()
    covariates: Mapping[tuple[str, str], Covariate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Interval:
    """A range of values."""

    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric of one variant, with the variance of that number, and the units it is from."""

    value: float
    variance: float
    units: int


@dataclass(frozen=True, slots=True)
class Effect:
    """A difference as if one had looked only once. `relative` is over the control's value, or says why it is not."""

    difference: float
    standard_error: float
    interval: Interval
    p_value: float
    relative: tuple[float, Interval] | Uncomputable


@dataclass(frozen=True, slots=True)
class Anytime:
    """Interval and p-value that hold however often one looks."""

    interval: Interval
    p_value: float


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A difference adjusted by covariates: see the proto's message of the same name."""

    effect: Effect
    anytime: Anytime
    slope: float
    variance_reduction: float
    balance_p_value: float | None
    known: float


@dataclass(frozen=True, slots=True)
class Look:
    """A planned look: see the proto's message of the same name."""

    look: int
    looks: int
    statistic: float
    bound: float
    crossed: bool
    interval: Interval
    spent: float


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Chi-square test of the exposed units against the weights."""

    statistic: float
    p_value: float

    @property
    def mismatch(self) -> bool:
        """Whether the split is not to be trusted."""
        return self.p_value < SAMPLE_RATIO_SIGNIFICANCE


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one variant against the control.

    `look` is None where no looks are planned for it, `adjusted` where there are no covariates.
    """

    variant: str
    metric: str
    role: Role
    effect: Effect | Uncomputable
    anytime: Anytime | None
    look: Look | Uncomputable | None
    adjusted_p_value: float | None
    decided_by: Method
    verdict: Verdict | Uncomputable
    adjusted: Adjusted | Uncomputable | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What an experiment shows. `estimates` are by variant and metric; those that can't be computed are left out."""

    sample_ratio: SampleRatio | Uncomputable
    estimates: Mapping[tuple[str, str], Estimate]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class PowerQuestion:
    """Asks for the one of `units`, `minimal_effect` and `power` that is None; see the proto's ComputePowerRequest.

    Attributes:
        standard_deviation: Between units; None for a proportion.
        baseline: Share in the control; None for a mean.
        minimal_effect: Difference to find.
        units: Units in the control.
        power: Chance to find it; None stands for 0.8 unless both others are given.
        significance: Two-sided.
        ratio: Units in the variant for each in the control.
    """

    standard_deviation: float | None = None
    baseline: float | None = None
    minimal_effect: float | None = None
    units: float | None = None
    power: float | None = None
    significance: float = 0.05
    ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class PowerAnswer:
    """All of units in the control, difference and power."""

    units: float
    minimal_effect: float
    power: float
