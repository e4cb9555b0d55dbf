"""How requests for a name are served: aliases, what they leave to draw, where they fall back to, and their defaults."""

from __future__ import annotations

from dataclasses import replace
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
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class WeightedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model among several; `weight` is its share."""

    model: _Name
    weight: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 1.0


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
    """

    models: Annotated[tuple[WeightedModel, ...], msgspec.Meta(min_length=1, max_length=16)]
    fallbacks: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=16)] = ()
    system_prompt: str = ""
    sampling: SamplingDefaults = SamplingDefaults()
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=131_072)] | None = None

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
        if len(alias.system_prompt.encode()) > _MOST_PROMPT_BYTES:
            raise _invalid(f"aliases.{name}.system_prompt", f"it is longer than {_MOST_PROMPT_BYTES} bytes in UTF-8")
    return policy


def _invalid(field: str, problem: str) -> Failure:
    return Failure(Reason.INVALID_FIELD, f"{field}: {problem}", metadata={"field": field}, violations=[(field, problem)])


def _drawn(key: str) -> float:
    """A number from 0 to 1, below 1, the same for the same key."""
    return int.from_bytes(blake2b(key.encode(), digest_size=6).digest()) / 2.0**48
