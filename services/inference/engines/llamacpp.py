"""Any GGUF model, run in this process by llama.cpp (xllamacpp) on the CPU."""

from __future__ import annotations

import asyncio
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.chassis.errors import Failure, Reason
from services.inference.engine import Capability, Model, ModelState
from services.inference.engines import memory
from services.inference.engines.gguf_header import GgufHeader, read_header
from services.inference.engines.llamacpp_model import LlamaCppModel
from services.inference.engines.llamacpp_stream import Stream, closed
from services.inference.prompting import grounded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from services.inference.engine import Embeddings, Event, Generation

CONTEXT_TOKENS: Final = 4096
PARALLEL: Final = 4
_RANKS: Final = 4
# A model in pieces is loaded by its first.
_LATER_PIECE: Final = re.compile(r"-(?!00001)\d{5}-of-\d{5}$")


@dataclass(frozen=True, slots=True)
class _File:
    """A GGUF file as it stood when it was last looked at."""

    path: Path
    changed: int
    size: int
    header: GgufHeader


class LlamaCppEngine:
    """Serves the *.gguf files of a folder under their names without the ending. A model is loaded when it is first used.

    Files that come, change or go are noticed by `models`. A file that is no GGUF is left out; one that cannot be loaded is told
    so to whoever asks for it, and not tried again until it changes.

    Args:
        models_dir: The folder; it need not exist yet.
        parallel: Generations of one model at the same time; more wait in line.
        context_tokens: Most tokens of prompt and answer together, less where the model knows less.
        threads: Cores a model may use. None leaves one for the rest of the suite.
    """

    def __init__(
        self, models_dir: Path, *, parallel: int = PARALLEL, context_tokens: int = CONTEXT_TOKENS, threads: int | None = None
    ) -> None:
        self._folder = models_dir
        self._parallel = parallel
        self._context_tokens = context_tokens
        self._threads = threads or max(1, (os.cpu_count() or 2) - 1)
        self._files: dict[str, _File] = {}
        self._loads: dict[str, tuple[_File, asyncio.Task[_Loaded]]] = {}
        self._streams: set[Stream] = set()

    @property
    def name(self) -> str:
        """`llamacpp`."""
        return "llamacpp"

    async def models(self) -> Sequence[Model]:
        """The models of the folder as it is now, in the order of their names."""
        self._files = await asyncio.to_thread(_scan, self._folder, self._files)
        return tuple(self._described(name, file) for name, file in sorted(self._files.items()))

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Streams what the model writes; tokens that wait together come as one delta."""
        loaded = await self._loaded(generation.model)
        if loaded.file.header.pooling:
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, f"model: {generation.model} embeds text and does not generate any")
        stream = Stream()
        self._streams.add(stream)
        try:
            async with loaded.turns:
                if stream.is_stopped():
                    raise closed()
                working = loaded.start(grounded(generation), stream)
                try:
                    async for event in stream.events():
                        yield event
                finally:
                    # The turn is over when llama.cpp has let go, a moment after it sees that nobody listens.
                    stream.stop()
                    await asyncio.shield(working)
        finally:
            self._streams.discard(stream)

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Embeds with a GGUF that pools its tokens. Raises MODEL_CAPABILITY_MISSING for one that writes."""
        loaded = await self._loaded(model)
        if not loaded.file.header.pooling:
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, f"model: {model} generates text and does not embed any")
        async with loaded.turns:
            return await asyncio.get_running_loop().run_in_executor(loaded.executor, loaded.model.embed, inputs)

    async def busy(self) -> int:
        """Generations that llama.cpp itself says it is working on."""
        models = [task.result().model for _, task in self._loads.values() if task.done() and not task.exception()]
        return sum([await asyncio.to_thread(model.busy) for model in models])

    async def close(self) -> None:
        """Stops the generations and unloads the models."""
        for stream in list(self._streams):
            stream.cut()
        loads, self._loads = [task for _, task in self._loads.values()], {}
        for outcome in await asyncio.gather(*loads, return_exceptions=True):
            if isinstance(outcome, _Loaded):
                await outcome.unload()
        del loads
        memory.give_back()

    def _described(self, name: str, file: _File) -> Model:
        load = self._loads.get(name)
        ready = load is not None and load[0] == file and load[1].done() and load[1].exception() is None
        header = file.header
        return Model(
            name=name,
            engine=self.name,
            capabilities=(Capability.EMBEDDING if header.pooling else Capability.GENERATION,),
            state=ModelState.READY if ready else ModelState.UNLOADED,
            context_tokens=self._context_of(header),
            dimensions=header.dimensions if header.pooling else 0,
            size_bytes=file.size,
            description=f"{header.architecture} model from a GGUF file, run in this process by llama.cpp.",
            fingerprint=f"{name}:{file.size}:{file.changed}",
        )

    def _context_of(self, header: GgufHeader) -> int:
        return min(self._context_tokens, header.context_tokens or self._context_tokens)

    async def _loaded(self, name: str) -> _Loaded:
        """The model, loaded by whoever asks first; the others wait for the same load."""
        if name not in self._files:
            await self.models()
        file = self._files.get(name)
        if file is None:
            raise Failure(Reason.MODEL_NOT_FOUND, f"model: there is no {name}.gguf in MODELS_DIR", metadata={"model": name})
        load = self._loads.get(name)
        if load is None or load[0] != file:
            load = (file, asyncio.create_task(self._load(file, load[1] if load else None), name=f"load {name}"))
            self._loads[name] = load
        return await asyncio.shield(load[1])

    async def _load(self, file: _File, before: asyncio.Task[_Loaded] | None) -> _Loaded:
        if before is not None and before.done() and before.exception() is None:
            await before.result().unload()  # its file has changed
        executor = ThreadPoolExecutor(self._parallel, thread_name_prefix=f"llamacpp {file.path.stem}")

        def load() -> LlamaCppModel:
            context = self._context_of(file.header)
            return LlamaCppModel(file.path, file.header, parallel=self._parallel, context_tokens=context, threads=self._threads)

        try:
            model = await asyncio.get_running_loop().run_in_executor(executor, load)
        except Failure:
            executor.shutdown(wait=False)
            raise
        return _Loaded(file, model, executor, asyncio.Semaphore(self._parallel))


class _Loaded:
    """A loaded model with the threads that its callers wait in."""

    def __init__(self, file: _File, model: LlamaCppModel, executor: ThreadPoolExecutor, turns: asyncio.Semaphore) -> None:
        self.file = file
        self.model = model
        self.executor = executor
        self.turns = turns

    def start(self, generation: Generation, stream: Stream) -> asyncio.Future[None]:
        """Begins a generation in a thread; its events, and its failure, go to the stream."""

        def work() -> None:
            try:
                self.model.generate(generation, stream.tell, stream.is_stopped)
            except Failure as failure:
                stream.tell(failure)

        return asyncio.get_running_loop().run_in_executor(self.executor, work)

    async def unload(self) -> None:
        """Waits for the generations to let go, then frees the memory."""
        await asyncio.to_thread(self._free)

    def _free(self) -> None:
        self.executor.shutdown()
        del self.model


def _scan(folder: Path, known: dict[str, _File]) -> dict[str, _File]:
    """The GGUF files of a folder; headers are read again only where a file has changed."""
    found: dict[str, _File] = {}
    if not folder.is_dir():
        return found
    for path in folder.glob("*.gguf"):
        if _LATER_PIECE.search(path.stem):
            continue
        try:
            status = path.stat()
            file = known.get(path.stem)
            if file is None or (file.changed, file.size) != (status.st_mtime_ns, status.st_size):
                file = _File(path, status.st_mtime_ns, status.st_size, read_header(path))
        except (OSError, ValueError):
            continue  # gone, unreadable or no GGUF: it is not served
        if file.header.pooling != _RANKS:
            found[path.stem] = file
    return found
