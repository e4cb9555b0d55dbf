"""What is shown beside the comparisons by intention to treat: as served, by factor, and a split that pauses have bent."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock.assignment import Arm, Unit, assignment_key
from penstock.exposures import ExecutedAttempt, Execution

from services.experiments.analysis import Effect, Evidence, Metric, SampleRatio, pooled
from services.experiments.analyst import Analyst
from services.experiments.design import combinations
from services.experiments.experiments import Design, Factor
from services.experiments.lifecycle import Experiments
from services.experiments.results import results
from services.experiments.store import PLAIN, Exposure, Outcome
from services.experiments.stores.memory import MemoryStore
from tests.unit.experiments.moments import moments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FELL = Execution(attempts=(ExecutedAttempt("x", "m", "FAILED"), ExecutedAttempt("y", "n", "ANSWERED")))
values = st.lists(st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=4), min_size=1, max_size=6)


@pytest.fixture
async def analyst() -> AsyncIterator[Analyst]:
    one = Analyst()
    yield one
    await one.close()


async def meet(store: MemoryStore, variant: str, unit: str, value: float, execution: Execution = PLAIN) -> None:
    key = assignment_key("e", variant, unit)
    await store.record_exposures([Exposure(f"x-{unit}", key, "e", variant, unit, NOW, execution=execution)])
    await store.record_outcomes([Outcome(f"o-{unit}", key, "e", variant, "m", value, NOW)])


@given(st.lists(values, min_size=1, max_size=4))
def test_pooled_moments_are_those_of_all_units(groups: list[list[list[float]]]) -> None:
    found = pooled([moments(group) for group in groups])
    expected = moments([unit for group in groups for unit in group])
    for name, value in asdict(expected).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6, abs=1e-6)


def test_a_group_with_a_part_that_cannot_be_squared_cannot_either() -> None:
    one = moments([[1.0], [2.0]])
    found = Evidence({("a", "m"): one, ("b", "m"): None, ("c", "m"): one}).by_group({"a": "x", "b": "x", "c": "y"})
    assert found.moments == {("x", "m"): None, ("y", "m"): pooled([one])}


async def test_fallbacks_stay_in_their_arm_and_are_left_out_beside(analyst: Analyst) -> None:
    store = MemoryStore()
    experiments = Experiments(store)
    await experiments.create(Design("e", "", Unit.USER, (Arm("a", 1), Arm("b", 1)), (Metric("m"),)))
    await experiments.start("e")
    for number in range(20):
        await meet(store, "a", f"a{number}", number % 3)
        fell = number < 5
        await meet(store, "b", f"b{number}", -10 if fell else 1 + number % 3, FELL if fell else PLAIN)
    found = await results(store, analyst, "e")
    assert [variant.fell_back for variant in found.variants] == [0, 5]
    assert not isinstance(found.analysis, str)
    [intended], [served] = found.analysis.comparisons, found.as_served
    assert isinstance(intended.effect, Effect)
    assert isinstance(served.effect, Effect)
    assert intended.effect.difference < 0 < served.effect.difference


async def test_main_effects_pool_over_the_other_factor(analyst: Analyst) -> None:
    factors = (
        Factor("model", (Arm("small", 1), Arm("large", 1, model="m"))),
        Factor("k", (Arm("few", 1, top_k=3), Arm("many", 1, top_k=9))),
    )
    store = MemoryStore()
    experiments = Experiments(store)
    await experiments.create(Design("e", "", Unit.USER, combinations(factors), (Metric("m"),), factors=factors))
    await experiments.start("e")
    for place, variant in enumerate(("small.few", "small.many", "large.few", "large.many")):
        for number in range(12):
            await meet(store, variant, f"{variant}{number}", (place // 2) * 5 + (place % 2) * 2 + number % 3)
    found = await results(store, analyst, "e")
    told = {}
    for factor in found.factors:
        [comparison] = factor.comparisons
        assert isinstance(comparison.effect, Effect)
        told[factor.factor, factor.control, comparison.variant] = comparison.effect.difference
    assert told == {("model", "small", "large"): pytest.approx(5), ("k", "few", "many"): pytest.approx(2)}


async def test_a_variant_that_was_paused_bends_no_split(analyst: Analyst) -> None:
    store = MemoryStore()
    experiments = Experiments(store)
    await experiments.create(Design("e", "", Unit.USER, tuple(Arm(name, 1) for name in "abc"), (Metric("m"),)))
    await experiments.start("e")
    for name, count in (("a", 100), ("b", 100), ("c", 10)):
        for number in range(count):
            await meet(store, name, f"{name}{number}", number % 2)

    async def split() -> SampleRatio:
        analysis = (await results(store, analyst, "e")).analysis
        assert not isinstance(analysis, str)
        assert isinstance(analysis.sample_ratio, SampleRatio)
        return analysis.sample_ratio

    assert (await split()).mismatch
    await experiments.pause("e", variant="c")
    await experiments.start("e", variant="c")
    assert not (await split()).mismatch
