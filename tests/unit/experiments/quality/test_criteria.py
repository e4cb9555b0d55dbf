"""The criteria that need no other service: what they score, where they abstain, and what they point at."""

from __future__ import annotations

import asyncio
import math

import pytest

from services.experiments.quality.assessment import Criterion, Judgement, Reason, State, Subject, scored
from services.experiments.quality.assessor import Assessor
from services.experiments.quality.completeness import completeness
from services.experiments.quality.language import language_of
from services.experiments.quality.language_match import language_match
from services.experiments.quality.readability import readability, syllables_of
from services.experiments.quality.relevance import Relevance
from services.experiments.quality.repetition import repetition
from services.experiments.quality.seo import seo_optimization
from services.experiments.quality.structure import structure
from services.experiments.quality.support import accuracy, groundedness
from services.experiments.quality.text import Passage


def score(judgement: Judgement) -> float:
    assert judgement.state is State.SCORED, judgement
    assert judgement.score is not None
    return judgement.score


def pointed_at(judgement: Judgement, text: str) -> list[str]:
    return [text[one.start : one.end] for one in judgement.evidence]


TRUE = {
    "en": ("Paris is the capital of France. The city has 2.1 million inhabitants.", "The capital of France is Paris."),
    "ru": ("Париж — столица Франции. В городе живёт 2,1 миллиона человек.", "Столица Франции — Париж."),
    "zh": ("巴黎是法国的首都。这座城市有210万居民。", "法国的首都是巴黎。"),
}
WRONG_NUMBER = {
    "en": "The city has 7.4 million inhabitants.",
    "ru": "В городе живёт 7,4 миллиона человек.",
    "zh": "这座城市有740万居民。",
}
DENIED = {
    "en": "Paris is not the capital of France.",
    "ru": "Париж — не столица Франции.",
    "zh": "巴黎不是法国的首都。",
}
FOREIGN = {
    "en": "Bananas grow quickly in warm weather.",
    "ru": "Бананы быстро растут в тёплую погоду.",
    "zh": "香蕉生长得很快。",
}


@pytest.mark.parametrize("language", TRUE)
def test_what_the_contexts_say_is_grounded_and_the_rest_is_named(language: str) -> None:
    context, claim = TRUE[language]
    assert score(groundedness(Subject(claim, contexts=(context,)))) > 0.9
    for wrong in (WRONG_NUMBER[language], DENIED[language], FOREIGN[language]):
        judged = groundedness(Subject(f"{claim} {wrong}", contexts=(FOREIGN["en"] if wrong != FOREIGN["en"] else "", context)))
        if wrong == FOREIGN["en"]:
            judged = groundedness(Subject(f"{claim} {wrong}", contexts=(context,)))
        assert score(judged) < 0.75, wrong
        assert pointed_at(judged, f"{claim} {wrong}")[0] == wrong
        assert judged.evidence[-1].context is not None


@pytest.mark.parametrize("language", TRUE)
def test_accuracy_is_what_of_the_reference_is_said(language: str) -> None:
    reference, claim = TRUE[language]
    whole = score(accuracy(Subject(reference, reference=reference)))
    half = score(accuracy(Subject(claim, reference=reference)))
    wrong = accuracy(Subject(DENIED[language], reference=claim))
    assert whole == 1.0
    assert 0.2 < half < 0.8
    assert score(wrong) == 0
    assert "denies" in wrong.evidence[0].finding
    assert wrong.suggestions


def test_a_number_is_the_same_with_and_without_separators() -> None:
    assert Passage("1,250,000 and 2,5").numbers == Passage("1250000 and 2.5").numbers


def test_completeness_counts_parts() -> None:
    question = "How do cats sleep, and why do dogs bark?"
    both = completeness(Subject("Cats sleep curled up. Dogs bark to warn.", question))
    one = completeness(Subject("Cats sleep curled up.", question))
    assert score(both) == 1
    assert score(one) == 0.5
    assert "dogs bark" in one.evidence[0].finding
    assert completeness(Subject("Paris", "Where is the Louvre?")).reason is Reason.NO_PARTS
    reference = "Водород — самый лёгкий газ. Он горит."
    assert score(completeness(Subject("Водород легче других газов: самый лёгкий газ.", reference=reference))) == 0.5


def test_a_text_that_breaks_off_is_not_complete() -> None:
    whole = " ".join(["The river runs through the old town and on to the sea"] * 3)
    assert score(completeness(Subject(f"{whole} where"))) == 0.5
    assert completeness(Subject(f"{whole}.")).state is State.ABSTAINED


def test_flesch_is_computed_as_published() -> None:
    # 13 words and syllables; 11 words, 22 vowels; 2 sentences each.
    english = readability(Subject("The cat sat on the mat. The dog ran to the big house."))
    russian = readability(Subject("Мама мыла белую раму. Папа читал книгу очень долго и молча."))
    assert dict(english.measures)["flesch"] == pytest.approx(206.835 - 1.015 * 6.5 - 84.6 * 13 / 13)
    words, vowels = 11, 22
    assert dict(russian.measures)["flesch"] == pytest.approx(206.835 - 1.3 * words / 2 - 60.1 * vowels / words)
    assert score(english) == 1


SYLLABLES = {
    "the": 1, "table": 2, "readability": 5, "walked": 1, "needed": 2, "idea": 3, "beautiful": 3, "created": 3, "houses": 2,
    "boxes": 2, "little": 2, "region": 2, "make": 1, "area": 3, "media": 3, "science": 2,
}  # fmt: skip


@pytest.mark.parametrize("word", SYLLABLES)
def test_syllables_of_english(word: str) -> None:
    assert syllables_of(word, "en") == SYLLABLES[word]


def test_easy_texts_read_better_than_hard_ones() -> None:
    hard = (
        "Notwithstanding considerable institutional heterogeneity, interdisciplinary collaboration "
        "necessitates extraordinarily comprehensive coordination."
    )
    easy = "We work in many fields. It helps to talk. Talk to each other each day."
    assert score(readability(Subject(hard, language="en"))) < 0.1
    assert score(readability(Subject(easy))) > 0.9
    assert readability(Subject(hard, language="en")).suggestions
    short = "今天天气很好。我们去公园散步。孩子们在草地上玩。大家都很高兴。"
    long = (
        "鉴于当前国际经济形势的复杂性以及国内产业结构调整过程中所面临的诸多不确定因素"
        "我们必须在充分考虑各方利益的基础上制定出切实可行的长期发展战略规划方案"
    )
    assert score(readability(Subject(long))) < 0.3
    assert score(readability(Subject(short))) > 0.9


def test_readability_abstains_where_it_has_no_measure() -> None:
    assert readability(Subject("Yes.")).state is State.ABSTAINED
    assert readability(Subject("The answer is yes.")).reason is Reason.TOO_SHORT
    german = readability(Subject("Das ist nicht das, was die Leute von einer guten Antwort auf diese Frage erwarten."))
    assert german.reason is Reason.LANGUAGE_UNSUPPORTED


@pytest.mark.parametrize(
    "sentence", ["The train leaves at noon from platform nine. ", "Поезд отходит в полдень с девятого пути. "]
)
def test_repetition_points_at_what_is_said_again(sentence: str) -> None:
    assert score(repetition(Subject(sentence))) == 1
    judged = repetition(Subject(sentence * 4))
    assert score(judged) == pytest.approx(0.25)
    assert judged.suggestions
    assert judged.evidence[0].start == len(sentence)


def test_repetition_in_chinese_is_told_by_characters() -> None:
    sentence = "火车中午从九号站台出发开往上海。"
    assert score(repetition(Subject(sentence * 2))) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The weather is fine and the birds sing.", "en"),
        ("Das Wetter ist schön und die Vögel singen.", "de"),
        ("Le temps est beau et les oiseaux chantent.", "fr"),
        ("El tiempo es bueno y los pájaros cantan.", "es"),
        ("Погода хорошая, птицы поют, и мы это слышим.", "ru"),
        ("Погода гарна, і птахи співають її пісні.", "uk"),
        ("天气很好，鸟儿在唱歌。", "zh"),
        ("天気が良くて、鳥が歌っています。", "ja"),
        ("42", ""),
        ("Kubernetes", ""),
    ],
)
def test_languages_are_told(text: str, language: str) -> None:
    assert language_of(text) == language


def test_language_match_names_the_sentences_in_another_language() -> None:
    text = "Столица Франции — это Париж. The city is large and old."
    judged = language_match(Subject(text, "Какая столица Франции?"))
    assert 0.4 < score(judged) < 0.6
    assert pointed_at(judged, text) == ["The city is large and old."]
    assert score(language_match(Subject("The city is large.", "Какая столица?", language="en-GB"))) == 1
    assert language_match(Subject("The city is large.")).reason is Reason.LANGUAGE_UNKNOWN
    assert language_match(Subject("The city is large.", language="sw")).reason is Reason.LANGUAGE_UNSUPPORTED


def test_structure_finds_what_is_out_of_order() -> None:
    good = "# Trains\n\nThey leave at noon.\n\n## Tickets\n\n1. Choose a day.\n2. Pay for it.\n"
    bad = "# Trains\n\n### Tickets\n\n1. Choose a day.\n3. Pay for it.\n\n```\nx = 1\n"
    assert score(structure(Subject(good))) == 1
    judged = structure(Subject(bad))
    failing = {name for name, holds in judged.measures if not holds}
    assert failing == {"code_blocks_closed", "heading_levels_in_order", "items_numbered_in_order"}
    assert len(judged.suggestions) == 3
    long = "word " * 300
    assert dict(structure(Subject(long)).measures)["long_text_in_parts"] == 0
    assert structure(Subject("Yes.")).reason is Reason.TOO_SHORT


def test_seo_rises_with_what_search_engines_look_for() -> None:
    page = (
        "# Green tea\n\nGreen tea is a drink. See [tea](https://example.com).\n\n"
        + "It is made of leaves and water. " * 50
        + "tea " * 4
    )
    bare = "It is a drink made of leaves."
    assert score(seo_optimization(Subject(page, keywords=("tea",)))) == 1
    judged = seo_optimization(Subject(bare, keywords=("tea",)))
    assert score(judged) == 0
    assert judged.suggestions
    assert seo_optimization(Subject(bare)).reason is Reason.NO_KEYWORDS


def test_groundedness_and_accuracy_are_absent_without_anything_to_compare_with() -> None:
    assessed = asyncio.run(Assessor(Relevance(None)).assess(Subject("The city is large.")))
    found = {one.criterion for one in assessed.judgements}
    assert found == set(Criterion) - {Criterion.GROUNDEDNESS, Criterion.ACCURACY}
    only = asyncio.run(Assessor(Relevance(None)).assess(Subject("The city."), {Criterion.STRUCTURE, Criterion.ACCURACY}))
    assert [one.criterion for one in only.judgements] == [Criterion.STRUCTURE]


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "...", "#", "```", "a", "1", "\x00", "🙂", "的", "# \n\n#", "- \n- ", "().*[", "a" * 9999]
)
def test_no_text_is_too_odd(text: str) -> None:
    subject = Subject(text, question=text, contexts=(text or " ",), reference=text)
    assessed = asyncio.run(Assessor(Relevance(None)).assess(subject))
    for one in assessed.judgements:
        assert (one.score is not None) == (one.state is State.SCORED)
        assert one.score is None or 0 <= one.score <= 1
        assert one.state is State.SCORED or (one.reason is not Reason.NONE and one.explanation)


def test_a_score_is_never_nan() -> None:
    assert scored(Criterion.STRUCTURE, math.nan).state is State.FAILED
    assert scored(Criterion.STRUCTURE, 1.5).score == 1
