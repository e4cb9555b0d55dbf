"""Writes gbstats_expected.json: what GrowthBook's gbstats says of the samples below. `make oracle` runs it.

gbstats needs an older numpy than penstock, so it runs in an environment of its own, and its answers are kept.
"""

from __future__ import annotations

import json
import random
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

EXPECTED = Path(__file__).with_name("gbstats_expected.json")


class Sample(NamedTuple):
    """Control and variant; each unit with the values of its outcomes."""

    control: list[list[float]]
    variant: list[list[float]]


def samples() -> dict[str, Sample]:
    """The same in every run and environment."""
    source = random.Random(20261120)  # noqa: S311 - it must be repeatable, not secret

    def units(count: int, most: int, mean: float, spread: float) -> list[list[float]]:
        return [
            [source.gauss(center, spread) for _ in range(source.randint(1, most))]
            for center in (source.gauss(mean, spread) for _ in range(count))
        ]

    def answers(count: int, share: float) -> list[list[float]]:
        return [[float(source.random() < share)] for _ in range(count)]

    return {
        "means": Sample(units(400, 1, 10, 3), units(350, 1, 10.8, 4)),
        "few": Sample(units(3, 1, 5, 1), units(9, 1, 5, 2)),
        "unequal": Sample(units(2000, 1, 1, 0.1), units(20, 1, 1, 5)),
        "requests": Sample(units(300, 12, 2, 1), units(280, 12, 2.2, 1)),
        "proportions": Sample(answers(900, 0.2), answers(1100, 0.26)),
        "negative": Sample(units(100, 3, -50, 8), units(100, 3, -40, 8)),
    }


def _mean(statistics: Any, arm: list[list[float]]) -> Any:
    means = [sum(values) / len(values) for values in arm]
    return statistics.SampleMeanStatistic(n=len(means), sum=sum(means), sum_squares=sum(mean**2 for mean in means))


def _ratio(statistics: Any, arm: list[list[float]]) -> Any:
    sums, counts = [sum(values) for values in arm], [float(len(values)) for values in arm]

    def summed(numbers: list[float]) -> Any:
        return statistics.SampleMeanStatistic(
            n=len(numbers), sum=sum(numbers), sum_squares=sum(number**2 for number in numbers)
        )

    products = sum(one * other for one, other in zip(sums, counts, strict=True))
    return statistics.RatioStatistic(
        n=len(arm), m_statistic=summed(sums), d_statistic=summed(counts), m_d_sum_of_products=products
    )


def _expected(sample: Sample, kind: Any) -> dict[str, dict[str, Any]]:
    tests = import_module("gbstats.frequentist.tests")
    statistics = import_module("gbstats.models.statistics")
    control, variant = (kind(statistics, arm) for arm in sample)
    found = {}
    for scale in ("absolute", "relative"):
        fixed = tests.TwoSidedTTest(control, variant, tests.FrequentistConfig(difference_type=scale)).compute_result()
        always = tests.SequentialTwoSidedTTest(control, variant, tests.SequentialConfig(difference_type=scale)).compute_result()
        found[scale] = {
            "difference": fixed.expected,
            "interval": list(fixed.ci),
            "p_value": fixed.p_value,
            "error": fixed.uplift.stddev,
            "anytime_interval": list(always.ci),
            "anytime_p_value": always.p_value,
        }
    return found


class Adjusting(NamedTuple):
    """Control and variant; each unit with its outcome and its covariate."""

    control: list[tuple[float, float]]
    variant: list[tuple[float, float]]


def adjusting() -> dict[str, Adjusting]:
    """The same in every run and environment."""
    source = random.Random(20261121)  # noqa: S311 - it must be repeatable, not secret

    def units(count: int, effect: float, slope: float, spread: float) -> list[tuple[float, float]]:
        found = []
        for _ in range(count):
            before = source.gauss(20, 4)
            found.append((slope * before + effect + source.gauss(0, spread), before))
        return found

    return {
        "strong": Adjusting(units(500, 0, 1.5, 2), units(450, 0.4, 1.5, 2)),
        "weak": Adjusting(units(80, 0, 0.1, 5), units(120, 1, 0.1, 5)),
        "against": Adjusting(units(60, 0, -2, 1), units(40, 0.1, -2, 1)),
    }


def _adjusted(sample: Adjusting) -> dict[str, Any]:
    tests = import_module("gbstats.frequentist.tests")
    statistics = import_module("gbstats.models.statistics")
    compute_theta = import_module("gbstats.models.statistics").compute_theta

    def summed(numbers: list[float]) -> Any:
        return statistics.SampleMeanStatistic(
            n=len(numbers), sum=sum(numbers), sum_squares=sum(number**2 for number in numbers)
        )

    def arm(units: list[tuple[float, float]]) -> Any:
        after, before = [one for one, _ in units], [one for _, one in units]
        products = sum(one * other for one, other in units)
        return statistics.RegressionAdjustedStatistic(
            n=len(units),
            post_statistic=summed(after),
            pre_statistic=summed(before),
            post_pre_sum_of_products=products,
            theta=0,
        )

    control, variant = arm(sample.control), arm(sample.variant)
    slope = compute_theta(control, variant)
    control.theta = variant.theta = slope
    found = tests.TwoSidedTTest(control, variant, tests.FrequentistConfig(difference_type="absolute")).compute_result()
    return {"slope": slope, "difference": found.expected, "interval": list(found.ci), "p_value": found.p_value}


def main() -> None:
    """Asks gbstats and writes its answers."""
    found: dict[str, Any] = {
        name: {"MEAN": _expected(one, _mean), "RATIO": _expected(one, _ratio)} for name, one in samples().items()
    }
    found["ADJUSTED"] = {name: _adjusted(one) for name, one in adjusting().items()}
    EXPECTED.write_text(json.dumps(found, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
