import re
import unicodedata

import pytest
import Stemmer  # type: ignore[import-not-found]  # PyStemmer has no types
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.analysis import AVERAGE_TERMS, CHANGED_AFTER, document_vector, query_vector, term_id, terms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("running", "runs"),
        ("Cats", "cat"),
        ("кошки", "кошкой"),
        ("Ёлка", "елка"),
        ("ＡＢＣ", "abc"),
        ("don’t", "don't"),
        ("за́мка", "замка"),
        ("résumé", "re\u0301sume\u0301"),
        ("γλώσσα", "γλώσσες"),
        ("الكتاب", "كتابا"),
        ("كِتَاب", "كتاب"),
        ("लड़का", "लड़कों"),
        ("வீடு", "வீட்டில்"),
        ("քաղաքներ", "քաղաքը"),
    ],
)
def test_forms_of_a_word_are_one_term(one: str, other: str) -> None:
    assert list(terms(one)) == list(terms(other))


@pytest.mark.parametrize("word", ["हिन्दी", "புத்தகம்", "كِتَابٌ", "שָׁלוֹם", "ไทย"])
def test_marks_do_not_cut_words(word: str) -> None:
    assert len(list(terms(word))) == 1


def test_chinese_becomes_pairs() -> None:
    assert list(terms("猫在睡觉 GPU好")) == ["猫在", "在睡", "睡觉", "gpu", "好"]


def test_identifiers_fall_into_their_words() -> None:
    assert list(terms("snake_case, x-y")) == ["snake", "case", "x", "y"]


def test_ids_never_change() -> None:
    assert (term_id("cat"), term_id("кошк"), term_id("猫在")) == (2656977832, 2175867016, 4264539529)


@given(st.text(max_size=300))
def test_vectors_are_well_formed(text: str) -> None:
    for vector in (document_vector(text), query_vector(text)):
        assert len(vector.indices) == len(vector.values)
        assert list(vector.indices) == sorted(set(vector.indices))
        assert all(0 <= index < 2**32 for index in vector.indices)
        assert all(value > 0 for value in vector.values)
    assert document_vector(text).indices == query_vector(text).indices


def test_bm25_weights() -> None:
    """By hand, for a chunk of average length: tf * (k1 + 1) / (tf + k1), with k1 = 1.2."""
    filler = " ".join(f"filler{number}" for number in range(int(AVERAGE_TERMS) - 3))
    vector = document_vector(f"cat cat dog {filler}")
    weights = dict(zip(vector.indices, vector.values, strict=True))
    assert weights[term_id("dog")] == pytest.approx(1.0)
    assert weights[term_id("cat")] == pytest.approx(2 * 2.2 / 3.2)


def test_a_longer_chunk_weighs_less() -> None:
    longer = document_vector("cat " + "dog " * 300)
    weights = dict(zip(longer.indices, longer.values, strict=True))
    assert document_vector("cat").values[0] > weights[term_id("cat")]


PLAIN = st.text(
    st.characters(max_codepoint=0x52F, exclude_categories=["Cs"]) | st.characters(min_codepoint=0x2010, max_codepoint=0x2120),
    max_size=60,
)


@given(PLAIN)
def test_what_is_not_indexed_anew_has_the_terms_of_version_1(text: str) -> None:
    """The second version, as far as it differs from the first, is told by the pattern."""
    normal = unicodedata.normalize("NFKC", text).casefold()
    if re.search(CHANGED_AFTER[1], text):
        return
    english, russian = Stemmer.Stemmer("english", 0), Stemmer.Stemmer("russian", 0)
    first = [
        russian.stemWord(word.replace("ё", "е"))
        if re.search("[\u0400-\u052f]", word)
        else english.stemWord(word.replace("’", "'"))
        for word in re.findall(r"[^\W_]+(?:['’][^\W\d_]+)?", normal)
    ]
    assert list(terms(text)) == first
