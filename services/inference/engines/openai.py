"""Any server that speaks the OpenAI API: vLLM, llama.cpp's server, OpenAI itself and many others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from services.chassis.errors import Failure, Reason, invalid_field
from services.inference import dimensions
from services.inference.engine import Capability, Embeddings, Model, UsageSource
from services.inference.engines import openai_chat
from services.inference.engines.remote import MALFORMED, Limits, RemoteServer, failed, refused_in_stream, unavailable
from services.inference.form import Form, OneOf, Regex
from services.inference.prompting import grounded
from services.inference.requirements import check_addresses
from services.inference.tokenization import Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from services.inference.engine import Event, Generation

_NAME: Final = "openai"
# These servers do not tell what a model is for; embedders mostly do by their names.
_EMBEDDER: Final = re.compile(r"embed|minilm|(^|[-_/])(bge|e5|gte|sbert)[-_]", re.IGNORECASE)
_BY_ALL: Final = (Capability.TOOLS, Capability.JSON_SCHEMA, Capability.LOGPROBS, Capability.ALTERNATIVES)
# What servers can beyond that, told apart by the owner that they give their models.
_VLLM: Final = "vllm"
_LLAMACPP: Final = "llamacpp"
_MORE: Final = {_VLLM: (Capability.REGEX, Capability.CHOICE), _LLAMACPP: (Capability.CHOICE,)}
# So do those that read images.
_SEES: Final = re.compile(
    r"gpt-(?:4o|4\.1|5)|(?:^|/)o[134]\b|[-_.\d]vl\b|vision|llava|pixtral|internvl|minicpm-v|gemma-?[34]|llama-4|omni|multimodal",
    re.IGNORECASE,
)
# Bytes of a line that says that the stream is at its end, blanks included.
_LONGEST_DONE: Final = 32
_NO_GRAMMAR: Final = re.compile(r"grammar error|failed to (?:compile|convert).*(?:grammar|schema|regex)", re.IGNORECASE)
_NO_TOOLS: Final = re.compile(r"--enable-auto-tool-choice|tool-call-parser|does not support tools", re.IGNORECASE)


class _Meta(msgspec.Struct):
    n_ctx: int | None = None
    n_ctx_train: int | None = None
    n_embd: int | None = None
    size: int | None = None


class _Card(msgspec.Struct):
    id: str
    owned_by: str = ""
    parent: str | None = None
    max_model_len: int | None = None
    meta: _Meta | None = None


class _Cards(msgspec.Struct):
    data: list[_Card] = []


class _Template(msgspec.Struct):
    supports_tools: bool = False


class _Modalities(msgspec.Struct):
    vision: bool = False


class _Props(msgspec.Struct):
    """What llama.cpp's server tells of its one model."""

    chat_template_caps: _Template = msgspec.field(default_factory=_Template)
    modalities: _Modalities = msgspec.field(default_factory=_Modalities)


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Counts(msgspec.Struct):
    prompt_tokens: int | None = None


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Counts | None = None


_decode_chunk = msgspec.json.Decoder(openai_chat.Chunk).decode
_decode_tokens = msgspec.json.Decoder(_Tokens).decode
_decode_props = msgspec.json.Decoder(_Props).decode
_decode_cards = msgspec.json.Decoder(_Cards).decode
_decode_vectors = msgspec.json.Decoder(_Vectors).decode


class OpenAIEngine:
    """A server with the OpenAI API.

    Args:
        base_url: Its address, with the API's version at the end or without.
        api_key: Its key; empty where it wants none.
        embedding_models: Names of its models that embed, where the name does not tell.
        image_models: Names of its models that read images, where the name does not tell.
        limits: How long it may take.
    """

    name: str = _NAME

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str = "",
        embedding_models: Collection[str] = (),
        image_models: Collection[str] = (),
        limits: Limits | None = None,
    ) -> None:
        url = base_url_of(base_url)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # Servers have paths of their own beside the API's.
        root = re.split(r"(?=/v\d)", url, maxsplit=1)[0]
        self._api = url.removeprefix(root)
        self._server = RemoteServer(self.name, root, headers=headers, limits=limits or Limits())
        self._embedding_models = frozenset(embedding_models)
        self._image_models = frozenset(image_models)
        self._owners: dict[str, str] = {}
        self._adapters: set[str] = set()
        # OpenAI's own newer models refuse the name that all other servers know.
        host = urlsplit(url).hostname or ""
        self._is_outside = urlsplit(url).scheme == "https"
        self._limit_field = "max_completion_tokens" if host.endswith("openai.com") else "max_tokens"

    async def models(self) -> Sequence[Model]:
        """Lists the server's models."""
        answer = await self._server.get(f"{self._api}/models")
        try:
            cards = _decode_cards(answer)
        except MALFORMED as error:
            raise unavailable(self.name, "its list of models is not in OpenAI's format") from error
        self._owners = {card.id: card.owned_by for card in cards.data}
        self._adapters = {card.id for card in cards.data if card.parent}
        props = await self._props() if _LLAMACPP in self._owners.values() else None
        return [self._model(card, props) for card in sorted(cards.data, key=lambda card: card.id)]

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Streams a chat completion."""
        has_images = any(message.images for message in generation.messages)
        if (has_images or generation.form != Form()) and generation.model not in self._owners:
            await self.models()
        if not self._is_outside or self._owners.get(generation.model) in _MORE:
            check_addresses(self.name, generation)
        body = self._chat(grounded(generation))
        try:
            async with self._server.stream(f"{self._api}/chat/completions", body) as lines:
                answer = _Answer(self.name, generation.form)
                while not answer.is_done:
                    batch = await lines.more()
                    if batch is None:
                        raise failed(self.name, "the stream ended without its end mark; the text may be cut")
                    failure = answer.read(batch)
                    deltas = answer.answers.take()
                    if deltas:
                        lines.content_came()
                    for delta in deltas:
                        yield delta
                    if failure is not None:
                        raise failure
                lines.finish()
                yield answer.answers.end()
        except Failure as failure:
            raise _told(failure, generation) from failure.__cause__

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Embeds by the embeddings endpoint."""
        body = msgspec.json.encode({"model": model, "input": list(inputs), "encoding_format": "float"})
        try:
            vectors = _decode_vectors(await self._server.post(f"{self._api}/embeddings", body))
        except MALFORMED as error:
            raise failed(self.name, "its embeddings are not in OpenAI's format") from error
        if len(vectors.data) != len(inputs):
            raise failed(self.name, f"it gave {len(vectors.data)} embeddings for {len(inputs)} inputs")
        tokens = vectors.usage.prompt_tokens if vectors.usage else None
        ordered = sorted(vectors.data, key=lambda vector: vector.index)
        return Embeddings([vector.embedding for vector in ordered], tokens, UsageSource.REPORTED)

    async def tokenize(self, model: str, text: str) -> Tokens:
        """Counts where the server is vLLM's or llama.cpp's; others do not offer it."""
        if model not in self._owners:
            await self.models()
        owner = self._owners.get(model)
        if owner == _VLLM:
            body: dict[str, Any] = {"model": model, "prompt": text, "add_special_tokens": False}
        elif owner == _LLAMACPP:
            body = {"content": text, "add_special": False}
        else:
            message = f"model: {model} is on a server that does not count tokens"
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": model})
        try:
            tokens = _decode_tokens(await self._server.post("/tokenize", msgspec.json.encode(body))).tokens
        except MALFORMED as error:
            raise failed(self.name, "its tokens are not in the format of vLLM or llama.cpp") from error
        return Tokens(len(tokens), tuple(tokens), UsageSource.REPORTED)

    async def close(self) -> None:
        """Closes the connections."""
        await self._server.close()

    async def _props(self) -> _Props:
        """What llama.cpp's server says of its model; a chat template without a place for tools would leave them out."""
        try:
            return _decode_props(await self._server.get("/props"))
        except (Failure, *MALFORMED):
            return _Props()

    def _model(self, card: _Card, props: _Props | None) -> Model:
        embeds = card.id in self._embedding_models or _EMBEDDER.search(card.id) is not None
        meta = card.meta or _Meta()
        return Model(
            name=card.id,
            engine=self.name,
            capabilities=(Capability.EMBEDDING, *dimensions.more(card.id)) if embeds else self._writing(card, props),
            context_tokens=card.max_model_len or meta.n_ctx or meta.n_ctx_train or 0,
            dimensions=(meta.n_embd or 0) if embeds else 0,
            size_bytes=meta.size or 0,
            description="A model of a server with the OpenAI API.",
            # Of the vectors, which collections keep: the same whatever the adapter is called.
            fingerprint=f"{_NAME}:{card.id}" if embeds else "",
        )

    def _writing(self, card: _Card, props: _Props | None) -> tuple[Capability, ...]:
        """What a model can that writes."""
        sees = card.id in self._image_models or _SEES.search(card.id) is not None
        tools = True
        if props is not None:
            sees, tools = props.modalities.vision, props.chat_template_caps.supports_tools
        told = [one for one in (*_BY_ALL, *_MORE.get(card.owned_by, ())) if tools or one is not Capability.TOOLS]
        return (Capability.GENERATION, *told, *((Capability.IMAGES,) if sees else ()))

    def _chat(self, generation: Generation) -> bytes:
        sampling, form, owner = generation.sampling, generation.form, self._owners.get(generation.model, "")
        wanted = {
            "model": generation.model,
            "messages": openai_chat.messages(generation),
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
            **openai_chat.form(openai_chat.narrowed(form) if owner == _LLAMACPP else form),
            **_own_form(generation, owner),
        }
        return msgspec.json.encode({name: value for name, value in wanted.items() if value is not None})


class _Answer:
    """Reads the server-sent events of one completion."""

    def __init__(self, engine: str, form: Form) -> None:
        self._engine = engine
        self.is_done = False
        self.answers = openai_chat.Answers(form)

    def read(self, batch: list[bytes]) -> Failure | None:
        """Takes in lines of server-sent events; returns what is wrong with them, after what is right has been taken in."""
        try:
            for line in batch:
                if line.startswith(b"data:"):
                    if len(line) <= _LONGEST_DONE and line[5:].strip() == b"[DONE]":
                        self.is_done = True
                        return None if self.answers.is_complete() else failed(self._engine, "it ended without a finish reason")
                    chunk = _decode_chunk(line[5:])
                    if chunk.error is not None:
                        return refused_in_stream(self._engine, chunk.error)
                    self.answers.take_in(chunk)
                    if self.answers.may_be_cut and self.answers.is_cut():
                        self.is_done = True
                        return None
                # Others are blank lines, comments that keep the connection alive, and names of events.
                elif line.startswith(b"{"):
                    return failed(self._engine, "it sent something else than server-sent events")
        except (ValueError, RecursionError):  # what msgspec raises, and UnicodeDecodeError, are of the first
            return failed(self._engine, "it sent a malformed chunk")
        return None


def _own_form(generation: Generation, owner: str) -> dict[str, Any]:
    """What of the form each server has its own words for."""
    output = generation.form.output
    if isinstance(output, Regex) and owner == _VLLM:
        return {"structured_outputs": {"regex": output.pattern}}
    if isinstance(output, OneOf) and owner == _VLLM:
        return {"structured_outputs": {"choice": list(output.texts)}}
    if isinstance(output, OneOf) and owner == _LLAMACPP:
        return {"grammar": openai_chat.one_of_grammar(output)}
    if isinstance(output, Regex | OneOf):
        message = f"model: {generation.model} is on a server that cannot hold a text to this form; vLLM and llamacpp can"
        raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": generation.model})
    return {}


def _told(failure: Failure, generation: Generation) -> Failure:
    """The same failure, but for what servers say of forms in words of their own only."""
    if failure.reason is Reason.INVALID_FIELD and generation.form.tools and _NO_TOOLS.search(failure.message):
        message = f"model: {generation.model} is on a server that was not started for tools, as vLLM has to be"
        facts = {"model": generation.model, "capability": Capability.TOOLS.name}
        return Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata=facts)
    if failure.reason is Reason.GENERATION_FAILED and generation.form.output and _NO_GRAMMAR.search(failure.message):
        return invalid_field("output", f"{generation.model} cannot hold a text to this form; make it simpler")
    return failure


def base_url_of(given: str) -> str:
    """The address with the API's version at the end: `/v1` is added unless one is there."""
    url = given.rstrip("/")
    segments = urlsplit(url).path.split("/")
    return url if any(re.match(r"v\d", segment) for segment in segments) else f"{url}/v1"
