"""Takes only calls that are sealed, and seals those that go out."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final

import grpc.aio

from services.chassis.errors import Failure, Reason
from services.chassis.interceptors import Context, Interceptor
from services.chassis.seal import SEAL_HEADER, Seal

if TYPE_CHECKING:
    from collections.abc import Callable

# Who asks these learns nothing of anybody: probes have no secret.
_OPEN: Final = ("/grpc.health.v1.", "/grpc.reflection.")


class Sealed(Interceptor):
    """Refuses what neither the gateway nor another service has signed."""

    def __init__(self, seal: Seal) -> None:
        super().__init__()
        self._seal = seal

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        """Checks the signature before anything else of the call is looked at."""
        return _Checked(None if method.startswith(_OPEN) else self._seal, context)


class _Checked(AbstractAsyncContextManager[None]):
    __slots__ = ("_context", "_seal")

    def __init__(self, seal: Seal | None, context: Context) -> None:
        self._seal = seal
        self._context = context

    async def __aenter__(self) -> None:
        if self._seal is not None and not self._seal.holds(dict(self._context.invocation_metadata() or ())):
            raise Failure(
                Reason.UNAUTHENTICATED, "this service takes calls by the gateway only, which signs who calls; ask the gateway"
            )

    async def __aexit__(self, *_: object) -> None:
        return None


class _Sealing:
    """Signs the identity in the metadata of each call of a channel."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    def sealed(self, details: Any) -> Any:
        """The call's details with the signature in its metadata."""
        told = {name: value for name, value in details.metadata or () if isinstance(value, str)}
        return details._replace(metadata=grpc.aio.Metadata(*(details.metadata or ()), (SEAL_HEADER, self._seal.sign(told))))


class _UnaryUnary(_Sealing, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        return await continuation(self.sealed(client_call_details), request)


class _UnaryStream(_Sealing, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        return await continuation(self.sealed(client_call_details), request)


class _StreamUnary(_Sealing, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(self.sealed(client_call_details), request_iterator)


class _StreamStream(_Sealing, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(self.sealed(client_call_details), request_iterator)


def sealing(seal: Seal | None) -> list[Any]:
    """What signs a channel's calls: grpc.aio takes an interceptor for one of the four kinds of calls only."""
    if seal is None:
        return []
    return [_UnaryUnary(seal), _UnaryStream(seal), _StreamUnary(seal), _StreamStream(seal)]
