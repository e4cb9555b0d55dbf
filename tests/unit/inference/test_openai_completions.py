from __future__ import annotations

import json
from typing import Any

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.answers import Answer
from services.inference.engine import Delta, FinishReason, Message, Role, Usage, UsageSource
from services.inference.form import TokenLogprob
from services.inference.generation import Completed, Finished, Started
from services.inference.openai.collections import question_of
from services.inference.openai.completions import CompletionWriter, parse_completion, text_completion
from services.inference.openai.requests import parse_chat, request_of
from services.inference.progress import Timings

STARTED = Started("m", "llamacpp", None, "r1")
USAGE = Usage(3, 4, UsageSource.REPORTED)
LIKELY = (TokenLogprob("Wa", -0.1, (TokenLogprob("Wa", -0.1), TokenLogprob("Fi", -2.0))), TokenLogprob("ter", -0.2))


def test_a_prompt_is_a_message_of_the_user() -> None:
    body = {"model": "m", "prompt": ["p"], "n": 2, "logprobs": 3, "stop": "x", "max_tokens": 7, "seed": 1, "best_of": 1}
    asked = request_of(parse_completion(json.dumps(body).encode()), "r1")
    assert asked.messages == (Message(Role.USER, "p"),)
    assert (asked.form.alternatives, asked.form.top_logprobs, asked.stop, asked.max_tokens) == (2, 3, ("x",), 7)


@pytest.mark.parametrize("logprobs", [None, 0])
def test_no_probabilities_and_none_beside_the_chosen_ones(logprobs: int | None) -> None:
    body = {"prompt": "p", "logprobs": logprobs}
    assert request_of(parse_completion(json.dumps(body).encode()), "r1").form.top_logprobs == logprobs


def test_pieces_tell_where_they_stand_in_the_text() -> None:
    writer = CompletionWriter(STARTED, include_usage=True)
    told = b"".join(
        (writer.first(), writer.delta(Delta("Water", logprobs=LIKELY)), writer.delta(Delta("Wa", logprobs=LIKELY[:1])))
    )
    told += writer.last((FinishReason.LENGTH,), USAGE)
    *chunks, done, rest = told.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    documents = [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]
    assert documents[1]["choices"][0]["logprobs"] == {
        "tokens": ["Wa", "ter"],
        "token_logprobs": [-0.1, -0.2],
        "top_logprobs": [{"Wa": -0.1, "Fi": -2.0}, {}],
        "text_offset": [0, 2],
    }
    assert documents[2]["choices"][0]["logprobs"]["text_offset"] == [5]
    assert documents[3]["choices"][0]["finish_reason"] == "length"
    assert documents[4]["usage"]["total_tokens"] == 7
    assert {one["object"] for one in documents} == {"text_completion"}


def test_a_whole_completion() -> None:
    finished = Finished(FinishReason.STOP, USAGE, Timings(0.1, 0.2))
    whole = json.loads(text_completion(Completed(STARTED, (Answer("Water", (), LIKELY),), finished)))
    assert whole["choices"][0]["text"] == "Water"
    assert whole["choices"][0]["logprobs"]["tokens"] == ["Wa", "ter"]


def chat(model: str, *messages: tuple[str, str], **members: Any) -> Any:
    document = {"model": model, "messages": [{"role": role, "content": text} for role, text in messages], **members}
    asked = parse_chat(json.dumps(document).encode())
    return question_of(request_of(asked, "r1"), asked.penstock)


def test_a_chat_becomes_a_question_and_what_was_said_before() -> None:
    asked = chat(
        "penstock/a,b",
        ("system", "s1"),
        ("assistant", "Hello!"),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "q2"),
        ("user", "more"),
        ("developer", "s2"),
        penstock={"top_k": 3, "model": "m"},
    )
    assert asked.collections == ("a", "b")
    assert (asked.query, asked.earlier, asked.instructions) == ("q2\n\nmore", (("q1", "a1"),), "s1\n\ns2")
    assert (asked.wanted.top_k, asked.wanted.model) == (3, "m")


def test_a_conversation_that_is_kept_needs_no_earlier_turns() -> None:
    asked = chat("penstock/a", ("user", "q1"), ("assistant", "a1"), ("user", "q2"), penstock={"conversation": "c-1"})
    assert (asked.query, asked.earlier, asked.wanted.conversation) == ("q2", (), "c-1")


@pytest.mark.parametrize(
    ("model", "messages", "parameter"),
    [
        ("penstock/", [("user", "q")], "model"),
        ("penstock/a,,b", [("user", "q")], "model"),
        ("penstock/a,a", [("user", "q")], "model"),
        ("penstock/a", [("system", "s")], "messages"),
        ("penstock/a", [("user", "q"), ("assistant", "a")], "messages"),
        ("penstock/a", [("user", "я" * 16385)], "messages"),
    ],
)
def test_questions_that_no_collection_answers(model: str, messages: list[tuple[str, str]], parameter: str) -> None:
    with pytest.raises(Failure) as caught:
        chat(model, *messages)
    assert (caught.value.reason, caught.value.metadata["field"]) == (Reason.INVALID_OPENAI_REQUEST, parameter)
