"""What the end of a generation tells of the models that took part in it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from services.chassis.errors import Reason
from services.inference.auto.decision import Why
from services.inference.auto.records import Ending, Record, key_of
from services.inference.engine import FinishReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.chassis.errors import Failure
    from services.inference.resilience import Attempt
    from services.inference.routing import Route

_ENDINGS: Final = {
    FinishReason.STOP: Ending.WELL,
    FinishReason.TOOL_CALLS: Ending.WELL,
    FinishReason.LENGTH: Ending.CUT,
    FinishReason.CONTENT_FILTER: Ending.WITHHELD,
}
# What is the model's own doing. That a server is away or has too much to do says nothing of its answers.
_OWN: Final = {Reason.GENERATION_FAILED: Ending.FAILED, Reason.CONTENT_POLICY: Ending.WITHHELD}
# What was decided by something else than what the request looks like.
_APART: Final = frozenset({Why.ASSIGNED, Why.WEIGHT, Why.ENGINE_ORDER, Why.NONE_ABLE})


def told_by(
    tenant: str,
    request_id: str,
    route: Route,
    attempts: Sequence[Attempt],
    end: FinishReason | Failure | None,
) -> Iterator[Record]:
    """What to record of a generation that is over; nothing where it was not routed by what is recorded.

    A request that no model was asked for tells nothing.

    Args:
        tenant: On whose behalf it was.
        request_id: Finds its feedback.
        route: Where it was to go.
        attempts: All of them; the last one is the one that `end` is of, whatever failed before.
        end: How it ended; None where it was left before its end.
    """
    decision = route.decision
    if decision is None or decision.features is None or decision.why in _APART or not request_id or not attempts:
        return
    vector, now = decision.features.vector(), time.time()

    def record(name: str, model: str, ending: Ending, output_tokens: int = 0) -> Record:
        propensity = decision.propensity if model == decision.model else 0.0
        return Record(key_of(tenant, name), route.alias, model, decision.why, propensity, vector, ending, output_tokens, now)

    for attempt in attempts[:-1]:
        if attempt.reason in _OWN:
            # A record of its own: feedback is of the one that answered.
            yield record(f"{request_id}\0{attempt.model}", attempt.model, _OWN[attempt.reason])
    last = attempts[-1]
    if isinstance(end, FinishReason):
        yield record(request_id, last.model, _ENDINGS[end], last.output_tokens)
    else:
        yield record(request_id, last.model, _OWN.get(end.reason, Ending.UNKNOWN) if end else Ending.UNKNOWN)
