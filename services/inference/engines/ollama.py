"""Ollama, by its own API: it tells more of its models, and takes more options, than its OpenAI-compatible one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.chassis.errors import Failure
from services.inference.engine import Capability, Embeddings, Model, UsageSource
from services.inference.engines import ollama_chat
from services.inference.engines.remote import Limits, RemoteServer, failed, unavailable
from services.inference.prompting import grounded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.engine import Event, Generation

_NAME: Final = "ollama"
_CAPABILITIES: Final = {
    "completion": Capability.GENERATION,
    "embedding": Capability.EMBEDDING,
    "tools": Capability.TOOLS,
}


class _Details(msgspec.Struct):
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""


class _Tag(msgspec.Struct):
    name: str
    digest: str = ""
    size: int = 0
    details: _Details = msgspec.field(default_factory=_Details)


class _Tags(msgspec.Struct):
    models: list[_Tag] = []


class _Shown(msgspec.Struct):
    capabilities: list[str] | None = None
    model_info: dict[str, Any] | None = None


class _Vectors(msgspec.Struct):
    embeddings: list[list[float]]
    prompt_eval_count: int | None = None


_decode_tags = msgspec.json.Decoder(_Tags).decode
_decode_shown = msgspec.json.Decoder(_Shown).decode
_decode_vectors = msgspec.json.Decoder(_Vectors).decode


class OllamaEngine:
    """An Ollama server.

    Args:
        base_url: Its address.
        limits: How long it may take; its first token may have to wait until the model is loaded.
    """

    name = _NAME

    def __init__(self, base_url: str, *, limits: Limits | None = None) -> None:
        url = base_url.rstrip("/").removesuffix("/v1").removesuffix("/api")
        self._server = RemoteServer(_NAME, url, limits=limits or Limits())
        self._shown: dict[tuple[str, str], _Shown] = {}

    async def models(self) -> Sequence[Model]:
        """Lists the models that have been pulled."""
        answer = await self._server.get("/api/tags")
        try:
            tags = _decode_tags(answer).models
        except msgspec.DecodeError as error:
            raise unavailable(_NAME, "its list of models is not in Ollama's format") from error
        shown = await asyncio.gather(*(self._show(tag) for tag in tags))
        # Only what is still there: models come and go for as long as the process lives.
        self._shown = {(tag.name, tag.digest): one for tag, one in zip(tags, shown, strict=True) if one is not None}
        models = [_model(tag, one or _Shown()) for tag, one in zip(tags, shown, strict=True)]
        return sorted((model for model in models if model.capabilities), key=lambda model: model.name)

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Streams a chat."""
        async with self._server.stream("/api/chat", ollama_chat.request(grounded(generation))) as lines:
            answer = ollama_chat.Answer(generation.form)
            while not answer.is_done:
                batch = await lines.more()
                if batch is None:
                    raise failed(_NAME, "the stream ended without `done`; the text may be cut")
                failure = answer.read(batch)
                delta = answer.take()
                if delta is not None:
                    lines.content_came()
                    yield delta
                if failure is not None:
                    raise failure
            await lines.finish()
            yield answer.end()

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Embeds; what exceeds the model's window is cut off."""
        body = msgspec.json.encode({"model": model, "input": list(inputs), "truncate": True})
        try:
            answer = _decode_vectors(await self._server.post("/api/embed", body))
        except msgspec.DecodeError as error:
            raise failed(_NAME, "its embeddings are not in Ollama's format") from error
        if len(answer.embeddings) != len(inputs):
            raise failed(_NAME, f"it gave {len(answer.embeddings)} embeddings for {len(inputs)} inputs")
        return Embeddings(answer.embeddings, answer.prompt_eval_count, UsageSource.REPORTED)

    async def close(self) -> None:
        """Closes the connections."""
        await self._server.close()

    async def _show(self, tag: _Tag) -> _Shown | None:
        """What the list does not tell of a model; asked once for each version of it."""
        known = self._shown.get((tag.name, tag.digest))
        if known is not None:
            return known
        try:
            return _decode_shown(await self._server.post("/api/show", msgspec.json.encode({"model": tag.name})))
        except (Failure, msgspec.DecodeError):
            # Deleted meanwhile, or an older Ollama: the list's own details must do, and the next probe asks again.
            return None


def _model(tag: _Tag, shown: _Shown) -> Model:
    told = shown.capabilities if shown.capabilities is not None else _guessed(tag)
    capabilities = tuple(capability for name, capability in _CAPABILITIES.items() if name in told)
    if Capability.GENERATION in capabilities:
        capabilities += (Capability.JSON_SCHEMA,)
    info = shown.model_info or {}
    embeds = Capability.EMBEDDING in capabilities
    details = " ".join(part for part in (tag.details.parameter_size, tag.details.quantization_level) if part)
    return Model(
        name=tag.name,
        engine=_NAME,
        capabilities=capabilities,
        context_tokens=_number(info, ".context_length"),
        dimensions=_number(info, ".embedding_length") if embeds else 0,
        size_bytes=tag.size,
        description=f"A model of Ollama ({details})." if details else "A model of Ollama.",
        fingerprint=f"{_NAME}:{tag.digest or tag.name}" if embeds else "",
    )


def _guessed(tag: _Tag) -> list[str]:
    """What a model can do where Ollama is too old to say."""
    return ["embedding"] if "bert" in tag.details.family or "embed" in tag.name else ["completion"]


def _number(info: dict[str, Any], suffix: str) -> int:
    """A number out of the model's metadata, whose keys begin with the architecture."""
    found = next((value for key, value in info.items() if key.endswith(suffix)), 0)
    return found if isinstance(found, int) else 0
