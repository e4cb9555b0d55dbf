import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.retrieval.analysis import document_vector, query_vector, query_words, terms
from services.retrieval.chinese import simplified
from services.retrieval.languages import CJK_CHARACTER

chinese = st.text(st.characters(min_codepoint=0x3400, max_codepoint=0x9FFF) | st.sampled_from("乾薴後裡漢\U0002a6a5"))


@pytest.mark.parametrize(
    ("traditional", "simple"),
    [("電腦網絡", "电脑网络"), ("頭髮發展", "头发发展"), ("臺灣", "台湾"), ("漢語", "汉语"), ("薴", "苎")],
)
def test_scripts_find_each_other(traditional: str, simple: str) -> None:
    assert simplified(traditional) == simplified(simple) == simple
    assert query_vector(traditional) == query_vector(simple)
    assert document_vector(f"這是{traditional}的書") == document_vector(f"这是{simple}的书")


@given(chinese)
def test_lengths_stay_and_twice_is_once(text: str) -> None:
    once = simplified(text)
    assert len(once) == len(text)
    assert simplified(once) == once


@given(chinese, chinese)
def test_what_stands_beside_a_character_does_not_matter(one: str, other: str) -> None:
    assert simplified(one + other) == simplified(one) + simplified(other)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_nothing_but_chinese_changes(text: str) -> None:
    others = "".join(character for character in text if not CJK_CHARACTER.match(character))
    # What is written otherwise for Chinese or Japanese, such as a halfwidth katakana, is that as well.
    assume(not CJK_CHARACTER.search(unicodedata.normalize("NFKC", others)))
    assert all(not CJK_CHARACTER.search(term) for term in terms(others))


def test_words_stand_as_in_the_query() -> None:
    assert list(query_words("Running 電腦 running")) == ["running", "電腦"]
