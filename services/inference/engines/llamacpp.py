"""Any GGUF model, and Llama and Qwen2 in Hugging Face's format, run in this process by llama.cpp (xllamacpp)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from services.chassis.errors import Failure, Reason
from services.inference.engine import Capability, Device, Model, ModelState, UsageSource
from services.inference.engines import memory as freed
from services.inference.engines.chat_template import has_tools
from services.inference.engines.llamacpp_converted import ConvertedFiles
from services.inference.engines.llamacpp_files import ModelFile, scan
from services.inference.engines.llamacpp_model import LlamaCppModel, has_cuda
from services.inference.engines.llamacpp_resident import Resident
from services.inference.engines.llamacpp_stream import closed
from services.inference.lifecycle import LoadOptions, Progress, Stage
from services.inference.memory import Memory
from services.inference.prompting import grounded
from services.inference.tokenization import Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from services.inference.engine import Embeddings, Event, Generation

CONTEXT_TOKENS: Final = 4096
PARALLEL: Final = 4
# Seconds after which to try again when requests are in the way.
# What llama.cpp holds any model to.
_FORMS: Final = (
    Capability.JSON_SCHEMA,
    Capability.REGEX,
    Capability.CHOICE,
    Capability.LOGPROBS,
    Capability.ALTERNATIVES,
)
_RETRY_SECONDS: Final = 5.0


class LlamaCppEngine:
    """Serves the models of a folder, loading each when it is first used.

    They are the *.gguf files, under their names without the ending, and the folders with safetensors of Llama or Qwen2, under
    their names; those are written as GGUF before they are first loaded. `models` notices what comes, changes or goes. What is
    no model is left out; one that cannot be loaded is told so to whoever asks for it, and not tried again until it changes.

    Args:
        models_dir: The folder; it need not exist yet.
        converted_dir: Where converted models are kept; the folder itself, hidden, where None.
        memory: What the models may take, shared with other engines; None for as much as there is.
        parallel: Generations of one model at the same time; more wait in line.
        context_tokens: Most tokens of prompt and answer together, less where the model knows less.
        threads: Cores a model may use. None leaves one for the rest of the suite.
    """

    def __init__(
        self,
        models_dir: Path,
        *,
        converted_dir: Path | None = None,
        memory: Memory | None = None,
        parallel: int = PARALLEL,
        context_tokens: int = CONTEXT_TOKENS,
        threads: int | None = None,
    ) -> None:
        self._folder = models_dir
        self._converted = ConvertedFiles(converted_dir or models_dir / ".converted")
        self._memory = memory or Memory()
        self._parallel = parallel
        self._context_tokens = context_tokens
        self._threads = threads or max(1, (os.cpu_count() or 2) - 1)
        self._files: dict[str, ModelFile] = {}
        self._refused: dict[Path, str] = {}
        self._residents: dict[str, Resident] = {}

    @property
    def name(self) -> str:
        """`llamacpp`."""
        return "llamacpp"

    @property
    def room(self) -> int:
        """Generations of one model at the same time; the service lines up those that come beyond them."""
        return self._parallel

    async def models(self) -> Sequence[Model]:
        """The models of the folder as it is now, in the order of their names."""
        self._files = await asyncio.to_thread(scan, self._folder, self._files, self._refused)
        for name, resident in list(self._residents.items()):
            if resident.file != self._files.get(name) and not resident.users and resident.is_settled():
                await resident.leave()  # what it was loaded from is gone
                if self._residents.get(name) is resident:
                    del self._residents[name]
        return tuple(self._described(name, file) for name, file in sorted(self._files.items()))

    def now(self, model: Model) -> Model:
        """A model that `models` gave, as it stands at this moment."""
        file = self._files.get(model.name)
        return model if file is None else self._described(model.name, file)

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Streams what the model writes; tokens that wait together come as one delta."""
        resident = await self._resident(generation.model)
        if resident.file.header.pooling:
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, f"model: {generation.model} embeds text and does not generate any")
        with resident.used(), resident.stream() as stream:
            await resident.ready()
            async with resident.turns:
                if stream.is_stopped():
                    raise closed()
                working = resident.start(grounded(generation), stream)
                try:
                    async for event in stream.events():
                        yield event
                finally:
                    # The turn is over when llama.cpp has let go, a moment after it sees that nobody listens.
                    stream.stop()
                    await asyncio.shield(working)

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Embeds with a GGUF that pools its tokens. Raises MODEL_CAPABILITY_MISSING for one that writes."""
        resident = await self._resident(model)
        if not resident.file.header.pooling:
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, f"model: {model} generates text and does not embed any")
        with resident.used():
            await resident.ready()
            return await resident.embed(inputs)

    async def tokenize(self, model: str, text: str) -> Tokens:
        """Counts by the model's own tokenizer; loads the model."""
        resident = await self._resident(model)
        with resident.used():
            await resident.ready()
            ids = await resident.tokenize(text)
        return Tokens(len(ids), tuple(ids), UsageSource.COUNTED)

    async def load(self, model: str, options: LoadOptions) -> AsyncGenerator[Progress, None]:
        """Loads, on the device that is wanted; tells how far it has come."""
        if options.keep_alive is not None:
            message = (
                f"keep_alive: {model} stays until it is unloaded or its memory is needed; only models of ollama have a time"
            )
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": model})
        there = self._residents.get(model)
        if there is not None and there.state is ModelState.FAILED:
            there.is_current = False  # who asks for it by name wants it tried again
        resident = await self._resident(model, options.device)
        with resident.used():
            async for progress in resident.watch():
                yield progress

    async def unload(self, model: str, *, force: bool) -> None:
        """Unloads; with `force` its generations end with ENGINE_UNAVAILABLE."""
        resident = self._residents.get(model)
        if resident is None or resident.state not in {ModelState.READY, ModelState.LOADING}:
            raise Failure(Reason.MODEL_NOT_LOADED, f"model: {model} is not loaded", metadata={"model": model})
        await self._out(resident, force=force)

    async def delete(self, model: str, *, force: bool) -> None:
        """Unloads the model where it is loaded, and deletes its files."""
        file = await self._file(model)
        resident = self._residents.get(model)
        if resident is not None and resident.is_current:
            await self._out(resident, force=force)
        try:
            await asyncio.to_thread(self._delete, file)
        except OSError as error:
            message = f"model: the files of {model} cannot be deleted from MODELS_DIR: {error.strerror}"
            raise Failure(Reason.ENGINE_UNAVAILABLE, message, metadata={"model": model}) from error
        self._residents.pop(model, None)

    async def busy(self) -> int:
        """Generations that llama.cpp itself says it is working on."""
        return sum([await resident.busy() for resident in self._residents.values()])

    async def close(self) -> None:
        """Stops the generations and unloads the models."""
        residents, self._residents = list(self._residents.values()), {}
        for resident in residents:
            resident.cut()
        await asyncio.gather(*(resident.leave() for resident in residents))
        freed.give_back()

    def _described(self, name: str, file: ModelFile) -> Model:
        header = file.header
        resident = self._residents.get(name)
        if resident is not None and (resident.file != file or not resident.is_current):
            resident = None
        state = ModelState.UNLOADED if resident is None else resident.state
        there = resident is not None and state in {ModelState.READY, ModelState.LOADING}
        kind = "safetensors" if file.is_converted else "a GGUF file"
        return Model(
            name=name,
            engine=self.name,
            capabilities=_capabilities(file),
            state=state,
            context_tokens=self._context_of(file),
            dimensions=header.dimensions if header.pooling else 0,
            size_bytes=file.size,
            description=f"{header.architecture} model from {kind}, run in this process by llama.cpp.",
            fingerprint=f"{name}:{file.size}:{file.changed}",
            residence=resident.residence() if resident is not None and there else None,
            files=file.told(),
        )

    def _context_of(self, file: ModelFile) -> int:
        return min(self._context_tokens, file.header.context_tokens or self._context_tokens)

    def _expected_bytes(self, file: ModelFile) -> int:
        return file.expected_bytes(self._context_of(file), 1 if file.header.pooling else self._parallel)

    async def _file(self, name: str) -> ModelFile:
        if name not in self._files:
            await self.models()
        file = self._files.get(name)
        if file is None:
            message = f"model: there is no {name}.gguf, nor a folder {name} of safetensors, in MODELS_DIR"
            raise Failure(Reason.MODEL_NOT_FOUND, message, metadata={"model": name})
        return file

    async def _resident(self, name: str, device: Device = Device.AUTO) -> Resident:
        """The model, loaded by whoever asks first; the others wait for the same load. Call `used` before awaiting anything."""
        file = await self._file(name)
        cuda = has_cuda()
        if device is Device.CUDA and not cuda:
            message = f"device: {name} cannot run on a GPU: this llama.cpp finds none here; leave `device` out to use the CPU"
            raise Failure(Reason.DEVICE_UNAVAILABLE, message, metadata={"model": name, "device": device.value})
        there = self._residents.get(name)
        if there is not None and there.is_current and there.file == file:
            if device in {Device.AUTO, there.device}:
                return there
            if there.users:
                raise _in_use(there, f"runs on the device {there.device.value}")
        if device is Device.AUTO:
            device = Device.CUDA if cuda else Device.CPU
        self._residents[name] = Resident(
            file,
            device,
            self._expected_bytes(file),
            self._opening(file, device),
            parallel=self._parallel,
            memory=self._memory,
            before=there,
        )
        return self._residents[name]

    async def _out(self, resident: Resident, *, force: bool) -> None:
        if resident.users and not force:
            raise _in_use(resident, "is in use")
        resident.cut()
        await resident.leave()

    def _opening(self, file: ModelFile, device: Device) -> Callable[..., LlamaCppModel]:
        context, threads, parallel = self._context_of(file), self._threads, self._parallel

        def open_(told: Callable[[Progress], None], is_abandoned: Callable[[], bool]) -> LlamaCppModel:
            path = self._converted.path_of(file, told, is_abandoned) if file.is_converted else file.path
            told(Progress(Stage.LOADING, 0, file.size))
            model = LlamaCppModel(
                path, file.header, name=file.name, parallel=parallel, context_tokens=context, threads=threads, device=device
            )
            told(Progress(Stage.LOADING, file.size, file.size))
            return model

        return open_

    def _delete(self, file: ModelFile) -> None:
        for path in file.parts():
            path.unlink(missing_ok=True)
        if file.is_converted:
            self._converted.delete(file.name)
            if not any(file.path.iterdir()):
                file.path.rmdir()


def _capabilities(file: ModelFile) -> tuple[Capability, ...]:
    if file.header.pooling:
        return (Capability.EMBEDDING,)
    tools = (Capability.TOOLS,) if has_tools(file.path, file.changed) else ()
    return (Capability.GENERATION, *tools, *_FORMS)


def _in_use(resident: Resident, why: str) -> Failure:
    message = f"model: {resident.name} {why}, and {resident.users} requests use it; wait for them, or unload it with `force`"
    facts = {"model": resident.name, "running_requests": str(resident.users)}
    return Failure(Reason.MODEL_IN_USE, message, metadata=facts, retry_after=_RETRY_SECONDS)
