"""How easily a text reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from services.experiments.quality.assessment import Criterion, Evidence, Reason, abstained, scored

if TYPE_CHECKING:
    from services.experiments.quality.assessment import Judgement, Subject
    from services.experiments.quality.text import Passage

_FEWEST_WORDS: Final = 10
_FEWEST_CHARACTERS: Final = 20
_WEAK: Final = 0.4
# By language: constant, weight of words a sentence, weight of syllables a word. English: R. Flesch, A new readability
# yardstick, Journal of Applied Psychology 32 (1948). Russian: I. Oborneva's adaptation of it (2006).
_FLESCH: Final = {"en": (206.835, 1.015, 84.6), "ru": (206.835, 1.3, 60.1)}
_RUSSIAN_VOWEL: Final = re.compile("[аеёиоуыэюя]", re.IGNORECASE)
_ENGLISH_VOWELS: Final = re.compile("[aeiouy]+")
# Vowels side by side that are two syllables, and endings whose e is silent.
_HIATUS: Final = re.compile("scien|^crea|ea$|ia(?!n$|l$)|io(?!u|n)|ua|eo|iu|[^aeiou]ie[rt]$|ying|uou")
_SILENT: Final = re.compile("[^aeiouyl]e$|[^aeiouytd]ed$|[^aeiouyscxzgh]es$|[aeiouyrl]le$")
# Chinese: a sentence and a clause of so many characters read well, and of so many more not at all.
_SENTENCE: Final = (25.0, 60.0)
_CLAUSE: Final = (12.0, 25.0)
_CLAUSE_END: Final = re.compile(r"[，,、；;：:。！？!?\n]+")
_LONG: Final = {"en": 30, "ru": 25}
_LONG_CHARACTERS: Final = 60


def readability(subject: Subject) -> Judgement:
    """Flesch over 100 in English and Russian; in Chinese the lengths of sentences and clauses."""
    language = subject.spoken or subject.expected
    if language == "zh":
        return _chinese(subject.passage)
    if language not in _FLESCH:
        return abstained(
            Criterion.READABILITY,
            Reason.LANGUAGE_UNSUPPORTED,
            f"no measure is defined for {language or 'a language that cannot be told'}; there are those for en, ru and zh",
        )
    return _flesch(subject.passage, language)


def _flesch(passage: Passage, language: str) -> Judgement:
    words = [word.text for word in passage.words if not word.is_number and not word.is_wide]
    if len(words) < _FEWEST_WORDS:
        return abstained(Criterion.READABILITY, Reason.TOO_SHORT, f"{len(words)} words are fewer than {_FEWEST_WORDS}")
    constant, by_sentence, by_word = _FLESCH[language]
    sentence = len(words) / max(1, len(passage.sentences))
    syllables = sum(syllables_of(word, language) for word in words) / len(words)
    value = constant - by_sentence * sentence - by_word * syllables
    most = _LONG[language]
    long = [one for one in passage.sentences if len(one.words) > most]
    suggestions = []
    if value < _WEAK * 100:
        suggestions.append(
            "Use shorter words." if not long else f"Break up sentences of more than {most} words, and use shorter words."
        )
    return scored(
        Criterion.READABILITY,
        value / 100,
        evidence=[Evidence(f"a sentence of {len(one.words)} words", one.start, one.end) for one in long],
        measures={"flesch": value, "words_per_sentence": sentence, "syllables_per_word": syllables},
        suggestions=suggestions,
    )


def _chinese(passage: Passage) -> Judgement:
    characters = sum(word.is_wide for word in passage.words)
    if characters < _FEWEST_CHARACTERS:
        return abstained(
            Criterion.READABILITY, Reason.TOO_SHORT, f"{characters} characters are fewer than {_FEWEST_CHARACTERS}"
        )
    clauses = [piece for piece in _CLAUSE_END.split(passage.text) if piece.strip()]
    sentence, clause = len(passage.words) / max(1, len(passage.sentences)), len(passage.words) / max(1, len(clauses))
    score = (_ease(sentence, *_SENTENCE) + _ease(clause, *_CLAUSE)) / 2
    long = [one for one in passage.sentences if len(one.words) > _LONG_CHARACTERS]
    return scored(
        Criterion.READABILITY,
        score,
        evidence=[Evidence(f"a sentence of {len(one.words)} characters", one.start, one.end) for one in long],
        measures={"characters_per_sentence": sentence, "characters_per_clause": clause},
        suggestions=["Break up long sentences and clauses."] if score < _WEAK else [],
    )


def _ease(length: float, easy: float, more: float) -> float:
    """1 up to `easy`, then falling evenly to 0 at `more` beyond it."""
    return min(1.0, max(0.0, 1 - (length - easy) / more))


def syllables_of(word: str, language: str) -> int:
    """Syllables of a word in small letters, at least 1: vowels in Russian; in English groups of vowels by rules of spelling."""
    if language == "ru":
        return max(1, len(_RUSSIAN_VOWEL.findall(word)))
    # In `table` the last e is silent and the l a syllable of its own: nothing is taken off.
    silent = bool(_SILENT.search(word)) and len(word) > 2  # noqa: PLR2004 - the, me
    return max(1, len(_ENGLISH_VOWELS.findall(word)) + len(_HIATUS.findall(word)) - silent)
