"""What an answer says is held against its sources: numbers, dates, names, negations, and words, in three languages."""

from __future__ import annotations

import pytest

from benchmarks import grounding
from services.retrieval.grounding.facts import facts
from services.retrieval.grounding.groundedness import Grounds, Verdict
from services.retrieval.grounding.numerals import numbers
from services.retrieval.passages import Hit


def hit(text: str, start: int = 0) -> Hit:
    return Hit("docs", "d", "d-0", text, 1.0, 0.5, "", {}, start, start + len(text))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,642 metres, 5642 m and 2.5 km", {(1642.0, "m"), (5642.0, "m"), (2.5, "km")}),
        ("2 million people, twelve days", {(2e6, ""), (12.0, "d")}),
        ("six and a half hours", {(6.5, "h")}),
        ("no one came", set()),
        ("2 400 рублей за двадцать пять дней, 3,5 метра", {(2400.0, "RUB"), (25.0, "d"), (3.5, "m")}),
        ("全长2335米，十五天，四个半小时，十二点四米", {(2335.0, "m"), (15.0, "d"), (4.5, "h"), (12.4, "m")}),
        ("一起看一些书", set()),
        ("3万人", {(30000.0, "")}),
    ],
)
def test_numbers_are_read_in_figures_and_in_words(text: str, values: set[tuple[float, str]]) -> None:
    assert {(one.value, one.unit) for one in numbers(text)} == values


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("on 7 November 1867", (1867, 11, 7)),
        ("on November 7th, 1867", (1867, 11, 7)),
        ("18 декабря 1978 года", (1978, 12, 18)),
        ("в марте 2024 года", (2024, 3, None)),
        ("1994年12月14日", (1994, 12, 14)),
        ("2024-03-05", (2024, 3, 5)),
        ("05.03.2024", (2024, 3, 5)),
    ],
)
def test_dates_are_read_in_every_form(text: str, date: tuple[int, int, int | None]) -> None:
    found = facts(text)
    assert [(one.year, one.month, one.day) for one in found.dates] == [date]
    assert not found.numbers


def test_a_sentence_keeps_its_place_and_names_its_evidence() -> None:
    source = hit("Intro. The penstock of Kirkwall is 412 metres long. It rusts.", start=100)
    answer = "The penstock of Kirkwall is 412 metres long. [1] Bananas are yellow."
    grounds = Grounds([source])
    judged = grounds.judge(grounds.claims(answer), {})
    first, second = judged.sentences
    assert (first.verdict, second.verdict) == (Verdict.SUPPORTED, Verdict.UNSUPPORTED)
    assert answer[first.start : first.end] == "The penstock of Kirkwall is 412 metres long. [1]"
    assert source.text[first.source_start : first.source_end] == "The penstock of Kirkwall is 412 metres long."
    assert judged.score is not None
    assert 0.5 < judged.score < 0.9


def test_what_cannot_be_told_is_not_scored() -> None:
    grounds = Grounds([hit("The penstock of Kirkwall is 412 metres long.")])
    for answer in ("Is it long?", "Водовод очень длинный.", "42."):
        (judged,) = grounds.judge(grounds.claims(answer), {}).sentences
        assert (judged.verdict, judged.score) == (Verdict.UNSCORED, None)
    assert grounds.judge([], {}).score is None


def test_meaning_supports_what_words_alone_do_not() -> None:
    grounds = Grounds([hit("The pipe conveys water.")])
    claims = grounds.claims("The duct carries water along.")
    assert grounds.judge(claims, {}).sentences[0].verdict is Verdict.UNSUPPORTED
    wanted = grounds.wanted(claims, lambda _text: True)
    assert set(wanted) == {"The duct carries water along.", "The pipe conveys water."}
    judged = grounds.judge(claims, {text: [1.0, 0.0] for text in wanted}).sentences[0]
    assert (judged.verdict, judged.by_meaning) == (Verdict.SUPPORTED, True)
    assert not grounds.wanted(claims, lambda _text: False)


async def test_the_labelled_set_is_told_as_well_as_was_measured() -> None:
    figures = grounding.measured(await grounding.outcomes(held_out=True))["all"]
    for verdict, (precision, recall) in figures.items():
        assert precision >= 0.9, verdict
        assert recall >= 0.9, verdict
