"""What there is time and room for in an answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock.assignment import Treatment

from services.retrieval.answering.events import Basis, Degradation, Question
from services.retrieval.answering.plan import planned
from services.retrieval.answering.prompt import packed, prompt
from services.retrieval.answering.wording import language, notice, refusal
from services.retrieval.chunking.tokens import estimate_tokens
from services.retrieval.fusion import Rrf, Weighted
from services.retrieval.generation import Role
from services.retrieval.passages import DEFAULTS, Hit, Options

ASKED = Question(("docs",), "What?", top_k=10, options=replace(DEFAULTS, neighbors=2, reranker="r"))


def hit(text: str) -> Hit:
    return Hit("docs", "d", "d-0", text, 1.0, 0.5, "", {}, 7, 7 + len(text))


@pytest.mark.parametrize(
    ("remaining", "top_k", "neighbors", "reranker", "left_out"),
    [
        (None, 10, 2, "r", []),
        (10.0, 10, 2, "r", []),
        (2.0, 10, 2, "", [Degradation.RERANK_SKIPPED]),
        (
            0.5,
            5,
            0,
            "",
            [
                Degradation.RERANK_SKIPPED,
                Degradation.NEIGHBORS_SKIPPED,
                Degradation.FEWER_PASSAGES,
                Degradation.GROUNDEDNESS_BY_WORDS,
            ],
        ),
    ],
)
def test_what_is_left_out_under_a_short_deadline_is_told(
    remaining: float | None, top_k: int, neighbors: int, reranker: str, left_out: list[Degradation]
) -> None:
    plan = planned(ASKED, None, [], remaining)
    assert (plan.top_k, plan.options.neighbors, plan.options.reranker) == (top_k, neighbors, reranker)
    assert sorted(plan.degradations) == sorted(left_out)


def test_nothing_is_told_that_was_not_asked_for() -> None:
    plan = planned(Question(("docs",), "What?", top_k=2), None, [], 1.2)
    assert plan.degradations == ()


def test_a_variant_has_its_own_search() -> None:
    question = Question(("docs",), "What?", options=Options(fusion=Rrf(), reranker="r", min_relevance=0.5))
    assert planned(question, Treatment("k", "e", "a", "u"), [], None).options == question.options
    treatment = Treatment("k", "e", "b", "u", fusion="WEIGHTED", reranker="", min_relevance=0.0)
    assert planned(question, treatment, [], None).options == Options(fusion=Weighted(), reranker="", min_relevance=0.0)


@given(st.lists(st.text("aB1. ю中。\n", min_size=1, max_size=200), max_size=8), st.integers(64, 300))
def test_packed_passages_fit_and_the_first_is_there(texts: list[str], most: int) -> None:
    kept = packed([hit(text) for text in texts], most)
    assert sum(estimate_tokens(one.text) for one in kept) <= most
    assert bool(kept) == bool(texts)
    for one in kept:
        assert one.end - one.start == len(one.text)


def test_a_first_passage_too_long_is_cut_after_a_sentence_and_others_make_room_for_shorter_ones() -> None:
    long = " ".join(["One two three four five six seven eight."] * 40)
    kept = packed([hit(long), hit("Short.")], 64)
    assert kept[0].text.endswith("eight.")
    assert len(kept[0].text) < len(long)
    assert [one.text for one in packed([hit("Short."), hit(long), hit("Shorter.")], 64)] == ["Short.", "Shorter."]


@pytest.mark.parametrize(("query", "told"), [("What?", "en"), ("Что это?", "ru"), ("这是什么？", "zh"), ("42", "en")])
def test_refusals_are_in_the_language_of_the_question(query: str, told: str) -> None:
    assert language(query) == told
    assert refusal(query) != notice(query)


def test_a_collections_system_prompt_leads_unless_an_experiment_brings_one() -> None:
    def first(treatment: Treatment | None, basis: Basis = Basis.PASSAGES) -> list[tuple[Role, str]]:
        asked = prompt(ASKED, treatment, (), (), basis=basis, query="What?", system_prompts=["Be brief.", "", "Be brief."])
        return list(asked.messages)

    question = (Role.USER, "What?")
    assert first(None) == [(Role.SYSTEM, "Be brief."), question]
    assert first(Treatment("a", "e", "v", "u", prompt="Rhyme.")) == [(Role.SYSTEM, "Rhyme."), question]
    assert first(None, Basis.MODEL_ALONE) == [question]
