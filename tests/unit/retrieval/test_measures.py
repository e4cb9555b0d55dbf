import math
import random

import pytest

from services.retrieval.calibration import Example, TooFewExamplesError, fit, logistic
from services.retrieval.evaluation.measures import Measure, intervals, measured
from services.retrieval.evaluation.queries import made_of


def test_measures_of_one_ranking() -> None:
    row = measured(["x", "a", "y", "b"], {"a", "b", "c"})
    ideal = 1 + 1 / math.log2(3) + 0.5
    assert row[Measure.NDCG] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert row[Measure.RECALL] == pytest.approx(2 / 3)
    assert row[Measure.MRR] == 0.5
    assert row[Measure.HIT] == 0
    assert set(measured([], {"a"}).values()) == {0.0}
    assert set(measured(["a"], {"a"}).values()) == {1.0}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    chance = random.Random(3)  # noqa: S311 - repeatable, not secret
    held = 0
    for _ in range(60):
        interval = intervals({"x": [float(chance.random() < 0.3) for _ in range(80)]})["x"]
        assert interval.low <= interval.mean <= interval.high
        held += interval.low <= 0.3 <= interval.high
    assert held >= 50


def test_differences_are_paired() -> None:
    chance = random.Random(5)  # noqa: S311 - as above
    base = [chance.random() for _ in range(50)]
    sure = intervals({"base": base, "more": [0.1 for _ in base]})
    assert sure["base"].high - sure["base"].low > 0.1
    assert [sure["more"].low, sure["more"].high] == pytest.approx([0.1, 0.1])


def test_queries_made_of_sentences() -> None:
    texts = [
        ("en", "Short one. The old pump beside the river must be oiled by the engineer every single week."),
        ("zh", "短。这台旧水泵在河边每个星期都必须由工程师加油并且检查一次。"),
        ("none", "Too short."),
    ]
    made = made_of(texts)
    assert [one.relevant for one in made] == [("en",), ("zh",)]
    assert set(made[0].query.split()) < set(texts[0][1].replace(".", "").split())
    assert made[1].query in texts[1][1]
    assert made == made_of(texts)


def examples(slope: float) -> list[Example]:
    """Passages that answer with a probability that a logistic curve of their facts gives."""
    chance = random.Random(11)  # noqa: S311 - as above
    made = []
    for _ in range(3000):
        covered, cosine = chance.random(), 1 - chance.random() / slope
        likely = logistic(-4 + 3 * covered + 4 * slope * (cosine - 1 + 1 / slope))
        made.append(Example(covered, cosine, chance.random() < likely))
    return made


@pytest.mark.parametrize("slope", [1.0, 10.0])
def test_a_fit_finds_the_curve(slope: float) -> None:
    calibration = fit(examples(slope), fingerprint="f", queries=1, judged=True, time="")
    assert calibration.error < 0.03
    for covered in (0.1, 0.5, 0.9):
        for far in (0.1, 0.5, 0.9):
            likely = logistic(-4 + 3 * covered + 4 * (1 - far))
            assert calibration.relevance(covered, 1 - far / slope) == pytest.approx(likely, abs=0.08)
    assert calibration.relevance(0.9, None) > calibration.relevance(0.1, None)


def test_facts_that_part_the_two_kinds_keep_the_fit_finite() -> None:
    parted = [Example(1.0, 1.0, answers=True)] * 20 + [Example(0.0, 0.0, answers=False)] * 20
    calibration = fit(parted, fingerprint="f", queries=1, judged=False, time="")
    assert calibration.relevance(1.0, 1.0) > 0.9
    assert calibration.relevance(0.0, 0.0) < 0.1
    with pytest.raises(TooFewExamplesError):
        fit(parted[:25], fingerprint="f", queries=1, judged=False, time="")
