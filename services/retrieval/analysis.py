"""Turns text into weighted terms for search by words (BM25), the same for documents and queries.

Text is normalised (NFKC, case folded, ё as е, without accents set apart) and cut into words, which are stemmed by their script:
Latin as English, Cyrillic as Russian, Greek, Armenian, Arabic, Devanagari as Hindi, Tamil. Scripts tell that for certain, for a
query of one word too; languages of one script are not told apart, as three words are too few for that, and a query stemmed
otherwise than its document finds nothing. Runs of Chinese, Japanese or Korean characters become overlapping pairs, as these
scripts put no spaces between words; traditional Chinese characters become simplified ones first. The document's side of BM25
is computed here; the vector store adds the inverse document frequency (IDF), which it alone knows.
"""

from __future__ import annotations

import re
import threading
import unicodedata
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

import Stemmer  # type: ignore[import-not-found]  # PyStemmer has no types

from services.retrieval.chinese import simplified
from services.retrieval.languages import CJK_RANGES

if TYPE_CHECKING:
    from collections.abc import Iterator

# Which version of the analysis this is. Whatever changes the terms or weights of a text raises it by one, and adds below which
# texts it changes: documents that an older version analyzed are indexed anew.
ANALYZER: Final = 2
# By older version, a regular expression (in what syntax Python and Postgres share) that finds every text whose terms changed
# after it, and as few others as it easily can.
CHANGED_AFTER: Final = {
    # Accents and stems of more scripts, both Chinese scripts: all but plain Latin and Cyrillic.
    1: "[^\u0001-\u00a7\u00a9-\u00ae\u00b0-\u00b3\u00b6\u00b7\u00b9-\u012f\u0131-\u01ef\u01f1-\u02d7\u0400-\u0482\u0488-\u052f"
    "\u2010-\u2016\u2018-\u203d\u20a0-\u20bf\u2116]",
}
# BM25's usual constants: how fast repetition saturates, and how much length counts.
_K1: Final = 1.2
_B: Final = 0.75
# Terms of an average chunk. A constant, not a figure of the collection: chunks are cut to one size (see `chunking`), and with
# a figure that moves, the weights of old and new chunks would not be comparable.
AVERAGE_TERMS: Final = 150.0

# Vowel signs and the like, which stand within words but are no letters to Python.
_MARKS: Final = "".join(chr(code) for code in range(0x300, 0x1D00) if unicodedata.category(chr(code)) in {"Mn", "Mc"})
_LETTER: Final = f"[^\\W_{CJK_RANGES}]"
_TOKEN: Final = re.compile(
    f"(?P<cjk>[{CJK_RANGES}]+)|(?P<word>{_LETTER}+(?:[{_MARKS}]+{_LETTER}*)*(?:['’][^\\W\\d_{CJK_RANGES}]+)?)"
)
# Accents that NFKC could not join to a letter, such as the stress in за́мок.
_ACCENTS: Final = re.compile("[\u0300-\u036f\u0483-\u0487]")
# Named as PyStemmer names the languages.
_SCRIPT: Final = re.compile(
    "(?P<russian>[\u0400-\u052f])|(?P<greek>[\u0370-\u03ff\u1f00-\u1fff])|(?P<armenian>[\u0531-\u0587])"
    "|(?P<arabic>[\u0620-\u06ff\u0750-\u077f])|(?P<hindi>[\u0900-\u097f])|(?P<tamil>[\u0b80-\u0bff])"
)
_ENGLISH: Final = "english"

# A stemmer works in a buffer of its own, so only one thread may use it at a time. Their own caches are off: one is enough.
_stemming = threading.Lock()
_stemmers: Final = {language: Stemmer.Stemmer(language, 0) for language in (_ENGLISH, *_SCRIPT.groupindex)}


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Weights by term id; both tuples have the same length, and ids are unique and ascending."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


def terms(text: str) -> Iterator[str]:
    """The terms of a text, which is a chunk or a query, in order and repeated as they are in it."""
    for _, term in words(text):
        yield term


def words(text: str) -> Iterator[tuple[str, str]]:
    """The words of a text, normalised and folded, or the pairs of Chinese characters, each with the term it stands for."""
    for match in _TOKEN.finditer(unicodedata.normalize("NFKC", text).casefold()):
        run = match["cjk"]
        if run is None:
            yield match["word"], _stem(match["word"])
            continue
        simple = simplified(run)
        if len(run) == 1:
            yield run, simple
        else:
            for position in range(len(run) - 1):
                yield run[position : position + 2], simple[position : position + 2]


def term_id(term: str) -> int:
    """A term's place in the sparse vector, 32 bits. Never change it: indexed chunks hold these numbers."""
    return zlib.crc32(term.encode())


def document_vector(text: str) -> SparseVector:
    """BM25's weights of a chunk's terms, without IDF."""
    counts = Counter(term_id(term) for term in terms(text))
    length = counts.total()
    scale = _K1 * (1 - _B + _B * length / AVERAGE_TERMS)
    ids = sorted(counts)
    return SparseVector(tuple(ids), tuple(counts[one] * (_K1 + 1) / (counts[one] + scale) for one in ids))


def query_vector(text: str) -> SparseVector:
    """How often each term stands in the query."""
    counts = Counter(term_id(term) for term in terms(text))
    ids = sorted(counts)
    return SparseVector(tuple(ids), tuple(float(counts[one]) for one in ids))


def query_words(text: str) -> dict[str, int]:
    """The query's words in their order, each once, with the ids of the terms they stand for."""
    return {word: term_id(term) for word, term in words(text)}


@lru_cache(maxsize=32_768)
def _stem(word: str) -> str:
    word = _ACCENTS.sub("", word)
    found = _SCRIPT.search(word)
    language = found.lastgroup if found and found.lastgroup else _ENGLISH
    word = word.replace("’", "'") if language == _ENGLISH else word.replace("ё", "е")
    with _stemming:
        return cast("str", _stemmers[language].stemWord(word))
