"""What may become of an experiment. Pure steps from one state to the next, and the domain's way to have them stored."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from services.chassis.errors import Failure, Reason
from services.experiments.design import check, shared_settings
from services.experiments.experiments import (
    DEFAULT_PAGE,
    HASH_VERSION,
    NOBODY,
    Author,
    Conclusion,
    Design,
    Experiment,
    Page,
    Promotion,
    State,
    check_text,
    existing,
    first_traffic,
    wrong_state,
)
from services.experiments.store import ChangePage, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.experiments.store import Store

_ROUNDING: Final = 1e-9
_ALIVE: Final = (State.RUNNING, State.PAUSED)


def start(experiment: Experiment, active: Sequence[Experiment], variant: str = "") -> Step:
    """Lets it, or one of its variants, assign. `active` are the others that run or are paused."""
    now = datetime.now(UTC)
    if variant:
        experiment.arm(variant)
        if experiment.state not in _ALIVE:
            raise wrong_state(experiment, "a variant can only be started in an experiment that runs or is paused")
        kept = tuple(one for one in experiment.paused if one != variant)
        return Step(replace(experiment, paused=kept), f"variant {variant} started")
    if experiment.state is State.RUNNING:
        return Step(experiment)
    if experiment.state not in (State.DRAFT, State.PAUSED):
        raise wrong_state(experiment, "it cannot be started again; create a new one")
    _check_conflicts(experiment, [one for one in active if one.state is State.RUNNING])
    if experiment.state is State.PAUSED:
        return Step(replace(experiment, state=State.RUNNING))
    started = replace(
        experiment,
        state=State.RUNNING,
        start_time=now,
        traffic=first_traffic(experiment.design),
        stage_time=now if experiment.design.ramp else None,
        layer_start=_slice(experiment, active),
    )
    return Step(started)


def _check_conflicts(experiment: Experiment, running: Sequence[Experiment]) -> None:
    design = experiment.design
    for other in running:
        if other.design.layer == design.layer:
            if design.layer and other.design.unit is not design.unit:
                problem = (
                    f"randomises {other.design.unit.value}s, this one {design.unit.value}s; in one layer all must be alike"
                )
                raise _conflict(experiment, other, problem)
            continue
        shared = shared_settings(design, other.design)
        if shared:
            raise _conflict(experiment, other, f"changes {', '.join(shared)} of the same calls, too; put both into one layer")


def _conflict(experiment: Experiment, other: Experiment, problem: str) -> Failure:
    return Failure(
        Reason.EXPERIMENT_CONFLICT,
        f"experiment {experiment.id!r} cannot start: {other.id!r}, which runs, {problem}",
        metadata={"experiment": experiment.id, "other": other.id},
    )


def _slice(experiment: Experiment, active: Sequence[Experiment]) -> float:
    """The first place of its layer that is wide enough; paused experiments keep theirs."""
    layer, share = experiment.design.layer, experiment.design.layer_share
    if not layer:
        return 0.0
    neighbours = sorted((one for one in active if one.design.layer == layer), key=lambda one: one.layer_start)
    begin = 0.0
    for other in neighbours:
        if begin + share <= other.layer_start + _ROUNDING:
            return begin
        begin = max(begin, other.layer_start + other.design.layer_share)
    if begin + share <= 1 + _ROUNDING:
        return min(begin, 1.0)
    raise Failure(
        Reason.EXPERIMENT_CONFLICT,
        f"layer {layer!r} has no {share:g} left in one piece beside {', '.join(repr(one.id) for one in neighbours)}; "
        "stop one of them, or ask for a smaller layer_share",
        metadata={"experiment": experiment.id, "other": neighbours[-1].id if neighbours else "", "layer": layer},
    )


def pause(experiment: Experiment, variant: str = "") -> Step:
    """Lets it, or one of its variants, assign nothing until it is started again."""
    if variant:
        experiment.arm(variant)
        if experiment.state not in _ALIVE:
            raise wrong_state(experiment, "a variant can only be paused in an experiment that runs or is paused")
        if variant in experiment.paused:
            return Step(experiment)
        return Step(replace(experiment, paused=(*experiment.paused, variant)), f"variant {variant} paused")
    if experiment.state is State.PAUSED:
        return Step(experiment)
    if experiment.state is not State.RUNNING:
        raise wrong_state(experiment, "only a running one can be paused")
    return Step(replace(experiment, state=State.PAUSED))


def stop(experiment: Experiment) -> Step:
    """Ends its assigning for good."""
    if experiment.state is State.STOPPED:
        return Step(experiment)
    if experiment.state not in _ALIVE:
        raise wrong_state(experiment, "only one that was started and is not concluded can be stopped")
    return Step(replace(experiment, state=State.STOPPED, stop_time=datetime.now(UTC)))


def advance(experiment: Experiment, traffic: float | None = None) -> Step:
    """Moves the ramp to this share, or to its next stage."""
    if experiment.state not in _ALIVE:
        raise wrong_state(experiment, "only the ramp of one that runs or is paused can be moved")
    ramp = experiment.design.ramp
    share = traffic if traffic is not None else ramp.after(experiment.traffic) if ramp else None
    if share is None:
        raise wrong_state(experiment, f"{experiment.traffic:g} of the units take part, and no stage comes after; name a share")
    if share == experiment.traffic:
        return Step(experiment)
    what = f"traffic {experiment.traffic:g} -> {share:g}"
    return Step(replace(experiment, traffic=share, stage_time=datetime.now(UTC)), what)


def conclude(experiment: Experiment, winner: str, author: Author) -> Step:
    """Decides it, and stops it where it still assigns."""
    if winner:
        experiment.arm(winner)
    if experiment.state not in (*_ALIVE, State.STOPPED):
        raise wrong_state(experiment, "only one that was started can be concluded, and only once")
    now = datetime.now(UTC)
    conclusion = Conclusion(winner, author.why, now, author.who)
    concluded = replace(experiment, state=State.CONCLUDED, stop_time=experiment.stop_time or now, conclusion=conclusion)
    return Step(concluded, f"winner {winner}" if winner else "no winner")


class Experiments:
    """Creates experiments, moves them through their life, and makes winners the default."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, design: Design, request_id: str = "", author: Author = NOBODY) -> Experiment:
        """Stores a new experiment in DRAFT, or returns the earlier one where `request_id` was used for the same before."""
        check(design)
        check_text("request_id", request_id)
        experiment = Experiment(
            design=design,
            state=State.DRAFT,
            hash_version=HASH_VERSION,
            salt=secrets.token_hex(16),
            create_time=datetime.now(UTC),
            traffic=first_traffic(design),
        )
        stored = await self._store.create(experiment, request_id, author)
        # A repeated call gets the response it got before, whatever has become of the experiment since.
        return stored.draft()

    async def get(self, experiment: str) -> Experiment:
        """Returns one experiment, or raises EXPERIMENT_NOT_FOUND."""
        return await existing(self._store, experiment)

    async def page(self, size: int, before: int | None) -> Page:
        """Returns up to `size` experiments, newest first, from the mark of an earlier page on; size 0 means 50."""
        return await self._store.page(size or DEFAULT_PAGE, before)

    async def start(self, experiment: str, author: Author = NOBODY, variant: str = "") -> Experiment:
        """Lets it, or one variant, assign, at first or after a pause; what runs stays as it is."""
        return await self._change(experiment, lambda found, active: start(found, active, variant), author)

    async def pause(self, experiment: str, author: Author = NOBODY, variant: str = "") -> Experiment:
        """Lets it, or one variant, assign nothing until it is started again; what is paused stays as it is."""
        return await self._change(experiment, lambda found, _: pause(found, variant), author)

    async def stop(self, experiment: str, author: Author = NOBODY) -> Experiment:
        """Ends its assigning for good; a stopped one stays as it is."""
        return await self._change(experiment, lambda found, _: stop(found), author)

    async def advance(self, experiment: str, author: Author = NOBODY, traffic: float | None = None) -> Experiment:
        """Moves its ramp to the next stage, or to a share above 0 to 1."""
        return await self._change(experiment, lambda found, _: advance(found, traffic), author)

    async def conclude(self, experiment: str, author: Author = NOBODY, winner: str = "") -> Experiment:
        """Decides it for good."""
        return await self._change(experiment, lambda found, _: conclude(found, winner, author), author)

    async def promote(self, experiment: str, author: Author = NOBODY) -> Promotion:
        """Makes its winner the default; returns the promotion that holds, also where it held before."""
        check_text("why", author.why)
        found = await self.get(experiment)
        if found.conclusion is None or not found.conclusion.winner:
            raise wrong_state(found, "only the winner of a concluded experiment can be promoted; conclude it with one")
        arm = found.arm(found.conclusion.winner)
        promotion = Promotion(0, found.id, arm, found.design.request_types, datetime.now(UTC))
        return await self._store.promote(promotion, author)

    async def revert(self, promotion: int, author: Author = NOBODY) -> Promotion:
        """Takes a promotion back, or raises PROMOTION_NOT_FOUND."""
        check_text("why", author.why)
        found = await self._store.revert(promotion, author)
        if found is None:
            raise Failure(
                Reason.PROMOTION_NOT_FOUND,
                f"there is no promotion {promotion}; ListPromotions names those there are",
                metadata={"promotion": str(promotion)},
            )
        return found

    async def promotions(self, size: int, before: int | None) -> tuple[tuple[Promotion, ...], int | None]:
        """Up to `size` promotions, latest first, and where the next page begins; size 0 means 50."""
        size = size or DEFAULT_PAGE
        found = await self._store.promotions(size + 1, before)
        return found[:size], found[size - 1].number if len(found) > size else None

    async def holdout(self) -> float:
        """Share of units that meet no experiment."""
        return await self._store.holdout()

    async def set_holdout(self, share: float, author: Author = NOBODY) -> float:
        """Sets it, 0 to 0.5."""
        check_text("why", author.why)
        await self._store.set_holdout(share, author)
        return share

    async def changes(self, experiment: str, size: int, after: int) -> ChangePage:
        """Up to `size` changes of one experiment, or of all where it is empty, oldest first; size 0 means 50."""
        if experiment:
            await self.get(experiment)
        size = size or DEFAULT_PAGE
        found = await self._store.list_changes(experiment, size + 1, after)
        return ChangePage(found[:size], found[size - 1].number if len(found) > size else None)

    async def _change(
        self, experiment: str, step: Callable[[Experiment, Sequence[Experiment]], Step], author: Author
    ) -> Experiment:
        check_text("experiment", experiment)
        check_text("why", author.why)
        changed = await self._store.change(experiment, step, author)
        return changed if changed is not None else await self.get(experiment)
