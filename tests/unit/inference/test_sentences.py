from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.extraction.blocks import blocks
from services.inference.extraction.sentences import sentences

SPLITS = [
    # English
    ("Water flows. It turns a wheel! Does it?", ["Water flows.", "It turns a wheel!", "Does it?"]),
    ("Dr. Smith met J. R. Tolkien at 5 p.m. on Monday.", ["Dr. Smith met J. R. Tolkien at 5 p.m. on Monday."]),
    (
        "See Fig. 3, e.g. the map. It costs 3.5 kg etc. Then it ends.",
        ["See Fig. 3, e.g. the map.", "It costs 3.5 kg etc.", "Then it ends."],
    ),
    ('He said: "Go!" and left. She stayed.', ['He said: "Go!" and left.', "She stayed."]),
    ("It runs on Acme Inc. servers. The U.S. version differs.", ["It runs on Acme Inc. servers.", "The U.S. version differs."]),
    ("Read docs/a.md and set n_ctx=4.5. Done", ["Read docs/a.md and set n_ctx=4.5.", "Done"]),
    ("Wait... what? Yes.", ["Wait... what?", "Yes."]),
    # Russian
    (
        "Он родился в 1799 г. в Москве, т. е. давно. Потом уехал.",
        ["Он родился в 1799 г. в Москве, т. е. давно.", "Потом уехал."],
    ),
    ("А. С. Пушкин жил в г. Москва. Это известно.", ["А. С. Пушкин жил в г. Москва.", "Это известно."]),
    ("Это было в 2015 г. Затем всё изменилось.", ["Это было в 2015 г.", "Затем всё изменилось."]),
    ("Продаются яблоки, груши и т. д. Цены растут.", ["Продаются яблоки, груши и т. д.", "Цены растут."]),
    ("«Куда?» — спросил он. «Туда!» Все ушли.", ["«Куда?» — спросил он.", "«Туда!»", "Все ушли."]),
    ("Вес 5 кг. брутто, см. рис. 3 и табл. 4.", ["Вес 5 кг. брутто, см. рис. 3 и табл. 4."]),
    # Chinese
    ("水往低处流。它推动水轮！是吗？", ["水往低处流。", "它推动水轮！", "是吗？"]),
    ("他说：“你好！”然后走了。版本3.5发布了。", ["他说：“你好！”", "然后走了。", "版本3.5发布了。"]),
    ("《战国无双3》（2009年。）是游戏。", ["《战国无双3》（2009年。）", "是游戏。"]),
    ("", []),
    ('Ask it: `ask Q="Is it? Yes. No."`. Then wait.', ['Ask it: `ask Q="Is it? Yes. No."`.', "Then wait."]),
    ("2. It asks inference to embed. Then it searches.", ["2. It asks inference to embed.", "Then it searches."]),
]


@pytest.mark.parametrize(("text", "expected"), SPLITS, ids=[text[:20] for text, _ in SPLITS])
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert list(sentences(text)) == expected


@given(st.text(alphabet='Aa бВ.。!?？ 水"»1…', max_size=60))
def test_nothing_but_gaps_is_lost_between_sentences(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def read(text: str) -> list[tuple[str, str]]:
    return [(block.text, block.heading) for block in blocks(text)]


def test_headings_are_no_blocks_but_name_what_stands_under_them() -> None:
    text = "# Title #\n\nFirst line\nsecond line.\n\nSetext\n======\nThird.\n\n---\n\nFourth."
    assert read(text) == [("First line second line.", "Title"), ("Third.", "Setext"), ("Fourth.", "Setext")]


def test_list_items_are_blocks_without_their_marks() -> None:
    text = "Intro:\n- one\n  goes on\n* two\n1. three\n2) four\n\nAfter."
    assert [block for block, _ in read(text)] == ["Intro:", "one goes on", "two", "three", "four", "After."]


def test_code_is_no_prose_but_a_short_sample_ends_its_sentence() -> None:
    text = "Start it with:\n\n```sh\nmake run\n```\n\nMore.\n\n    indented = code\n    more\n\nLong:\n~~~\na\nb\n~~~\nEnd."
    assert [block for block, _ in read(text)] == ["Start it with: `make run`.", "More.", "Long:", "End."]


def test_a_passage_may_begin_or_end_within_code() -> None:
    assert [block for block, _ in read("x = 1\ny = 2\n```\n\nIt runs.\n\n```sh\nmake\n```")] == ["It runs.", "`make`."]
    assert [block for block, _ in read("```\n\nIt runs.\n\n```sh\nmake run\nmake test\n")] == ["It runs."]
    assert [block for block, _ in read("It runs.\n\n```sh\nmake run\nmake test")] == ["It runs."]


def test_a_table_row_is_its_cells_and_the_head_is_left_out() -> None:
    text = "| name | default |\n|---|:-:|\n| PORT | 8080 |\n| DATA_DIR | |"
    assert [block for block, _ in read(text)] == ["PORT — 8080", "DATA_DIR"]


def test_markup_comes_off_and_code_spans_stay() -> None:
    text = "> See [the **docs**](https://a.example/x) and `__main__` or __bold__ _it_. ![alt](x.png)<br> 2*3*4 snake_case_name"
    assert [block for block, _ in read(text)] == ["See the docs and `__main__` or bold it. 2*3*4 snake_case_name"]


def test_a_bold_head_that_runs_in_is_a_heading() -> None:
    assert read("# A\n\n**Decision.** experiments streams.\n\n**A penstock** carries. See <https://a.example/>.") == [
        ("experiments streams.", "A Decision"),
        ("A penstock carries. See https://a.example/.", "A"),
    ]


def test_lines_of_chinese_join_without_a_gap() -> None:
    assert [block for block, _ in read("水往低处\n流。")] == ["水往低处流。"]
