"""The tokenizer: penstock's inference service over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc.aio
from penstock.inference.v1 import tokenization_service_pb2, tokenization_service_pb2_grpc

from services.chassis.call import current_call, outgoing_metadata
from services.chassis.remote import failure_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIMIT: Final = 20.0


class InferenceTokenizer:
    """See `rulers.Tokenizer`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._tokenization = tokenization_service_pb2_grpc.TokenizationServiceStub(channel)

    async def tokens(self, model: str, text: str) -> Sequence[int]:
        """See `Tokenizer.tokens`."""
        request = tokenization_service_pb2.TokenizeRequest(model=model, text=text)
        try:
            response = await self._tokenization.Tokenize(
                request, timeout=current_call().remaining(_LIMIT), metadata=outgoing_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, "inference") from error
        return response.tokens
