"""Counts tokens: by the model's own tokenizer where its engine offers it, else by an estimate that is said to be one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from services.chassis.errors import Failure, Reason
from services.inference.engine import UsageSource

if TYPE_CHECKING:
    from services.inference.models import Found, Models

# Tokenizers of today's models make about so much of text in Latin letters; other scripts take more tokens a letter.
_LATIN_LETTERS_A_TOKEN: Final = 4
_OTHER_LETTERS_A_TOKEN: Final = 1.5


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many tokens a text is; `ids` is empty where the engine does not tell them."""

    count: int
    ids: tuple[int, ...]
    source: UsageSource


@dataclass(frozen=True, slots=True)
class Tokenized:
    """The tokens, and the name of the model that they are counted for."""

    model: str
    tokens: Tokens


@runtime_checkable
class Tokenizes(Protocol):
    """An engine that counts tokens by its models' own tokenizers."""

    async def tokenize(self, model: str, text: str) -> Tokens:
        """Counts. Raises MODEL_CAPABILITY_MISSING where this model's server does not offer it, and what all calls raise."""


async def tokenize(models: Models, model: str, text: str) -> Tokenized:
    """Counts the tokens of a text. Raises MODEL_NOT_FOUND, and what the engine raises but for MODEL_CAPABILITY_MISSING."""
    found = _found(models, model)
    if isinstance(found.engine, Tokenizes):
        try:
            return Tokenized(found.model.name, await found.engine.tokenize(found.model.name, text))
        except Failure as failure:
            if failure.reason is Reason.ENGINE_UNAVAILABLE:
                models.suspect(found.engine)
            if failure.reason is not Reason.MODEL_CAPABILITY_MISSING:
                raise
    return Tokenized(found.model.name, Tokens(estimated(text), (), UsageSource.ESTIMATED))


def estimated(text: str) -> int:
    """About how many tokens a text is, from its length and script; at least 1."""
    latin = sum(character < "\u0250" for character in text)
    return max(1, math.ceil(latin / _LATIN_LETTERS_A_TOKEN + (len(text) - latin) / _OTHER_LETTERS_A_TOKEN))


def _found(models: Models, name: str) -> Found:
    try:
        return models.writer(name)
    except Failure as failure:
        if failure.reason is not Reason.MODEL_CAPABILITY_MISSING:
            raise
    return models.embedder(name)
