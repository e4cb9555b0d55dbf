"""The ways a request is refused, worded as Qdrant words them, and their gRPC codes."""

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

import grpc
import grpc.aio


class Refusal(Exception):  # noqa: N818  # what it says to the caller, not an error of this program
    """A request that is answered with a gRPC error.

    Args:
        code: what the client sees as `RpcError.code()`.
        message: what the client sees as `RpcError.details()`.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def collection_missing(name: str) -> Refusal:
    """No collection or alias has this name."""
    return Refusal(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!")


def collection_exists(name: str) -> Refusal:
    """A collection of this name is there already."""
    message = f"Already exists: Collection `{name}` already exists!"
    return Refusal(grpc.StatusCode.ALREADY_EXISTS, message)


def alias_missing(name: str) -> Refusal:
    """No alias has this name."""
    return Refusal(grpc.StatusCode.NOT_FOUND, f"Not found: Alias {name} does not exists!")


def wrong_input(message: str) -> Refusal:
    """The request is malformed; `message` names the field, the value and what is allowed."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: {message}")


def not_served(what: str) -> Refusal:
    """Qdrant has it, this process has not."""
    message = f"{what} is not served by the embedded Qdrant engine: use a Qdrant server"
    return Refusal(grpc.StatusCode.UNIMPLEMENTED, message)


def of_engine(error: BaseException) -> Refusal | None:
    """Tell the engine's own errors apart; None for what is none of the engine's.

    The engine has no exception classes: all it raises is a bare `Exception`, or a panic.
    """
    text = str(error)
    if type(error).__name__ == "PanicException":
        return Refusal(grpc.StatusCode.INTERNAL, f"the engine failed: {text}")
    if type(error) is not Exception:
        return None
    if text.startswith("Service "):
        return Refusal(grpc.StatusCode.INTERNAL, text)
    if text.startswith("No point with id"):
        return Refusal(grpc.StatusCode.NOT_FOUND, f"Not found: {text}")
    return wrong_input(text)


class RefusalInterceptor(grpc.aio.ServerInterceptor):
    """Turns refusals, and methods that no servicer overrides, into gRPC errors."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of a unary call; Qdrant's API has no other calls."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                response = handler.unary_unary(request, context)
                # The generated servicers, which only raise, are no coroutines.
                return await response if isawaitable(response) else response
            except Refusal as refusal:
                await context.abort(refusal.code, refusal.message)
            except NotImplementedError:
                missing = not_served(handler_call_details.method)
                await context.abort(missing.code, missing.message)
            except (ValueError, OverflowError) as error:
                # The engine's request classes refuse malformed paths, dates and numbers with these.
                malformed = wrong_input(str(error))
                await context.abort(malformed.code, malformed.message)

        wrapped: Any = answer
        return grpc.unary_unary_rpc_method_handler(wrapped, handler.request_deserializer, handler.response_serializer)
