"""Which models there are: probes the engines at start and while running, and finds a model by its name.

`auto` means, for generation, what the settings name, if that can be used now; else the first generative model in reach, in
the order of the engines (vLLM, other OpenAI-compatible servers, Ollama, Anthropic, llamacpp); else `extractive`. For
embedding it means what the settings name (the embedded MiniLM unless told otherwise); else the first embedder in reach.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol, Self, runtime_checkable

from services.chassis.errors import Failure, Reason
from services.inference.engine import Capability, ModelState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.inference.engine import Engine, Model

_log = logging.getLogger(__name__)

AUTO: Final = "auto"
# By what it can do, in the order of what `auto` prefers.
WRITING: Final = (Capability.GENERATION, Capability.EXTRACTION)
EMBEDDING: Final = (Capability.EMBEDDING,)


@runtime_checkable
class Here(Protocol):
    """An engine in this process, which knows at any moment how its models stand."""

    def now(self, model: Model) -> Model:
        """A model that it listed, as it stands now."""


@runtime_checkable
class StartedAgain(Protocol):
    """An engine that somebody starts again as soon as it ends, so that it is worth looking for more often while it is away."""

    @property
    def away_seconds(self) -> float:
        """How often to look."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model and the engine that runs it."""

    engine: Engine
    model: Model


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as it is listed; `is_auto` when `auto` means it now, for the first of its capabilities."""

    model: Model
    is_auto: bool


@dataclass(slots=True)
class _Known:
    """What is known of one engine, and by which of the probes that were `begun`."""

    engine: Engine
    models: tuple[Model, ...] = ()
    reachable: bool | None = None
    begun: int = 0
    latest: int = 0
    suspect: asyncio.Event = field(default_factory=asyncio.Event)


class Models:
    """The models of all engines. Looking one up never waits for an engine: it reads what the last probe found.

    Args:
        engines: In the order in which `auto` prefers them.
        auto_model: What `auto` means for generation; empty for the first in order.
        auto_embedding_model: What `auto` means for embedding.
        probe_seconds: How often each engine is asked.
        probe_timeout: Seconds after which an engine that does not answer counts as unreachable.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        auto_model: str = "",
        auto_embedding_model: str = "",
        probe_seconds: float = 5.0,
        probe_timeout: float = 3.0,
    ) -> None:
        self._known = [_Known(engine) for engine in engines]
        self._auto_model = auto_model
        self._auto_embedding_model = auto_embedding_model
        self._probe_seconds = probe_seconds
        self._probe_timeout = probe_timeout
        self._tasks: list[asyncio.Task[None]] = []
        self._named: dict[str, list[Found]] = {}
        self._writing: dict[str, list[Found]] = {}

    async def __aenter__(self) -> Self:
        """Asks all engines once, at the same time, and goes on asking."""
        await asyncio.gather(*(self._probe(known) for known in self._known))
        self._tasks = [asyncio.create_task(self._keep_probing(known)) for known in self._known]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops asking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def listed(self) -> list[Listed]:
        """All models, by engine, then by name."""
        autos = {self._auto(WRITING), self._auto(EMBEDDING)}
        # Several servers of one engine may serve the same model: it is listed once, as it is where it can be used.
        distinct: dict[tuple[str, str], Model] = {}
        for known in self._known:
            for model in known.models:
                key = (model.engine, model.name)
                if key not in distinct or not _usable(distinct[key]):
                    distinct[key] = _now(known, model)
        return [Listed(distinct[key], key in autos) for key in sorted(distinct)]

    def writer(self, name: str) -> Found:
        """The model that generates or extracts under this name; `auto` and the empty name mean `auto`.

        Raises:
            Failure: MODEL_NOT_FOUND; ENGINE_UNAVAILABLE if what served it is away; MODEL_CAPABILITY_MISSING if it only embeds.
        """
        return self._find(name, WRITING)

    @property
    def engines(self) -> list[Engine]:
        """All engines, in the order in which `auto` prefers them."""
        return [known.engine for known in self._known]

    def writers(self, name: str) -> list[Found]:
        """All that generate or extract under this exact name: those in reach, or all of them where none is.

        The same list until something of the models changes.

        Raises:
            Failure: As `writer`.
        """
        return self._writing.get(name) or [self._find(name, WRITING)]

    def auto_writers(self, has_passages: bool = False) -> list[Found]:
        """What `auto` means for generation, and after it the best of each other engine in reach, in their order.

        An extractor is no stand-in for a model that generates, unless there are passages for it to answer from.

        Raises:
            Failure: MODEL_NOT_FOUND.
        """
        best = self._find(AUTO, WRITING)
        others: dict[int, Found] = {}
        for capability in WRITING if has_passages else WRITING[:1]:
            for found in self._all():
                if found.engine is not best.engine and _usable(found.model) and capability in found.model.capabilities:
                    others.setdefault(id(found.engine), found)
        return [best, *others.values()]

    def embedder(self, name: str) -> Found:
        """The model that embeds under this name; `auto` and the empty name mean `auto`.

        Raises:
            Failure: As `writer`; MODEL_CAPABILITY_MISSING if it does not embed.
        """
        return self._find(name, EMBEDDING)

    def embedders(self, name: str) -> list[Found]:
        """All in reach that embed under this name and give the same vectors. Raises Failure as `embedder`."""
        one = self.embedder(name)
        alike = [
            found
            for found in self._all()
            if found.model.name == one.model.name
            and found.model.fingerprint == one.model.fingerprint
            and _can(found.model, EMBEDDING)
            and _usable(found.model)
        ]
        return alike or [one]

    def named(self, name: str) -> Found:
        """The model of this very name, whatever it can do. Raises MODEL_NOT_FOUND."""
        found = self._named.get(name, [])
        if not found:
            raise self._not_found(name)
        return next((one for one in found if _usable(one.model)), found[0])

    def known(self, engine: object, name: str) -> Model | None:
        """The engine's model of this name as it stands now; None where it has none. The tag `latest` may be left out."""
        names = (name, f"{name}:latest")
        models = [_now(known, model) for known in self._known if known.engine is engine for model in known.models]
        return next((model for wanted in names for model in models if model.name == wanted), None)

    async def refresh(self, engine: object) -> None:
        """Asks an engine at once, as something of it has just been changed."""
        await asyncio.gather(*(self._probe(known) for known in self._known if known.engine is engine))

    async def refresh_all(self) -> None:
        """Asks all engines at once."""
        await asyncio.gather(*(self._probe(known) for known in self._known))

    def look(self) -> None:
        """Has all engines asked soon, as another process has changed something of theirs."""
        for known in self._known:
            known.suspect.set()

    def suspect(self, engine: Engine) -> None:
        """Has an engine that failed a request probed at once instead of in its turn."""
        for known in self._known:
            if known.engine is engine:
                known.suspect.set()

    def _find(self, name: str, capabilities: tuple[Capability, ...]) -> Found:
        if name in {"", AUTO}:
            found = self._auto_found(capabilities)
            if found is None:
                raise self._away(AUTO, capabilities) or self._not_found(AUTO)
            return found
        named = self._named.get(name, [])
        able = [found for found in named if _can(found.model, capabilities)]
        if able:
            # Two engines may serve one name: the one that answers wins over the one that does not.
            return next((found for found in able if _usable(found.model)), able[0])
        if named:
            wanted = capabilities[0].name
            raise Failure(
                Reason.MODEL_CAPABILITY_MISSING,
                f"model {name!r} of engine {named[0].model.engine} lacks the capability {wanted}; ListModels names others",
                metadata={"model": name, "capability": wanted},
            )
        raise self._away(name, capabilities) or self._not_found(name)

    def _away(self, name: str, capabilities: tuple[Capability, ...]) -> Failure | None:
        """ENGINE_UNAVAILABLE, where an engine that does not answer now has served this, or may well serve it once it is up."""
        for known in self._known:
            if known.reachable is not False:
                continue
            has_served = name == AUTO and any(_can(model, capabilities) for model in known.models)
            if has_served or (not known.models and isinstance(known.engine, StartedAgain)):
                message = f"model {name!r}: engine {known.engine.name} is not available, and no other serves it; try again"
                metadata = {"engine": known.engine.name, "model": name}
                return Failure(Reason.ENGINE_UNAVAILABLE, message, metadata=metadata, retry_after=1.0)
        return None

    def _not_found(self, name: str) -> Failure:
        shown = name if len(name) <= 100 else f"{name[:100]}..."  # noqa: PLR2004 - what still reads well in a message
        away = sorted({known.engine.name for known in self._known if known.reachable is False})
        hint = f"; not in reach at the moment: {', '.join(away)}" if away else ""
        message = f"model {shown!r}: no engine in reach serves it; ListModels names all, `auto` takes the best{hint}"
        return Failure(Reason.MODEL_NOT_FOUND, message, metadata={"model": shown})

    def _auto_found(self, capabilities: tuple[Capability, ...]) -> Found | None:
        configured = self._auto_embedding_model if capabilities is EMBEDDING else self._auto_model
        usable = [found for found in self._all() if _usable(found.model)]
        for found in usable:
            if configured and found.model.name == configured and _can(found.model, capabilities):
                return found
        for capability in capabilities:
            for found in usable:
                if capability in found.model.capabilities:
                    return found
        return None

    def _auto(self, capabilities: tuple[Capability, ...]) -> tuple[str, str] | None:
        found = self._auto_found(capabilities)
        if found is None or found.model.capabilities[0] not in capabilities:
            return None
        return found.model.engine, found.model.name

    def _index(self) -> None:
        """Puts what is known by name: each request looks some up, and there may be hundreds."""
        named: dict[str, list[Found]] = {}
        for found in self._all():
            named.setdefault(found.model.name, []).append(found)
        able = {name: [found for found in several if _can(found.model, WRITING)] for name, several in named.items()}
        self._named = named
        self._writing = {name: [one for one in several if _usable(one.model)] or several for name, several in able.items()}

    def _all(self) -> Iterator[Found]:
        for known in self._known:
            for model in known.models:
                yield Found(known.engine, model)

    async def _keep_probing(self, known: _Known) -> None:
        while True:
            try:
                async with asyncio.timeout(self._pause(known)):
                    await known.suspect.wait()
            except TimeoutError:
                pass
            else:
                # Many requests may fail at once; one probe answers for all of them.
                await asyncio.sleep(min(0.2, self._probe_seconds))
            known.suspect.clear()
            await self._probe(known)

    def _pause(self, known: _Known) -> float:
        if known.reachable is False and isinstance(known.engine, StartedAgain):
            return min(self._probe_seconds, known.engine.away_seconds)
        return self._probe_seconds

    async def _probe(self, known: _Known) -> None:
        known.begun = number = known.begun + 1
        found = await self._asked(known)
        if number < known.latest:
            # A probe that began later has ended earlier: what this one saw may be gone.
            return
        known.latest = number
        if found is None:
            known.reachable = False
            known.models = tuple(replace(model, state=ModelState.UNREACHABLE) for model in known.models)
            self._index()
            return
        if not known.reachable or {model.name for model in known.models} != {model.name for model in found}:
            _log.info("engine %s serves %s", known.engine.name, ", ".join(model.name for model in found) or "no model")
        known.reachable = True
        known.models = found
        self._index()

    async def _asked(self, known: _Known) -> tuple[Model, ...] | None:
        """What the engine says; None where it says nothing of use."""
        try:
            async with asyncio.timeout(self._probe_timeout):
                return tuple(await known.engine.models())
        except (Failure, TimeoutError) as error:
            if known.reachable is not False:
                why = error.message if isinstance(error, Failure) else f"no answer within {self._probe_timeout:g} s"
                # That there is no Ollama, which is looked for by default, is nothing to warn of; that it went is.
                _log.log(logging.WARNING if known.reachable else logging.INFO, "%s is not in reach: %s", known.engine.name, why)
        except Exception:  # noqa: BLE001 - a defect of one adapter must not take the other engines along; it is logged in full
            if known.reachable is not False:
                _log.exception("engine %s cannot be used, by a defect of its adapter", known.engine.name)
        return None


def _can(model: Model, capabilities: tuple[Capability, ...]) -> bool:
    return any(capability in model.capabilities for capability in capabilities)


def _now(known: _Known, model: Model) -> Model:
    return known.engine.now(model) if isinstance(known.engine, Here) and known.reachable else model


def _usable(model: Model) -> bool:
    return model.state not in {ModelState.UNREACHABLE, ModelState.FAILED}
