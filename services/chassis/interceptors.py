"""Server interceptors: one concern each, in one ordered list (see `server`).

A subclass says what happens around a call and when a message comes in; the base wraps the four kinds of handlers, so that
streams and cancellation are right once, for all concerns. All handlers are coroutines or async generators.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import uuid
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import grpc.aio
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, StatusCode

from services.chassis import telemetry
from services.chassis.call import Call, current_call, enter_call
from services.chassis.errors import Failure, Reason
from services.chassis.status import code_of, trailers_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_log = logging.getLogger(__name__)
_tracer = trace.get_tracer("penstock")
_FAR: Final = 3600.0 * 24 * 365
_LONGEST_TENANT: Final = 256
_MOST_GROUPS: Final = 64
_CODE_NAMES: Final = {status.value[0]: status.name for status in grpc.StatusCode}


class Interceptor(grpc.aio.ServerInterceptor):
    """One concern around every call."""

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        """Runs around the whole call, streams included."""
        raise NotImplementedError

    def receive(self, message: Any) -> Any:
        """Sees each request message before the handler does; returns it or raises Failure."""
        return message

    def deserializer(self, handler: Any, method: str) -> Callable[[bytes], Any]:  # noqa: ARG002 - for subclasses
        """What turns bytes into the request message."""
        return handler.request_deserializer  # type: ignore[no-any-return]  # grpc leaves handlers untyped

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler that the rest of the list found."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            return grpc.unary_unary_rpc_method_handler(_unknown_method(method))
        coders = {
            "request_deserializer": self.deserializer(handler, method),
            "response_serializer": handler.response_serializer,
        }
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streams_out(handler.stream_stream, method, True), **coders)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._returns(handler.stream_unary, method, True), **coders)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streams_out(handler.unary_stream, method, False), **coders)
        return grpc.unary_unary_rpc_method_handler(self._returns(handler.unary_unary, method, False), **coders)

    def _returns(self, behaviour: Any, method: str, streams_in: bool) -> Any:
        async def call(request: Any, context: Context) -> Any:
            async with self.around(method, context):
                received = self._receive_all(request) if streams_in else self.receive(request)
                return await behaviour(received, context)

        return call

    def _streams_out(self, behaviour: Any, method: str, streams_in: bool) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self.around(method, context):
                received = self._receive_all(request) if streams_in else self.receive(request)
                responses = behaviour(received, context)
                if inspect.iscoroutine(responses):  # grpc's own health service writes to the context instead of yielding
                    await responses
                    return
                async with aclosing(responses):
                    async for response in responses:
                        yield response

        return call

    async def _receive_all(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield self.receive(request)


def _unknown_method(method: str) -> Callable[[Any, Context], Awaitable[Any]]:
    async def call(_request: Any, context: Context) -> Any:
        failure = Failure(Reason.METHOD_NOT_FOUND, f"there is no method {method}; reflection lists those there are")
        await _abort(context, failure)

    return call


async def _abort(context: Context, failure: Failure) -> None:
    await context.abort(code_of(failure), failure.message, trailers_of(failure, current_call().request_id))


class Telemetry(Interceptor):
    """Outermost: names the call, opens its span, counts and times it."""

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        """Measures the call and everything inside."""
        metadata = {str(key): value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        request_id = metadata.get("x-request-id") or str(uuid.uuid4())
        left: Any = context.time_remaining()
        started = time.monotonic()
        # grpc reports a call without deadline as one of very many seconds.
        deadline = started + left if left is not None and left < _FAR else None
        tenant, user = (metadata.get(f"x-penstock-{who}", "")[:_LONGEST_TENANT] for who in ("tenant", "user"))
        groups = _groups(metadata.get("x-penstock-groups", ""))
        enter_call(Call(method, request_id, deadline, tenant, user, groups))
        parent = propagate.extract(metadata)
        with (
            _tracer.start_as_current_span(method[1:], context=parent, kind=SpanKind.SERVER) as span,
            telemetry.measure(method, started) as outcome,
        ):
            try:
                yield
            except (asyncio.CancelledError, GeneratorExit):
                # A stream that is cancelled while it waits to send is closed, not cancelled.
                outcome.code = "CANCELLED"
                raise
            finally:
                if outcome.code == "OK":
                    outcome.code = _code_name(context)
                span.set_attribute("rpc.grpc.status_code", outcome.code)
                if outcome.code in {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS"}:
                    span.set_status(StatusCode.ERROR)


def _groups(text: str) -> tuple[str, ...]:
    """The groups in a header; what is beyond the limit is left out whole, so that no group is cut into another."""
    names = (name.strip() for name in text.split(",", _MOST_GROUPS)[:_MOST_GROUPS]) if text else ()
    return tuple(name for name in names if 0 < len(name) <= _LONGEST_TENANT)


def _code_name(context: Context) -> str:
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODE_NAMES.get(code or 0, "UNKNOWN")


class Errors(Interceptor):
    """Turns failures into statuses, and anything else that escapes into INTERNAL without telling how it came about."""

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        """Answers whatever the call raises."""
        try:
            yield
        except Failure as failure:
            await _abort(context, failure)
        except (asyncio.CancelledError, GeneratorExit, grpc.aio.AbortError):
            raise
        except TimeoutError:
            await _abort(context, Failure(Reason.DEADLINE_EXCEEDED, "the time allowed for this call has passed"))
        except Exception:  # noqa: BLE001 - the last resort for defects: logged in full here, told without detail there
            _log.exception("defect in %s", method)
            request_id = current_call().request_id
            await _abort(context, Failure(Reason.INTERNAL, f"a defect of penstock; request id {request_id} is in its log"))
