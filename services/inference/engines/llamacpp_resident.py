"""One model of llama.cpp in this process's memory: on its way in, there, or on its way out."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure, Reason
from services.inference.engine import Device, ModelState, Residence
from services.inference.engines import memory
from services.inference.engines.llamacpp_stream import Stream, closed
from services.inference.lifecycle import Progress, Stage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from services.inference.engine import Embeddings, Generation
    from services.inference.engines.llamacpp_files import ModelFile
    from services.inference.engines.llamacpp_model import LlamaCppModel
    from services.inference.memory import Memory


# In this time it shows whether there is room for a model at all.
_REFUSAL_SECONDS: Final = 0.02


class Opening(Protocol):
    """Brings a file into memory; blocks, and raises Failure. Asks between its steps whether nobody waits any more."""

    def __call__(self, told: Callable[[Progress], None], is_abandoned: Callable[[], bool]) -> LlamaCppModel:
        """Opens."""


class Resident:
    """A model that is loaded, or being loaded from the moment this is made. To be made and used on the event loop.

    Args:
        file: What it is loaded from.
        device: Where it runs.
        expected_bytes: Memory that it will take.
        opening: Loads it, in a thread.
        parallel: Generations at the same time.
        memory: Admits it.
        before: An earlier resident of the same name, which has to be gone first.

    Attributes:
        is_current: Whether it is to be asked; no longer once it is on its way out, or could not be loaded for a reason that
            may pass. Another takes its place then.
    """

    def __init__(
        self,
        file: ModelFile,
        device: Device,
        expected_bytes: int,
        opening: Opening,
        *,
        parallel: int,
        memory: Memory,
        before: Resident | None,
    ) -> None:
        self.is_current = True
        self.file = file
        self.device = device
        self.name = file.name
        self.expected_bytes = expected_bytes
        self.users = 0
        self.last_used = time.monotonic()
        self.turns = asyncio.Semaphore(parallel)
        self._model: LlamaCppModel | None = None
        self._executor = ThreadPoolExecutor(parallel, thread_name_prefix=f"llamacpp {self.name}")
        self._memory = memory
        self._streams: set[Stream] = set()
        self._progress = Progress(Stage.WAITING)
        self._moved = asyncio.Event()
        self._abandoned = threading.Event()
        self._loaded_at: float | None = None
        self._used_at: float | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._loading = asyncio.create_task(self._load(opening, before), name=f"load {self.name}")
        # Whoever waits is told of a failure; where nobody does, it is no defect.
        self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def state(self) -> ModelState:
        """How it stands."""
        if not self.is_current:
            return ModelState.UNLOADED
        if not self._loading.done():
            return ModelState.LOADING
        return ModelState.READY if self._model is not None else ModelState.FAILED

    def residence(self) -> Residence:
        """How it lies in memory."""
        return Residence(self.device, self.expected_bytes, self.users, self._loaded_at, self._used_at)

    def is_settled(self) -> bool:
        """Whether it has taken its memory."""
        return self._loading.done()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keeps it from being unloaded as idle. A conversion that nobody waits for any more is given up."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            self.last_used = time.monotonic()
            if not self.users and not self._loading.done() and self._progress.stage is not Stage.LOADING:
                self._abandoned.set()
                self.is_current = False

    async def ready(self) -> None:
        """Waits until it is loaded; raises the Failure for which it could not be."""
        await asyncio.shield(self._loading)

    async def watch(self) -> AsyncGenerator[Progress, None]:
        """Tells how far loading has come, the newest only; ends when it is loaded, or raises as `ready`.

        What is refused at once is raised before anything is told: a call that has told nothing yet can still fail as a whole.
        """
        if self._loading.done():
            await self.ready()
            return
        await asyncio.wait({self._loading}, timeout=_REFUSAL_SECONDS)
        seen: Progress | None = None
        while not self._loading.done():
            moved = asyncio.ensure_future(self._moved.wait())
            if self._progress != seen:
                seen = self._progress
                yield seen
            await asyncio.wait({self._loading, moved}, return_when=asyncio.FIRST_COMPLETED)
            moved.cancel()
        await self.ready()
        if self._progress != seen:
            yield self._progress

    @contextmanager
    def stream(self) -> Iterator[Stream]:
        """A stream for one generation, which `cut` ends."""
        stream = Stream()
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    def start(self, generation: Generation, stream: Stream) -> asyncio.Future[None]:
        """Begins a generation in a thread; its events, and its failure, go to the stream. For one who holds a turn."""

        def work() -> None:
            try:
                self._opened().generate(generation, stream.tell, stream.is_stopped)
            except Failure as failure:
                stream.tell(failure)

        self._used_at = time.time()
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def embed(self, inputs: Sequence[str]) -> Embeddings:
        """Embeds."""
        self._used_at = time.time()
        async with self.turns:
            return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: self._opened().embed(inputs))

    async def tokenize(self, text: str) -> list[int]:
        """The tokens of a text."""
        return await asyncio.to_thread(lambda: self._opened().tokenize(text))

    async def busy(self) -> int:
        """Generations that llama.cpp itself says it is working on."""
        return 0 if self._model is None else await asyncio.to_thread(self._model.busy)

    def cut(self) -> None:
        """Ends the generations; their listeners are told."""
        for stream in list(self._streams):
            stream.cut()

    async def leave(self) -> None:
        """Waits for what is running, frees the memory, and gives it back to the system."""
        if self._leaving is None:
            self._abandoned.set()
            self.is_current = False
            self._leaving = asyncio.create_task(self._leave(), name=f"unload {self.name}")
        await asyncio.shield(self._leaving)

    async def _load(self, opening: Opening, before: Resident | None) -> None:
        began = time.monotonic()
        try:
            if before is not None:
                await before.leave()
            await self._memory.admit(self)
            self._model = await asyncio.get_running_loop().run_in_executor(
                self._executor, opening, self._tell_from_thread(), self._abandoned.is_set
            )
        except Failure as failure:
            # What is wrong with the file stays so until it changes; all else may pass.
            stays = failure.reason is Reason.ENGINE_UNAVAILABLE and failure.retry_after is None
            self.is_current = self.is_current and stays
            self._memory.observe(self.name, time.monotonic() - began, failure.reason)
            raise
        finally:
            if self._model is None:
                self._executor.shutdown(wait=False)
                self._memory.leave(self)
        if self._abandoned.is_set():
            await asyncio.to_thread(self._free)
            self._memory.leave(self)
            raise closed()
        self._loaded_at = time.time()
        self.last_used = time.monotonic()
        self._memory.observe(self.name, self.last_used - began, None)

    async def _leave(self) -> None:
        await asyncio.wait([self._loading])
        await asyncio.to_thread(self._free)
        self._memory.leave(self)

    def _free(self) -> None:
        self._executor.shutdown()
        self._model = None
        memory.give_back()

    def _opened(self) -> LlamaCppModel:
        if self._model is None:
            raise closed()
        return self._model

    def _tell_from_thread(self) -> Callable[[Progress], None]:
        loop = asyncio.get_running_loop()

        def tell(progress: Progress) -> None:
            loop.call_soon_threadsafe(self._move, progress)

        return tell

    def _move(self, progress: Progress) -> None:
        self._progress = progress
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
