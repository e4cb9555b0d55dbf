"""What of a request is looked at, in three languages."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.auto.features import LENGTH, Features, features_of
from services.inference.engine import Generation, Message, Passage, Role
from services.inference.form import Form, Image, JsonSchema, Tool


def looked_at(text: str) -> Features:
    return features_of(Generation("auto", (Message(Role.USER, text),)))


@pytest.mark.parametrize(
    ("plain", "hard"),
    [
        ("What is a penstock?", "First explain why a penstock bursts, then compare the valves step by step."),
        ("Что такое водовод?", "Сначала объясни, почему водовод лопается, затем сравни клапаны пошагово."),
        ("什么是压力管道？", "首先解释压力管道为什么会破裂，然后比较阀门，分步说明。"),
    ],
    ids=["en", "ru", "zh"],
)
def test_steps_and_reasons_are_seen_in_each_language(plain: str, hard: str) -> None:
    easy, difficult = looked_at(plain), looked_at(hard)
    assert (easy.questions, easy.steps, easy.reasons) == (1, 0, 0)
    assert difficult.steps >= 2
    assert difficult.reasons >= 2


@pytest.mark.parametrize(
    "text",
    [
        "def f(x): return x",
        "SELECT name FROM users WHERE id = 1",
        "Look: ```x```",
        "if (a == b) { go(); stop(); }",
        "Напиши код: функция сложения",
        "写一个函数",
    ],
)
def test_code_is_seen(text: str) -> None:
    assert looked_at(text).has_code


@pytest.mark.parametrize("text", ["Where is the class of 1999 from?", "What function does it have?", "Как работает программа?"])
def test_a_word_that_may_be_codes_makes_none(text: str) -> None:
    assert not looked_at(text).has_code


@pytest.mark.parametrize("text", ["Solve the equation", "\\frac{1}{2}", "Найди производную", "求这个方程的解", "∫ x dx"])
def test_maths_is_seen(text: str) -> None:
    assert looked_at(text).has_maths
    assert not looked_at("Tell me of the sea.").has_maths


def test_scripts_and_lengths() -> None:
    russian, chinese, english = (looked_at(text * 40) for text in ("вода течёт ", "水在流动", "water flows "))
    assert russian.cyrillic > 0.8
    assert russian.han == 0
    assert chinese.han == 1
    assert (english.cyrillic, english.han) == (0, 0)
    # A token holds less of Russian than of English, and of Chinese least.
    assert english.question_tokens / 12 < russian.question_tokens / 11 < chinese.question_tokens / 4 * 1.5


def test_the_whole_request_counts() -> None:
    generation = Generation(
        "auto",
        (
            Message(Role.SYSTEM, "Be brief. " * 100),
            Message(Role.USER, "Hello?"),
            Message(Role.ASSISTANT, "Yes?"),
            Message(Role.USER, "Read this?", images=(Image(b"x", "image/png"),)),
        ),
        (Passage("вода " * 50), Passage("water " * 50)),
        form=Form(tools=(Tool("t", "", "{}"),), output=JsonSchema("{}")),
    )
    features = features_of(generation, 77)
    assert (features.turns, features.passages, features.images, features.tools, features.has_output) == (2, 2, 1, 1, True)
    assert features.total_tokens > 250 + 75 > features.question_tokens
    assert features.max_tokens == 77
    assert features_of(Generation("auto", generation.messages, max_tokens=5), 77).max_tokens == 5


def test_a_request_without_a_user_is_looked_at_too() -> None:
    assert features_of(Generation("auto", (Message(Role.SYSTEM, "вода"),))).turns == 0
    assert features_of(Generation("auto", ())).total_tokens == 0


@given(st.lists(st.tuples(st.sampled_from(list(Role)), st.text(max_size=400)), max_size=5), st.none() | st.integers(1, 131_072))
def test_vectors_are_of_one_length_and_near_one(messages: list[tuple[Role, str]], max_tokens: int | None) -> None:
    generation = Generation("auto", tuple(Message(role, text) for role, text in messages), max_tokens=max_tokens)
    vector = features_of(generation).vector()
    assert len(vector) == LENGTH
    assert all(0 <= number <= 1.5 for number in vector)
    assert vector[0] == 1


def test_a_text_of_a_megabyte_takes_no_longer_than_one_of_a_page() -> None:
    def fastest(text: str) -> float:
        generation = Generation("auto", (Message(Role.USER, text),))
        times = []
        for _ in range(30):
            began = time.perf_counter()
            features_of(generation)
            times.append(time.perf_counter() - began)
        return min(times)

    assert fastest("вода течёт " * 95_000) < 10 * fastest("вода течёт " * 200)
