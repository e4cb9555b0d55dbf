from __future__ import annotations

import pytest

from services.inference.extraction import cues
from services.inference.extraction.question import apart, question
from services.inference.extraction.terms import Language, language, question_terms, terms

STORY = (
    "A penstock carries water from the reservoir to the turbine. It is built to bear high pressure. "
    "The sluice gate at its head controls the flow, and it closes when the turbine stops. Water hammer follows a sudden stop."
)


@pytest.mark.parametrize(
    "message",
    [
        f"Summarise: {STORY}",
        f"{STORY}\n\nWhat does the gate control?",
        f"What does the gate control?\n\n{STORY}",
        f"What does the gate control?\n{STORY}",
        f"{STORY} What does the gate control?",
        f"Question: what is the gate for\n\n{STORY}",
        f"Сделай краткое резюме: {STORY}",
        f"请总结：{STORY}",
    ],
)
def test_a_pasted_text_is_told_from_what_is_asked_of_it(message: str) -> None:
    asked, brought = apart(message)
    assert brought == STORY
    assert asked
    assert STORY[:20] not in asked


def test_a_short_message_is_only_a_question() -> None:
    assert apart("What does a penstock carry? I wonder.") == ("What does a penstock carry? I wonder.", "")


@pytest.mark.parametrize(
    "message",
    ["The pump of Evie is green.\n\nWhat colour is it?", "The pump of Evie is green.\nQuestion: What colour is it?"],
)
def test_a_short_text_on_lines_of_its_own_is_brought_along(message: str) -> None:
    assert apart(message)[1] == "The pump of Evie is green."


@pytest.mark.parametrize("message", ["Good morning.\n\nWhat is a penstock?", "Is it long?\nWhere does the penstock lie?"])
def test_a_greeting_before_a_question_is_no_text(message: str) -> None:
    assert apart(message) == (message, "")


def test_a_text_alone_is_to_be_summed_up() -> None:
    asked = question([STORY])
    assert (asked.text, asked.material, asked.summary) == ("", (STORY,), True)


def test_a_text_pasted_earlier_is_still_there() -> None:
    asked = question([f"Here is a text:\n\n{STORY}", "What controls the flow?"])
    assert asked.text == "What controls the flow?"
    assert any(STORY in one for one in asked.material)


def test_a_text_in_the_instructions_counts_but_short_instructions_do_not() -> None:
    assert question(["What controls the flow?"], [STORY]).material == (STORY,)
    assert question(["What controls the flow?"], ["You are helpful."]).material == ()


@pytest.mark.parametrize("follow_up", ["And when does it close?", "Why?", "А почему?", "那为什么呢？", "What about pressure?"])
def test_a_follow_up_leans_on_the_question_before_it(follow_up: str) -> None:
    assert question(["What does the sluice gate control?", follow_up]).context == "What does the sluice gate control?"


def test_a_question_of_its_own_stands_alone() -> None:
    asked = question(["What does the sluice gate control?", "Which city has the largest hydroelectric power plant?"])
    assert asked.context == ""


@pytest.mark.parametrize(
    "text",
    ["tl;dr", "Summarize the passages", "О чём этот текст?", "Перескажи кратко", "总结一下主要内容", "What is this about?"],
)
def test_asking_for_a_summary_is_noticed(text: str) -> None:
    assert question([text]).summary


def test_asking_for_a_fact_is_no_summary() -> None:
    assert not question(["When was the dam built?"]).summary


def test_the_language_is_told_by_its_script() -> None:
    assert language("What is gRPC?") is Language.ENGLISH
    assert language("Что такое gRPC и protobuf?") is Language.RUSSIAN
    assert language("gRPC 是什么？") is Language.CHINESE
    assert language("42") is Language.ENGLISH


def test_terms_are_stems_and_pairs() -> None:
    assert terms("The turbines were turning") == ["turbin", "turn"]
    assert question_terms("Какие турбины стоят на станциях?") == question_terms("турбина стоит станция")[:1] + question_terms(
        "стоят станциях"
    )
    assert question_terms("水轮机是什么？") == ["水轮", "轮机"]
    assert question_terms("What is it?") == []


def test_what_a_definition_is_asked_of() -> None:
    assert cues.subject("What is a penstock?") == "penstock"
    assert cues.subject("Что такое водовод?") == "водовод"
    assert cues.subject("锣鼓经是什么？") == "锣鼓经"
    assert cues.subject("How does it work?") == ""


def test_forms_that_answer_weigh_more() -> None:
    defining = cues.form("A penstock (a pipe) is a closed conduit.", "penstock", number=False)
    naming = cues.form("He looked for a long time at the old penstock there.", "penstock", number=False)
    assert defining > naming
    assert cues.form("It was built in 1931.", "", number=True) > cues.form("It was built long ago.", "", number=True)
    assert cues.form("a/b.c x=1 {y} == z[0] --flag a/b/c", "", number=False) < cues.form(
        "It runs well and long.", "", number=False
    )
