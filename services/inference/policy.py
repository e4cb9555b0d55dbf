"""How requests for a name are served: aliases, what they leave to draw, where they fall back to, and their defaults."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from services.chassis.errors import Failure, Reason
from services.inference.engine import Message, Role, Sampling

if TYPE_CHECKING:
    from services.inference.engine import Generation

_MOST_ALIASES: Final = 256
_MOST_PROMPT_BYTES: Final = 64 * 1024

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Price = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class Strategy(StrEnum):
    """What an alias's models are chosen by."""

    COMPLEXITY = "complexity"
    FEEDBACK = "feedback"


class Routing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How one of an alias's models is chosen for each request, in place of drawing it by weight.

    Attributes:
        strategy: COMPLEXITY takes the cheapest model that is expected to be good enough; FEEDBACK learns which earns most.
        target: How likely an answer should be good enough; COMPLEXITY needs it.
        good: From which reward an answer is good enough.
        explore: Share of the requests that go to any of the models, so that each is known; of COMPLEXITY.
        outcomes: How many outcomes of a model have to be known before anything is decided by them.
        holdout: Share of the requests that go to the best static model; of FEEDBACK.
        cost_weight: How much reward a unit of the policy's currency is worth; of FEEDBACK.
    """

    strategy: Strategy
    target: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    good: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    explore: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.05
    outcomes: Annotated[int, msgspec.Meta(ge=20, le=5000)] = 100
    holdout: Annotated[float, msgspec.Meta(ge=0.01, le=0.5)] = 0.1
    cost_weight: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0.0


class WeightedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model among several.

    Attributes:
        model: Its name.
        weight: Its share, where models are drawn by weight.
        tier: Which models are cheaper, the lowest tier first, whatever their prices.
        input_price: Of a million tokens of the request, in any currency that all prices are in.
        output_price: Of a million tokens of the answer.
    """

    model: _Name
    weight: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 1.0
    tier: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    input_price: _Price = 0.0
    output_price: _Price = 0.0


class SamplingDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How tokens are chosen where the request does not say; None leaves it open."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    seed: int | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None


class Alias(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One name.

    Attributes:
        models: Drawn by weight; those not drawn follow as fallbacks.
        fallbacks: The models to go on to after them.
        system_prompt: The system message of requests that have none; empty for none.
        sampling: How tokens are chosen where the request does not say.
        max_tokens: Most tokens to generate where the request does not say.
        routing: How a model is chosen for each request; None draws one by weight.
    """

    models: Annotated[tuple[WeightedModel, ...], msgspec.Meta(min_length=1, max_length=16)]
    fallbacks: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=16)] = ()
    system_prompt: str = ""
    sampling: SamplingDefaults = SamplingDefaults()
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=131_072)] | None = None
    routing: Routing | None = None

    def chain(self, key: str) -> list[str]:
        """The models in the order in which they are tried, each once; the same key draws the same first one."""
        left = _drawn(key) * sum(one.weight for one in self.models)
        first = self.models[-1].model
        for one in self.models:
            left -= one.weight
            if left < 0:
                first = one.model
                break
        return list(dict.fromkeys([first, *(one.model for one in self.models), *self.fallbacks]))

    def completed(self, generation: Generation) -> Generation:
        """The generation with what it leaves open."""
        given = generation.sampling
        defaults = self.sampling
        messages = generation.messages
        if self.system_prompt and all(message.role is not Role.SYSTEM for message in messages):
            messages = (Message(Role.SYSTEM, self.system_prompt), *messages)
        return replace(
            generation,
            messages=messages,
            sampling=Sampling(
                temperature=defaults.temperature if given.temperature is None else given.temperature,
                top_p=defaults.top_p if given.top_p is None else given.top_p,
                top_k=defaults.top_k if given.top_k is None else given.top_k,
                seed=defaults.seed if given.seed is None else given.seed,
                presence_penalty=defaults.presence_penalty if given.presence_penalty is None else given.presence_penalty,
                frequency_penalty=defaults.frequency_penalty if given.frequency_penalty is None else given.frequency_penalty,
            ),
            max_tokens=self.max_tokens if generation.max_tokens is None else generation.max_tokens,
        )


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All aliases by name. `checked` makes one out of plain data, and holds it to its limits."""

    aliases: dict[_Name, Alias] = {}


def checked(document: object) -> Policy:
    """Makes a policy out of plain data, as a file has it.

    Raises:
        Failure: INVALID_FIELD, naming the place and what is wrong there.
    """
    try:
        policy = msgspec.convert(document, Policy)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `")
        raise _invalid(path.rstrip("`").removeprefix("$.") or "policy", problem[:1].lower() + problem[1:]) from error
    if len(policy.aliases) > _MOST_ALIASES:
        raise _invalid("aliases", f"there are {len(policy.aliases)}; {_MOST_ALIASES} are allowed")
    for name, alias in policy.aliases.items():
        models = [one.model for one in alias.models]
        if len(set(models)) < len(models):
            raise _invalid(f"aliases.{name}.models", "a model stands there twice; give it one weight")
        routing = alias.routing
        if routing is not None and routing.strategy is Strategy.COMPLEXITY and routing.target is None:
            raise _invalid(f"aliases.{name}.routing.target", "say how likely an answer should be good enough, such as 0.8")
        if len(alias.system_prompt.encode()) > _MOST_PROMPT_BYTES:
            raise _invalid(f"aliases.{name}.system_prompt", f"it is longer than {_MOST_PROMPT_BYTES} bytes in UTF-8")
    return policy


def _invalid(field: str, problem: str) -> Failure:
    return Failure(Reason.INVALID_FIELD, f"{field}: {problem}", metadata={"field": field}, violations=[(field, problem)])


def _drawn(key: str) -> float:
    """A number from 0 to 1, below 1, the same for the same key."""
    return int.from_bytes(blake2b(key.encode(), digest_size=6).digest()) / 2.0**48
