"""Streams of events that are whole, or raise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
import grpc.aio

from penstock.errors import PenstockError, StreamIncompleteError, error_of_call, error_of_status

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self  # noqa: UP035 - the wheel serves Python 3.10 too

# StreamGenerateResponse or StreamAnswerResponse: one of several events, the last of them `finished`.
Event = TypeVar("Event")

# Events that carry text.
_TEXTS = ("delta", "token")


class _Progress(Generic[Event]):
    """What both kinds of streams know of the events they have seen."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.finished: Any = None
        self.closed = False

    def see(self, event: Any) -> None:
        if event.WhichOneof("event") == "finished":
            self.finished = event.finished

    def failure(self) -> PenstockError | None:
        """What is wrong with a stream whose call has ended well."""
        if self.finished is None:
            return StreamIncompleteError(
                "the stream ended without `finished`; what came of it is not the whole", request_id=self.request_id
            )
        # Jobs that can be asked for tell what failed of them in fields of their own.
        if "error" in self.finished.DESCRIPTOR.fields_by_name and self.finished.HasField("error"):
            return error_of_status(self.finished.error, self.request_id)
        return None


def _text_of(event: Any) -> str:
    kind = event.WhichOneof("event")
    text: str = getattr(event, kind).text if kind in _TEXTS else ""
    return text


class EventStream(Iterator[Event]):
    """The events of one call, `finished` last. Leaving its `with` block, or `close`, cancels a call that still runs.

    Iterating raises PenstockError if the call fails, if `finished` tells of an error (after handing it out), and
    StreamIncompleteError if the stream ends without it.
    """

    def __init__(self, call: Any, request_id: str) -> None:
        self._call = call
        self._progress: _Progress[Event] = _Progress(request_id)

    @property
    def request_id(self) -> str:
        """Id of the call, as in `x-request-id`."""
        return self._progress.request_id

    @property
    def finished(self) -> Any:
        """The terminal event's content (GenerationFinished or AnswerFinished); None before it has come."""
        return self._progress.finished

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if self._progress.closed:
            raise StopIteration
        try:
            event: Event = next(self._call)
        except StopIteration:
            self._progress.closed = True
            failure = self._progress.failure()
            if failure is not None:
                raise failure from None
            raise
        except grpc.RpcError as error:
            self._progress.closed = True
            raise error_of_call(error, self.request_id) from error
        self._progress.see(event)
        return event

    def texts(self) -> Iterator[str]:
        """The pieces of text alone."""
        for event in self:
            text = _text_of(event)
            if text:
                yield text

    def close(self) -> None:
        """Cancels the call if it still runs; iterating ends then."""
        self._progress.closed = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


class AsyncEventStream(AsyncIterator[Event]):
    """As EventStream, for `async for` and `async with`. Cancelling the task that reads it cancels the call."""

    def __init__(self, call: Any, request_id: str) -> None:
        self._call = call
        self._progress: _Progress[Event] = _Progress(request_id)

    @property
    def request_id(self) -> str:
        """Id of the call, as in `x-request-id`."""
        return self._progress.request_id

    @property
    def finished(self) -> Any:
        """The terminal event's content (GenerationFinished or AnswerFinished); None before it has come."""
        return self._progress.finished

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._progress.closed:
            raise StopAsyncIteration
        try:
            event = await self._call.read()
        except asyncio.CancelledError:
            # grpc raises it too where the call, not this task, was cancelled.
            if self._progress.closed:
                raise StopAsyncIteration from None
            self._progress.closed = True
            self._call.cancel()
            raise
        except grpc.aio.AioRpcError as error:
            self._progress.closed = True
            raise error_of_call(error, self.request_id) from error
        if event is grpc.aio.EOF:
            self._progress.closed = True
            failure = self._progress.failure()
            if failure is not None:
                raise failure
            raise StopAsyncIteration
        self._progress.see(event)
        result: Event = event
        return result

    async def texts(self) -> AsyncIterator[str]:
        """The pieces of text alone."""
        async for event in self:
            text = _text_of(event)
            if text:
                yield text

    async def aclose(self) -> None:
        """Cancels the call if it still runs; iterating ends then."""
        self._progress.closed = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
