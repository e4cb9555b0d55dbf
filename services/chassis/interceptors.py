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
from contextlib import AbstractAsyncContextManager, aclosing
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
    from contextlib import AbstractContextManager
    from types import TracebackType

    from opentelemetry.trace import Span

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_log = logging.getLogger(__name__)
_tracer = trace.get_tracer("penstock")
_FAR: Final = 3600.0 * 24 * 365
_LONGEST_TENANT: Final = 256
_MOST_GROUPS: Final = 64
_CODE_NAMES: Final = {status.value[0]: status.name for status in grpc.StatusCode}


class Interceptor(grpc.aio.ServerInterceptor):
    """One concern around every call to one server. A handler is wrapped once: what one call decides belongs in `around`."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Any] = {}

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
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                # Callers can make up methods without end: these are not kept.
                return grpc.unary_unary_rpc_method_handler(_unknown_method(method))
            wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    def _wrap(self, handler: Any, method: str) -> Any:
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

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        """Measures the call and everything inside."""
        return _Measured(method, context)


class _Measured(AbstractAsyncContextManager[None]):
    """One call. A class, for a generator would cost each call some microseconds more."""

    __slots__ = ("_context", "_method", "_span", "_spanned", "_started")

    def __init__(self, method: str, context: Context) -> None:
        self._method = method
        self._context = context
        self._started = time.monotonic()
        self._span: Span | None = None
        self._spanned: AbstractContextManager[Span] | None = None

    async def __aenter__(self) -> None:
        metadata = dict(self._context.invocation_metadata() or ())
        request_id = _text(metadata, "x-request-id") or str(uuid.uuid4())
        left: Any = self._context.time_remaining()
        # grpc reports a call without deadline as one of very many seconds.
        deadline = self._started + left if left is not None and left < _FAR else None
        tenant = _text(metadata, "x-penstock-tenant")[:_LONGEST_TENANT]
        user = _text(metadata, "x-penstock-user")[:_LONGEST_TENANT]
        groups = _groups(_text(metadata, "x-penstock-groups"))
        scopes = _text(metadata, "x-penstock-scopes")[:_LONGEST_TENANT]
        key = _text(metadata, "x-penstock-key")[:_LONGEST_TENANT]
        enter_call(Call(self._method, request_id, deadline, tenant, user, groups, scopes, key))
        parent = propagate.extract(metadata) if "traceparent" in metadata or "baggage" in metadata else None
        if parent is not None or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            name = self._method[1:]
            self._spanned = _tracer.start_as_current_span(name, context=parent, kind=SpanKind.SERVER)
            self._span = self._spanned.__enter__()
        telemetry.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A stream that is cancelled while it waits to send is closed, not cancelled.
        is_cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit)
        code = "CANCELLED" if is_cancelled else _code_name(self._context)
        telemetry.end(self._method, code, self._started)
        if self._span is not None and self._spanned is not None:
            self._span.set_attribute("rpc.grpc.status_code", code)
            if code in {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS"}:
                self._span.set_status(StatusCode.ERROR)
            self._spanned.__exit__(kind, error, traceback)


def _text(metadata: dict[str, str | bytes], name: str) -> str:
    value = metadata.get(name, "")
    return value if isinstance(value, str) else ""


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

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        """Answers whatever the call raises."""
        return _Answered(method, context)


class _Answered(AbstractAsyncContextManager[None]):
    __slots__ = ("_context", "_method")

    def __init__(self, method: str, context: Context) -> None:
        self._method = method
        self._context = context

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            return
        if isinstance(error, Failure):
            await _abort(self._context, error)
        elif isinstance(error, TimeoutError):
            await _abort(self._context, Failure(Reason.DEADLINE_EXCEEDED, "the time allowed for this call has passed"))
        elif isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            # The last resort for defects: logged in full here, told without detail there.
            _log.error("defect in %s", self._method, exc_info=error)
            request_id = current_call().request_id
            await _abort(
                self._context, Failure(Reason.INTERNAL, f"a defect of penstock; request id {request_id} is in its log")
            )
