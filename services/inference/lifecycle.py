"""Brings models into memory and out of it, and onto the disk and off it, whichever engine they belong to."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, runtime_checkable

from services.chassis.errors import Failure, Reason
from services.inference.engine import Device, Sampling
from services.inference.system import resident_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.engine import Model
    from services.inference.memory import Memory
    from services.inference.models import Found, Models


class Stage(StrEnum):
    """What a load or a pull is doing."""

    WAITING = "waiting"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    CONVERTING = "converting"
    LOADING = "loading"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load or a pull has come. Bytes are of this stage; 0 where unknown."""

    stage: Stage
    completed_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model.

    Attributes:
        device: Where to run it.
        keep_alive: Seconds an unused model stays loaded, 0 for ever; None leaves the engine's own rule.
        adapter_path: Where a LoRA adapter lies, as the engine's server sees it; empty for a whole model.
    """

    device: Device = Device.AUTO
    keep_alive: float | None = None
    adapter_path: str = ""


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """What to make a model of; what is empty, 0 or None stays as it is in the base.

    Attributes:
        base: The model that it is made of.
        system_prompt: The system message of requests that have none.
        template: The prompt's template, in the engine's own language.
        sampling: How tokens are chosen where requests do not say.
        context_tokens: Most tokens of prompt and answer together.
        max_tokens: Most tokens to generate where requests do not say.
        stop: Sequences that end the text.
        quantization: Such as `q4_K_M`.
    """

    base: str
    system_prompt: str = ""
    template: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    context_tokens: int = 0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    quantization: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a load or a pull; `model` is None when it failed."""

    model: Model | None
    seconds: float
    failure: Failure | None = None


Event: TypeAlias = Progress | Finished


@dataclass(frozen=True, slots=True)
class Unloaded:
    """What unloading brought: the model as it stands, and by how many bytes this process shrank."""

    model: Model
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class Optimized:
    """What was unloaded, and this process's resident bytes before and after."""

    models: tuple[str, ...]
    before: int
    after: int


@runtime_checkable
class Loads(Protocol):
    """An engine whose models can be loaded and unloaded. Options that it does not have raise MODEL_CAPABILITY_MISSING."""

    def load(self, model: str, options: LoadOptions) -> AsyncGenerator[Progress, None]:
        """Loads; ends once the model is ready. Raises OUT_OF_MEMORY, DEVICE_UNAVAILABLE, MODEL_IN_USE, as other calls do."""

    async def unload(self, model: str, *, force: bool) -> None:
        """Unloads; returns once the memory is free. Raises MODEL_NOT_LOADED, and MODEL_IN_USE unless forced."""


@runtime_checkable
class Pulls(Protocol):
    """An engine that fetches models from a registry."""

    def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Fetches; ends once the model can be used. Closing it stops the download."""


@runtime_checkable
class Creates(Protocol):
    """An engine that makes models out of others."""

    def create(self, model: str, options: CreateOptions) -> AsyncGenerator[Progress, None]:
        """Makes it; ends once the model can be used. Closing it stops the work."""


@runtime_checkable
class Deletes(Protocol):
    """An engine that can delete its models' files."""

    async def delete(self, model: str, *, force: bool) -> None:
        """Unloads and deletes. Raises MODEL_IN_USE unless forced."""


@runtime_checkable
class TakesAdapters(Protocol):
    """An engine that loads LoRA adapters beside its model."""

    def load_adapter(self, name: str, path: str) -> AsyncGenerator[Progress, None]:
        """Loads the adapter and serves it as a model of that name."""


# Which engines can, for messages.
_LOAD: Final = "llamacpp, ollama and vLLM"
_PULL: Final = "ollama (OLLAMA_BASE_URL)"
_DELETE: Final = "llamacpp and ollama"


class ModelLifecycle:
    """Loads, unloads, pulls and deletes.

    Args:
        models: The models; told at once of what changes.
        engines: All engines, in the order of `models`.
        memory: What the models of this process may take.
    """

    def __init__(self, models: Models, engines: Sequence[object], memory: Memory) -> None:
        self._models = models
        self._engines = engines
        self._memory = memory

    async def load(self, model: str, options: LoadOptions) -> AsyncGenerator[Event, None]:
        """Streams progress, and exactly one Finished. Raises Failure; after the first event it is told in Finished too."""
        engine, progress = self._loading(model, options)
        async with aclosing(self._run(engine, model, progress)) as events:
            async for event in events:
                yield event

    async def unload(self, model: str, *, force: bool) -> Unloaded:
        """Unloads. Raises MODEL_NOT_FOUND, MODEL_NOT_LOADED, MODEL_IN_USE, MODEL_CAPABILITY_MISSING."""
        found = self._models.named(model)
        if not isinstance(found.engine, Loads):
            raise _cannot(found, "be loaded or unloaded", _LOAD)
        before = resident_bytes()
        try:
            await found.engine.unload(found.model.name, force=force)
        finally:
            await self._models.refresh(found.engine)
        freed = max(0, before - resident_bytes())
        # An adapter is gone altogether once it is unloaded.
        return Unloaded(self._models.known(found.engine, found.model.name) or found.model, freed)

    async def pull(self, model: str) -> AsyncGenerator[Event, None]:
        """Streams progress, and exactly one Finished. Raises Failure; after the first event it is told in Finished too."""
        engine = next((engine for engine in self._engines if isinstance(engine, Pulls)), None)
        if engine is None:
            raise _missing(model, "pull models", _PULL)
        async with aclosing(self._run(engine, model, engine.pull(model))) as events:
            async for event in events:
                yield event

    async def create(self, model: str, options: CreateOptions) -> AsyncGenerator[Event, None]:
        """Streams progress, and exactly one Finished. Raises Failure; after the first event it is told in Finished too."""
        engine = next((engine for engine in self._engines if isinstance(engine, Creates)), None)
        if engine is None:
            raise _missing(model, "make models out of others", _PULL)
        async with aclosing(self._run(engine, model, engine.create(model, options))) as events:
            async for event in events:
                yield event

    async def delete(self, model: str, *, force: bool) -> int:
        """Deletes, and returns how many bytes the model had. Raises MODEL_NOT_FOUND, MODEL_IN_USE, MODEL_CAPABILITY_MISSING."""
        found = self._models.named(model)
        if not isinstance(found.engine, Deletes):
            raise _cannot(found, "be deleted from here", _DELETE)
        try:
            await found.engine.delete(found.model.name, force=force)
        finally:
            await self._models.refresh(found.engine)
        return found.model.size_bytes

    async def optimize(self, idle_seconds: float) -> Optimized:
        """Unloads the models of this process that have been idle for so long, and gives freed memory back."""
        before = resident_bytes()
        unloaded = await self._memory.unload_idle(idle_seconds)
        after = resident_bytes()
        await self._models.refresh_all()
        return Optimized(tuple(unloaded), before, after)

    def _loading(self, model: str, options: LoadOptions) -> tuple[object, AsyncGenerator[Progress, None]]:
        if options.adapter_path:
            takes = next((engine for engine in self._engines if isinstance(engine, TakesAdapters)), None)
            if takes is None:
                raise _missing(model, "load a LoRA adapter", "a vLLM server (VLLM_BASE_URL)")
            return takes, takes.load_adapter(model, options.adapter_path)
        found = self._models.named(model)
        if not isinstance(found.engine, Loads):
            raise _cannot(found, "be loaded or unloaded", _LOAD)
        return found.engine, found.engine.load(found.model.name, options)

    async def _run(self, engine: object, model: str, progress: AsyncGenerator[Progress, None]) -> AsyncGenerator[Event, None]:
        started = time.monotonic()
        has_begun = False
        try:
            async with aclosing(progress):
                async for step in progress:
                    has_begun = True
                    yield step
            await self._models.refresh(engine)
        except Failure as failure:
            await self._models.refresh(engine)
            if has_begun:
                yield Finished(None, time.monotonic() - started, failure)
            raise
        yield Finished(self._models.known(engine, model), time.monotonic() - started)


def _cannot(found: Found, what: str, who: str) -> Failure:
    message = f"model: {found.model.name} of the engine {found.engine.name} cannot {what}; models of {who} can"
    metadata = {"model": found.model.name, "engine": found.engine.name}
    return Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata=metadata)


def _missing(model: str, what: str, who: str) -> Failure:
    message = f"model: no engine in reach can {what}; connect {who}"
    return Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": model})
