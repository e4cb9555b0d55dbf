"""Who takes part: conditions, layers, ramps, the holdout; and that all of them are independent of who gets which variant."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock.assigner import compile_plans, compile_promotions
from penstock.assignment import Arm, Plan, RequestType, Settings, Treatment, Unit, combine
from penstock.audience import Audience, Condition, Exclusion, Operator, held_out
from penstock.experiments.v1 import experiment_pb2
from scipy import stats

UNITS = [f"user-{number}" for number in range(20_000)]
# A false alarm in one run of a million.
SIGNIFICANCE = 1e-6


def plan(experiment: str, audience: Audience, paused: tuple[str, ...] = ()) -> Plan:
    return Plan(
        experiment=experiment,
        salt=f"salt of {experiment}",
        hash_version=1,
        unit=Unit.USER,
        arms=[Arm("a", 1), Arm("b", 1)],
        audience=audience,
        paused=paused,
    )


def members(one: Plan) -> set[str]:
    return {unit for unit in UNITS if one.exclusion(unit, {}) is None}


@pytest.mark.parametrize(
    ("condition", "given_", "holds"),
    [
        (Condition("lang", Operator.IN, ("ru", "zh")), {"lang": "ru"}, True),
        (Condition("lang", Operator.IN, ("ru", "zh")), {"lang": "en"}, False),
        (Condition("lang", Operator.IN, ("ru",)), {}, False),
        (Condition("lang", Operator.NOT_IN, ("ru",)), {}, True),
        (Condition("lang", Operator.NOT_IN, ("ru",)), {"lang": "ru"}, False),
        (Condition("beta", Operator.PRESENT), {"beta": ""}, True),
        (Condition("beta", Operator.PRESENT), {}, False),
        (Condition("beta", Operator.ABSENT), {}, True),
        (Condition("beta", Operator.ABSENT), {"beta": ""}, False),
        (Condition("age", Operator.AT_LEAST, ("18",)), {"age": "18.0"}, True),
        (Condition("age", Operator.AT_LEAST, ("18",)), {"age": "9"}, False),
        (Condition("age", Operator.AT_LEAST, ("18",)), {"age": "inf"}, False),
        (Condition("age", Operator.AT_MOST, ("18",)), {"age": "nan"}, False),
        (Condition("age", Operator.AT_MOST, ("18",)), {"age": "-1e3"}, True),
        (Condition("plan", Operator.STARTS_WITH, ("pro", "team")), {"plan": "team-7"}, True),
        (Condition("plan", Operator.STARTS_WITH, ("pro",)), {"plan": "free"}, False),
    ],
)
def test_conditions(condition: Condition, given_: dict[str, str], holds: bool) -> None:
    assert condition.holds(given_) is holds


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=8)), st.text(max_size=5), st.text(max_size=8))
def test_in_and_not_in_are_opposites(attributes: dict[str, str], name: str, value: str) -> None:
    within, without = (Condition(name, operator, (value,)) for operator in (Operator.IN, Operator.NOT_IN))
    assert within.holds(attributes) is not without.holds(attributes)


def test_every_condition_must_hold_and_the_reason_is_told() -> None:
    both = Audience((Condition("a", Operator.PRESENT), Condition("b", Operator.PRESENT)))
    assert plan("e", both).exclusion("u", {"a": "1"}) is Exclusion.TARGETING
    assert plan("e", both).exclusion("u", {"a": "1", "b": ""}) is None


def test_slices_of_a_layer_share_no_unit_and_cover_it() -> None:
    slices = [Audience(layer="ui", layer_start=start, layer_share=share) for start, share in ((0, 0.3), (0.3, 0.6), (0.9, 0.1))]
    groups = [members(plan(f"e{number}", audience)) for number, audience in enumerate(slices)]
    assert sum(len(group) for group in groups) == len(UNITS)
    assert set.union(*groups) == set(UNITS)
    expected = [len(UNITS) * one.layer_share for one in slices]
    assert stats.chisquare([len(group) for group in groups], expected).pvalue > SIGNIFICANCE


def test_a_ramp_keeps_its_units_and_takes_its_share() -> None:
    stages = [members(plan("e", Audience(traffic=share))) for share in (0.01, 0.25, 1.0)]
    assert stages[0] < stages[1] < stages[2] == set(UNITS)
    assert stats.binomtest(len(stages[1]), len(UNITS), 0.25).pvalue > SIGNIFICANCE


def test_a_larger_holdout_keeps_the_units_of_a_smaller_one() -> None:
    small, large = ({unit for unit in UNITS if held_out(unit, share)} for share in (0.05, 0.2))
    assert small < large
    assert stats.binomtest(len(small), len(UNITS), 0.05).pvalue > SIGNIFICANCE
    assert not any(held_out(unit, 0.0) for unit in UNITS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Audience(), Audience()),
        (Audience(traffic=0.4), Audience(traffic=0.4)),
        (Audience(layer="ui", layer_share=0.5), Audience(layer="models", layer_share=0.5)),
    ],
)
def test_experiments_are_independent_of_each_other(one: Audience, other: Audience) -> None:
    first, second = plan("e1", one), plan("e2", other)

    def place(of: Plan, unit: str) -> str:
        return "-" if of.exclusion(unit, {}) else of.arm_of(unit).variant

    counts = Counter((place(first, unit), place(second, unit)) for unit in UNITS)
    rows, columns = ({key[index] for key in counts} for index in (0, 1))
    table = [[counts[row, column] for column in sorted(columns)] for row in sorted(rows)]
    assert stats.chi2_contingency(table).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("audience", [Audience(traffic=0.3), Audience(layer="ui", layer_start=0.2, layer_share=0.5)])
def test_who_takes_part_says_nothing_about_the_variant(audience: Audience) -> None:
    one = plan("e", audience)
    counts = Counter(one.arm_of(unit).variant for unit in members(one))
    assert stats.chisquare(list(counts.values())).pvalue > SIGNIFICANCE
    heldout = Counter(one.arm_of(unit).variant for unit in UNITS if held_out(unit, 0.2))
    assert stats.chisquare(list(heldout.values())).pvalue > SIGNIFICANCE


def test_a_paused_variant_leaves_the_others_where_they_are() -> None:
    free, paused = plan("e", Audience()), plan("e", Audience(), paused=("b",))
    for unit in UNITS[:500]:
        arm = free.arm_of(unit).variant
        assert paused.exclusion(unit, {}) is (Exclusion.PAUSED if arm == "b" else None)
        assert paused.arm_of(unit).variant == arm


def test_treatments_of_layers_combine_over_what_is_promoted() -> None:
    first = Treatment("k1", "e1", "b", "u", model="m1")
    second = Treatment("k2", "e2", "b", "u", temperature=0.0, model="m2")
    promoted = Settings(model="m0", top_k=3)
    found = combine([first, second], promoted)
    assert found == Treatment("k1", "e1", "b", "u", (second,), model="m1", temperature=0.0, top_k=3)
    assert combine([first]) is first
    assert combine([]) is None
    assert combine([], promoted) == Treatment("", "", "", "", model="m0", top_k=3)


def test_what_is_compiled_from_a_message_is_what_it_says() -> None:
    message = experiment_pb2.Experiment(
        experiment="e1",
        unit=experiment_pb2.UNIT_USER,
        hash_version=1,
        salt="s",
        variants=[experiment_pb2.Variant(variant="a", weight=1), experiment_pb2.Variant(variant="b", weight=1)],
        targeting=[experiment_pb2.Condition(attribute="x", operator=experiment_pb2.OPERATOR_ABSENT)],
        layer="ui",
        layer_share=0.5,
        layer_start=0.25,
        traffic=0.0,
    )
    [found] = compile_plans([message])
    assert found.audience == Audience((Condition("x", Operator.ABSENT),), "ui", 0.25, 0.5, 0.0)
    message.targeting.add(attribute="y", operator=99)
    assert compile_plans([message]) == []


def test_a_later_promotion_holds_over_an_earlier_one() -> None:
    def promotion(types: list[int], **settings: object) -> experiment_pb2.Promotion:
        variant = experiment_pb2.Variant(variant="b", weight=1, **settings)  # type: ignore[arg-type]  # as the test names them
        return experiment_pb2.Promotion(settings=variant, request_types=types)  # type: ignore[arg-type]  # numbers

    found = compile_promotions([promotion([], model="m1", top_k=2), promotion([2], model="m2")])
    assert found == {
        RequestType.GENERATE: Settings(model="m1", top_k=2),
        RequestType.ANSWER: Settings(model="m2", top_k=2),
    }
