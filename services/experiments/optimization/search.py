"""Which setting to try next, by optuna. Heavy: only the analyst's child imports it.

The study is rebuilt from the finished trials each time, so that the database holds all there is to know of a search, and a
trial that died with its worker leaves nothing behind.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import optuna

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from services.experiments.optimization.proposals import Proposal
    from services.experiments.optimization.space import Space, Value

# Times that the sampler is asked for something that was not tried yet, before one is taken by lot.
_MOST_ASKED: Final = 10
_STARTUP_SHARE: Final = 3

optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(proposal: Proposal) -> dict[str, Value] | None:
    """The point to try next, by TPE (of several objectives: Ozaki et al., 2022); None where all have been tried."""
    tried = {_key(point) for point, _ in proposal.tried}
    study = _study(proposal)
    distributions = _distributions(proposal.space)
    for _ in range(_MOST_ASKED):
        asked = study.ask(distributions)
        if _key(asked.params) not in tried:
            return asked.params
        # An equal point would be proposed again unless the study sees that this one led nowhere.
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
    rest = [point for point in proposal.space.listed() if _key(point) not in tried]
    return random.Random(proposal.seed + len(tried)).choice(rest) if rest else None  # noqa: S311 - no secret


def _study(proposal: Proposal) -> optuna.Study:
    # The same number of finished trials leads to the same proposal, whichever process makes it.
    sampler = optuna.samplers.TPESampler(
        seed=proposal.seed + len(proposal.tried),
        n_startup_trials=max(1, min(10, proposal.planned // _STARTUP_SHARE)),
    )
    study = optuna.create_study(directions=["minimize"] * proposal.objectives, sampler=sampler)
    distributions = _distributions(proposal.space)
    for point, losses in proposal.tried:
        state = optuna.trial.TrialState.FAIL if losses is None else optuna.trial.TrialState.COMPLETE
        values = None if losses is None else [float(loss) for loss in losses]
        study.add_trial(optuna.trial.create_trial(state=state, values=values, params=dict(point), distributions=distributions))
    return study


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {}
    for name, values in space.choices().items():
        found[name] = optuna.distributions.CategoricalDistribution(values)
    for name, span in space.spans().items():
        found[name] = optuna.distributions.FloatDistribution(span.low, span.high)
    for name, integers in space.integers().items():
        found[name] = optuna.distributions.IntDistribution(integers.low, integers.high)
    return found


def _key(point: dict[str, Value]) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted(point.items()))
