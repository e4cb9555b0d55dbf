"""A text in sentences, words and terms, in English, Russian and Chinese."""

from __future__ import annotations

import re
import threading
import unicodedata
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, cast

import Stemmer  # type: ignore[import-not-found]  # PyStemmer has no types

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDE: Final = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0002fa1f]")
_TOKEN: Final = re.compile(rf"{WIDE.pattern}|\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’-][^\W\d_]+)*")
_CYRILLIC: Final = re.compile("[\u0400-\u052f]")
# A paragraph, a line before an item, heading or row, a wide mark, or a mark with white space and no small letter after it.
_BOUNDARY: Final = re.compile(
    r"\n[ \t]*\n\s*|\n(?=[ \t]*(?:[-*+•|#]|\d{1,3}[.)])\s?)"
    r"|[。！？]+[”’」』）\"')\]»]*\s*|[.!?…]+[”’\"')\]»]*\s+(?=[^\Wа-яёa-z_]|[\"'«“‘(\[]|$)"
)
_ABBREVIATION: Final = re.compile(
    r"(?:^|[\s(«“\"])(?:[A-ZА-ЯЁa-zа-яё]|mr|mrs|ms|dr|prof|st|vs|etc|fig|no|approx|т\.\s?[екднп]|гг|вв|им|ул|рис|табл|стр|тыс|"
    r"млн|млрд|руб|см|ср|напр|проф|акад)$",
    re.IGNORECASE,
)
_TAIL: Final = 12

# Words that hold a sentence together and say little by themselves.
_FUNCTION_WORDS: Final = (
    "a an the of and to is that it was for are with as his he be at this have from or by but what were we when your can "
    "there an which she do how their if will about then them would so these her him has who does why in on not no did been "
    "being i you they its into than also my our us me where whose whom may might must shall should could "
    "и в во не что он на я с со как а то все она так его но да ты к у же вы за бы по ее мне было вот от меня о из ему "
    "когда даже ну ли если уже или ни быть был него до вас опять вам ведь там потом себя ничего ей они тут где есть надо "
    "ней для мы тебя их чем была сам чтоб без чего раз тоже себе под будет тогда кто этот того потому этого какой ним "
    "здесь этом один почти мой тем чтобы нее были куда зачем всех при об это эта эти является который которая которые "
    "的 了 在 是 我 你 他 她 它 们 这 那 有 和 与 或 也 就 都 而 及 着 吗 呢 吧 啊 被 把 "
    "从 对 为 以 于 之 其 什 么 哪 谁 怎 样 个 "
    "请 问 几 多 少 何"
)
_FUNCTION: Final = frozenset(_FUNCTION_WORDS.split())
_FUNCTION_WEIGHT: Final = 0.1
_WIDE_WEIGHT: Final = 0.5
_NUMBER_WEIGHT: Final = 1.0
_DENIAL: Final = re.compile(
    r"(?<!\w)(?:not|no|never|none|nobody|nothing|neither|nor|without|cannot|\w+n['’]t|не|нет|никогда|нельзя|никто|ничто|ничего|ни|без)"
    r"(?!\w)|不(?![同断仅])|没|非(?!常|洲)|无(?!论)|未(?!来)",
    re.IGNORECASE,
)
_STEMMERS: Final = threading.local()


@dataclass(frozen=True, slots=True)
class Word:
    """A word, a number, or a single wide character, in small letters, and where it stands."""

    text: str
    start: int
    end: int

    @property
    def is_wide(self) -> bool:
        """Whether it is a character of Chinese, Japanese or Korean."""
        return WIDE.match(self.text) is not None

    @property
    def is_number(self) -> bool:
        """Whether it is a number."""
        return self.text[0].isdigit()


class Passage:
    """A text and what it says; everything is read when first needed."""

    def __init__(self, text: str, start: int = 0) -> None:
        self.text = text
        self.start = start

    @property
    def end(self) -> int:
        """Where it ends in the text that it was cut from, exclusive."""
        return self.start + len(self.text)

    @cached_property
    def words(self) -> tuple[Word, ...]:
        """Its words, with places in this passage."""
        return tuple(Word(_folded(match[0]), match.start(), match.end()) for match in _TOKEN.finditer(self.text))

    @cached_property
    def sentences(self) -> tuple[Passage, ...]:
        """Its sentences, items and headings, without the white space around; those without a word are left out."""
        return tuple(_sentences(self.text, self.start))

    @cached_property
    def weights(self) -> dict[str, float]:
        """Its terms and what they count for: 1, half for a wide character, a tenth for a word without content."""
        return {term_of(word): _weight(word) for word in self.words}

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Its numbers, without separators of thousands."""
        return frozenset(term_of(word) for word in self.words if word.is_number)

    @cached_property
    def denies(self) -> bool:
        """Whether it holds an odd number of words that deny."""
        return len(_DENIAL.findall(self.text)) % 2 == 1

    def share_in(self, *others: Passage) -> float:
        """How much of its weight the others hold together, 0 to 1."""
        whole = sum(self.weights.values())
        held = sum(weight for term, weight in self.weights.items() if any(term in other.weights for other in others))
        return held / whole if whole else 0.0


def term_of(word: Word) -> str:
    """What a word is compared by: its stem, or the number."""
    if word.is_number:
        plain = re.sub(r"[.,](?=\d{3}(?:\D|$))", "", word.text)
        return plain.replace(",", ".")
    return word.text if word.is_wide else _stem(word.text, "russian" if _CYRILLIC.match(word.text) else "english")


def is_content(word: Word) -> bool:
    """Whether it says something by itself."""
    return word.text not in _FUNCTION


def _weight(word: Word) -> float:
    if word.is_number:
        return _NUMBER_WEIGHT
    return (1.0 if is_content(word) else _FUNCTION_WEIGHT) * (_WIDE_WEIGHT if word.is_wide else 1.0)


@lru_cache(maxsize=20_000)
def _stem(word: str, language: str) -> str:
    # A stemmer serves one thread at a time.
    stemmer = getattr(_STEMMERS, language, None)
    if stemmer is None:
        stemmer = Stemmer.Stemmer(language)
        setattr(_STEMMERS, language, stemmer)
    return cast("str", stemmer.stemWord(word))


def _folded(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold().replace("ё", "е").replace("’", "'") or word


def _sentences(text: str, start: int) -> Iterator[Passage]:
    begin = 0
    for match in _BOUNDARY.finditer(text):
        if match[0].startswith(".") and _ABBREVIATION.search(text, max(begin, match.start() - _TAIL), match.start()):
            continue
        yield from _trimmed(text, begin, match.end(), start)
        begin = match.end()
    yield from _trimmed(text, begin, len(text), start)


def _trimmed(text: str, begin: int, end: int, start: int) -> Iterator[Passage]:
    piece = text[begin:end]
    bare = piece.strip()
    if _TOKEN.search(bare):
        yield Passage(bare, start + begin + len(piece) - len(piece.lstrip()))
