"""What every store answers to a creation that it cannot carry out."""

from __future__ import annotations

from services.chassis.errors import Failure, Reason


def already_exists(experiment: str) -> Failure:
    """Another experiment has this id."""
    return Failure(
        Reason.EXPERIMENT_ALREADY_EXISTS,
        f"there is an experiment {experiment!r} already; choose another id",
        metadata={"experiment": experiment},
    )


def request_id_reused(request_id: str) -> Failure:
    """The same request id came with another design."""
    return Failure(
        Reason.REQUEST_ID_REUSED,
        f"request_id {request_id!r} was used before for another experiment; take a new one for a new request",
        metadata={"request_id": request_id},
    )
