"""What the experiments service may expect of any store."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from dataclasses import astuple, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from penstock.assignment import Arm, RequestType, Unit
from penstock.audience import Condition, Operator
from penstock.exposures import ExecutedAttempt, Execution

from services.chassis.errors import Failure, Reason
from services.experiments.analysis import Boundary, Correction, Direction, Evidence, Kind, Method, Metric, Moments, Plan, Role
from services.experiments.experiments import NOBODY, Author, Conclusion, Design, Experiment, Factor, Promotion, Ramp, State
from services.experiments.store import Exposure, Outcome, OutcomeTally, Step

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from services.experiments.store import Store

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)


def experiment(id_: str, hypothesis: str = "", created: datetime = NOW) -> Experiment:
    design = Design(
        experiment=id_,
        hypothesis=hypothesis,
        unit=Unit.CONVERSATION,
        variants=(
            Arm("a", 0.1),
            Arm(
                "b",
                1e6 / 3,
                model="m:7b",
                prompt="Отвечай «кратко» 中",
                temperature=0.0,
                top_p=1.0,
                max_tokens=7,
                top_k=3,
                fusion="DBSF",
                reranker="",
                min_relevance=0.0,
            ),
        ),
        metrics=(Metric("clicks"), Metric("seconds", Direction.DECREASE, Kind.RATIO, Role.GUARDRAIL, 0.25)),
        request_types=(RequestType.ANSWER,),
        analysis=Plan(Method.GROUP_SEQUENTIAL, 0.01, 86400.5, 3, Boundary.POCOCK, Correction.BENJAMINI_HOCHBERG),
        targeting=(Condition("lang", Operator.IN, ("ru", "中文")), Condition("beta", Operator.PRESENT)),
        layer="ui",
        layer_share=0.25,
        ramp=Ramp((0.01, 0.5), 3600.5),
        factors=(Factor("f", (Arm("x", 1), Arm("y", 2, temperature=0.5))),),
    )
    return Experiment(design=design, state=State.DRAFT, hash_version=1, salt=f"salt-{id_}", create_time=created, traffic=0.01)


async def move(
    store: Store, id_: str, sources: Collection[State], target: State, author: Author = NOBODY, **changes: Any
) -> bool:
    """Moves an experiment in one of `sources` to `target`, and says whether it did."""
    moved = False

    def step(found: Experiment, _: Sequence[Experiment]) -> Step:
        nonlocal moved
        moved = found.state in sources
        now = datetime.now(UTC)
        if not moved:
            return Step(found)
        return Step(
            replace(
                found,
                state=target,
                start_time=found.start_time or (now if target is State.RUNNING else None),
                stop_time=now if target is State.STOPPED else None,
                **changes,
            )
        )

    return await store.change(id_, step, author) is not None and moved


def outcome(key: str, value: float = 1.0, *, variant: str = "a", metric: str = "clicks", unit: str = "u1") -> Outcome:
    return Outcome(key, f"1~e1~{variant}~{unit}", "e1", variant, metric, value, NOW)


def exposure(key: str, *, variant: str = "a", unit: str = "u1", experiment: str = "e1") -> Exposure:
    return Exposure(key, f"1~{experiment}~{variant}~{unit}", experiment, variant, unit, NOW, "r1", "m", "llamacpp")


async def test_an_experiment_comes_back_as_it_was_stored(store: Store) -> None:
    written = experiment("e1", "hypothesis")
    assert await store.create(written, "") == written
    assert await store.get(["e1", "missing"]) == {"e1": written}
    assert await store.get([]) == {}


async def test_a_taken_id_is_refused(store: Store) -> None:
    await store.create(experiment("e1"), "")
    with pytest.raises(Failure) as refused:
        await store.create(experiment("e1", "another"), "r9")
    assert refused.value.reason is Reason.EXPERIMENT_ALREADY_EXISTS
    assert refused.value.metadata == {"experiment": "e1"}


async def test_a_repeated_request_gets_the_first_experiment(store: Store) -> None:
    first = await store.create(experiment("e1"), "r1")
    assert await store.create(experiment("e1", created=NOW + timedelta(seconds=1)), "r1") == first
    with pytest.raises(Failure) as refused:
        await store.create(experiment("e2"), "r1")
    assert refused.value.reason is Reason.REQUEST_ID_REUSED
    assert await store.get(["e2"]) == {}


async def test_requests_without_id_are_all_different(store: Store) -> None:
    await store.create(experiment("e1"), "")
    await store.create(experiment("e2"), "")
    assert len((await store.page(10, None)).experiments) == 2


async def test_the_same_request_at_the_same_time_creates_once(store: Store) -> None:
    created = await asyncio.gather(*(store.create(experiment("e1"), "r1") for _ in range(5)))
    assert len({one.salt for one in created}) == 1
    assert len((await store.page(10, None)).experiments) == 1


async def test_pages_show_the_newest_first_and_each_once(store: Store) -> None:
    names = [f"e{number}" for number in range(7)]
    for name in names:
        await store.create(experiment(name), "")
    seen: list[str] = []
    before = None
    while True:
        page = await store.page(3, before)
        assert len(page.experiments) <= 3
        seen += [one.id for one in page.experiments]
        if len(seen) == 3:
            await store.create(experiment("later"), "")
        before = page.next_before
        if before is None:
            break
    assert seen == names[::-1]
    assert (await store.page(8, None)).next_before is None
    assert (await store.page(7, None)).next_before is not None


async def test_a_move_happens_once_and_only_from_its_source(store: Store) -> None:
    await store.create(experiment("e1"), "")
    assert not await move(store, "e1", [State.RUNNING], State.STOPPED)
    assert sorted(await asyncio.gather(*(move(store, "e1", [State.DRAFT], State.RUNNING) for _ in range(4)))) == [False] * 3 + [
        True
    ]
    running = (await store.get(["e1"]))["e1"]
    assert running.state is State.RUNNING
    assert running.start_time is not None
    assert abs((running.start_time - datetime.now(UTC)).total_seconds()) < 60
    assert running.stop_time is None
    assert await move(store, "e1", [State.RUNNING], State.STOPPED)
    stopped = (await store.get(["e1"]))["e1"]
    assert stopped.start_time == running.start_time
    assert stopped.stop_time is not None
    assert not await move(store, "missing", [State.DRAFT], State.RUNNING)


async def test_a_pause_keeps_the_first_start_and_its_place(store: Store) -> None:
    for name in ("e1", "e2"):
        await store.create(experiment(name), "")
        await move(store, name, [State.DRAFT, State.PAUSED], State.RUNNING)
    started = (await store.get(["e1"]))["e1"]
    assert await move(store, "e1", [State.RUNNING], State.PAUSED)
    assert not await move(store, "e1", [State.RUNNING], State.PAUSED)
    assert [one.id for one in (await store.configuration()).experiments] == ["e2"]
    assert (await store.get(["e1"]))["e1"] == replace(started, state=State.PAUSED)
    assert await move(store, "e1", [State.DRAFT, State.PAUSED], State.RUNNING)
    assert (await store.get(["e1"]))["e1"] == started
    assert [one.id for one in (await store.configuration()).experiments] == ["e1", "e2"]
    await move(store, "e1", [State.RUNNING], State.PAUSED)
    assert await move(store, "e1", [State.RUNNING, State.PAUSED], State.STOPPED)
    assert (await store.get(["e1"]))["e1"].stop_time is not None


async def test_each_change_is_noted_once(store: Store) -> None:
    author = Author("acme", "почему", "r1")
    await store.create(experiment("e1"), "q1", author)
    await store.create(experiment("e1"), "q1", author)
    await store.create(experiment("e2"), "")
    await asyncio.gather(*(move(store, "e1", [State.DRAFT], State.RUNNING, Author("acme", "go")) for _ in range(3)))
    await move(store, "e1", [State.DRAFT], State.RUNNING, Author("acme", "too late"))
    changes = await store.list_changes("e1", 10, 0)
    assert [(change.before, change.after, change.author.why) for change in changes] == [
        (None, State.DRAFT, "почему"),
        (State.DRAFT, State.RUNNING, "go"),
    ]
    assert changes[0].author == author
    assert changes[0].number < changes[1].number
    assert changes[0].time <= changes[1].time
    assert await store.list_changes("e1", 1, 0) == changes[:1]
    assert await store.list_changes("e1", 1, changes[0].number) == changes[1:]
    assert await store.list_changes("missing", 10, 0) == ()


async def test_all_that_a_step_changes_is_kept(store: Store) -> None:
    await store.create(experiment("e1"), "")
    decided = Conclusion("b", "ясно", NOW, "acme")
    changed: dict[str, Any] = {"traffic": 0.5, "stage_time": NOW, "layer_start": 0.75, "paused": ("b",), "conclusion": decided}
    assert await move(store, "e1", [State.DRAFT], State.RUNNING, **changed)
    found = (await store.get(["e1"]))["e1"]
    assert {name: getattr(found, name) for name in changed} == changed
    assert (await store.configuration()).experiments == (found,)


async def test_a_step_sees_what_is_alive_and_a_refused_one_changes_nothing(store: Store) -> None:
    for name in ("draft", "running", "paused", "stopped", "e1"):
        await store.create(experiment(name), "")
    for name in ("running", "paused", "stopped", "e1"):
        await move(store, name, [State.DRAFT], State.RUNNING)
    await move(store, "paused", [State.RUNNING], State.PAUSED)
    await move(store, "stopped", [State.RUNNING], State.STOPPED)
    before = await store.configuration()
    seen: list[str] = []

    def refuse(_: Experiment, alive: Sequence[Experiment]) -> Step:
        seen.extend(one.id for one in alive)
        raise Failure(Reason.EXPERIMENT_STATE, "no")

    with pytest.raises(Failure):
        await store.change("e1", refuse)
    assert sorted(seen) == ["paused", "running"]
    assert await store.configuration() == before


async def test_steps_are_carried_out_one_after_the_other(store: Store) -> None:
    await store.create(experiment("e1"), "")

    def more(found: Experiment, _: Sequence[Experiment]) -> Step:
        return Step(replace(found, traffic=found.traffic + 0.01), "more")

    await asyncio.gather(*(store.change("e1", more) for _ in range(8)))
    assert math.isclose((await store.get(["e1"]))["e1"].traffic, 0.09)
    assert [change.what for change in await store.list_changes("e1", 20, 0)] == ["", *["more"] * 8]


async def test_promotions_hold_until_reverted_and_are_noted(store: Store) -> None:
    for name in ("e1", "e2"):
        await store.create(experiment(name), "")
    arm = Arm("b", 1, model="m", temperature=0.0)
    first = await store.promote(Promotion(0, "e1", arm, (RequestType.ANSWER,), NOW), Author("acme", "won"))
    assert first == Promotion(first.number, "e1", arm, (RequestType.ANSWER,), NOW)
    assert await store.promote(Promotion(0, "e1", arm, (), NOW)) == first
    second = await store.promote(Promotion(0, "e2", arm, (), NOW))
    holding = await store.configuration()
    assert holding.promotions == (first, second)
    reverted = await store.revert(first.number, Author("acme", "oops"))
    assert reverted is not None
    assert reverted.revert_time is not None
    assert await store.revert(first.number) == reverted
    assert await store.revert(second.number + 1) is None
    after = await store.configuration()
    assert after.promotions == (second,)
    assert after.revision > holding.revision
    assert await store.promotions(10, None) == (second, reverted)
    assert await store.promotions(10, second.number) == (reverted,)
    assert [(one.what, one.author.why) for one in await store.list_changes("e1", 9, 0)][1:] == [
        (f"variant b promoted ({first.number})", "won"),
        (f"promotion {first.number} of variant b reverted", "oops"),
    ]


async def test_the_holdout_is_kept_and_noted(store: Store) -> None:
    before = await store.configuration()
    assert before.holdout == 0
    await store.set_holdout(0.05, Author("acme", "measure us"))
    await store.set_holdout(0.05, Author("acme", "again"))
    after = await store.configuration()
    assert after.holdout == await store.holdout() == 0.05
    assert after.revision == before.revision + 1
    [noted] = await store.list_changes("", 10, 0)
    assert (noted.what, noted.before, noted.after, noted.experiment) == ("holdout 0 -> 0.05", None, None, "")
    assert noted.author.why == "measure us"


async def test_the_configuration_holds_what_runs_in_order_of_start(store: Store) -> None:
    empty = await store.configuration()
    assert empty.experiments == ()
    for name in ("e1", "e2", "e3"):
        await store.create(experiment(name), "")
    assert await store.configuration() == empty
    for name in ("e3", "e1", "e2"):
        await move(store, name, [State.DRAFT], State.RUNNING)
    running = await store.configuration()
    assert [one.id for one in running.experiments] == ["e3", "e1", "e2"]
    await move(store, "e1", [State.RUNNING], State.STOPPED)
    fewer = await store.configuration()
    assert [one.id for one in fewer.experiments] == ["e3", "e2"]
    assert empty.revision < running.revision < fewer.revision
    await move(store, "e1", [State.RUNNING], State.STOPPED)
    assert await store.configuration() == fewer


async def test_a_change_is_told(store: Store) -> None:
    await store.create(experiment("e1"), "")
    async with aclosing(store.changes()) as changes:
        await asyncio.wait_for(anext(changes), 5)
        await move(store, "e1", [State.DRAFT], State.RUNNING)
        await asyncio.wait_for(anext(changes), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(changes), 0.2)


async def test_exposures_and_outcomes_count_once(store: Store) -> None:
    assert await store.record_exposures([exposure("x1"), exposure("x2"), exposure("x1")]) == 2
    assert await store.record_exposures([exposure("x2"), exposure("x3", variant="b")]) == 1
    assert await store.record_outcomes([outcome("o1", 1), outcome("o2", 2), outcome("o2", 3)]) == 2
    assert await store.record_outcomes([outcome("o1", 100), outcome("o3", 4)]) == 1
    tally = await store.tally("e1")
    assert tally.exposures == {"a": (2, 1), "b": (1, 1)}
    assert tally.outcomes == {("a", "clicks"): OutcomeTally(3, 1, 7.0)}


async def test_units_that_fell_back_stay_and_are_told_apart(store: Store) -> None:
    fell = Execution(
        "sha", ("docs@3",), attempts=(ExecutedAttempt("a", "m", "FAILED"), ExecutedAttempt("b", "n", "ANSWERED", 5))
    )
    await store.record_exposures([exposure("x1"), exposure("x2", unit="u2"), exposure("x3", unit="u3", variant="b")])
    await store.record_outcomes([outcome("o1", 1), outcome("o2", 9, unit="u2"), outcome("o3", 4, variant="b", unit="u3")])
    clean = await store.tally("e1")
    assert (clean.fell_back, clean.served) == ({}, None)
    await store.record_exposures([replace(exposure("x4", unit="u2"), execution=fell)])
    tally = await store.tally("e1")
    assert tally.fell_back == {"a": 1}
    assert tally.evidence == clean.evidence
    assert tally.served is not None
    kept = tally.served.moments["a", "clicks"]
    assert kept is not None
    assert (kept.units, kept.mean) == (1, 1.0)
    assert tally.served.moments["b", "clicks"] == tally.evidence.moments["b", "clicks"]


async def test_covariates_are_no_outcomes_and_stand_beside_them(store: Store) -> None:
    def covariate(key: str, value: float, **fields: str) -> Outcome:
        return replace(outcome(key, value, **fields), covariate=True)

    await store.record_outcomes(
        [outcome(f"o{n}", n, unit=f"u{n}") for n in range(4)] + [outcome("b1", 7, variant="b", unit="v1")]
    )
    assert (await store.tally("e1")).covariates == {}
    await store.record_outcomes(
        [
            *(covariate(f"c{n}", 10 * n, unit=f"u{n}") for n in range(3)),
            covariate("c0b", 20, unit="u0"),
            covariate("alone", 1000, unit="u9"),
        ]
    )
    tally = await store.tally("e1")
    assert tally.outcomes["a", "clicks"] == OutcomeTally(4, 4, 6.0)
    # Of u0 to u2 they are 10, 10 and 20; u3 and v1 have their mean, 40/3.
    found = tally.covariates["a", "clicks"]
    assert (found.units, found.known) == (4, 3)
    assert found.mean == pytest.approx(40 / 3)
    assert found.squares == pytest.approx(200 / 3)
    assert found.products == pytest.approx(-1.5 * (10 - 40 / 3) - 0.5 * (10 - 40 / 3) + 0.5 * (20 - 40 / 3))
    other = tally.covariates["b", "clicks"]
    assert (other.units, other.known) == (1, 0)
    assert other.mean == pytest.approx(40 / 3)
    assert other.squares == pytest.approx(0, abs=1e-9)


async def test_a_tally_tells_units_variants_and_metrics_apart(store: Store) -> None:
    await store.record_exposures([exposure(f"x{n}", unit=f"u{n % 3}", variant="ab"[n % 2]) for n in range(12)])
    await store.record_exposures([exposure("other", experiment="e2")])
    await store.record_outcomes(
        [
            outcome("o1", 1, unit="u1"),
            outcome("o2", 0, unit="u1"),
            outcome("o3", 1, unit="u2"),
            outcome("o4", 5, variant="b"),
            outcome("o5", 9, metric="seconds"),
        ]
    )
    tally = await store.tally("e1")
    assert tally.exposures == {"a": (6, 3), "b": (6, 3)}
    assert tally.outcomes == {
        ("a", "clicks"): OutcomeTally(3, 2, 2.0),
        ("b", "clicks"): OutcomeTally(1, 1, 5.0),
        ("a", "seconds"): OutcomeTally(1, 1, 9.0),
    }
    assert (await store.tally("missing")).exposures == {}


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ([0.1] * 10, 1.0),
        ([1e16, 1.0, -1e16], 1.0),
        ([5e-324], 5e-324),
        ([1e290, 1e290, -1e290], 1e290),
        ([-0.0], 0.0),
        ([math.pi, math.e, -math.pi], math.e),
    ],
)
async def test_sums_are_exact(store: Store, values: list[float], total: float) -> None:
    await store.record_outcomes([outcome(f"o{n}", value) for n, value in enumerate(values)])
    assert (await store.tally("e1")).outcomes["a", "clicks"].sum == total


async def test_evidence_is_between_units(store: Store) -> None:
    await store.record_outcomes(
        [
            outcome("o1", 1.5, unit="u1"),
            outcome("o2", 2.5, unit="u1"),
            outcome("o3", -4, unit="u2"),
            outcome("o4", 0.25, unit="u3"),
            outcome("o5", 7, variant="b"),
        ]
    )
    found = (await store.tally("e1")).evidence.moments
    # Means 2, -4, .25; sums 4, -4, .25; numbers 2, 1, 1.
    expected = Moments(3, -1.75 / 3, 19.0416666667, 0.25 / 3, 4 / 3, 32.0416666667, 2 / 3, 3.9166666667, -4, 2.5)
    clicks = found["a", "clicks"]
    assert clicks is not None
    assert astuple(clicks) == pytest.approx(astuple(expected))
    assert found["b", "clicks"] == Moments(1, 7, 0, 7, 1, 0, 0, 0, 7, 7)


async def test_evidence_far_from_zero_keeps_its_spread(store: Store) -> None:
    await store.record_outcomes([outcome(f"o{n}", 1e9 + n % 2, unit=f"u{n}") for n in range(100)])
    found = (await store.tally("e1")).evidence.moments["a", "clicks"]
    assert found is not None
    assert found.squares == pytest.approx(25, rel=1e-6)
    assert found.total_squares == pytest.approx(25, rel=1e-6)


async def test_outcomes_too_large_to_be_squared_are_no_evidence(store: Store) -> None:
    values = {"a": [1e140, -1e140, 1e140], "b": [1.0, 1.1e140]}
    await store.record_outcomes(
        [
            outcome(f"{variant}{n}", value, variant=variant, unit=f"u{n}")
            for variant in values
            for n, value in enumerate(values[variant])
        ]
    )
    tally = await store.tally("e1")
    assert tally.evidence.moments["b", "clicks"] is None
    fitting = tally.evidence.moments["a", "clicks"]
    assert fitting is not None
    assert math.isfinite(fitting.squares)
    assert tally.outcomes["b", "clicks"].sum == 1.1e140


async def test_a_look_sees_what_had_been_recorded_by_then(store: Store) -> None:
    await store.record_outcomes([outcome("o1", 1, unit="u1"), outcome("o2", 3, unit="u2")])
    await asyncio.sleep(0.05)
    look = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await store.record_outcomes([outcome("o3", 5, unit="u2"), outcome("o4", 9, variant="b")])
    assert (await store.tally("e1")).seen == Evidence()
    tally = await store.tally("e1", look)
    assert tally.seen.moments.keys() == {("a", "clicks")}
    seen, now = tally.seen.moments["a", "clicks"], tally.evidence.moments["a", "clicks"]
    assert seen is not None
    assert now is not None
    assert (seen.units, seen.mean, now.units, now.mean) == (2, 2, 2, 2.5)
    assert (await store.tally("e1", look - timedelta(hours=1))).seen == Evidence()


async def test_batches_with_the_same_keys_at_once_all_end(store: Store) -> None:
    keys = [f"o{number}" for number in range(300)]
    batches = [[outcome(key) for key in (keys if turn % 2 else keys[::-1])] for turn in range(6)]
    assert sum(await asyncio.gather(*(store.record_outcomes(batch) for batch in batches))) == 300
