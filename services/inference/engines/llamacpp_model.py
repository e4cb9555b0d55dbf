"""One GGUF model in llama.cpp's own server, in this process: its parameters, its requests, and what its answers mean."""

from __future__ import annotations

import functools
import secrets
import urllib.request
from typing import TYPE_CHECKING, Any, Final

import msgspec
import xllamacpp  # type: ignore[import-untyped] # a C module without types

from services.chassis.errors import Failure, Reason, invalid_field
from services.inference.engine import Device, Embeddings, UsageSource
from services.inference.engines import openai_chat
from services.inference.form import JsonSchema, OneOf, Regex

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from services.inference.engine import Event, Generation
    from services.inference.engines.gguf_header import GgufHeader
    from services.inference.form import Form, Output

# Making a grammar of a schema takes time by the square of its length, and cannot be stopped: a second for so many characters.
_MOST_SCHEMA: Final = 16 * 1024
_MOST_SCHEMAS: Final = 64 * 1024
_TOKENIZE_SECONDS: Final = 30
_decode_chunk: Final = msgspec.json.Decoder(openai_chat.Chunk).decode
# Tokens read of a prompt between two looks at whether anybody still wants the answer.
PROMPT_STEP_TOKENS: Final = 128
# More than any model has.
_ALL_LAYERS: Final = 999


class LlamaCppModel:
    """A loaded model. Its methods block; they are for threads, and any number may call at once. Loading takes its time too.

    Args:
        path: The GGUF file.
        header: What it says of itself.
        parallel: Generations at the same time.
        context_tokens: Prompt and answer of one generation together.
        name: What it is called in failures; the file's name without its ending where empty.
        device: CUDA puts all layers on the GPU.
        threads: Cores it may use. All cores are too many: with anything else running it falls to a tenth of its speed.
    """

    def __init__(
        self,
        path: Path,
        header: GgufHeader,
        *,
        name: str = "",
        parallel: int,
        context_tokens: int,
        threads: int,
        device: Device = Device.CPU,
    ) -> None:
        self._name = name or path.stem
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.model_alias = {self._name}
        parameters.n_gpu_layers = _ALL_LAYERS if device is Device.CUDA else 0
        # Inputs of different lengths that are embedded side by side come out wrong: their means are taken over parts.
        parallel = 1 if header.pooling else parallel
        self._parallel = parameters.n_parallel = parallel
        parameters.n_ctx = context_tokens * parallel  # llama.cpp divides it among them
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        parameters.n_batch = parameters.n_ubatch = PROMPT_STEP_TOKENS
        parameters.cache_ram_mib = 0  # 8 GiB by default
        parameters.verbosity = 0
        parameters.warmup = False
        # It opens an HTTP port on loopback, like it or not. Nobody gets the key; calls from here need none.
        self._key = secrets.token_urlsafe(32)
        parameters.api_keys = [self._key]
        parameters.ui = False
        parameters.endpoint_slots = False
        parameters.endpoint_metrics = True
        parameters.n_threads_http = 1
        if header.pooling:
            parameters.embedding = True
            parameters.pooling_type = xllamacpp.llama_pooling_type(header.pooling)
            parameters.n_batch = parameters.n_ubatch = context_tokens  # an input to embed goes through in one piece
            parameters.cache_prompt = False  # a beginning taken from the cache would be missing in the mean
        try:
            self._server = xllamacpp.Server(parameters)
        except RuntimeError as error:  # why stands on stderr only
            message = f"model: {self._name} could not be loaded: its file is damaged, or of a kind this llama.cpp does not know"
            raise Failure(Reason.ENGINE_UNAVAILABLE, message, metadata={"model": self._name}) from error
        # Its loop starts in a thread; freed before that has begun, it would wait for its end for ever. An answer shows that it
        # has begun.
        self._server.handle_metrics()

    def generate(self, generation: Generation, tell: Callable[[Event], None], is_gone: Callable[[], bool]) -> None:
        """Runs a generation and tells its events, End last; returns early, without End, once `is_gone`. Raises Failure."""
        self._check(generation.form)
        answer = _Answer(self._name, generation, tell, is_gone)
        try:
            self._server.handle_chat_completions(msgspec.json.encode(_request(generation)).decode(), answer.read)
        except ValueError as error:
            raise _refused(self._name, generation) from error
        answer.finish()

    def _check(self, form: Form) -> None:
        if form.tools and form.top_logprobs is not None:
            message = f"model: {self._name} cannot tell probabilities of tokens while it may call tools; leave one of them out"
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": self._name, "capability": "LOGPROBS"})
        if form.alternatives > self._parallel:
            raise invalid_field("alternatives", f"{self._name} generates at most {self._parallel} side by side")
        sizes = [len(tool.parameters) for tool in form.tools]
        if isinstance(form.output, JsonSchema):
            sizes.append(len(form.output.schema))
        if any(size > _MOST_SCHEMA for size in sizes) or sum(sizes) > _MOST_SCHEMAS:
            field = "tools" if form.tools else "output"
            problem = f"{self._name} takes schemas of at most {_MOST_SCHEMA} characters each and {_MOST_SCHEMAS} together"
            raise invalid_field(field, problem)

    def embed(self, inputs: Sequence[str]) -> Embeddings:
        """Embeds all inputs. Raises Failure, CONTEXT_TOO_LONG among others."""
        # llama.cpp refuses an empty text; a blank says as little.
        request = msgspec.json.encode({"input": [text or " " for text in inputs]}).decode()
        answer = msgspec.json.decode(self._server.handle_embeddings(request))
        if "error" in answer:
            raise _failure(self._name, answer["error"])
        rows = sorted(answer["data"], key=lambda row: row["index"])
        return Embeddings([row["embedding"] for row in rows], answer["usage"]["prompt_tokens"], UsageSource.REPORTED)

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, without those that begin and end a prompt."""
        # The one thing that llama.cpp tells over its port only.
        request = urllib.request.Request(  # noqa: S310 - its address is of our own making
            f"{self._server.listening_address}/tokenize",
            msgspec.json.encode({"content": text, "add_special": False}),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TOKENIZE_SECONDS) as response:  # noqa: S310 - as above
                tokens: list[int] = msgspec.json.decode(response.read())["tokens"]
        except OSError as error:
            message = f"{self._name} did not count the tokens within {_TOKENIZE_SECONDS} s"
            raise Failure(Reason.ENGINE_UNAVAILABLE, message, metadata={"model": self._name}) from error
        return tokens

    def busy(self) -> int:
        """Generations that llama.cpp itself says it is working on."""
        lines = self._server.handle_metrics().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("llamacpp:requests_processing "))


@functools.cache
def has_cuda() -> bool:
    """Whether this build of llama.cpp finds an NVIDIA GPU."""
    return any(str(device["name"]).startswith("CUDA") for device in xllamacpp.get_device_info())


class _Answer:
    """Reads the chunks of one answer; llama.cpp goes on until `read` returns True."""

    def __init__(self, model: str, generation: Generation, tell: Callable[[Event], None], is_gone: Callable[[], bool]) -> None:
        self._model = model
        self._generation = generation
        self._tell = tell
        self._is_gone = is_gone
        self._answers = openai_chat.Answers(generation.form)
        self._failure: BaseException | None = None

    def read(self, chunk: str) -> bool:
        """Takes one chunk. An exception would be swallowed by llama.cpp, so it is kept for `finish`."""
        try:
            self._take(_decode_chunk(chunk))
        except (Failure, ValueError, RuntimeError) as error:  # what msgspec raises is a ValueError
            self._failure = error
        return self._failure is not None or self._is_gone() or self._answers.is_cut()

    def finish(self) -> None:
        """Tells the end, if there was one."""
        if isinstance(self._failure, Failure):
            raise self._failure
        if self._failure is not None:
            message = f"{self._model} answered in a form that is not understood"
            raise Failure(Reason.GENERATION_FAILED, message) from self._failure
        if self._is_gone():
            return
        if not (self._answers.is_complete() or self._answers.is_cut()):
            raise Failure(Reason.GENERATION_FAILED, f"{self._model} stopped in the middle of its answer")
        self._tell(self._answers.end())

    def _take(self, chunk: openai_chat.Chunk) -> None:
        if chunk.error is not None:
            if chunk.error.get("type") == "invalid_request_error":
                raise _refused(self._model, self._generation)
            raise _failure(self._model, chunk.error)
        self._answers.take_in(chunk)
        for delta in self._answers.take():
            self._tell(delta)


def _request(generation: Generation) -> dict[str, Any]:
    sampling = generation.sampling
    settings = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": None if sampling.seed is None else sampling.seed & 0xFFFFFFFF,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "max_tokens": generation.max_tokens,
    }
    return {
        "messages": openai_chat.messages(generation),
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,  # so that a long prompt, too, asks in between whether anybody still wants the answer
        "stop": list(generation.stop),
        **{name: value for name, value in settings.items() if value is not None},
        **openai_chat.form(openai_chat.narrowed(generation.form)),
        **_grammar(generation.form.output),
    }


def _grammar(output: Output | None) -> dict[str, str]:
    if isinstance(output, OneOf):
        return {"grammar": openai_chat.one_of_grammar(output)}
    if isinstance(output, Regex):
        pattern = output.pattern.replace("/", r"\/").replace("\n", r"\n")
        return {"grammar": f"%llguidance {{}}\nstart: /{pattern}/"}
    return {}


def _refused(model: str, generation: Generation) -> Failure:
    """What llama.cpp means that refuses a request before it begins: it says so only in words of its own."""
    if generation.form.tools:
        return invalid_field("tools", f"a schema among them, or their chat, is more than {model} can read; make it simpler")
    if generation.form.output is not None:
        return invalid_field("output", f"{model} cannot hold a text to this schema; make it simpler")
    return Failure(Reason.GENERATION_FAILED, f"messages: the chat template of {model} refuses them")


def _failure(model: str, error: dict[str, Any]) -> Failure:
    if error.get("type") == "exceed_context_size_error":
        needed, context = error["n_prompt_tokens"], error["n_ctx"]
        message = f"messages: {needed} tokens do not fit into the {context} tokens of {model}; shorten them"
        return Failure(Reason.CONTEXT_TOO_LONG, message, metadata={"model": model, "context_tokens": str(context)})
    if "too large to process" in error.get("message", ""):
        return Failure(Reason.CONTEXT_TOO_LONG, f"inputs: one is longer than {model} can read; shorten it")
    if error.get("type") == "not_supported_error":
        return Failure(Reason.MODEL_CAPABILITY_MISSING, f"model: {model} does not embed text")
    return Failure(
        Reason.GENERATION_FAILED, f"{model} failed to answer; its engine reported an error of type {error.get('type')}"
    )
