"""Penstock's Python package: typed stubs in `penstock.<domain>.v1`, two clients, and in-process assignment.

`Client` and `AsyncClient` load when first asked for, so that `penstock.assignment` needs neither grpc nor protobuf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.aio import AsyncClient
    from penstock.client import Client
    from penstock.errors import (
        AbortedError,
        AlreadyExistsError,
        CallCancelledError,
        DeadlineExceededError,
        FailedPreconditionError,
        InternalError,
        InvalidArgumentError,
        NotFoundError,
        PenstockError,
        PermissionDeniedError,
        ResourceExhaustedError,
        StreamIncompleteError,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
    )

    __version__: str

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "AsyncClient",
    "CallCancelledError",
    "Client",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "PenstockError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "StreamIncompleteError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "__version__",
]

# ruff: noqa: PLC0415 - loading late is what this module is for


def __getattr__(name: str) -> Any:
    if name == "Client":
        from penstock.client import Client

        return Client
    if name == "AsyncClient":
        from penstock.aio import AsyncClient

        return AsyncClient
    if name == "__version__":
        from importlib.metadata import version

        return version("penstock")
    if name in __all__:
        from penstock import errors

        return getattr(errors, name)
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
