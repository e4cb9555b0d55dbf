"""What the records of one alias have taught: plain numbers, cheap to decide by."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping  # noqa: TC003 - msgspec reads the types of the fields
from dataclasses import dataclass
from operator import mul


@dataclass(frozen=True, slots=True)
class Curve:
    """How likely a model's answer is to be good enough, by how hard the request looks.

    Attributes:
        outcomes: How many outcomes it rests on. Where they weigh differently, as many of one weight as would tell as much.
        good: How likely it is over all requests.
        scores: Where the curve is known, ascending.
        expected: What it is there, never ascending.
        output_tokens: How long the model's answers are on average; 0 where unknown.
    """

    outcomes: float
    good: float
    scores: tuple[float, ...]
    expected: tuple[float, ...]
    output_tokens: float = 0.0

    def at(self, score: float) -> float:
        """How likely the answer to a request of this score is to be good enough."""
        scores, expected = self.scores, self.expected
        right = bisect_right(scores, score)
        if right == 0:
            return expected[0]
        if right == len(scores):
            return expected[-1]
        low, high = scores[right - 1], scores[right]
        share = (score - low) / (high - low)
        return expected[right - 1] + share * (expected[right] - expected[right - 1])

    def threshold(self, target: float) -> float | None:
        """The hardest score at which the target is still met, 0 to 1; None where it is met by no request."""
        if self.expected[0] < target:
            return None
        if self.expected[-1] >= target:
            return 1.0
        right = next(index for index, value in enumerate(self.expected) if value < target)
        low, high = self.expected[right - 1], self.expected[right]
        share = (low - target) / (low - high)
        return self.scores[right - 1] + share * (self.scores[right] - self.scores[right - 1])


@dataclass(frozen=True, slots=True)
class Calibration:
    """How hard requests look, and what that means for each model.

    Attributes:
        weights: What each feature adds to how hard a request is, in logits of an answer that is not good enough.
        scale: Quantiles of that over all recorded requests, ascending: the place among them is the score.
        curves: By model.
        brier: Mean squared error of what was expected of requests that the fit had not seen, 0 to 1.
        brier_of_means: The same where each model's mean is expected of all its requests: what the score has to beat.
    """

    weights: tuple[float, ...]
    scale: tuple[float, ...]
    curves: Mapping[str, Curve]
    brier: float
    brier_of_means: float

    def score(self, vector: tuple[float, ...]) -> float:
        """The share of recorded requests that look easier, 0 to 1."""
        return bisect_right(self.scale, sum(map(mul, self.weights, vector))) / len(self.scale)


@dataclass(frozen=True, slots=True)
class Value:
    """A mean reward, 0 to 1, with its standard error, out of so many rewarded requests."""

    rewards: int
    mean: float
    error: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """What feedback has taught of which model suits which request.

    Attributes:
        rewards: How many requests it rests on.
        known: How many of them each model answered.
        mean: Their mean reward, which is what is expected of a model that nothing is known of.
        weights: By model: what each feature adds to the mean.
        static: The model that is best for all requests, by its value less one standard error; empty while unknown.
        values: By model: what all requests would earn if they went there.
        learned: What the requests earned that went where the lesson said; None for none.
        holdout: What those earned that went to the best static model; None for none.
    """

    rewards: int
    known: Mapping[str, int]
    mean: float
    weights: Mapping[str, tuple[float, ...]]
    static: str
    values: Mapping[str, Value]
    learned: Value | None = None
    holdout: Value | None = None

    def expected(self, model: str, vector: tuple[float, ...]) -> float:
        """The reward to be expected, 0 to 1."""
        weights = self.weights.get(model)
        if weights is None:
            return self.mean
        expected: float = self.mean + sum(map(mul, weights, vector))
        return min(1.0, max(0.0, expected))


@dataclass(frozen=True, slots=True)
class Fitted:
    """All that the records of an alias have taught.

    Attributes:
        revision: Names it in decisions.
        time: When it was made, in seconds since the epoch.
        changes: `Records.changes` when it was made.
        records: How many records there were.
        good: From which reward an answer counted as good enough.
        calibration: None where no outcome tells anything yet.
        lesson: None where there is no reward yet.
    """

    revision: str
    time: float
    changes: int
    records: int
    good: float
    calibration: Calibration | None = None
    lesson: Lesson | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How an alias stands now.

    Attributes:
        alias: Its name.
        fitted: The fit in force; None where there is none.
        newer: How many records and rewards, of any alias, have come since it was made.
        models: Its models, in the order of the policy.
        target: How likely an answer should be good enough; None for no such aim.
        least: How many outcomes of a model have to be known.
    """

    alias: str
    fitted: Fitted | None
    newer: int
    models: tuple[str, ...]
    target: float | None
    least: int
