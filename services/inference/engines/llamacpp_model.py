"""One GGUF model in llama.cpp's own server, in this process: its parameters, its requests, and what its answers mean."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec
import xllamacpp  # type: ignore[import-untyped] # a C module without types

from services.chassis.errors import Failure, Reason
from services.inference.engine import Delta, Embeddings, End, FinishReason, Usage, UsageSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from services.inference.engine import Event, Generation
    from services.inference.engines.gguf_header import GgufHeader

_FINISH_REASONS: Final = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
# Tokens read of a prompt between two looks at whether anybody still wants the answer.
PROMPT_STEP_TOKENS: Final = 128


class LlamaCppModel:
    """A loaded model. Its methods block; they are for threads, and any number may call at once. Loading takes its time too.

    Args:
        path: The GGUF file.
        header: What it says of itself.
        parallel: Generations at the same time.
        context_tokens: Prompt and answer of one generation together.
        threads: Cores it may use. All cores are too many: with anything else running it falls to a tenth of its speed.
    """

    def __init__(self, path: Path, header: GgufHeader, *, parallel: int, context_tokens: int, threads: int) -> None:
        self._name = path.stem
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.model_alias = {path.stem}
        # Inputs of different lengths that are embedded side by side come out wrong: their means are taken over parts.
        parallel = 1 if header.pooling else parallel
        parameters.n_parallel = parallel
        parameters.n_ctx = context_tokens * parallel  # llama.cpp divides it among them
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        parameters.n_batch = parameters.n_ubatch = PROMPT_STEP_TOKENS
        parameters.cache_ram_mib = 0  # 8 GiB by default
        parameters.verbosity = 0
        parameters.warmup = False
        # It opens an HTTP port on loopback, like it or not. Nobody gets the key; calls from here need none.
        parameters.api_keys = [secrets.token_urlsafe(32)]
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

    def generate(self, generation: Generation, tell: Callable[[Event], None], is_gone: Callable[[], bool]) -> None:
        """Runs a generation and tells its events, End last; returns early, without End, once `is_gone`. Raises Failure."""
        answer = _Answer(self._name, tell, is_gone)
        try:
            self._server.handle_chat_completions(msgspec.json.encode(_request(generation)).decode(), answer.read)
        except ValueError as error:
            raise Failure(Reason.GENERATION_FAILED, f"messages: the chat template of {self._name} refuses them") from error
        answer.finish()

    def embed(self, inputs: Sequence[str]) -> Embeddings:
        """Embeds all inputs. Raises Failure, CONTEXT_TOO_LONG among others."""
        # llama.cpp refuses an empty text; a blank says as little.
        request = msgspec.json.encode({"input": [text or " " for text in inputs]}).decode()
        answer = msgspec.json.decode(self._server.handle_embeddings(request))
        if "error" in answer:
            raise _failure(self._name, answer["error"])
        rows = sorted(answer["data"], key=lambda row: row["index"])
        return Embeddings([row["embedding"] for row in rows], answer["usage"]["prompt_tokens"], UsageSource.REPORTED)

    def busy(self) -> int:
        """Generations that llama.cpp itself says it is working on."""
        lines = self._server.handle_metrics().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("llamacpp:requests_processing "))


class _Answer:
    """Reads the chunks of one answer; llama.cpp goes on until `read` returns True."""

    def __init__(self, model: str, tell: Callable[[Event], None], is_gone: Callable[[], bool]) -> None:
        self._model = model
        self._tell = tell
        self._is_gone = is_gone
        self._reason: FinishReason | None = None
        self._usage = Usage(None, None, UsageSource.REPORTED)
        self._failure: BaseException | None = None

    def read(self, chunk: str) -> bool:
        """Takes one chunk. An exception would be swallowed by llama.cpp, so it is kept for `finish`."""
        try:
            self._take(msgspec.json.decode(chunk))
        except (Failure, msgspec.DecodeError, KeyError, TypeError, RuntimeError) as error:
            self._failure = error
        return self._failure is not None or self._is_gone()

    def finish(self) -> None:
        """Tells the end, if there was one."""
        if isinstance(self._failure, Failure):
            raise self._failure
        if self._failure is not None:
            message = f"{self._model} answered in a form that is not understood"
            raise Failure(Reason.GENERATION_FAILED, message) from self._failure
        if self._is_gone():
            return
        if self._reason is None:
            raise Failure(Reason.GENERATION_FAILED, f"{self._model} stopped in the middle of its answer")
        self._tell(End(self._reason, self._usage))

    def _take(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            raise _failure(self._model, chunk["error"])
        if usage := chunk.get("usage"):
            self._usage = Usage(usage["prompt_tokens"], usage["completion_tokens"], UsageSource.REPORTED)
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                self._tell(Delta(text))
            if reason := choice["finish_reason"]:
                self._reason = _FINISH_REASONS.get(reason, FinishReason.STOP)


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
        "messages": [{"role": message.role.value, "content": message.text} for message in generation.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,  # so that a long prompt, too, asks in between whether anybody still wants the answer
        "stop": list(generation.stop),
        **{name: value for name, value in settings.items() if value is not None},
    }


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
