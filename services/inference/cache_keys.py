"""What cached things are found by: a hash over all that could make them come out differently."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from services.inference.engine import Capability, Generation, Message, Passage, Role
from services.inference.prompting import grounded

if TYPE_CHECKING:
    from services.inference.engine import Model
    from services.inference.generation import Assignment

# Raised when what is kept under a key, or how a key is made, changes its meaning.
_REVISION: Final = 1


_encode: Final = msgspec.msgpack.Encoder().encode


def _prompts() -> bytes:
    """Stands for the wording of our own prompts: an answer to another wording is another answer."""
    questions = ("What is it?", "Что это?", "这是什么？")
    passages = (Passage("text", "title"), Passage("text"))
    asked = [Generation("", (Message(Role.USER, question),), passages) for question in questions]
    return blake2b(_encode([grounded(one) for one in asked]), digest_size=8).digest()


_PROMPTS: Final = _prompts()


def is_repeatable(generation: Generation, model: Model) -> bool:
    """Whether the same request would give the same answer again, or one as good."""
    sampling = generation.sampling
    is_fixed = sampling.temperature == 0 or sampling.seed is not None
    return is_fixed or Capability.EXTRACTION in model.capabilities


def response_key(generation: Generation, model: Model, assignment: Assignment | None, scope: str) -> bytes:
    """Of an answer.

    Args:
        generation: What is generated from, with the settings of the variant in it.
        model: Who is to answer. Its fingerprint, size and files tell one version of its weights from another.
        assignment: Which variant shapes the answer.
        scope: Who may share it.
    """
    weights = (model.engine, model.name, model.fingerprint, model.size_bytes, model.context_tokens, model.files)
    variant = (assignment.experiment, assignment.variant) if assignment else None
    # All fields count, those too that Generation will get one day; but for the name, of which `auto` is another.
    asked = replace(generation, model="")
    return blake2b(_encode((_REVISION, _PROMPTS, scope, weights, variant, asked)), digest_size=32).digest()


def scope_key(generation: Generation, model: Model, assignment: Assignment | None, scope: str, marks: object) -> bytes:
    """Of all that must be the same beside the question, for its answer to be taken for the same question in other words.

    Args:
        generation: As for `response_key`; its last message holds the question.
        model: As there.
        assignment: As there.
        scope: As there.
        marks: What two questions must have in common.
    """
    *before, last = generation.messages
    rest = replace(generation, messages=(*before, replace(last, text="")))
    return blake2b(response_key(rest, model, assignment, scope) + _encode(marks), digest_size=32).digest()


def vector_key(model: Model, text: str) -> bytes:
    """Of a vector. A model without a fingerprint cannot be told from its next version, and has no key."""
    return blake2b(_encode((_REVISION, model.engine, model.name, model.fingerprint, text)), digest_size=32).digest()
