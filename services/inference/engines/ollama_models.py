"""The models of an Ollama server: which there are, which are loaded, and how they come and go."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.engine import Capability, Device, Model
from services.inference.engines.ollama_format import (
    NAME,
    Running,
    Shown,
    Step,
    Tag,
    decode_running,
    decode_shown,
    decode_step,
    decode_tags,
    decode_version,
    model_of,
)
from services.inference.engines.remote import MALFORMED, Limits, RemoteServer, refused_in_stream, unavailable
from services.inference.lifecycle import Progress, Stage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.inference.lifecycle import LoadOptions

# Seconds for which what is loaded, and what a model can do, is taken as known; a change made from here is seen at once.
STATUS_SECONDS: Final = 30.0
_LOGPROBS_SINCE: Final = [0, 12, 11]
# A large model takes its time to load, and to be verified after it has been fetched.
_PATIENT: Final = Limits(connect=2.0, first_token=600.0, inter_token=600.0)
# Seconds in which a model is gone that was told to go, unless requests keep it.
_GONE_SECONDS: Final = 10.0
_ABSENT: Final = re.compile(r"not found|does not exist|no such", re.IGNORECASE)


class OllamaModels:
    """The models of one server.

    Args:
        server: The server.
        keep_alive: How long it keeps an unused model, in its own words (`10m`, `-1`); empty for its own rule.
    """

    def __init__(self, server: RemoteServer, *, keep_alive: str = "") -> None:
        self._server = server
        self._keep_alive = keep_alive_of(keep_alive)
        self._shown: dict[tuple[str, str], Shown] = {}
        self._running: dict[str, Running] | None = None
        self._changes = 0
        self._asked = 0.0
        self._listed: dict[str, Model] = {}

    async def listed(self) -> list[Model]:
        """The models that have been pulled, by name."""
        answer = await self._server.get("/api/tags")
        try:
            tags = decode_tags(answer).models
        except MALFORMED as error:
            raise unavailable(NAME, "its list of models is not in Ollama's format") from error
        running, tells_logprobs = await self._status(), await self._tells_logprobs()
        shown = await asyncio.gather(*(self._show(tag) for tag in tags))
        # Only what is still there: models come and go for as long as the process lives.
        self._shown = {(tag.name, tag.digest): one for tag, one in zip(tags, shown, strict=True) if one is not None}
        models = [
            model_of(tag, one or Shown(), running, tells_logprobs=tells_logprobs) for tag, one in zip(tags, shown, strict=True)
        ]
        self._listed = {model.name: model for model in models if model.capabilities}
        return [self._listed[name] for name in sorted(self._listed)]

    async def load(self, model: str, options: LoadOptions) -> AsyncGenerator[Progress, None]:
        """Has the server load it; it tells nothing of how far it has come."""
        if options.device is not Device.AUTO:
            message = f"device: Ollama chooses itself where {model} runs; only models of llamacpp can be told"
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, message, metadata={"model": model})
        keep_alive: str | float | None = self._keep_alive
        if options.keep_alive is not None:
            keep_alive = options.keep_alive or -1
        yield Progress(Stage.LOADING)
        try:
            await self._touch(model, keep_alive)
        finally:
            self.changed()

    async def unload(self, model: str) -> None:
        """Has the server unload it, and waits until it has. Raises MODEL_NOT_LOADED, MODEL_IN_USE."""
        self.changed()
        running = await self._status()
        if running is not None and self._full(model) not in running:
            raise Failure(Reason.MODEL_NOT_LOADED, f"model: {model} is not loaded by Ollama", metadata={"model": model})
        await self._touch(model, 0)
        deadline = time.monotonic() + _GONE_SECONDS
        while running is not None and self._full(model) in running:
            if time.monotonic() > deadline:
                message = f"model: {model} still answers requests of others; Ollama unloads it once they have ended"
                raise Failure(Reason.MODEL_IN_USE, message, metadata={"model": model}, retry_after=_GONE_SECONDS)
            await asyncio.sleep(0.05)
            self.changed()
            running = await self._status()

    async def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Has the server fetch it. Leaving early closes the connection, which stops the download."""
        body = msgspec.json.encode({"model": model, "stream": True})
        layers: dict[str, tuple[int, int]] = {}
        async with self._server.stream("/api/pull", body, limits=_PATIENT) as lines:
            while (batch := await lines.more()) is not None:
                lines.content_came()
                steps = [_step(line) for line in batch if line.strip()]
                for step in steps:
                    if step.error is not None:
                        raise _pull_failure(model, step.error)
                    if step.digest:
                        layers[step.digest] = (step.completed, step.total)
                # The last piece of a download and its success may well arrive together.
                under_way = [step for step in steps if step.status != "success"]
                if under_way:
                    yield _progress(under_way[-1], layers)
                if len(under_way) < len(steps):
                    self.changed()
                    return
        raise unavailable(NAME, f"it ended before all of {model} had come")

    async def delete(self, model: str) -> None:
        """Has the server delete it."""
        try:
            await self._server.delete("/api/delete", msgspec.json.encode({"model": model}))
        finally:
            self.changed()

    def used(self, model: str) -> None:
        """A request is about to load the model, unless it is loaded."""
        if self._running is not None and self._full(model) not in self._running:
            self.changed()

    def changed(self) -> None:
        """Has the server asked anew what is loaded."""
        self._changes += 1
        self._running = None

    async def _status(self) -> dict[str, Running] | None:
        """What is loaded; None where the server is too old to tell."""
        if self._running is not None and time.monotonic() - self._asked <= STATUS_SECONDS:
            return self._running
        changes = self._changes
        try:
            answer = decode_running(await self._server.get("/api/ps")).models
        except (Failure, *MALFORMED):
            return None
        running = {one.name: one for one in answer}
        # What was asked before a change may have been answered before it too.
        if changes == self._changes:
            self._running, self._asked = running, time.monotonic()
        return running

    async def _show(self, tag: Tag) -> Shown | None:
        """What the list does not tell of a model; asked once for each version of it."""
        known = self._shown.get((tag.name, tag.digest))
        if known is not None:
            return known
        try:
            return decode_shown(await self._server.post("/api/show", msgspec.json.encode({"model": tag.name})))
        except (Failure, *MALFORMED):
            # Deleted meanwhile, or an older Ollama: the list's own details must do, and the next probe asks again.
            return None

    async def _touch(self, model: str, keep_alive: str | float | None) -> None:
        """A request without content, as Ollama wants it for loading and unloading."""
        listed = self._listed.get(self._full(model))
        embeds = listed is not None and Capability.EMBEDDING in listed.capabilities
        body: dict[str, Any] = {"model": model, "input": []} if embeds else {"model": model, "stream": False}
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        await self._server.post("/api/embed" if embeds else "/api/generate", msgspec.json.encode(body), limits=_PATIENT)

    async def _tells_logprobs(self) -> bool:
        """Whether it is new enough to tell probabilities; an older one would leave them out without a word."""
        try:
            version = decode_version(await self._server.get("/api/version")).version
        except (Failure, *MALFORMED):
            return False
        numbers = [int(number) for number in re.findall(r"\d+", version)[:3]]
        return numbers >= _LOGPROBS_SINCE

    def _full(self, model: str) -> str:
        return model if model in self._listed or ":" in model else f"{model}:latest"


def keep_alive_of(given: str) -> str | int | None:
    """How long to keep a model, as Ollama reads it: seconds as a number, other units as text; None for its own rule."""
    if not given:
        return None
    return int(given) if re.fullmatch(r"-?\d+", given) else given


def _step(line: bytes) -> Step:
    try:
        return decode_step(line)
    except MALFORMED as error:
        raise unavailable(NAME, "it sent a malformed line while it pulled") from error


def _progress(step: Step, layers: dict[str, tuple[int, int]]) -> Progress:
    if step.status.startswith(("verifying", "writing", "removing")):
        return Progress(Stage.VERIFYING)
    return Progress(Stage.DOWNLOADING, sum(done for done, _ in layers.values()), sum(total for _, total in layers.values()))


def _pull_failure(model: str, error: Any) -> Failure:
    failure = refused_in_stream(NAME, error)
    if _ABSENT.search(failure.message):
        message = f"model: Ollama's registry has no {model}"
        return Failure(Reason.MODEL_NOT_FOUND, message, metadata={"model": model})
    return unavailable(NAME, f"it could not pull {model}: {failure.message.partition(': ')[2]}")
