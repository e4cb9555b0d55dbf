"""Searching for better settings: what may be tried, which trials are best, how answers are judged, what wins."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock.assignment import RequestType, Settings

from services.chassis.errors import Failure, Reason
from services.experiments.analysis import Role
from services.experiments.design import check as check_experiment
from services.experiments.optimization.design_check import check
from services.experiments.optimization.measuring import Case, Measures, Objective, Reply, likeness, measure, quality
from services.experiments.optimization.optimizations import Caller, Design, Kind, Optimization, State, Trial
from services.experiments.optimization.pareto import best, dominates, front
from services.experiments.optimization.proposals import Proposal
from services.experiments.optimization.search import propose
from services.experiments.optimization.space import IntegerSpan, Space, Span, settings_of, values_of
from services.experiments.optimization.winning import draft_of, winner_of

CASES = tuple(Case(f"question {number}?", "an answer") for number in range(10))
POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20)


def design(**changes: Any) -> Design:
    plain = Design(
        optimization="o1",
        kind=Kind.HYPERPARAMETER_TUNING,
        request_type=RequestType.ANSWER,
        space=Space(top_k=IntegerSpan(1, 8)),
        cases=CASES,
        objectives=(Objective.QUALITY_SCORE, Objective.RESPONSE_TIME),
        collections=("docs",),
    )
    return replace(plain, **changes)


def measures(quality_score: float | None, seconds: float | None = 1.0) -> Measures:
    return Measures(seconds, quality_score, 0.0, 3)


def test_a_space_counts_and_lists_what_it_holds() -> None:
    space = Space(model=("a", "b"), top_k=IntegerSpan(2, 4), temperature=Span(0.5, 0.5), reranker=("", "r"))
    listed = list(space.listed())
    assert space.size() == len(listed) == 12
    assert {"model": "a", "top_k": 2, "temperature": 0.5, "reranker": ""} in listed
    assert math.isinf(Space(top_p=Span(0.1, 1.0)).size())
    assert list(Space(top_p=Span(0.1, 1.0)).listed()) == []
    assert Space().is_empty
    assert values_of(settings_of(listed[0])) == listed[0]


@given(POINTS)
def test_the_front_holds_those_that_none_dominates(points: list[tuple[int, int]]) -> None:
    chosen = front(points, lambda point: point)
    assert chosen == sorted(chosen)
    for point in points:
        assert (point in chosen) == (not any(dominates(other, point) for other in points))
    assert best(points, lambda point: point, len(points)) == chosen + best(
        [point for point in points if point not in chosen], lambda point: point, len(points)
    )


def test_every_setting_is_proposed_once_and_then_none() -> None:
    space = Space(top_k=IntegerSpan(1, 3), fusion=("RRF", "DBSF"))
    tried: list[tuple[dict[str, Any], tuple[float, ...] | None]] = []
    for _ in range(6):
        proposal = Proposal(space, 2, tuple(tried), 6, seed=3)
        point = propose(proposal)
        assert point is not None
        assert propose(proposal) == point, "another process would propose the same"
        # One that could not be measured is not proposed again, either.
        tried.append((point, None if len(tried) == 2 else (float(point["top_k"]), -float(point["top_k"]))))
    assert len({tuple(sorted(point.items())) for point, _ in tried}) == 6
    assert propose(Proposal(space, 2, tuple(tried), 6, seed=3)) is None


def test_the_search_comes_near_an_optimum() -> None:
    space = Space(temperature=Span(0, 2), top_k=IntegerSpan(1, 50))
    tried: list[tuple[dict[str, Any], tuple[float, ...] | None]] = []
    for _ in range(40):
        point = propose(Proposal(space, 1, tuple(tried), 40, seed=1))
        assert point is not None
        tried.append((point, ((float(point["temperature"]) - 0.7) ** 2 + ((float(point["top_k"]) - 20) / 50) ** 2,)))
    losses = [losses[0] for _, losses in tried if losses is not None]
    assert min(losses[13:]) < min(losses[:13])
    assert min(losses) < 0.02


def test_the_split_is_repeatable_and_keeps_the_halves_apart() -> None:
    search, held_out = design().split()
    assert (len(search), len(held_out)) == (7, 3)
    assert set(search) | set(held_out) == set(CASES)
    assert design().split() == (search, held_out)
    assert design(seed=1).split() != (search, held_out)
    assert [len(part) for part in design(cases=CASES[:4], holdout_share=0.9).split()] == [1, 3]


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"collections": ()}, ["optimization.collections"]),
        ({"space": Space()}, ["optimization.space"]),
        ({"space": Space(prompt=("a", "b"))}, ["optimization.space.prompts"]),
        ({"kind": Kind.PROMPT}, ["optimization.space.prompts"]),
        ({"space": Space(top_p=Span(0, 1))}, ["optimization.space.top_p"]),
        (
            {"space": Space(top_k=IntegerSpan(1, 101), min_relevance=Span(0, 2))},
            ["optimization.space.min_relevance", "optimization.space.top_k"],
        ),
        ({"cases": (*CASES, Case("?"))}, ["optimization.cases"]),
        ({"request_type": RequestType.GENERATE}, ["optimization.collections", "optimization.space.top_k"]),
        ({"optimization": "a\0b"}, ["optimization"]),
    ],
)
def test_all_that_is_wrong_is_said_at_once(changes: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(Failure) as refused:
        check(design(**changes))
    assert refused.value.reason is Reason.INVALID_FIELD
    assert [field for field, _ in refused.value.violations] == fields


@pytest.mark.parametrize("kind", [Kind.QUANTIZATION, Kind.PRUNING])
def test_what_nothing_here_can_do_is_refused_by_name(kind: Kind) -> None:
    with pytest.raises(Failure) as refused:
        check(design(kind=kind))
    assert (refused.value.reason, refused.value.metadata) == (Reason.OPTIMIZATION_UNSUPPORTED, {"type": kind.value})


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("Paris", "paris", 1.0),
        ("", "paris", 0.0),
        ("It is Paris.", "Paris", (0.5 + 1) / 2),
        ("Paris", "Paris, France", (2 / 3 + 1 / 2) / 2),
        ("北京", "北京市", (0.8 + 2 / 3) / 2),
        ("Москва", "москва", 1.0),
    ],
)
def test_likeness_of_texts(text: str, reference: str, expected: float) -> None:
    assert likeness(text, reference) == pytest.approx(expected)


def test_quality_is_the_mean_of_what_can_be_judged() -> None:
    reply = Reply("Paris", ("d1", "d9"), 0.1)
    assert quality(Case("?", relevant=("d1", "d2")), reply) == 0.5
    assert quality(Case("?", "Paris", ("d1", "d2")), reply) == 0.75


class Scripted:
    """Answers by what a question says."""

    async def ask(self, question: str, settings: Settings) -> Reply:
        del settings
        if question.startswith("fail"):
            raise Failure(Reason.GENERATION_FAILED, "broken")
        if question.startswith("gone"):
            raise Failure(Reason.SERVICE_UNAVAILABLE, "away")
        return Reply("right", (), float(question), "e1" if question == "9" else "")


async def test_failed_calls_count_against_quality_and_errors_and_outages_do_not() -> None:
    cases = [Case("1", "right"), Case("3", "right"), Case("2", "wrong"), Case("fail", "right")]
    found = await measure(Scripted(), Settings(), cases)
    assert found == Measures(2.0, 0.5, 0.25, 4, "GENERATION_FAILED: broken")
    nothing = await measure(Scripted(), Settings(), [Case("fail")])
    assert (nothing.response_time, nothing.quality_score, nothing.error_rate) == (None, None, 1.0)
    assert nothing.losses([Objective.ERROR_RATE, Objective.RESPONSE_TIME]) is None
    for question, reason in (("gone", Reason.SERVICE_UNAVAILABLE), ("9", Reason.EXPERIMENT_CONFLICT)):
        with pytest.raises(Failure) as refused:
            await measure(Scripted(), Settings(), [*cases, Case(question, "right")])
        assert refused.value.reason is reason


def optimization(*finals: Trial) -> Optimization:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Optimization(7, design(), Caller(tenant="acme"), State.VALIDATING, now, finals=finals)


def test_the_winner_beats_what_is_in_use_and_becomes_a_draft_with_a_ramp() -> None:
    in_use = Trial(0, Settings(), measures(0.5))
    equal, better = Trial(3, Settings(top_k=3), measures(0.8, 2.0)), Trial(5, Settings(top_k=5), measures(0.8, 1.5))
    found = optimization(in_use, equal, better)
    winner, note = winner_of(found)
    assert (winner, note) == (better, "")
    made, author = draft_of(found, better)
    check_experiment(made)
    assert (made.experiment, made.variants[1].top_k, made.variants[0].changes()) == ("o1-7", 5, {})
    assert made.ramp is not None
    assert made.ramp.stages[0] == 0.01
    assert [(one.metric, one.role) for one in made.metrics] == [
        ("quality_score", Role.PRIMARY),
        ("response_time", Role.GUARDRAIL),
    ]
    assert author.who == "acme"


@pytest.mark.parametrize("score", [0.5, 0.3, None])
def test_nothing_wins_that_is_not_better(score: float | None) -> None:
    winner, note = winner_of(optimization(Trial(0, Settings(), measures(0.5)), Trial(1, Settings(top_k=1), measures(score))))
    assert winner is None
    assert note
