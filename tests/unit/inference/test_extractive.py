from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Failure, Reason
from services.inference.engine import (
    Capability,
    Delta,
    Embeddings,
    End,
    FinishReason,
    Generation,
    Message,
    Model,
    Passage,
    Role,
    UsageSource,
)
from services.inference.engines.extractive import TOKEN, ExtractiveEngine
from services.inference.extraction import selection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.engine import Engine, Event

PASSAGES = (
    Passage("A penstock carries water from the reservoir to the turbine. It is built to bear high pressure.", "Penstocks"),
    Passage("# Gates\n\nThe sluice gate controls the flow. It closes when the turbine stops.\n\n- Gates are made of steel"),
    Passage("Water hammer is a surge of pressure. It follows when the flow in a penstock is stopped too fast."),
)
RUSSIAN = (
    Passage("Водовод подаёт воду из водохранилища к турбине. Он рассчитан на высокое давление."),
    Passage("Затвор регулирует расход воды. Он закрывается, когда турбина останавливается, т. е. при аварии."),
)
CHINESE = (
    Passage("压力管道把水从水库输送到水轮机。它能承受很高的压力。"),
    Passage("闸门控制水流。水轮机停止时闸门关闭。"),
)


async def ask(
    *messages: str, passages: Sequence[Passage] = (), engine: ExtractiveEngine | None = None, **settings: Any
) -> tuple[str, End, list[Delta]]:
    asked = tuple(Message(Role.USER, text) for text in messages)
    events = [
        event
        async for event in (engine or ExtractiveEngine()).generate(Generation("extractive", asked, tuple(passages), **settings))
    ]
    deltas = [event for event in events if isinstance(event, Delta)]
    end = events[-1]
    assert isinstance(end, End)
    assert len(deltas) == len(events) - 1
    return "".join(delta.text for delta in deltas), end, deltas


async def test_it_answers_with_the_sentence_that_answers_and_its_citation() -> None:
    text, end, _ = await ask("What does the sluice gate control?", passages=PASSAGES)
    assert text.startswith("The sluice gate controls the flow. [2]")
    assert end.finish_reason is FinishReason.STOP


async def test_it_answers_in_russian() -> None:
    text, _, _ = await ask("Что регулирует затвор?", passages=RUSSIAN)
    assert text.startswith("Затвор регулирует расход воды. [2]")


async def test_it_answers_in_chinese_with_the_citation_close_by() -> None:
    text, _, _ = await ask("闸门控制什么？", passages=CHINESE)
    assert text.startswith("闸门控制水流。[2]")


QUESTIONS = [
    ("What carries water and what is water hammer?", PASSAGES),
    ("Summarise the passages", PASSAGES),
    ("Когда закрывается затвор турбины?", RUSSIAN),
    ("О чём эти тексты?", RUSSIAN),
    ("水轮机停止时会怎样？", CHINESE),
    ("总结", CHINESE),
]


@pytest.mark.parametrize(("question", "passages"), QUESTIONS)
async def test_every_sentence_stands_in_the_passage_that_it_cites(question: str, passages: Sequence[Passage]) -> None:
    text, _, _ = await ask(question, passages=passages)
    quoted = re.findall(r"(.+?) ?\[(\d)\](?: |$)", text)
    assert 1 <= len(quoted) <= 4
    for sentence, number in quoted:
        assert sentence.rstrip(".") in passages[int(number) - 1].text
    assert re.sub(r"(.+?) ?\[(\d)\](?: |$)", "", text) == ""


async def test_sentences_are_ordered_for_reading_and_never_repeated() -> None:
    doubled = (*PASSAGES, Passage("A penstock carries water from the reservoir to the turbine!"))
    text, _, _ = await ask(
        "How does a penstock carry water from the reservoir to the turbine, and what pressure?", passages=doubled
    )
    assert text.count("carries water") == 1
    if "It is built" in text:
        assert text.index("carries water") < text.index("It is built")


async def test_a_list_item_can_answer_and_a_heading_cannot() -> None:
    text, _, _ = await ask("What are gates made of?", passages=PASSAGES)
    assert text.startswith("Gates are made of steel. [2]")
    only_heading, _, _ = await ask(
        "Sluice gates?", passages=[Passage("# Sluice gates\n\nSomething else entirely is written here.")]
    )
    assert "Sluice gates. [1]" not in only_heading


async def test_with_nothing_to_answer_from_it_says_so_and_how_to_connect_a_model() -> None:
    for question, word in (("Who are you?", "quote"), ("Кто ты такой?", "цитировать"), ("你是谁？", "摘录")):
        text, end, _ = await ask(question)
        assert word in text
        assert all(name in text for name in ("OLLAMA_BASE_URL", "VLLM_BASE_URL", "OPENAI_BASE_URL", "GGUF", "MODELS_DIR"))
        assert end.finish_reason is FinishReason.STOP


async def test_passages_that_do_not_speak_of_it_are_not_quoted() -> None:
    text, _, _ = await ask("Who won the football cup in Brazil?", passages=PASSAGES)
    assert "[" not in text
    assert "Nothing in the given passages" in text


async def test_a_text_in_the_message_is_answered_from_without_citations() -> None:
    story = " ".join(passage.text for passage in PASSAGES)
    text, _, _ = await ask(f"{story}\n\nWhat does the sluice gate control?")
    assert "The sluice gate controls the flow." in text
    assert "[" not in text


async def test_a_follow_up_is_understood_with_the_question_before() -> None:
    text, _, _ = await ask("What does the sluice gate control?", "And when does it close?", passages=PASSAGES)
    assert "It closes when the turbine stops. [2]" in text


async def test_max_tokens_cuts_and_says_length() -> None:
    text, end, _ = await ask("What does a penstock carry?", passages=PASSAGES, max_tokens=4)
    assert text == "A penstock carries water"
    assert end.finish_reason is FinishReason.LENGTH
    assert end.usage.output_tokens == 4


async def test_max_tokens_leaves_out_whole_sentences_before_it_cuts_one() -> None:
    text, end, _ = await ask("Summarise the passages", passages=PASSAGES, max_tokens=24)
    assert text.endswith("]")
    assert end.finish_reason is FinishReason.STOP


async def test_a_stop_sequence_is_left_out() -> None:
    text, end, _ = await ask("What does a penstock carry?", passages=PASSAGES, stop=("nowhere", " reservoir"))
    assert text == "A penstock carries water from the"
    assert end.finish_reason is FinishReason.STOP


async def test_usage_is_counted_as_it_is_emitted() -> None:
    text, end, deltas = await ask("闸门控制什么？", passages=CHINESE)
    assert end.usage.source is UsageSource.COUNTED
    assert end.usage.output_tokens == sum(delta.tokens for delta in deltas) == len(TOKEN.findall(text))
    assert end.usage.input_tokens is not None
    assert end.usage.input_tokens > 30
    assert max(delta.tokens for delta in deltas) <= 4


async def test_the_same_question_gets_the_same_answer() -> None:
    assert (await ask("What is water hammer?", passages=PASSAGES))[0] == (
        await ask("What is water hammer?", passages=PASSAGES)
    )[0]


async def test_it_tells_what_it_is() -> None:
    (model,) = await ExtractiveEngine().models()
    assert model.capabilities == (Capability.EXTRACTION,)
    assert "Not a generative model" in model.description


class Compass:
    """An embedder of two directions: texts that speak of danger, and all others."""

    name = "compass"

    def __init__(self, languages: tuple[str, ...] = ("en",), *, fails: bool = False) -> None:
        self.calls = 0
        self._languages = languages
        self._fails = fails

    async def models(self) -> Sequence[Model]:
        return (Model("compass", "compass", (Capability.EMBEDDING,), languages=self._languages),)

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        self.calls += 1
        if self._fails:
            raise Failure(Reason.ENGINE_UNAVAILABLE, f"{model} is gone")
        vectors = [[1.0, 0.0] if re.search("danger|surge", text) else [0.0, 1.0] for text in inputs]
        return Embeddings(vectors, None, UsageSource.COUNTED)

    def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        raise NotImplementedError

    async def close(self) -> None:
        pass


async def test_meaning_finds_what_words_do_not() -> None:
    compass: Engine = Compass()
    text, _, _ = await ask("Is there any danger?", passages=PASSAGES, engine=ExtractiveEngine(compass))
    assert text.startswith("Water hammer is a surge of pressure. [3]")
    assert "[" not in (await ask("Is there any danger?", passages=PASSAGES))[0]


async def test_an_embedder_is_asked_only_in_its_languages() -> None:
    compass = Compass()
    await ask("Что регулирует затвор?", passages=RUSSIAN, engine=ExtractiveEngine(compass))
    assert compass.calls == 0


async def test_without_its_embedder_words_decide() -> None:
    broken = ExtractiveEngine(Compass(fails=True))
    text, _, _ = await ask("What does the sluice gate control?", passages=PASSAGES, engine=broken)
    assert text.startswith("The sluice gate controls the flow. [2]")


def test_a_sentence_that_repeats_the_question_does_not_answer_it() -> None:
    found = selection.candidates([("Ask it: What is lost when Redis dies? When Redis dies, only speed is lost.", "")])
    weighed = selection.weigh("What is lost when Redis dies?", found)
    assert [one.candidate.text for one in weighed] == ["When Redis dies, only speed is lost."]


@pytest.mark.parametrize("nearness", [None, 0.1])
def test_what_stands_under_the_very_question_is_the_answer(nearness: float | None) -> None:
    page = "## How do I run two suites on one machine?\n\nGive each its own port.\n\n## Is it free?\n\nYes."
    other = "The suite runs on one machine, and two machines run two suites."
    weighed = selection.weigh("How do I run two suites on one machine?", selection.candidates([(other, ""), (page, "")]))
    if nearness is not None:
        weighed = selection.with_cosines(weighed, [nearness if one.asked_above else 0.9 for one in weighed])
    assert [one.text for one in selection.choose(weighed)] == ["Give each its own port."]


def test_a_heading_that_is_no_question_answers_none() -> None:
    found = selection.candidates([("## Two suites on one machine\n\nGive each its own port.", "")])
    assert not any(one.asked_above for one in selection.weigh("Two suites on one machine?", found))


@given(st.lists(st.text(max_size=120), max_size=4), st.text(max_size=60))
def test_any_text_can_be_weighed(texts: list[str], question: str) -> None:
    found = selection.candidates([(text, "") for text in texts])
    weighed = selection.weigh(question, found)
    assert {id(one.candidate) for one in weighed} <= {id(candidate) for candidate in found}
    assert all(0 <= one.lexical <= 1 and 0 <= one.coverage <= 1.0001 for one in weighed)
    assert len(selection.choose(weighed)) <= 4
