"""Ollama, by its own API: it tells more of its models, and takes more options, than its OpenAI-compatible one."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.engine import Embeddings, UsageSource
from services.inference.engines import ollama_chat
from services.inference.engines.ollama_create import create
from services.inference.engines.ollama_models import OllamaModels, keep_alive_of
from services.inference.engines.remote import MALFORMED, Limits, RemoteServer, failed
from services.inference.engines.remote_answer import remote_answer
from services.inference.engines.side_by_side import side_by_side
from services.inference.prompting import grounded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from services.inference.engine import Event, Generation, Model
    from services.inference.lifecycle import CreateOptions, LoadOptions, Progress

_NAME: Final = "ollama"
# Seconds after which to come back to a model that is in use.
_RETRY_SECONDS: Final = 5.0


class _Vectors(msgspec.Struct):
    embeddings: list[list[float]]
    prompt_eval_count: int | None = None


_decode_vectors = msgspec.json.Decoder(_Vectors).decode


class OllamaEngine:
    """An Ollama server.

    Args:
        base_url: Its address.
        limits: How long it may take; its first token may have to wait until the model is loaded.
        keep_alive: How long it keeps an unused model, such as `10m`, or `-1` for ever; empty for its own rule.
    """

    name = _NAME

    def __init__(self, base_url: str, *, limits: Limits | None = None, keep_alive: str = "") -> None:
        url = base_url.rstrip("/").removesuffix("/v1").removesuffix("/api")
        self._server = RemoteServer(_NAME, url, limits=limits or Limits())
        self._keep_alive = keep_alive_of(keep_alive)
        self._models = OllamaModels(self._server, keep_alive=keep_alive)
        self._used: Counter[str] = Counter()

    async def models(self) -> Sequence[Model]:
        """Lists the models that have been pulled."""
        return await self._models.listed()

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Streams a chat."""
        with self._using(generation.model):
            async with aclosing(side_by_side(self._one, generation)) as events:
                async for event in events:
                    yield event

    def _one(self, generation: Generation) -> AsyncGenerator[Event, None]:
        body = ollama_chat.request(grounded(generation), self._keep_alive)
        return remote_answer(self._server, _NAME, "/api/chat", body, ollama_chat.Answer(generation.form), end_mark="done")

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Embeds; what exceeds the model's window is cut off."""
        keep_alive = {} if self._keep_alive is None else {"keep_alive": self._keep_alive}
        body = msgspec.json.encode({"model": model, "input": list(inputs), "truncate": True, **keep_alive})
        try:
            with self._using(model):
                answer = _decode_vectors(await self._server.post("/api/embed", body))
        except MALFORMED as error:
            raise failed(_NAME, "its embeddings are not in Ollama's format") from error
        if len(answer.embeddings) != len(inputs):
            raise failed(_NAME, f"it gave {len(answer.embeddings)} embeddings for {len(inputs)} inputs")
        return Embeddings(answer.embeddings, answer.prompt_eval_count, UsageSource.REPORTED)

    async def close(self) -> None:
        """Closes the connections."""
        await self._server.close()

    def load(self, model: str, options: LoadOptions) -> AsyncGenerator[Progress, None]:
        """Has Ollama load the model."""
        return self._models.load(model, options)

    async def unload(self, model: str, *, force: bool) -> None:
        """Has Ollama unload the model. Generations cannot be cut short there: with `force` it goes once they have ended."""
        self._refuse_if_used(model, force=force)
        await self._models.unload(model)

    def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Has Ollama fetch the model from its registry."""
        return self._models.pull(model)

    async def create(self, model: str, options: CreateOptions) -> AsyncGenerator[Progress, None]:
        """Has Ollama make a model out of another one."""
        try:
            async with aclosing(create(self._server, model, options)) as steps:
                async for step in steps:
                    yield step
        finally:
            self._models.changed()

    async def delete(self, model: str, *, force: bool) -> None:
        """Has Ollama delete the model."""
        self._refuse_if_used(model, force=force)
        await self._models.delete(model)

    @contextmanager
    def _using(self, model: str) -> Iterator[None]:
        self._models.used(model)
        self._used[model] += 1
        try:
            yield
        finally:
            self._used[model] -= 1
            if not self._used[model]:
                del self._used[model]  # names that clients make up do not stay

    def _refuse_if_used(self, model: str, *, force: bool) -> None:
        running = self._used[model]
        if running and not force:
            message = f"model: {running} requests use {model}; wait for them, or say `force`"
            facts = {"model": model, "running_requests": str(running)}
            raise Failure(Reason.MODEL_IN_USE, message, metadata=facts, retry_after=_RETRY_SECONDS)
