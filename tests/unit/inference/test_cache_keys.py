from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.cache_keys import is_repeatable, response_key, vector_key
from services.inference.engine import Capability, Generation, Message, Model, Passage, Role, Sampling
from services.inference.form import Form, JsonSchema, OneOf, Regex, Tool, ToolCall, ToolUse
from services.inference.generation import Assignment
from services.inference.prompts.use import PromptReference

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = Model("model", "llamacpp", (Capability.GENERATION,), fingerprint="one")
GENERATION = Generation("model", (Message(Role.USER, "Hello"),), sampling=Sampling(temperature=0.0))
VARIANT = Assignment("key", "experiment", "a")

CHANGES: dict[str, Callable[[Generation], Generation]] = {
    "text": lambda one: replace(one, messages=(Message(Role.USER, "Hello!"),)),
    "role": lambda one: replace(one, messages=(Message(Role.SYSTEM, "Hello"),)),
    "one message in two": lambda one: replace(one, messages=(Message(Role.USER, "Hel"), Message(Role.USER, "lo"))),
    "tool call": lambda one: replace(one, messages=(Message(Role.ASSISTANT, "Hello", (ToolCall("1", "f", "{}"),)),)),
    "passage": lambda one: replace(one, passages=(Passage("Hello"),)),
    "title": lambda one: replace(one, passages=(Passage("Hello", "t"),)),
    "temperature": lambda one: replace(one, sampling=Sampling(temperature=0.5)),
    "no temperature": lambda one: replace(one, sampling=Sampling()),
    "top_p": lambda one: replace(one, sampling=Sampling(temperature=0.0, top_p=0.5)),
    "top_k": lambda one: replace(one, sampling=Sampling(temperature=0.0, top_k=5)),
    "seed": lambda one: replace(one, sampling=Sampling(temperature=0.0, seed=0)),
    "presence": lambda one: replace(one, sampling=Sampling(temperature=0.0, presence_penalty=0.0)),
    "frequency": lambda one: replace(one, sampling=Sampling(temperature=0.0, frequency_penalty=0.0)),
    "max_tokens": lambda one: replace(one, max_tokens=5),
    "stop": lambda one: replace(one, stop=("lo",)),
    "tools": lambda one: replace(one, form=Form(tools=(Tool("f"),))),
    "tool use": lambda one: replace(one, form=Form(tools=(Tool("f"),), tool_use=ToolUse.REQUIRED)),
    "schema": lambda one: replace(one, form=Form(output=JsonSchema("{}"))),
    "regex": lambda one: replace(one, form=Form(output=Regex("{}"))),
    "choice": lambda one: replace(one, form=Form(output=OneOf(("{}",)))),
    "logprobs": lambda one: replace(one, form=Form(top_logprobs=0)),
    "alternatives": lambda one: replace(one, form=Form(alternatives=2)),
    "prompt version": lambda one: replace(one, prompt=PromptReference("support", 1)),
    "another version": lambda one: replace(one, prompt=PromptReference("support", 2)),
}


def test_whatever_changes_the_answer_changes_the_key() -> None:
    changed = {name: change(GENERATION) for name, change in CHANGES.items()}
    keys = {response_key(one, MODEL, None, "") for one in (GENERATION, *changed.values())}
    assert len(keys) == 1 + len(CHANGES)
    touched = {name for one in changed.values() for name in _names(one) if getattr(one, name) != getattr(GENERATION, name)}
    assert touched == _names(GENERATION) - {"model"}, "a field of Generation is changed by none of the cases above"


def _names(generation: Generation) -> set[str]:
    return {field.name for field in fields(generation)}


@pytest.mark.parametrize(
    ("model", "assignment", "scope"),
    [
        (replace(MODEL, name="other"), None, ""),
        (replace(MODEL, engine="ollama"), None, ""),
        (replace(MODEL, fingerprint="two"), None, ""),
        (replace(MODEL, size_bytes=7), None, ""),
        (MODEL, VARIANT, ""),
        (MODEL, replace(VARIANT, variant="b"), ""),
        (MODEL, replace(VARIANT, experiment="other"), ""),
        (MODEL, None, "tenant"),
    ],
)
def test_model_variant_and_scope_are_part_of_the_key(model: Model, assignment: Assignment | None, scope: str) -> None:
    base = {response_key(GENERATION, MODEL, None, ""), response_key(GENERATION, MODEL, VARIANT, "other")}
    assert response_key(GENERATION, model, assignment, scope) not in base


def test_the_name_that_was_asked_for_and_the_unit_of_the_experiment_are_not() -> None:
    key = response_key(GENERATION, MODEL, VARIANT, "")
    assert response_key(replace(GENERATION, model="auto"), MODEL, replace(VARIANT, key="other user's"), "") == key


MESSAGES = st.lists(st.builds(Message, st.sampled_from(Role), st.text(max_size=5)), min_size=1, max_size=3).map(tuple)
GENERATIONS = st.builds(
    Generation,
    st.just("model"),
    MESSAGES,
    st.lists(st.builds(Passage, st.text(max_size=3), st.text(max_size=3)), max_size=2).map(tuple),
    st.builds(Sampling, st.sampled_from([None, 0.0, 1.0]), st.sampled_from([None, 1.0]), st.sampled_from([None, 1])),
    st.sampled_from([None, 1]),
    st.lists(st.text(min_size=1, max_size=2), max_size=2).map(tuple),
)


@given(GENERATIONS, GENERATIONS, st.text(max_size=3), st.text(max_size=3))
def test_keys_are_equal_exactly_for_what_is_equal(one: Generation, other: Generation, mine: str, yours: str) -> None:
    is_same = (one, mine) == (other, yours)
    assert (response_key(one, MODEL, None, mine) == response_key(other, MODEL, None, yours)) == is_same
    copy: Any = replace(one)
    assert response_key(copy, MODEL, None, mine) == response_key(one, MODEL, None, mine)


def test_only_what_comes_out_the_same_again_is_repeatable() -> None:
    assert is_repeatable(GENERATION, MODEL)
    assert is_repeatable(replace(GENERATION, sampling=Sampling(seed=0)), MODEL)
    assert not is_repeatable(replace(GENERATION, sampling=Sampling()), MODEL)
    assert not is_repeatable(replace(GENERATION, sampling=Sampling(temperature=0.1)), MODEL)
    extractive = replace(MODEL, capabilities=(Capability.EXTRACTION,))
    assert is_repeatable(replace(GENERATION, sampling=Sampling()), extractive)


def test_vectors_are_found_by_their_text_and_the_fingerprint_of_their_model() -> None:
    models = (MODEL, replace(MODEL, fingerprint="two"), replace(MODEL, engine="ollama"))
    assert len({vector_key(model, text) for model in models for text in ("a", "b", "")}) == 9
