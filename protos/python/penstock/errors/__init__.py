"""What the clients raise: one class a gRPC code, with all that the server said. `penstock.errors.v1` lists the reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DETAILS_TRAILER: Final = "grpc-status-details-bin"
_BY_NUMBER: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


class PenstockError(Exception):
    """A call that failed.

    Attributes:
        code: The gRPC code.
        reason: Why, as a value of penstock.errors.v1.ErrorReason without its prefix, such as `MODEL_NOT_FOUND`; empty where
            the failure lies on the way to the server.
        message: What was wrong, with which value, and what to do.
        metadata: Facts for programs, as documented with the reason.
        fields: What is wrong with each field of the request, by path such as `documents[0].text`.
        request_id: Finds the call in the server's logs.
        retry_after: Seconds after which trying again may help; None where the server said nothing of it.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.fields = dict(fields or {})
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        name = f"{self.code.name} ({self.reason})" if self.reason else self.code.name
        request = f" [request {self.request_id}]" if self.request_id else ""
        return f"{name}: {self.message}{request}"


class InvalidArgumentError(PenstockError):
    """The request breaks a limit of the contract; `fields` names which."""


class NotFoundError(PenstockError):
    """What the request names does not exist."""


class AlreadyExistsError(PenstockError):
    """What was to be created exists."""


class FailedPreconditionError(PenstockError):
    """The state of things does not allow the call; repeating it does not help."""


class AbortedError(PenstockError):
    """The call clashed with another one."""


class ResourceExhaustedError(PenstockError):
    """Too much at a time, or too large; `retry_after` may say when to come back."""


class UnauthenticatedError(PenstockError):
    """The API key is missing or unknown."""


class PermissionDeniedError(PenstockError):
    """The API key does not allow this."""


class UnavailableError(PenstockError):
    """The server, or what it needs, is not there at the moment."""


class DeadlineExceededError(PenstockError):
    """The call took longer than its timeout."""


class CallCancelledError(PenstockError):
    """The call was cancelled by the server or on the way."""


class UnimplementedError(PenstockError):
    """The server does not have this method."""


class InternalError(PenstockError):
    """A defect of the server; `request_id` finds it in its logs."""


class StreamIncompleteError(PenstockError):
    """The stream ended without its terminal event: what came of it is not the whole."""


_CLASSES: Final[dict[grpc.StatusCode, type[PenstockError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: InternalError,
}


def error_of_call(error: Any, request_id: str = "") -> PenstockError:
    """Turns what grpc raised, in either of its flavours, into the error that callers see."""
    code = error.code()
    trailers: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()
    for key, value in trailers:
        if key != _DETAILS_TRAILER or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except DecodeError:
            break
        # The details of another status than the call's own say nothing of this failure.
        if status.code == code.value[0]:
            return error_of_status(status, request_id)
    return _CLASSES.get(code, PenstockError)(error.details() or code.value[1], code=code, request_id=request_id)


def error_of_status(status: status_pb2.Status, request_id: str = "") -> PenstockError:
    """Reads a google.rpc.Status with its details."""
    code = _BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.RequestInfo()
    retry_after: float | None = None
    for detail in status.details:
        for known in (info, bad, request):
            detail.Unpack(known)
        if detail.Unpack(retry):
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return _CLASSES.get(code, PenstockError)(
        status.message,
        code=code,
        reason=info.reason,
        metadata=dict(info.metadata),
        fields={violation.field: violation.description for violation in bad.field_violations},
        request_id=request.request_id or request_id,
        retry_after=retry_after,
    )
