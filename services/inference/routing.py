"""Finds the backends that may answer a request, and picks one: where it is likely to wait least, or where its prefix is known.

A backend is one model on one server. Several servers of one engine, or several engines, may serve a model of the same name;
these are replicas, and requests are balanced over them. Of two replicas drawn at random the one with the shorter expected wait
is taken, which is nearly as good as asking all and never sends everyone to the same one. Requests of one conversation go to the
same replica, which may still hold their prefix in its cache, until that one has clearly more to do than the others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from services.chassis.errors import Failure, Reason
from services.inference.admission import Admission
from services.inference.auto.chooser import Candidate, Chooser, able
from services.inference.auto.decision import Decision, Option, Why
from services.inference.auto.features import features_of
from services.inference.backends import Backend, Roomy
from services.inference.engine import Role
from services.inference.models import AUTO
from services.inference.policy import Policy
from services.inference.resilience import Breaker, BreakerLimits, BreakerState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.inference.engine import Engine, Generation
    from services.inference.models import Found, Models
    from services.inference.policy import Alias
    from services.inference.resilience import Stands

# A replica keeps its conversations while it has at most this much more to do than the mean of all.
_SPILL_FACTOR: Final = 1.25
_SPILL_SLACK: Final = 4.0
# Characters of a message that tell conversations apart.
_PREFIX: Final = 256
# Backends that have not been used lately are forgotten beyond this many.
_MOST_BACKENDS: Final = 1024


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request may go.

    Attributes:
        steps: Replicas of the models to try, model after model; the next only once the one before has failed.
        affinity: What requests of the same conversation have in common; empty for nothing.
        alias: The entry of the policy that was applied; empty where there was none.
        defaults: That entry.
        decision: Why the first of the steps comes first; None where the request named it.
    """

    steps: tuple[tuple[Backend, ...], ...]
    affinity: str = ""
    alias: str = ""
    defaults: Alias | None = None
    decision: Decision | None = None


@dataclass(slots=True)
class Router:
    """Finds routes and picks replicas.

    Attributes:
        models: The models there are.
        breaker_limits: When backends are left alone.
        policy: Gives the policy in force.
        waiting: How many requests wait at an engine's server beside ours, as it says itself; 0 where it says nothing.
        draw: Picks so many of a sequence.
        standing: Gives what the breaker of a backend shares with other processes, by its name; None for nothing.
        room: Opens the room of an engine that has only so much, by its name and size.
        chooser: Chooses among the models of an alias that is routed by what requests look like.
    """

    models: Models
    breaker_limits: BreakerLimits = field(default_factory=BreakerLimits)
    policy: Callable[[], Policy] = Policy
    waiting: Callable[[Engine], float] = lambda _: 0.0
    draw: Callable[[Sequence[Backend], int], Sequence[Backend]] = random.sample
    standing: Callable[[str], Stands | None] = lambda _: None
    room: Callable[[str, int], Admission] = lambda _, room: Admission(room)
    chooser: Chooser = field(default_factory=Chooser)
    _backends: dict[tuple[int, str], Backend] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _replicas_of: dict[str, tuple[Sequence[Found], tuple[Backend, ...]]] = field(default_factory=dict)

    def route(
        self,
        name: str,
        affinity: str = "",
        key: str = "",
        *,
        generation: Generation | None = None,
        decided: Decision | None = None,
    ) -> Route:
        """Where a request for a model or an alias goes; `auto`, or the empty name, may go to each engine's best in turn.

        Args:
            name: As the request has it. The policy comes first, so that it can say how a model of that name is served.
            affinity: What requests of the same conversation have in common; empty for nothing.
            key: What requests that draw the same model of an alias have in common.
            generation: What is asked for; an extractor stands in only where there are passages that it could answer from.
            decided: What has been decided for the request already.

        Raises:
            Failure: MODEL_NOT_FOUND; MODEL_CAPABILITY_MISSING if the model only embeds.
        """
        alias = self.policy().aliases.get(name or AUTO)
        if alias is not None:
            steps, decision = self._of_alias(name or AUTO, alias, key, generation, decided)
            if not steps:
                raise _out_of_reach(name or AUTO, alias)
            return Route(steps, affinity, name or AUTO, alias, decision)
        if name in {"", AUTO}:
            has_passages = generation is not None and bool(generation.passages)
            names = list(dict.fromkeys(found.model.name for found in self.models.auto_writers(has_passages)))
            if decided is None:
                decided = Decision(Why.ENGINE_ORDER, names[0], features=features_of(generation) if generation else None)
            return Route(tuple(self._replicas(name) for name in names), affinity, decision=decided)
        return Route((self._replicas(name),), affinity, decision=decided)

    def embedding(self, name: str) -> tuple[Backend, ...]:
        """The servers that embed with the model. Raises Failure as `Models.embedder`."""
        return tuple(self._backend(found) for found in self.models.embedders(name))

    def choose(self, replicas: Sequence[Backend], affinity: str) -> Backend | None:
        """Picks one; None where all are left alone for now."""
        if len(replicas) == 1:
            return replicas[0] if replicas[0].breaker.lets_through() else None
        well = [one for one in replicas if one.breaker.lets_through()]
        if len(well) < 2:  # noqa: PLR2004 - there is nothing to choose from
            return well[0] if well else None
        if affinity:
            home = max(well, key=lambda one: _rank(affinity, one))
            mean = sum(map(self._load, well)) / len(well)
            if self._load(home) <= _SPILL_FACTOR * mean + _SPILL_SLACK:
                return home
        known = [seconds for one in well if (seconds := one.usual_seconds())]
        typical = sum(known) / len(known) if known else 1.0
        return min(self.draw(well, 2), key=lambda one: (self._load(one) + 1) * (one.usual_seconds() or typical))

    def backends(self) -> Sequence[Backend]:
        """All backends that have been used and are remembered. A copy, for it may be read from another thread."""
        return tuple(self._backends.values())

    def _of_alias(
        self, name: str, alias: Alias, key: str, generation: Generation | None, decided: Decision | None
    ) -> tuple[tuple[tuple[Backend, ...], ...], Decision | None]:
        """The replicas of an alias's models in the order in which they are tried, and why; none where none is in reach."""
        if alias.routing is None or generation is None:
            steps = self._steps(alias.chain(key))
            if decided is not None and steps:
                return steps, replace(decided, model=steps[0][0].found.model.name)
            return steps, _drawn(alias, steps) if steps else None
        in_reach = {one.model: step for one in alias.models if (step := next(iter(self._steps([one.model])), None))}
        candidates = [Candidate(one, in_reach[one.model][0].found.model) for one in alias.models if one.model in in_reach]
        if not candidates:
            return self._steps(alias.fallbacks), None
        features = (
            features_of(generation, alias.max_tokens) if decided is None or decided.features is None else decided.features
        )
        fit = able(candidates, generation, features)
        # One that is left alone is no choice, unless all are: then the first of them tells how long.
        well = [one for one in fit if any(backend.breaker.lets_through() for backend in in_reach[one.declared.model])]
        pool = well or fit
        if decided is None or decided.model not in in_reach:
            decided = (
                self.chooser.choose(name, alias.routing, pool, features)
                if pool
                else Decision(Why.NONE_ABLE, candidates[0].declared.model, features=features)
            )
        first = decided.model
        others = [one.declared.model for one in (pool or candidates) if one.declared.model != first]
        fallbacks = [one for one in alias.fallbacks if one != first and one not in others]
        return (in_reach[first], *(in_reach[one] for one in others), *self._steps(fallbacks)), decided

    def _steps(self, names: Sequence[str]) -> tuple[tuple[Backend, ...], ...]:
        """The replicas of those models that are in reach."""
        steps = []
        for name in names:
            try:
                steps.append(self._replicas(name))
            except Failure:
                # That one of them is away is what the others are for.
                continue
        return tuple(steps)

    def _replicas(self, name: str) -> tuple[Backend, ...]:
        writers = self.models.writers(name)
        known = self._replicas_of.get(name)
        # Looked up for each model of an alias at each request; the list is another one once a model has changed.
        if known is None or known[0] is not writers:
            known = self._replicas_of[name] = (writers, tuple(map(self._backend, writers)))
        return known[1]

    def _backend(self, found: Found) -> Backend:
        key = (id(found.engine), found.model.name)
        known = self._backends.get(key)
        if known is None:
            if len(self._backends) >= _MOST_BACKENDS:
                self._forget_idle()
            name = self._name(found.engine)
            admission = self.room(f"{name} {found.model.name}", found.engine.room) if isinstance(found.engine, Roomy) else None
            breaker = Breaker(self.breaker_limits, standing=self.standing(f"{name} {found.model.name}"))
            known = Backend(name, found, breaker, admission)
            self._backends[key] = known
        elif known.found.model is not found.model:
            known.found = found
        return known

    def _name(self, engine: Engine) -> str:
        if not self._names:
            seen: dict[str, int] = {}
            for one in self.models.engines:
                seen[one.name] = number = seen.get(one.name, 0) + 1
                self._names[id(one)] = one.name if number == 1 else f"{one.name}#{number}"
        return self._names[id(engine)]

    def _forget_idle(self) -> None:
        self._replicas_of.clear()
        for key, one in list(self._backends.items()):
            if not one.load() and one.breaker.state is BreakerState.CLOSED:
                del self._backends[key]

    def _load(self, backend: Backend) -> float:
        return backend.load() + self.waiting(backend.found.engine)


def _rank(affinity: str, backend: Backend) -> bytes:
    return blake2b(f"{backend.name}\0{affinity}".encode(), digest_size=8).digest()


def affinity_of(session: str, generation: Generation) -> str:
    """What requests that share a prefix have in common: their session, else how their conversation begins."""
    if session:
        return session
    for message in generation.messages:
        if message.role is Role.USER:
            return f"{generation.messages[0].text[:_PREFIX]}\0{message.text[:_PREFIX]}"
    return ""


def _drawn(alias: Alias, steps: Sequence[Sequence[Backend]]) -> Decision:
    """What was drawn by weight."""
    first, total = steps[0][0].found.model.name, sum(one.weight for one in alias.models)
    options = tuple(Option(one.model, one.weight / total) for one in alias.models)
    return Decision(Why.WEIGHT, first, next((one.propensity for one in options if one.model == first), 1.0), options=options)


def _out_of_reach(name: str, alias: Alias) -> Failure:
    models = ", ".join(alias.chain(""))
    message = f"model {name!r}: no engine in reach serves any of the models that the policy names for it: {models}"
    return Failure(Reason.MODEL_NOT_FOUND, message, metadata={"model": name})


def left_alone(replicas: Sequence[Backend]) -> Failure:
    """ENGINE_UNAVAILABLE: all of the model's backends have failed lately."""
    model, engine = replicas[0].found.model.name, replicas[0].found.engine.name
    wait = max(0.1, min(one.breaker.opens_in() for one in replicas))
    message = (
        f"model {model!r}: engine {engine} has failed repeatedly and is left alone for another {wait:.1f} s; try again then"
    )
    return Failure(Reason.ENGINE_UNAVAILABLE, message, metadata={"engine": engine, "model": model}, retry_after=wait)
