"""What makes a design sound: all that is wrong is told at once. And the variants that a factorial design stands for."""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import TYPE_CHECKING, Final

from penstock.assignment import SETTINGS, Arm
from penstock.audience import Operator

from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from services.experiments.experiments import Design, Factor, Ramp

_MOST_VARIANTS: Final = 20
_LEAST_VARIANTS: Final = 2
_LEVEL_CHARACTERS: Final = 20


def combinations(factors: Sequence[Factor]) -> tuple[Arm, ...]:
    """A variant for each combination of levels, the last factor changing fastest; the first one is all controls."""
    return tuple(_combined(levels) for levels in product(*(factor.levels for factor in factors)))


def _combined(levels: tuple[Arm, ...]) -> Arm:
    changes = {name: value for level in levels for name, value in level.changes().items()}
    return Arm(".".join(level.variant for level in levels), math.prod(level.weight for level in levels), **changes)


def check(design: Design) -> None:
    """Refuses an unsound design with INVALID_FIELD; the failure names every problem."""
    problems = [*_texts(design), *_arms(design), *_factors(design.factors), *_targeting(design), *_traffic(design)]
    if not problems:
        return
    message = "; ".join(f"{field}: {problem}" for field, problem in problems)
    raise Failure(Reason.INVALID_FIELD, message, metadata={"field": problems[0][0]}, violations=problems)


def _texts(design: Design) -> Iterator[tuple[str, str]]:
    texts = {"hypothesis": design.hypothesis}
    for index, arm in enumerate(design.variants if not design.factors else ()):
        texts |= {f"variants[{index}].{name}": value for name, value in arm.changes().items() if isinstance(value, str)}
    for index, condition in enumerate(design.targeting):
        texts[f"targeting[{index}].attribute"] = condition.attribute
        texts |= {f"targeting[{index}].values[{number}]": value for number, value in enumerate(condition.values)}
    for name, text in texts.items():
        if "\0" in text:
            yield f"experiment.{name}", "holds the character U+0000; leave it out"


def _arms(design: Design) -> Iterator[tuple[str, str]]:
    if design.factors:
        if len(design.variants) > _MOST_VARIANTS:
            yield "experiment.factors", f"make {len(design.variants)} combinations; the most is {_MOST_VARIANTS}"
        return
    if len(design.variants) < _LEAST_VARIANTS:
        yield "experiment.variants", f"has {len(design.variants)}; at least 2 are compared, or name factors"


def _factors(factors: Sequence[Factor]) -> Iterator[tuple[str, str]]:
    changed: dict[str, str] = {}
    if len({factor.factor for factor in factors}) < len(factors):
        yield "experiment.factors", "must have different ids"
    for index, factor in enumerate(factors):
        field = f"experiment.factors[{index}]"
        if len({level.variant for level in factor.levels}) < len(factor.levels):
            yield f"{field}.levels", "must have different ids"
        for level in factor.levels:
            if len(level.variant) > _LEVEL_CHARACTERS or "." in level.variant:
                yield f"{field}.levels", f"{level.variant!r} must have at most {_LEVEL_CHARACTERS} characters and no dot"
        for name in _changed(factor.levels):
            if name in changed:
                yield field, f"changes {name}, as factor {changed[name]!r} does; only one may"
            changed[name] = factor.factor


def _changed(arms: Iterable[Arm]) -> list[str]:
    given = {name for arm in arms for name in arm.changes()}
    return [name for name in SETTINGS if name in given]


def _targeting(design: Design) -> Iterator[tuple[str, str]]:
    for index, condition in enumerate(design.targeting):
        count = len(condition.values)
        field = f"experiment.targeting[{index}].values"
        if condition.operator in (Operator.PRESENT, Operator.ABSENT) and count:
            yield field, f"must be empty: {condition.operator.name} compares with nothing"
        elif condition.operator in (Operator.AT_LEAST, Operator.AT_MOST) and not (count == 1 and _finite(condition.values[0])):
            yield field, f"must be one number for {condition.operator.name}"
        elif condition.operator in (Operator.IN, Operator.NOT_IN, Operator.STARTS_WITH) and not count:
            yield field, f"is empty; {condition.operator.name} needs at least one"


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _traffic(design: Design) -> Iterator[tuple[str, str]]:
    if not design.layer and design.layer_share != 1:
        yield "experiment.layer_share", "is only for an experiment with a layer; name one"
    if design.ramp is not None and not _ascending(design.ramp):
        yield "experiment.ramp.stages", "must grow: each stage is larger than the one before"


def _ascending(ramp: Ramp) -> bool:
    return all(earlier < later for earlier, later in pairwise(ramp.stages))


def shared_settings(one: Design, other: Design) -> list[str]:
    """Settings that both change for some type of call in common, in the order of `Settings`."""
    if one.request_types and other.request_types and not set(one.request_types) & set(other.request_types):
        return []
    others = _changed(other.variants)
    return [name for name in _changed(one.variants) if name in others]
