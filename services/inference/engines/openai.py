"""Any server that speaks the OpenAI API: vLLM, llama.cpp's server, OpenAI itself and many others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from services.inference.engine import Capability, Delta, Embeddings, End, FinishReason, Model, Usage, UsageSource
from services.inference.engines.remote import Limits, RemoteServer, failed, refused_in_stream, unavailable
from services.inference.prompting import grounded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from services.chassis.errors import Failure
    from services.inference.engine import Event, Generation

_NAME: Final = "openai"
# These servers do not tell what a model is for; embedders mostly do by their names.
_EMBEDDER: Final = re.compile(r"embed|minilm|(^|[-_/])(bge|e5|gte|sbert)[-_]", re.IGNORECASE)
_FINISH_REASONS: Final = {"length": FinishReason.LENGTH, "content_filter": FinishReason.CONTENT_FILTER}


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Content(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Content = msgspec.field(default_factory=_Content)
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Meta(msgspec.Struct):
    n_ctx: int | None = None
    n_ctx_train: int | None = None
    n_embd: int | None = None
    size: int | None = None


class _Card(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    meta: _Meta | None = None


class _Cards(msgspec.Struct):
    data: list[_Card] = []


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_cards = msgspec.json.Decoder(_Cards).decode
_decode_vectors = msgspec.json.Decoder(_Vectors).decode


class OpenAIEngine:
    """A server with the OpenAI API.

    Args:
        base_url: Its address, with the API's version at the end or without.
        api_key: Its key; empty where it wants none.
        embedding_models: Names of its models that embed, where the name does not tell.
        limits: How long it may take.
    """

    name = _NAME

    def __init__(
        self, base_url: str, *, api_key: str = "", embedding_models: Collection[str] = (), limits: Limits | None = None
    ) -> None:
        url = base_url_of(base_url)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._server = RemoteServer(_NAME, url, headers=headers, limits=limits or Limits())
        self._embedding_models = frozenset(embedding_models)
        # OpenAI's own newer models refuse the name that all other servers know.
        host = urlsplit(url).hostname or ""
        self._limit_field = "max_completion_tokens" if host.endswith("openai.com") else "max_tokens"

    async def models(self) -> Sequence[Model]:
        """Lists the server's models."""
        answer = await self._server.get("/models")
        try:
            cards = _decode_cards(answer)
        except msgspec.DecodeError as error:
            raise unavailable(_NAME, "its list of models is not in OpenAI's format") from error
        return [self._model(card) for card in sorted(cards.data, key=lambda card: card.id)]

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Streams a chat completion."""
        async with self._server.stream("/chat/completions", self._chat(grounded(generation))) as lines:
            answer = _Answer()
            while not answer.is_done:
                batch = await lines.more()
                if batch is None:
                    raise failed(_NAME, "the stream ended without its end mark; the text may be cut")
                failure = answer.read(batch)
                delta = answer.take()
                if delta is not None:
                    lines.content_came()
                    yield delta
                if failure is not None:
                    raise failure
            end = answer.end()
            await lines.finish()
            yield end

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Embeds by the embeddings endpoint."""
        body = msgspec.json.encode({"model": model, "input": list(inputs), "encoding_format": "float"})
        try:
            vectors = _decode_vectors(await self._server.post("/embeddings", body))
        except msgspec.DecodeError as error:
            raise failed(_NAME, "its embeddings are not in OpenAI's format") from error
        if len(vectors.data) != len(inputs):
            raise failed(_NAME, f"it gave {len(vectors.data)} embeddings for {len(inputs)} inputs")
        tokens = vectors.usage.prompt_tokens if vectors.usage else None
        ordered = sorted(vectors.data, key=lambda vector: vector.index)
        return Embeddings([vector.embedding for vector in ordered], tokens, UsageSource.REPORTED)

    async def close(self) -> None:
        """Closes the connections."""
        await self._server.close()

    def _model(self, card: _Card) -> Model:
        embeds = card.id in self._embedding_models or _EMBEDDER.search(card.id) is not None
        meta = card.meta or _Meta()
        return Model(
            name=card.id,
            engine=_NAME,
            capabilities=(Capability.EMBEDDING if embeds else Capability.GENERATION,),
            context_tokens=card.max_model_len or meta.n_ctx or meta.n_ctx_train or 0,
            dimensions=(meta.n_embd or 0) if embeds else 0,
            size_bytes=meta.size or 0,
            description="A model of a server with the OpenAI API.",
            fingerprint=f"{_NAME}:{card.id}" if embeds else "",
        )

    def _chat(self, generation: Generation) -> bytes:
        sampling = generation.sampling
        wanted = {
            "model": generation.model,
            "messages": [{"role": message.role.value, "content": message.text} for message in generation.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            self._limit_field: generation.max_tokens,
            "stop": list(generation.stop) or None,
        }
        return msgspec.json.encode({name: value for name, value in wanted.items() if value is not None})


class _Answer:
    """What has come of one completion."""

    def __init__(self) -> None:
        self.is_done = False
        self._texts: list[str] = []
        self._tokens = 0
        self._finish_reason: str | None = None
        self._usage: _Usage | None = None

    def read(self, batch: list[bytes]) -> Failure | None:
        """Takes in lines of server-sent events; returns what is wrong with them, after what is right has been taken in."""
        for line in batch:
            if not line.startswith(b"data:"):
                # Blank lines, comments that keep the connection alive, and names of events.
                if line.startswith(b"{"):
                    return failed(_NAME, "it sent something else than server-sent events")
                continue
            payload = line[5:].strip()
            if payload == b"[DONE]":
                self.is_done = True
                return None if self._finish_reason is not None else failed(_NAME, "it ended without a finish reason")
            try:
                chunk = _decode_chunk(payload)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return failed(_NAME, "it sent a malformed chunk")
            if chunk.error is not None:
                return refused_in_stream(_NAME, chunk.error)
            self._take_in(chunk)
        return None

    def _take_in(self, chunk: _Chunk) -> None:
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices:
            if choice.delta.content:
                self._texts.append(choice.delta.content)
            if choice.finish_reason is not None:
                self._finish_reason = choice.finish_reason

    def take(self) -> Delta | None:
        """All text since the last time; each chunk of it counts as one token."""
        if not self._texts:
            return None
        delta = Delta("".join(self._texts), len(self._texts))
        self._tokens += delta.tokens
        self._texts = []
        return delta

    def end(self) -> End:
        """The last event."""
        reason = _FINISH_REASONS.get(self._finish_reason or "", FinishReason.STOP)
        usage = self._usage
        if usage is None or usage.completion_tokens is None:
            return End(reason, Usage(None, self._tokens, UsageSource.COUNTED))
        return End(reason, Usage(usage.prompt_tokens, usage.completion_tokens, UsageSource.REPORTED))


def base_url_of(given: str) -> str:
    """The address with the API's version at the end: `/v1` is added unless one is there."""
    url = given.rstrip("/")
    segments = urlsplit(url).path.split("/")
    return url if any(re.match(r"v\d", segment) for segment in segments) else f"{url}/v1"
