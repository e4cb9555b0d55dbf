"""What the command line exits with, and what it says of failures."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from penstock import errors

if TYPE_CHECKING:
    from collections.abc import Mapping


class Exit(IntEnum):
    """The exit statuses."""

    # Done.
    DONE = 0
    # Failed: a defect of the server, or a stream that broke off.
    FAILED = 1
    # The command line itself makes no sense.
    USAGE = 2
    # What it names does not exist.
    NOT_FOUND = 3
    # The server refuses it as it stands; repeating it does not help.
    REFUSED = 4
    # The server, or what it needs, is not there or has no room; repeating it later may help.
    UNAVAILABLE = 5
    # Done in part: some files could not be added.
    PARTLY = 6
    # Ended by Ctrl-C.
    INTERRUPTED = 130


_BY_CLASS: Final[dict[type[errors.PenstockError], Exit]] = {
    errors.NotFoundError: Exit.NOT_FOUND,
    errors.InvalidArgumentError: Exit.REFUSED,
    errors.AlreadyExistsError: Exit.REFUSED,
    errors.FailedPreconditionError: Exit.REFUSED,
    errors.AbortedError: Exit.REFUSED,
    errors.UnauthenticatedError: Exit.REFUSED,
    errors.PermissionDeniedError: Exit.REFUSED,
    errors.UnimplementedError: Exit.REFUSED,
    errors.ResourceExhaustedError: Exit.REFUSED,
    errors.UnavailableError: Exit.UNAVAILABLE,
    errors.DeadlineExceededError: Exit.UNAVAILABLE,
    errors.CallCancelledError: Exit.UNAVAILABLE,
}


class CommandError(Exception):
    """What the user asked for cannot be done; the message is for the user.

    Attributes:
        status: What to exit with.
    """

    def __init__(self, message: str, status: Exit = Exit.USAGE) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: errors.PenstockError | CommandError) -> Exit:
    """What to exit with after an error."""
    if isinstance(error, CommandError):
        return error.status
    # Where the server says when to come back, it is full or busy; where not, it will never take this.
    if isinstance(error, (errors.ResourceExhaustedError, errors.FailedPreconditionError)) and error.retry_after is not None:
        return Exit.UNAVAILABLE
    return _BY_CLASS.get(type(error), Exit.FAILED)


def told(error: errors.PenstockError | CommandError, url: str) -> list[str]:
    """An error in plain words: what is wrong, with which field, why, and the id that finds it in the server's logs."""
    if isinstance(error, CommandError):
        return [str(error)]
    if isinstance(error, errors.UnavailableError) and not error.reason:
        return [
            f"nothing answers at {url}. Is penstock running? Name another place with --url or PENSTOCK_URL. ({error.message})"
        ]
    lines = [error.message]
    lines += [f"  {field}: {what}" for field, what in error.fields.items() if what not in error.message]
    if isinstance(error, errors.UnauthenticatedError):
        lines.append("  give a key with --api-key or PENSTOCK_API_KEY")
    if error.retry_after is not None:
        lines.append(f"  try again in {error.retry_after:g} s")
    lines.append(f"  {error.reason or error.code.name}" + (f" · request {error.request_id}" if error.request_id else ""))
    return lines


def as_json(error: errors.PenstockError | CommandError) -> Mapping[str, Any]:
    """An error for programs."""
    if isinstance(error, CommandError):
        return {"message": str(error)}
    return {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "fields": error.fields,
        "request_id": error.request_id,
        "retry_after": error.retry_after,
    }
