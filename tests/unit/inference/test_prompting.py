from __future__ import annotations

import pytest

from services.inference.engine import Generation, Message, Passage, Role, Sampling
from services.inference.prompting import grounded

PASSAGES = (Passage("Water falls.", "Rivers"), Passage("Pipes hold it."))


def asked(*messages: Message, passages: tuple[Passage, ...] = PASSAGES) -> Generation:
    return Generation("m", messages, passages, Sampling(temperature=0.0), 5, ("x",))


def test_passages_become_a_numbered_list_in_a_system_message() -> None:
    done = grounded(asked(Message(Role.USER, "What holds water?")))
    system, user = done.messages
    assert system.role is Role.SYSTEM
    assert "[1] Rivers\nWater falls.\n\n[2] Pipes hold it." in system.text
    assert user == Message(Role.USER, "What holds water?")
    assert (done.passages, done.sampling, done.max_tokens, done.stop) == ((), Sampling(temperature=0.0), 5, ("x",))


def test_without_passages_nothing_changes() -> None:
    generation = asked(Message(Role.USER, "Hello"), passages=())
    assert grounded(generation) is generation


def test_twice_is_as_good_as_once() -> None:
    once = grounded(asked(Message(Role.USER, "Why?")))
    assert grounded(once) is once


def test_the_system_message_of_the_request_comes_first() -> None:
    done = grounded(asked(Message(Role.SYSTEM, "Speak like a pirate."), Message(Role.USER, "Why?")))
    assert [message.role for message in done.messages] == [Role.SYSTEM, Role.USER]
    assert done.messages[0].text.startswith("Speak like a pirate.\n\n")


@pytest.mark.parametrize(
    ("question", "instruction"),
    [
        ("What carries water to the turbine?", "Answer the question"),
        ("Что несёт воду к турбине?", "Отвечай на вопрос"),
        ("什么把水送到水轮机？", "请只根据"),
        ("水を運ぶものは何ですか？", "Answer the question"),
        ("Qdrant 的 HNSW 是什么？", "请只根据"),
        ("12345 ?!", "Answer the question"),
        ("Что такое penstock?", "Отвечай на вопрос"),
    ],
)
def test_instructions_are_in_the_language_of_the_last_question(question: str, instruction: str) -> None:
    done = grounded(asked(Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello"), Message(Role.USER, question)))
    assert done.messages[0].text.startswith(instruction)
