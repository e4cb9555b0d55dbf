"""What the generator is asked: passages that fit, the conversation, the question."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from services.retrieval.answering.events import Basis, CacheMode
from services.retrieval.chunking.tokens import estimate_tokens
from services.retrieval.generation import Prompt, Role, Sampling
from services.retrieval.sentences import sentence_ends

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.assignment import Treatment

    from services.retrieval.answering.events import Question
    from services.retrieval.conversations import Turn
    from services.retrieval.passages import Hit

# Tokens of passages that a prompt takes: what small models read well, with room for the conversation and the answer.
DEFAULT_TOKENS: Final = 3_000


def packed(hits: Sequence[Hit], most: int | None) -> tuple[Hit, ...]:
    """The best hits that fit the prompt together, in their order.

    A hit that does not fit makes room for a shorter one after it. The first is always there, so that an answer has something to
    stand on: cut after its last sentence that fits, if it must be.
    """
    room = most or DEFAULT_TOKENS
    kept: list[Hit] = []
    for hit in hits:
        tokens = estimate_tokens(hit.text)
        if tokens <= room:
            kept.append(hit)
            room -= tokens
        elif not kept:
            kept.append(_cut(hit, room))
            room = 0
    return tuple(kept)


def prompt(
    question: Question,
    treatment: Treatment | None,
    sources: tuple[Hit, ...],
    seen: Sequence[Turn],
    *,
    basis: Basis,
    query: str,
    system_prompts: Sequence[str],
) -> Prompt:
    """What to generate from.

    Args:
        question: What was asked.
        treatment: What an experiment makes of it; its prompt stands in place of the collections'.
        sources: The passages.
        seen: The turns before.
        basis: What the answer is made from.
        query: The question, made complete.
        system_prompts: Those of the collections.
    """
    messages: list[tuple[Role, str]] = []
    if treatment is not None and treatment.prompt:
        messages.append((Role.SYSTEM, treatment.prompt))
    elif basis is not Basis.MODEL_ALONE:
        messages += [(Role.SYSTEM, text) for text in dict.fromkeys(system_prompts) if text]
    for turn in seen:
        messages.append((Role.USER, turn.query))
        if turn.text:
            messages.append((Role.ASSISTANT, turn.text))
    messages.append((Role.USER, query))
    return Prompt(
        model=(treatment.model if treatment else None) or question.model,
        messages=tuple(messages),
        passages=sources,
        sampling=sampling(question.sampling, treatment),
        max_tokens=(treatment.max_tokens if treatment else None) or question.max_tokens,
        user=question.user,
        conversation=question.conversation,
        treatment=treatment,
        is_fresh=question.cache is not CacheMode.USE,
    )


def sampling(asked: Sampling, treatment: Treatment | None) -> Sampling:
    """How tokens are chosen, after an experiment had its say."""
    if treatment is None:
        return asked
    imposed = {name: value for name in ("temperature", "top_p") if (value := getattr(treatment, name)) is not None}
    return replace(asked, **imposed)


def _cut(hit: Hit, room: int) -> Hit:
    """The first sentences of a hit that fit; its first characters where not even one does."""
    kept = 0
    for end in sentence_ends(hit.text):
        if estimate_tokens(hit.text[:end]) > room:
            break
        kept = end
    if not kept:
        # A token is at least one character.
        kept = max(1, min(len(hit.text), room))
    text = hit.text[:kept].rstrip()
    return replace(hit, text=text, end=hit.start + len(text))
