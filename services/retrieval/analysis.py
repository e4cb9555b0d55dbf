"""Turns text into weighted terms for search by words (BM25), the same for documents and queries.

Text is normalised (NFKC, case folded, ё as е) and cut into words; words of Latin script are stemmed as English, those of
Cyrillic script as Russian, and runs of Chinese, Japanese or Korean characters become overlapping pairs, as these scripts put
no spaces between words; traditional Chinese characters become simplified ones first. The document's side of BM25 is computed
here; the vector store adds the inverse document frequency (IDF), which it alone knows.
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
# By older version, a regular expression (in what syntax Python and Postgres share) of the texts whose terms changed after it.
CHANGED_AFTER: Final = {1: "[\u3400-\u9fff\uf900-\ufaff]"}
# BM25's usual constants: how fast repetition saturates, and how much length counts.
_K1: Final = 1.2
_B: Final = 0.75
# Terms of an average chunk. A constant, not a figure of the collection: chunks are cut to one size (see `chunking`), and with
# a figure that moves, the weights of old and new chunks would not be comparable.
AVERAGE_TERMS: Final = 150.0

_TOKEN: Final = re.compile(f"(?P<cjk>[{CJK_RANGES}]+)|(?P<word>[^\\W_{CJK_RANGES}]+(?:['’][^\\W\\d_{CJK_RANGES}]+)?)")
_CYRILLIC: Final = re.compile("[\u0400-\u052f]")

# A stemmer works in a buffer of its own, so only one thread may use it at a time. Their own caches are off: one is enough.
_stemming = threading.Lock()
_english = Stemmer.Stemmer("english", 0)
_russian = Stemmer.Stemmer("russian", 0)


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
    with _stemming:
        if _CYRILLIC.search(word):
            return cast("str", _russian.stemWord(word.replace("ё", "е")))
        return cast("str", _english.stemWord(word.replace("’", "'")))
