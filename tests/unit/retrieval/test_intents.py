"""What a turn is after, and what it means without the conversation."""

from __future__ import annotations

import pytest

from benchmarks import intents
from services.retrieval.intent.intents import Before, judged
from services.retrieval.intent.kinds import Intent
from services.retrieval.intent.rewriting import rewritten, says_enough

EN = Before("How long is the penstock of Kirkwall?", "The penstock of Kirkwall is 412 metres long. [1]")
RU = Before("Какова высота плотины Саяно-Шушенской ГЭС?", "Высота плотины — 242 метра. [1]")
ZH = Before("三峡大坝有多高？", "三峡大坝坝高185米。[1]")


async def test_the_labelled_set_is_told_as_well_as_was_measured() -> None:
    found = await intents.outcomes(held_out=True)
    right = sum(one.label == one.told for one in found)
    assert right / len(found) >= 0.93
    assert min(intents.f1(found).values()) >= 0.85
    assert len(found) + len(await intents.outcomes(held_out=False)) >= 200


@pytest.mark.parametrize("query", ["No, I meant the other one.", "Tell me more.", "What about children?"])
def test_a_first_turn_is_a_topic_or_small_talk(query: str) -> None:
    assert judged(query, None).intent is Intent.NEW_TOPIC
    assert judged("Hello!", None).intent is Intent.CHIT_CHAT


def test_thanks_with_a_question_is_no_small_talk() -> None:
    told = judged("Thanks, and could you now tell me how thick the steel of it is?", EN)
    assert told.intent is not Intent.CHIT_CHAT


def test_confidence_is_a_share() -> None:
    for query in ("", "?", "Hi", "x" * 10_000, "为什么"):
        assert 0 < judged(query, EN).confidence <= 1


@pytest.mark.parametrize(
    ("query", "before", "complete"),
    [
        ("And how thick is its steel?", EN, "And how thick is its steel? — penstock of Kirkwall"),
        ("А когда её построили?", RU, "А когда её построили? — высота плотины Саяно-Шушенской ГЭС"),
        ("那它有多长？", ZH, "那它有多长？ — 三峡大坝"),
    ],
)
def test_a_follow_up_gets_what_it_is_about(query: str, before: Before, complete: str) -> None:
    assert rewritten(query, Intent.FOLLOW_UP, before) == complete


def test_somebody_is_named_where_the_question_says_she() -> None:
    before = Before("Who won the Nobel Prize in Physics in 1903?", "Marie Curie and Pierre Curie shared it. [1]")
    assert "Marie Curie" in rewritten("Where was she born?", Intent.FOLLOW_UP, before)
    assert "Marie Curie" not in rewritten("And in Chemistry?", Intent.FOLLOW_UP, before)


def test_the_topic_stays_through_a_chain_of_follow_ups() -> None:
    first = rewritten("How thick is it?", Intent.FOLLOW_UP, EN)
    assert rewritten("And how old?", Intent.FOLLOW_UP, Before(first, "")).endswith("penstock of Kirkwall")


def test_a_complete_question_stays_as_it_is() -> None:
    assert not rewritten("How long is the penstock of Kirkwall in feet?", Intent.FOLLOW_UP, EN)
    assert not rewritten("What is the capital of Mongolia?", Intent.NEW_TOPIC, EN)
    assert rewritten("Tell me more.", Intent.CONTINUATION, EN) == EN.query


def test_what_has_no_words_of_its_own_is_not_searched_for() -> None:
    assert not says_enough("And then?")
    assert says_enough("How thick is its steel?")
