"""What may become of an experiment, step by step."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock.assignment import Arm, RequestType, Unit
from penstock.audience import Condition, Operator

from services.chassis.errors import Failure, Reason
from services.experiments.design import check, combinations
from services.experiments.experiments import NOBODY, Author, Design, Experiment, Factor, Ramp, State
from services.experiments.lifecycle import Experiments, advance, conclude, pause, start, stop
from services.experiments.stores.memory import MemoryStore

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ARMS = (Arm("a", 1), Arm("b", 1, model="m"))


def design(id_: str = "e", **changes: object) -> Design:
    return replace(Design(id_, "", Unit.USER, ARMS), **changes)  # type: ignore[arg-type]  # as the test names them


def experiment(id_: str = "e", state: State = State.DRAFT, *, layer_start: float = 0.0, **changes: object) -> Experiment:
    return Experiment(design(id_, **changes), state, 1, "salt", NOW, layer_start=layer_start)


def refused(reason: Reason) -> pytest.RaisesExc[Failure]:
    return pytest.RaisesExc(Failure, check=lambda failure: failure.reason is reason)


def test_a_start_begins_with_the_first_stage() -> None:
    started = start(experiment(ramp=Ramp((0.05, 1.0))), []).experiment
    assert (started.state, started.traffic) == (State.RUNNING, 0.05)
    assert started.stage_time == started.start_time is not None
    paused = pause(started).experiment
    moved = advance(paused).experiment
    again = start(moved, []).experiment
    assert (again.state, again.traffic, again.start_time) == (State.RUNNING, 1.0, started.start_time)


def test_slices_fill_the_first_gap() -> None:
    others = [
        experiment("x", State.RUNNING, layer="ui", layer_share=0.2),
        experiment("y", State.PAUSED, layer="ui", layer_share=0.3, layer_start=0.5),
    ]
    for share, place in ((0.3, 0.2), (0.2, 0.2)):
        found = start(experiment(layer="ui", layer_share=share), others).experiment
        assert found.layer_start == pytest.approx(place)
    with refused(Reason.EXPERIMENT_CONFLICT):
        start(experiment(layer="ui", layer_share=0.4), others)
    assert (
        start(experiment(layer="other", layer_share=1.0, variants=(Arm("a", 1), Arm("b", 1))), others).experiment.layer_start
        == 0
    )


@given(st.lists(st.sampled_from([0.1, 0.2, 0.25, 1 / 3, 0.5]), max_size=8))
def test_slices_never_overlap(shares: list[float]) -> None:
    alive: list[Experiment] = []
    for number, share in enumerate(shares):
        try:
            alive.append(start(experiment(f"e{number}", layer="ui", layer_share=share), alive).experiment)
        except Failure as failure:
            if failure.reason is not Reason.EXPERIMENT_CONFLICT:
                raise
    ordered = sorted(alive, key=lambda one: one.layer_start)
    for earlier, later in pairwise(ordered):
        assert earlier.layer_start + earlier.design.layer_share <= later.layer_start + 1e-9
    assert all(one.layer_start + one.design.layer_share <= 1 + 1e-9 for one in alive)


def test_layers_must_not_change_the_same_setting_of_the_same_calls() -> None:
    running = experiment("x", State.RUNNING, layer="ui")
    with refused(Reason.EXPERIMENT_CONFLICT):
        start(experiment(), [running])
    other = (Arm("a", 1), Arm("b", 1, temperature=0.5))
    assert start(experiment(variants=other), [running]).experiment.state is State.RUNNING
    answers = replace(running, design=replace(running.design, request_types=(RequestType.ANSWER,)))
    assert start(experiment(request_types=(RequestType.GENERATE,)), [answers]).experiment.state is State.RUNNING
    with refused(Reason.EXPERIMENT_CONFLICT):
        start(experiment(unit=Unit.REQUEST, layer="ui", layer_share=0.1), [replace(running, layer_start=0.5)])


def test_a_variant_is_paused_and_started_by_itself() -> None:
    running = start(experiment(), []).experiment
    paused = pause(running, "b")
    assert (paused.experiment.paused, paused.what) == (("b",), "variant b paused")
    assert pause(paused.experiment, "b").experiment == paused.experiment
    assert start(paused.experiment, [], "b").experiment == running
    with refused(Reason.VARIANT_NOT_FOUND):
        pause(running, "c")
    with refused(Reason.EXPERIMENT_STATE):
        pause(experiment(), "b")


def test_the_ramp_moves_by_stages_and_by_name() -> None:
    running = start(experiment(ramp=Ramp((0.05, 0.5))), []).experiment
    second = advance(running)
    assert (second.experiment.traffic, second.what) == (0.5, "traffic 0.05 -> 0.5")
    with refused(Reason.EXPERIMENT_STATE):
        advance(second.experiment)
    assert advance(second.experiment, 0.01).experiment.traffic == 0.01
    with refused(Reason.EXPERIMENT_STATE):
        advance(experiment())


def test_a_conclusion_stops_and_is_final() -> None:
    running = start(experiment(), []).experiment
    decided = conclude(running, "b", Author("acme", "faster")).experiment
    assert decided.state is State.CONCLUDED
    assert decided.conclusion is not None
    assert (decided.conclusion.winner, decided.conclusion.why, decided.conclusion.who) == ("b", "faster", "acme")
    assert decided.stop_time == decided.conclusion.time
    stopped = stop(running).experiment
    assert conclude(stopped, "", NOBODY).experiment.stop_time == stopped.stop_time
    for refuse in (partial(conclude, decided, "", NOBODY), partial(start, decided, []), partial(stop, decided)):
        with refused(Reason.EXPERIMENT_STATE):
            refuse()
    with refused(Reason.EXPERIMENT_STATE):
        pause(decided)
    with refused(Reason.VARIANT_NOT_FOUND):
        conclude(running, "c", NOBODY)


async def test_only_a_winner_is_promoted() -> None:
    experiments = Experiments(MemoryStore())
    await experiments.create(design())
    with refused(Reason.EXPERIMENT_STATE):
        await experiments.promote("e")
    await experiments.start("e")
    await experiments.conclude("e", winner="b")
    promotion = await experiments.promote("e")
    assert promotion.arm == ARMS[1]
    assert await experiments.promote("e") == promotion
    assert (await experiments.revert(promotion.number)).revert_time is not None
    again = await experiments.promote("e")
    assert again.number != promotion.number
    with refused(Reason.PROMOTION_NOT_FOUND):
        await experiments.revert(99)
    assert await experiments.promotions(1, None) == ((again,), again.number)


async def test_a_repeated_creation_answers_as_the_first_did() -> None:
    experiments = Experiments(MemoryStore())
    made = await experiments.create(design(ramp=Ramp((0.1, 1.0))), "r1")
    await experiments.start("e")
    await experiments.advance("e")
    assert await experiments.create(design(ramp=Ramp((0.1, 1.0))), "r1") == made
    assert timedelta(0) <= datetime.now(UTC) - made.create_time


def test_a_factorial_design_is_all_combinations() -> None:
    factors = (
        Factor("model", (Arm("small", 1), Arm("large", 3, model="m"))),
        Factor("heat", (Arm("cold", 1, temperature=0.0), Arm("warm", 1, temperature=1.0))),
    )
    arms = combinations(factors)
    assert [(arm.variant, arm.weight) for arm in arms] == [
        ("small.cold", 1),
        ("small.warm", 1),
        ("large.cold", 3),
        ("large.warm", 3),
    ]
    assert arms[3].changes() == {"model": "m", "temperature": 1.0}
    check(design(variants=arms, factors=factors))


def test_all_that_is_wrong_is_told_at_once() -> None:
    factors = (
        Factor("one", (Arm("x.y", 1), Arm("z", 1, model="m"))),
        Factor("one", (Arm("a", 1, model="n"), Arm("a", 1))),
    )
    bad = design(
        hypothesis="\0",
        variants=combinations(factors),
        factors=factors,
        targeting=(
            Condition("a", Operator.AT_LEAST, ("x",)),
            Condition("b", Operator.IN),
            Condition("c", Operator.PRESENT, ("1",)),
        ),
        layer_share=0.5,
        ramp=Ramp((0.5, 0.5)),
    )
    with pytest.raises(Failure) as found:
        check(bad)
    assert found.value.reason is Reason.INVALID_FIELD
    fields = [field for field, _ in found.value.violations]
    for field in (
        "experiment.hypothesis",
        "experiment.factors",
        "experiment.factors[0].levels",
        "experiment.factors[1].levels",
        "experiment.factors[1]",
        "experiment.targeting[0].values",
        "experiment.targeting[1].values",
        "experiment.targeting[2].values",
        "experiment.layer_share",
        "experiment.ramp.stages",
    ):
        assert field in fields
    with refused(Reason.INVALID_FIELD):
        check(design(variants=(Arm("a", 1),)))
