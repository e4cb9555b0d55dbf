"""What becomes of a failed call to another penstock service."""

from __future__ import annotations

import logging
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from services.chassis.errors import Failure, Reason
from services.chassis.status import DETAILS_TRAILER, DOMAIN

_log = logging.getLogger(__name__)


def failure_of(error: grpc.aio.AioRpcError, service: str) -> Failure:
    """The failure to raise in place of the error: the one that the service told, where it told one.

    Args:
        error: What the stub raised.
        service: Short name of the service that was called, such as `inference`.
    """
    told = _told(error)
    if told is not None:
        return told
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(Reason.DEADLINE_EXCEEDED, f"the {service} service did not answer within the time allowed")
    if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        _log.error("the %s service failed with %s: %s", service, error.code().name, error.details())
    return Failure(
        Reason.SERVICE_UNAVAILABLE,
        f"the {service} service does not answer; try again",
        metadata={"service": service},
        retry_after=1,
    )


def _told(error: grpc.aio.AioRpcError) -> Failure | None:
    trailers: Any = error.trailing_metadata() or ()
    raw = next((value for key, value in trailers if key == DETAILS_TRAILER), None)
    return failure_told(status_pb2.Status.FromString(raw)) if isinstance(raw, bytes) else None


def failure_told(status: status_pb2.Status) -> Failure | None:
    """The failure that a penstock service wrote into a status; None where somebody else wrote it."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_after = None
    for detail in status.details:
        if detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
        else:
            detail.Unpack(info)
    if info.domain != DOMAIN or info.reason not in Reason.__members__:
        return None
    return Failure(Reason[info.reason], status.message, metadata=dict(info.metadata), retry_after=retry_after)
