"""A vLLM server: what it offers beyond the OpenAI API, which is to sleep, to wake, and to take LoRA adapters."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.engine import Device, ModelState
from services.inference.engines.openai import OpenAIEngine
from services.inference.engines.remote import MALFORMED, Limits, unavailable
from services.inference.lifecycle import Progress, Stage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterator, Sequence

    from services.inference.engine import Embeddings, Event, Generation, Model
    from services.inference.lifecycle import LoadOptions

# Weights move between the GPU and the machine's memory, or come from a disk.
_PATIENT: Final = Limits(connect=2.0, first_token=600.0, inter_token=600.0)
_RETRY_SECONDS: Final = 5.0
_SLEEP_HINT: Final = "start it with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1"
_ADAPTER_HINT: Final = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"


class _Asleep(msgspec.Struct):
    is_sleeping: bool = False


_decode_asleep = msgspec.json.Decoder(_Asleep).decode


class VllmEngine(OpenAIEngine):
    """A vLLM server. Its model counts as unloaded while it sleeps; it is woken by `load`, never by a request.

    The arguments are those of OpenAIEngine.
    """

    name = "vllm"

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str = "",
        embedding_models: Collection[str] = (),
        image_models: Collection[str] = (),
        limits: Limits | None = None,
    ) -> None:
        super().__init__(base_url, api_key=api_key, embedding_models=embedding_models, image_models=image_models, limits=limits)
        self._sleeps: bool | None = None  # None while it has not been asked
        self._is_asleep = False
        self._turns = 0  # how often it was put to sleep or woken from here
        self._used: Counter[str] = Counter()

    async def models(self) -> Sequence[Model]:
        """Lists its model and the adapters."""
        try:
            models = await super().models()
            await self._ask_whether_asleep()
        except Failure:
            self._sleeps = None  # it may come back started in another way
            raise
        if not self._is_asleep:
            return models
        return [replace(model, state=ModelState.UNLOADED) for model in models]

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Streams a chat completion. Raises MODEL_NOT_LOADED while the server sleeps."""
        self._refuse_while_asleep(generation.model)
        with self._using(generation.model):
            async with aclosing(super().generate(generation)) as events:
                async for event in events:
                    yield event

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Embeds. Raises MODEL_NOT_LOADED while the server sleeps."""
        self._refuse_while_asleep(model)
        with self._using(model):
            return await super().embed(model, inputs)

    async def load(self, model: str, options: LoadOptions) -> AsyncGenerator[Progress, None]:
        """Wakes the server."""
        if options.device is not Device.AUTO or options.keep_alive is not None:
            what = "keep_alive" if options.device is Device.AUTO else "device"
            message = f"{what}: {model} runs where its vLLM server was started to, for as long as it is not unloaded"
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": model})
        await self._ask_whether_asleep()
        if not self._is_asleep:
            return
        yield Progress(Stage.LOADING)
        await self._command("/wake_up", b"", f"model: {model} cannot be woken: its vLLM server does not sleep; {_SLEEP_HINT}")
        self._turned(asleep=False)

    async def unload(self, model: str, *, force: bool) -> None:
        """Takes an adapter away, or has the server sleep, which keeps the weights in the machine's memory.

        With `force`, what becomes of the requests that run is vLLM's own affair: releases of it differ.
        """
        adapter = model in self._adapters
        self._refuse_if_used(model, None if adapter else self._used.total(), force=force)
        if adapter:
            body = msgspec.json.encode({"lora_name": model})
            await self._command(f"{self._api}/unload_lora_adapter", body, _no_adapters(model))
            return
        await self._ask_whether_asleep()
        if self._is_asleep:
            raise Failure(Reason.MODEL_NOT_LOADED, f"model: the vLLM server of {model} sleeps", metadata={"model": model})
        await self._command(
            "/sleep?level=1", b"", f"model: {model} cannot be unloaded: its vLLM server does not sleep; {_SLEEP_HINT}"
        )
        self._turned(asleep=True)

    async def load_adapter(self, name: str, path: str) -> AsyncGenerator[Progress, None]:
        """Loads a LoRA adapter from where the server sees it."""
        yield Progress(Stage.LOADING)
        body = msgspec.json.encode({"lora_name": name, "lora_path": path})
        await self._command(f"{self._api}/load_lora_adapter", body, _no_adapters(name))

    async def _ask_whether_asleep(self) -> None:
        if self._sleeps is False:
            return
        turns = self._turns
        try:
            is_asleep = _decode_asleep(await self._server.get("/is_sleeping")).is_sleeping
            self._sleeps = True
            # What was asked before it was put to sleep or woken tells how it was then.
            if turns == self._turns:
                self._is_asleep = is_asleep
        except MALFORMED as error:
            raise unavailable(self.name, "it does not say in vLLM's format whether it sleeps") from error
        except Failure as failure:
            if failure.reason is Reason.ENGINE_UNAVAILABLE:
                raise
            self._sleeps = self._is_asleep = False

    def _turned(self, *, asleep: bool) -> None:
        self._turns += 1
        self._is_asleep = asleep

    async def _command(self, path: str, body: bytes, not_offered: str) -> None:
        try:
            await self._server.post(path, body, limits=_PATIENT)
        except Failure as failure:
            # A route that is not there says no more than this; an adapter that is not there says which.
            if failure.reason is Reason.MODEL_NOT_FOUND and failure.message.endswith(": Not Found"):
                raise Failure(Reason.MODEL_CAPABILITY_MISSING, not_offered, metadata={"engine": self.name}) from failure
            raise

    def _refuse_while_asleep(self, model: str) -> None:
        if self._is_asleep:
            message = f"model: the vLLM server of {model} sleeps; LoadModel wakes it"
            raise Failure(Reason.MODEL_NOT_LOADED, message, metadata={"model": model})

    def _refuse_if_used(self, model: str, running: int | None, *, force: bool) -> None:
        running = self._used[model] if running is None else running
        if running and not force:
            message = f"model: {running} requests use {model} or what runs beside it; wait for them, or say `force`"
            facts = {"model": model, "running_requests": str(running)}
            raise Failure(Reason.MODEL_IN_USE, message, metadata=facts, retry_after=_RETRY_SECONDS)

    @contextmanager
    def _using(self, model: str) -> Iterator[None]:
        self._used[model] += 1
        try:
            yield
        finally:
            self._used[model] -= 1
            if not self._used[model]:
                del self._used[model]  # names that clients make up do not stay


def _no_adapters(name: str) -> str:
    return f"model: the vLLM server takes no LoRA adapter such as {name} while it runs; {_ADAPTER_HINT}"
