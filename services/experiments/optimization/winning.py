"""Who wins, and the experiment that has to confirm it on live traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.assignment import Arm

from services.experiments.analysis import Direction, Kind, Metric, Role
from services.experiments.experiments import Author, Design, Ramp
from services.experiments.optimization.measuring import Objective

if TYPE_CHECKING:
    from services.experiments.optimization.optimizations import Optimization, Trial

_STAGES: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
_METRICS: Final = {
    Objective.RESPONSE_TIME: ("response_time", Direction.DECREASE, Kind.MEAN),
    Objective.QUALITY_SCORE: ("quality_score", Direction.INCREASE, Kind.MEAN),
    Objective.ERROR_RATE: ("error_rate", Direction.DECREASE, Kind.MEAN),
}


def winner_of(optimization: Optimization) -> tuple[Trial | None, str]:
    """The finalist that is best on the questions held out, in the first objective, of equal ones in the next; and a note.

    None where none is better there than the settings in use.
    """
    objectives = optimization.design.objectives
    in_use, *finalists = optimization.finals
    told = {final.trial: losses for final in optimization.finals if (losses := final.measures.losses(objectives)) is not None}
    known = [final for final in finalists if final.trial in told]
    if not known:
        return None, "no finalist could be measured in all objectives on the questions held out"
    best = min(known, key=lambda final: told[final.trial])
    if in_use.trial in told and told[best.trial] >= told[in_use.trial]:
        return None, "no finalist was better than the settings in use on the questions held out"
    return best, ""


def draft_of(optimization: Optimization, winner: Trial) -> tuple[Design, Author]:
    """The experiment of the winner against the settings in use, with a ramp, and in whose name it is made."""
    design = optimization.design
    experiment = f"{design.optimization}-{optimization.uid}"
    metrics = []
    for place, objective in enumerate(design.objectives):
        name, direction, kind = _METRICS[objective]
        metrics.append(Metric(name, direction, kind, Role.GUARDRAIL if place else Role.PRIMARY))
    changed = ", ".join(sorted(winner.settings.changes()))
    made = Design(
        experiment=experiment,
        hypothesis=(
            f"Trial {winner.trial} of optimization {design.optimization} ({changed}) beats the settings in use, as it was "
            "on questions held out."
        ),
        unit=design.unit,
        variants=(
            Arm(variant="control", weight=1.0),
            Arm(variant=f"trial-{winner.trial}", weight=1.0, **winner.settings.changes()),
        ),
        metrics=tuple(metrics),
        request_types=(design.request_type,),
        ramp=Ramp(_STAGES),
    )
    why = f"optimization {design.optimization} found it"
    return made, Author(optimization.caller.tenant, why, f"optimization-{optimization.uid}")
