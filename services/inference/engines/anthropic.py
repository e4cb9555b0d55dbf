"""Anthropic's models, by its Messages API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.engine import Capability, Generation, Message, Model, Role, UsageSource
from services.inference.engines import anthropic_messages
from services.inference.engines.remote import MALFORMED, Limits, RemoteServer, failed, unavailable
from services.inference.engines.remote_answer import remote_answer
from services.inference.engines.side_by_side import side_by_side
from services.inference.prompting import grounded
from services.inference.tokenization import Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.engine import Embeddings, Event

_NAME: Final = anthropic_messages.NAME
_VERSION: Final = "2023-06-01"
_CAPABILITIES: Final = (
    Capability.GENERATION,
    Capability.TOOLS,
    Capability.JSON_SCHEMA,
    Capability.IMAGES,
    Capability.ALTERNATIVES,
)


class _Card(msgspec.Struct):
    id: str
    display_name: str = ""
    max_input_tokens: int | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


class _Count(msgspec.Struct):
    input_tokens: int


_decode_count = msgspec.json.Decoder(_Count).decode
_decode_cards = msgspec.json.Decoder(_Cards).decode


class AnthropicEngine:
    """Anthropic's API, or a server that speaks it.

    Args:
        base_url: Its address, without the API's version.
        api_key: Its key.
        limits: How long it may take.
    """

    name = _NAME

    def __init__(self, base_url: str, *, api_key: str, limits: Limits | None = None) -> None:
        url = base_url.rstrip("/").removesuffix("/v1")
        headers = {"x-api-key": api_key, "anthropic-version": _VERSION}
        self._server = RemoteServer(_NAME, url, headers=headers, limits=limits or Limits())

    async def models(self) -> Sequence[Model]:
        """Lists the models that the key may use."""
        answer = await self._server.get("/v1/models?limit=1000")
        try:
            cards = _decode_cards(answer).data
        except MALFORMED as error:
            raise unavailable(_NAME, "its list of models is not in Anthropic's format") from error
        return [
            Model(
                name=card.id,
                engine=_NAME,
                capabilities=_CAPABILITIES,
                context_tokens=card.max_input_tokens or 0,
                description=f"{card.display_name or card.id}, a model of Anthropic's API.",
            )
            for card in sorted(cards, key=lambda card: card.id)
        ]

    def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Streams a message, or several side by side."""
        return side_by_side(self._message, generation)

    def _message(self, generation: Generation) -> AsyncGenerator[Event, None]:
        body = anthropic_messages.request(grounded(generation))
        answer = anthropic_messages.Answer()
        return remote_answer(self._server, _NAME, "/v1/messages", body, answer, end_mark="message_stop")

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Never: raises MODEL_CAPABILITY_MISSING."""
        message = f"model: {model} of Anthropic does not embed {len(inputs)} inputs; choose an embedding model"
        raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": model, "capability": "EMBEDDING"})

    async def tokenize(self, model: str, text: str) -> Tokens:
        """Counts the text as the one message of a user; the API does not tell which tokens they are."""
        asked = Generation(model, (Message(Role.USER, text),))
        answer = await self._server.post("/v1/messages/count_tokens", msgspec.json.encode(anthropic_messages.prompt(asked)))
        try:
            return Tokens(_decode_count(answer).input_tokens, (), UsageSource.REPORTED)
        except MALFORMED as error:
            raise failed(_NAME, "its count of tokens is not in Anthropic's format") from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._server.close()
