from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.sentences import sentence_ends


def sentences(text: str) -> list[str]:
    return [text[start:end].strip() for start, end in pairwise([0, *sentence_ends(text)])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Mr. Smith met Dr. Who, e.g. today. Then he left.", ["Mr. Smith met Dr. Who, e.g. today.", "Then he left."]),
        ("Version 2.5 is out. Get it.", ["Version 2.5 is out.", "Get it."]),
        ("He said “Go.” Then he went.", ["He said “Go.”", "Then he went."]),
        ("В 1999 г. Петров, т.е. автор, и др. ученые спорили. Потом стихло.",
         ["В 1999 г. Петров, т.е. автор, и др. ученые спорили.", "Потом стихло."]),
        ("А. С. Пушкин родился в Москве. Это известно.", ["А. С. Пушкин родился в Москве.", "Это известно."]),
        ("Насосы, шлюзы и т. д. Они нужны, т. е. полезны, на ул. Ленина и т. п. Всё.",
         ["Насосы, шлюзы и т. д.", "Они нужны, т. е. полезны, на ул. Ленина и т. п.", "Всё."]),
        ("Музей им. А. П. Чехова в г. Таганроге, д. 5, стр. 2. Открыт в 1935 г. и позже.",
         ["Музей им. А. П. Чехова в г. Таганроге, д. 5, стр. 2.", "Открыт в 1935 г. и позже."]),
        ("Иванов, Петров и др. Они спорили, и др. учёные тоже.", ["Иванов, Петров и др.", "Они спорили, и др. учёные тоже."]),
        ("Pumps, gates, etc. They work, see Fig. 3 and Sec. 2. J. R. R. Tolkien did not.",
         ["Pumps, gates, etc.", "They work, see Fig. 3 and Sec. 2.", "J. R. R. Tolkien did not."]),
        ("猫在睡觉。狗在叫！你呢？好。", ["猫在睡觉。", "狗在叫！", "你呢？", "好。"]),
        ("他说：“走。”然后走了。", ["他说：“走。”", "然后走了。"]),
        ("A title\n\nA paragraph", ["A title", "A paragraph"]),
        ("Items:\n- one\n- two", ["Items:", "- one", "- two"]),
    ],
)  # fmt: skip
def test_where_sentences_end(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text(alphabet='ab .!?。\n"”-1', max_size=200))
def test_ends_ascend_to_the_end(text: str) -> None:
    ends = list(sentence_ends(text))
    assert ends == sorted(set(ends))
    assert not text or ends[-1] == len(text)
