"""vLLM in this process: its AsyncLLM, whose core runs in a child process of its own.

The package `vllm` is no part of the service's own environment; see docs/how-to/run-vllm-in-process.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

from services.chassis.errors import Failure, Reason
from services.inference.engine import Capability, Device, Embeddings, Files, Model, ModelState, Residence, UsageSource
from services.inference.engines import async_llm_core as core
from services.inference.engines.async_llm_answer import Answer, parameters
from services.inference.engines.async_llm_core import NAME, failed, gone
from services.inference.lifecycle import Progress, Stage
from services.inference.prompting import grounded
from services.inference.requirements import check_addresses
from services.inference.system import resident_bytes_of
from services.inference.tokenization import Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from services.inference.engine import Event, Generation
    from services.inference.lifecycle import LoadOptions

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 5.0
# What could not be loaded is not tried again by requests for so long.
_REST_SECONDS: Final = 30.0
# What vLLM holds any model to. Tool calls are parsed by its server only.
_FORMS: Final = (
    Capability.JSON_SCHEMA,
    Capability.REGEX,
    Capability.CHOICE,
    Capability.LOGPROBS,
    Capability.ALTERNATIVES,
)


@dataclass(frozen=True, slots=True)
class Options:
    """What vLLM is started with.

    Attributes:
        model: A folder, or the name of a model on the Hugging Face hub.
        name: What requests call it.
        max_model_len: Most tokens of prompt and answer together; 0 for as many as the model knows.
        gpu_memory_utilization: Which part of the GPU's memory vLLM takes.
        tensor_parallel_size: Over how many GPUs the model is spread.
        quantization: Such as `gptq`, `awq` or `fp8`; empty for what the model's own files say.
        more: Other fields of vLLM's AsyncEngineArgs.
    """

    model: str
    name: str = ""
    max_model_len: int = 0
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    quantization: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def served(self) -> str:
        """What requests call the model: the last part of where it comes from, unless another name is given."""
        return self.name or self.model.rstrip("/").rpartition("/")[2]


class Opens(Protocol):
    """Starts vLLM's engine and shuts it down. Both take seconds, and run in a thread."""

    def open(self, options: Options) -> core.Core:
        """Starts it; raises whatever vLLM raises."""

    def shut(self, opened: core.Core) -> None:
        """Ends it; its memory is free then."""


class AsyncLlmEngine:
    """One model, run by vLLM in this process. It is loaded by `start_loading`, by `load`, or by the first request.

    Args:
        options: What vLLM is started with.
        opens: Starts it; vLLM itself where not given.
    """

    name = NAME

    def __init__(self, options: Options, opens: Opens | None = None) -> None:
        self._options = options
        self._opens: Opens = opens or core.Opener()
        self._core: core.Core | None = None
        self._loading: asyncio.Task[core.Core] | None = None
        self._failure = ""
        self._rests_until = 0.0
        self._loaded = self._last_used = 0.0
        self._adapters: dict[str, Any] = {}
        self._numbers = count(1)
        self._running: dict[str, str] = {}
        self._used: Counter[str] = Counter()
        self._is_closed = False

    def start_loading(self) -> None:
        """Begins to load the model, for whoever asks first not to wait for all of it."""
        self._begin()

    async def models(self) -> Sequence[Model]:
        """The model, and its adapters while it is loaded."""
        return [self._described(name) for name in (self._options.served, *self._adapters)]

    def now(self, model: Model) -> Model:
        """A model that `models` gave, as it stands at this moment."""
        return self._described(model.name)

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Streams what the model writes. Closing it aborts the request in vLLM."""
        opened = await self._for(generation.model)
        if opened.embeds:
            raise _cannot(generation.model, "embeds text and does not generate any")
        check_addresses(self.name, generation)
        answer = Answer(generation.form)
        with self._request(generation.model) as request_id:
            tokens = await opened.prompt(grounded(generation))
            outputs = opened.generate(
                tokens, parameters(generation, opened.room(tokens)), request_id, self._adapters.get(generation.model)
            )
            try:
                async with aclosing(outputs):
                    async for output in outputs:
                        for delta in answer.take(output):
                            yield delta
                        if output.finished:
                            yield answer.end(output)
                            return
            except opened.errors as error:
                raise self._told(error, opened, has_content=answer.has_content) from error
        raise failed("it ended without saying so")

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Embeds, all inputs at the same time. Raises MODEL_CAPABILITY_MISSING for a model that writes."""
        opened = await self._for(model)
        if not opened.embeds:
            raise _cannot(model, "generates text and does not embed any")
        with self._request(model) as request_id:
            tasks = [asyncio.create_task(opened.embed(text, f"{request_id}-{number}")) for number, text in enumerate(inputs)]
            try:
                vectors = await asyncio.gather(*tasks)
            except opened.errors as error:
                raise self._told(error, opened, has_content=False) from error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return Embeddings([vector for vector, _ in vectors], sum(tokens for _, tokens in vectors), UsageSource.REPORTED)

    async def tokenize(self, model: str, text: str) -> Tokens:
        """Counts by the model's own tokenizer; loads the model."""
        opened = await self._for(model)
        ids = await asyncio.to_thread(opened.tokens_of, text)
        return Tokens(len(ids), tuple(ids), UsageSource.COUNTED)

    async def load(self, model: str, options: LoadOptions) -> AsyncGenerator[Progress, None]:
        """Loads the model where it is not loaded."""
        self._check_name(model)
        if options.keep_alive is not None:
            raise _cannot(model, "stays until it is unloaded: leave `keep_alive` out")
        if options.device is not Device.AUTO and options.device is not await asyncio.to_thread(core.device):
            message = f"device: this build of vLLM does not run {model} on {options.device.value}; leave `device` out"
            raise Failure(Reason.DEVICE_UNAVAILABLE, message, metadata={"model": model, "device": options.device.value})
        if self._core is None:
            yield Progress(Stage.LOADING)
        await self._ready()

    async def unload(self, model: str, *, force: bool) -> None:
        """Takes an adapter away, or ends vLLM's engine, which gives all of its memory back."""
        self._check_name(model)
        opened = self._core
        if opened is None:
            raise Failure(Reason.MODEL_NOT_LOADED, f"model: {model} is not loaded", metadata={"model": model})
        adapter = self._adapters.get(model)
        running = self._used[model] if adapter is not None else self._used.total()
        if running and not force:
            message = f"model: {running} requests use {model}; wait for them, or unload it with `force`"
            facts = {"model": model, "running_requests": str(running)}
            raise Failure(Reason.MODEL_IN_USE, message, metadata=facts, retry_after=_RETRY_SECONDS)
        await self._abort(opened, model if adapter is not None else "")
        if adapter is not None:
            del self._adapters[model]
            await opened.llm.remove_lora(adapter.lora_int_id)
        else:
            await self._shut(opened)

    async def load_adapter(self, name: str, path: str) -> AsyncGenerator[Progress, None]:
        """Loads a LoRA adapter from a folder, and serves it as a model of that name."""
        if not self._options.more.get("enable_lora"):
            raise _cannot(name, 'cannot be loaded: set VLLM_OPTIONS={"enable_lora": true}')
        yield Progress(Stage.LOADING)
        opened = await self._ready()
        adapter = core.adapter(name, next(self._numbers), path)
        try:
            await opened.llm.add_lora(adapter)
        except Exception as error:
            # vLLM's core sends back whatever it meets, as an error of no kind of its own.
            _log.warning("the adapter %s cannot be loaded: %s", name, error)
            message = f"model: vLLM can load no adapter {name} from there; is the folder right, and its rank not too large?"
            raise Failure(Reason.MODEL_NOT_FOUND, message, metadata={"model": name}) from error
        self._adapters[name] = adapter

    async def close(self) -> None:
        """Ends the generations and vLLM's engine."""
        self._is_closed = True
        if self._loading is not None:
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._core is not None:
            await self._abort(self._core)
            await self._shut(self._core)

    async def _for(self, model: str) -> core.Core:
        self._check_name(model)
        self._last_used = time.time()
        if self._core is None and time.monotonic() < self._rests_until:
            left = self._rests_until - time.monotonic()
            raise Failure(
                Reason.ENGINE_UNAVAILABLE, f"model: {self._failure}", metadata={"engine": self.name}, retry_after=left
            )
        return await self._ready()

    async def _ready(self) -> core.Core:
        if self._core is not None and self._core.llm.errored:
            await self._shut(self._core)
        if self._core is not None:
            return self._core
        # Whoever waits may leave; the load goes on for the others.
        return await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[core.Core]:
        if self._loading is None:
            self._loading = asyncio.create_task(self._load(), name="load vllm")
            self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._loading

    async def _load(self) -> core.Core:
        began = time.monotonic()
        try:
            opened = await asyncio.to_thread(self._opens.open, self._options)
        except Exception as error:
            # Nothing says what vLLM may raise while it starts.
            _log.exception("vLLM cannot load %s", self._options.served)
            self._failure = f"vLLM cannot load {self._options.served}; the log says why"
            self._rests_until = time.monotonic() + _REST_SECONDS
            raise Failure(
                Reason.ENGINE_UNAVAILABLE, f"model: {self._failure}", metadata={"engine": self.name}, retry_after=_RETRY_SECONDS
            ) from error
        finally:
            self._loading = None
        self._core, self._failure, self._rests_until, self._loaded = opened, "", 0.0, time.time()
        _log.info("vLLM has loaded %s in %.0f s", self._options.served, time.monotonic() - began)
        if self._is_closed:
            await self._shut(opened)
            raise gone()
        return opened

    async def _shut(self, opened: core.Core) -> None:
        if self._core is opened:
            self._core = None
            self._adapters.clear()
        await asyncio.to_thread(self._opens.shut, opened)

    async def _abort(self, opened: core.Core, model: str = "") -> None:
        """Ends the generations of a model, or all; what streams them sees it as `abort`."""
        ids = [request_id for request_id, used in self._running.items() if model in {"", used}]
        if ids and not opened.llm.errored:
            await opened.llm.abort(ids)

    def _told(self, error: Exception, opened: core.Core, *, has_content: bool) -> Failure:
        if opened.llm.errored:
            _log.error("vLLM's engine has died; the next request loads the model again")
        return core.told(error, is_dead=opened.llm.errored, has_content=has_content)

    def _described(self, name: str) -> Model:
        opened = self._core
        state = ModelState.READY if opened is not None else ModelState.UNLOADED
        if opened is None and self._loading is not None:
            state = ModelState.LOADING
        elif opened is None and self._failure:
            state = ModelState.FAILED
        embeds = opened.embeds if opened is not None else self._options.more.get("runner") == "pooling"
        residence = None
        if opened is not None:
            residence = Residence(
                opened.device,
                sum(map(resident_bytes_of, opened.pids)),
                sum(used == name for used in self._running.values()),
                self._loaded,
                self._last_used or None,
            )
        return Model(
            name=name,
            engine=self.name,
            capabilities=(Capability.EMBEDDING,) if embeds else (Capability.GENERATION, *_FORMS),
            state=state,
            context_tokens=opened.context_tokens if opened is not None else self._options.max_model_len,
            dimensions=opened.dimensions if opened is not None and embeds else 0,
            description=self._failure or "Run in this process by vLLM.",
            fingerprint=f"{NAME}:{self._options.model}:{name}:{self._options.quantization}",
            residence=residence,
            files=Files(quantization=self._options.quantization.upper(), format="safetensors"),
        )

    def _check_name(self, model: str) -> None:
        if model != self._options.served and model not in self._adapters:
            message = f"model: vLLM runs {self._options.served} here, and not {model[:100]}"
            raise Failure(Reason.MODEL_NOT_FOUND, message, metadata={"model": model[:100]})

    @contextmanager
    def _request(self, model: str) -> Iterator[str]:
        request_id = uuid4().hex
        self._running[request_id] = model
        self._used[model] += 1
        try:
            yield request_id
        finally:
            del self._running[request_id]
            self._used[model] -= 1


def _cannot(model: str, why: str) -> Failure:
    return Failure(Reason.MODEL_CAPABILITY_MISSING, f"model: {model} {why}", metadata={"model": model})
