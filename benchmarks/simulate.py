"""How often each method of the analysis calls a difference: where there is none, and where one was planted.

`make simulate` prints the table. The rows marked `wrong` show what the analysis avoids; it offers none of them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from scipy import special

from benchmarks.table import render
from services.experiments.analysis import Adjusted, Boundary, Correction, Covariate, Effect, Estimate, Kind, Moments
from services.experiments.covariates import adjusted
from services.experiments.sequential import anytime, bounds
from services.experiments.statistics import adjust, compare, estimate, normal_size, sample_ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Numbers: TypeAlias = NDArray[np.float64]
    # Whether one simulated experiment, with this planted effect, called a difference.
    Method: TypeAlias = Callable[[np.random.Generator, float], bool]

SIGNIFICANCE: Final = 0.05
LOOKS: Final = 5
_PEEKS: Final = 20
_UNITS: Final = 1000
_USERS: Final = 200
_REQUESTS: Final = 10
# Requests of a user are alike to this degree; a chat user with a hard task is one in all of it.
_ALIKE: Final = 0.4


@dataclass(frozen=True)
class Case:
    """One method, with the effect to plant for it, and whether it keeps its promise on false discoveries."""

    name: str
    method: Method
    effect: float
    right: bool = True


@dataclass(frozen=True)
class Rate:
    """How many of some simulated experiments called a difference."""

    called: int
    runs: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.called / self.runs

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Where the true share lies, by Clopper and Pearson."""
        tail = (1 - confidence) / 2
        low = special.betaincinv(self.called, self.runs - self.called + 1, tail) if self.called else 0.0
        high = special.betaincinv(self.called + 1, self.runs - self.called, 1 - tail) if self.called < self.runs else 1.0
        return float(low), float(high)


def summed(totals: Numbers, counts: Numbers) -> Moments:
    """What the store would hand over for units with these sums and numbers of outcomes."""
    means = totals / counts
    return Moments(
        units=len(totals),
        mean=float(means.mean()),
        squares=float(((means - means.mean()) ** 2).sum()),
        total=float(totals.mean()),
        count=float(counts.mean()),
        total_squares=float(((totals - totals.mean()) ** 2).sum()),
        count_squares=float(((counts - counts.mean()) ** 2).sum()),
        products=float(((totals - totals.mean()) * (counts - counts.mean())).sum()),
        lowest=float(means.min()),
        highest=float(means.max()),
    )


def difference(kind: Kind, control: Moments, variant: Moments) -> tuple[Effect, int]:
    """The effect, and the units that it is from."""
    one, other = estimate(kind, control), estimate(kind, variant)
    if not isinstance(one, Estimate) or not isinstance(other, Estimate):
        raise TypeError(f"{one} {other}")
    effect = compare(one, other, SIGNIFICANCE)
    if not isinstance(effect, Effect):
        raise TypeError(effect)
    return effect, one.units + other.units


def _of_units(values: Numbers) -> Moments:
    return summed(values, np.ones(len(values)))


def _waits(source: np.random.Generator, effect: float, units: int = _UNITS) -> Numbers:
    """Skewed, as times to answer are: mean 1 plus the effect, standard deviation 1."""
    return source.lognormal(-np.log(2) / 2, np.sqrt(np.log(2)), units) + effect


def _means(source: np.random.Generator, effect: float) -> bool:
    return difference(Kind.MEAN, _of_units(_waits(source, 0)), _of_units(_waits(source, effect)))[0].p_value <= SIGNIFICANCE


def _proportions(source: np.random.Generator, effect: float) -> bool:
    arms = [_of_units((source.random(_UNITS) < share).astype(np.float64)) for share in (0.2, 0.2 + effect)]
    return difference(Kind.PROPORTION, *arms)[0].p_value <= SIGNIFICANCE


def _requests(source: np.random.Generator, effect: float) -> tuple[Numbers, Numbers, Numbers]:
    """By user: sum and number of the requests' values; and the values themselves. Busy users differ from others."""
    counts: Numbers = source.poisson(_REQUESTS - 1, _USERS).astype(np.float64) + 1
    users = source.normal(0, np.sqrt(_ALIKE), _USERS) + 0.02 * (counts - _REQUESTS)
    values: Numbers = source.normal(np.repeat(users, counts.astype(int)) + effect, np.sqrt(1 - _ALIKE))
    edges = np.concatenate([[0], counts.astype(int).cumsum()[:-1]])
    sums: Numbers = np.add.reduceat(values, edges)
    return sums, counts, values


def _clustered(source: np.random.Generator, effect: float) -> bool:
    arms = [summed(*_requests(source, planted)[:2]) for planted in (0.0, effect)]
    return difference(Kind.RATIO, *arms)[0].p_value <= SIGNIFICANCE


def _by_request(source: np.random.Generator, effect: float) -> bool:
    arms = [_of_units(_requests(source, planted)[2]) for planted in (0.0, effect)]
    return difference(Kind.MEAN, *arms)[0].p_value <= SIGNIFICANCE


def _at_looks(source: np.random.Generator, effect: float, looks: int, decides: Callable[[int, Effect, int], bool]) -> bool:
    """Whether any of some evenly spaced looks decides."""
    control, variant = _waits(source, 0), _waits(source, effect)
    for look in range(1, looks + 1):
        share = _UNITS * look // looks
        found, units = difference(Kind.MEAN, _of_units(control[:share]), _of_units(variant[:share]))
        if decides(look, found, units):
            return True
    return False


def _adjusted(source: np.random.Generator, effect: float) -> bool:
    """Units that were known before: their covariate explains half of what they do."""
    arms = []
    for planted in (0.0, effect):
        before: Numbers = source.normal(0, 1, _UNITS)
        after: Numbers = (before + source.normal(0, 1, _UNITS)) / np.sqrt(2) + planted
        mean = float(before.mean())
        products = float(((before - mean) * (after - after.mean())).sum())
        arms.append((_of_units(after), Covariate(_UNITS, _UNITS, mean, float(((before - mean) ** 2).sum()), products)))
    plain, _ = difference(Kind.MEAN, arms[0][0], arms[1][0])
    found = adjusted(Kind.MEAN, arms[0], arms[1], plain, SIGNIFICANCE)
    # A covariate that is split unevenly by chance withholds the result, once in a thousand times.
    return isinstance(found, Adjusted) and found.effect.p_value <= SIGNIFICANCE


def _sequential(boundary: Boundary) -> Method:
    limits = bounds(boundary, LOOKS, SIGNIFICANCE)
    return lambda source, effect: _at_looks(
        source, effect, LOOKS, lambda look, found, _: normal_size(found.p_value) >= limits[look - 1]
    )


def _peeking(source: np.random.Generator, effect: float) -> bool:
    return _at_looks(source, effect, _PEEKS, lambda _, found, __: found.p_value <= SIGNIFICANCE)


def _always_valid(source: np.random.Generator, effect: float) -> bool:
    def decides(_: int, found: Effect, units: int) -> bool:
        return anytime(found.difference, found.standard_error, units, SIGNIFICANCE).p_value <= SIGNIFICANCE

    return _at_looks(source, effect, _PEEKS, decides)


def _family(correction: Correction | None) -> Method:
    """Five metrics; the effect is in all of them; any call counts."""

    def called(source: np.random.Generator, effect: float) -> bool:
        p_values = [
            difference(Kind.MEAN, _of_units(_waits(source, 0)), _of_units(_waits(source, effect)))[0].p_value for _ in range(5)
        ]
        return min(p_values if correction is None else adjust(correction, p_values)) <= SIGNIFICANCE

    return called


def _split(source: np.random.Generator, effect: float) -> bool:
    """The sample ratio on 100000 units, at its own significance of .001; the effect is a share of lost units."""
    kept = source.binomial(100_000, 0.5 * (1 - effect))
    found = sample_ratio([1, 1], [kept, 100_000 - kept])
    return bool(getattr(found, "mismatch", False))


CASES: Final = (
    Case("mean (Welch)", _means, 0.15),
    Case("proportion", _proportions, 0.05),
    Case("ratio, clustered by user", _clustered, 0.2),
    Case("wrong: the same by request", _by_request, 0.2, right=False),
    Case("mean, adjusted by covariates (CUPED)", _adjusted, 0.1),
    Case("O'Brien-Fleming, 5 looks", _sequential(Boundary.O_BRIEN_FLEMING), 0.15),
    Case("Pocock, 5 looks", _sequential(Boundary.POCOCK), 0.15),
    Case("O'Brien-Fleming spending", _sequential(Boundary.O_BRIEN_FLEMING_SPENDING), 0.15),
    Case("Pocock spending", _sequential(Boundary.POCOCK_SPENDING), 0.15),
    Case("always valid, 20 looks", _always_valid, 0.15),
    Case("wrong: Welch at 20 looks", _peeking, 0.15, right=False),
    Case("5 metrics, Holm", _family(Correction.HOLM), 0.15),
    Case("5 metrics, Benjamini-Hochberg", _family(Correction.BENJAMINI_HOCHBERG), 0.15),
    Case("wrong: 5 metrics, uncorrected", _family(None), 0.15, right=False),
    Case("sample ratio (.001)", _split, 0.02),
)


def rate(case: Case, effect: float, runs: int, seed: int = 1) -> Rate:
    """Simulates that many experiments with this planted effect."""
    sources = np.random.default_rng([seed, len(case.name), *case.name.encode()]).spawn(runs)
    return Rate(sum(case.method(source, effect) for source in sources), runs)


def _cell(found: Rate) -> str:
    low, high = found.interval()
    return f"{found.share:.3f} ({low:.3f}-{high:.3f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="simulated experiments a figure")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print(f"{options.runs} experiments a figure, significance {SIGNIFICANCE}, 95 % binomial intervals")
    rows = []
    for case in CASES:
        none, planted = (rate(case, effect, options.runs, options.seed) for effect in (0.0, case.effect))
        rows.append((case.name, _cell(none), _cell(planted), f"{case.effect:g}"))
    print(render(("method", "false positives", "power", "planted effect"), rows))


if __name__ == "__main__":
    main()
