"""Chunks of every kind of document, by laws and by examples."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.chunking.chunks import Chunk, chunk
from services.retrieval.chunking.settings import ChunkingSettings, ChunkingStrategy
from services.retrieval.chunking.tokens import estimate_tokens
from services.retrieval.parsing import parse
from services.retrieval.readers import code, markdown, table
from services.retrieval.readers.sections import sections
from services.retrieval.reading import Reading

PYTHON = '''"""Pumps."""

import math

LIMIT = 3


class Pump:
    """Lifts water."""

    # How far it can lift.
    @property
    def height(self) -> float:
        return math.pi * {body}

    def stop(self) -> None:
        self.running = False


def build(count: int) -> list[Pump]:
    return [Pump() for _ in range(count)]


print(build(LIMIT))
'''

LINES = st.sampled_from(
    ["# Pumps", "## Шлюзы", "Water is lifted. It falls.", "Вода, т. е. она, течёт. Всё.", "水泵提水。水往下！", "",
     "| a | b |", "|---|---|", "| 1 | 2 |", "```", "def f(x):", "    return x", "1 Introduction", "x" * 700, "- a", " ", "\t|"]
)  # fmt: skip
DOCUMENTS = st.lists(LINES, max_size=120).map("\n".join)
SETTINGS = st.builds(
    lambda strategy, target, share: ChunkingSettings(strategy, target, int(target * share)),
    st.sampled_from(ChunkingStrategy),
    st.integers(32, 400),
    st.floats(0, 0.5),
)


def read(text: str, kind: str) -> Reading:
    if kind == "text/x-python":
        return code.read(text, "python")
    if kind == "text/csv":
        return table.read(text)
    return markdown.read(text)


@given(DOCUMENTS, SETTINGS, st.sampled_from(["text/markdown", "text/x-python", "text/csv"]))
def test_laws_of_all_kinds(text: str, settings: ChunkingSettings, kind: str) -> None:
    reading = read(text, kind)
    text = reading.text
    chunks = chunk(text, title="T", headings=reading.headings, pages=(0, 50), media_type=kind, settings=settings)
    covered = bytearray(len(text))
    for place, one in enumerate(chunks):
        assert one.ordinal == place
        assert one.text == text[one.start : one.end] != ""
        assert one.text.rstrip() == one.text
        assert estimate_tokens(one.text) <= settings.most_tokens
        assert one.section[0] <= place <= one.section[1] < len(chunks)
        assert one.page == (1 if one.start < 50 else 2)
        covered[one.start : one.end] = b"\x01" * (one.end - one.start)
    # Nothing is lost.
    assert all(flag or character.isspace() for flag, character in zip(covered, text, strict=True))
    assert [one.start for one in chunks] == sorted({one.start for one in chunks})
    again = chunk(text, title="T", headings=reading.headings, pages=(0, 50), media_type=kind, settings=settings)
    assert again == chunks


def cut(content: str | bytes, name: str, **settings: int) -> tuple[Reading, Sequence[Chunk]]:
    kind, reading = parse(content, document=name)
    given = ChunkingSettings(**settings)  # type: ignore[arg-type]  # numbers alone are given here
    return reading, chunk(
        reading.text, title=reading.title, headings=reading.headings, pages=reading.pages, media_type=kind, settings=given
    )


def test_code_is_cut_at_definitions_and_knows_what_it_is_in() -> None:
    _, chunks = cut(PYTHON.replace("{body}", " + ".join(f"part{number}" for number in range(40))), "pump.py", target_tokens=60)
    height = next(one for one in chunks if one.path == ("class Pump", "def height(self) -> float"))
    # What belongs to a definition goes with it, as it is indented.
    assert height.text.startswith("    # How far it can lift.\n    @property\n    def height")
    assert "def build(count: int) -> list[Pump]" in chunks[-1].path[-1:] or chunks[-1].path == ()
    assert all("print(build" not in one.text for one in chunks if one.path[:1] == ("class Pump",))


@pytest.mark.parametrize(
    ("language", "source", "path"),
    [
        ("javascript", "class A {\n  f(x) {\n    return MARK\n  }\n}\n", ("class A", "f(x)")),
        ("typescript", "interface I {\n  MARK: string\n}\n", ("interface I",)),
        ("go", "package a\n\nfunc (t *T) F(x int) int {\n\treturn MARK\n}\n", ("func (t *T) F(x int) int",)),
        ("rust", "impl A {\n    pub fn f(&self) -> i32 {\n        MARK\n    }\n}\n", ("impl A", "pub fn f(&self) -> i32")),
        ("java", "class A {\n  void f() {\n    MARK();\n  }\n}\n", ("class A", "void f()")),
        ("c", "static int f(int x)\n{\n  return MARK;\n}\n", ("static int f(int x)",)),
        ("cpp", "namespace n {\nclass A {\n  int f() { return MARK; }\n};\n}\n", ("namespace n", "class A", "int f()")),
        ("csharp", "class A {\n  void F() {\n    MARK();\n  }\n}\n", ("class A", "void F()")),
        ("ruby", "module M\n  class A\n    def f(x)\n      MARK\n    end\n  end\nend\n", ("module M", "class A", "def f(x)")),
        ("php", "<?php\nclass B {\n  function f() {\n    MARK();\n  }\n}\n", ("class B", "function f()")),
        ("bash", "f() {\n  echo MARK\n}\n", ("f()",)),
        ("kotlin", "class A {\n  fun f(): Int {\n    return MARK\n  }\n}\n", ("class A", "fun f(): Int")),
        ("scala", "object A {\n  def f(x: Int) = {\n    MARK\n  }\n}\n", ("object A", "def f(x: Int)")),
        ("lua", "local function f()\n  return MARK\nend\n", ("local function f()",)),
        ("tsx", "function A() {\n  return <div>MARK</div>;\n}\n", ("function A()",)),
    ],
)
def test_languages(language: str, source: str, path: tuple[str, ...]) -> None:
    reading = code.read(source, language)
    place = source.index("MARK")
    opened: list[tuple[int, str]] = []
    for heading in reading.headings:
        if heading.start <= place:
            opened = [one for one in opened if one[0] < heading.level] + [(heading.level, heading.title)] * bool(heading.title)
    assert tuple(title for _, title in opened) == path
    assert reading.text == source


def test_code_without_a_grammar_or_with_mistakes_is_still_cut() -> None:
    lines = [f"let value{number} = {number} in" for number in range(200)]
    _, chunks = cut("\n".join(lines), "a.ml")
    assert len(chunks) > 3
    assert all(one.text.startswith("let value") and one.text.endswith(" in") for one in chunks)
    _, chunks = cut("def f(:\n  ((((\nclass\n" * 50, "broken.py")
    assert chunks


def test_a_table_says_its_header_with_each_group_of_rows() -> None:
    rows = "\n".join(f"{number};Pump {number};{number * 1.5}" for number in range(300))
    reading, chunks = cut(f"id;name;price\n{rows}", "prices.csv")
    assert reading.text.startswith("id | name | price\n0 | Pump 0 | 0.0\n")
    assert len(chunks) > 5
    assert all(one.path == ("id | name | price",) for one in chunks)
    assert all(one.prefix == "id | name | price" for one in chunks[1:])
    assert all(line.count("|") == 2 for one in chunks for line in one.text.splitlines())
    # Rows are in one chunk only.
    assert sum(one.text.count("Pump") for one in chunks) == 300


def test_a_table_in_prose_is_one_too() -> None:
    rows = "\n".join(f"| pump {number} | {number} bar |" for number in range(120))
    text = f"# Pumps\n\nWhat they bear.\n\n| name | pressure |\n|---|---|\n{rows}\n\nThat was all of it."
    _, chunks = cut(text, "a.md")
    middle = chunks[len(chunks) // 2]
    assert middle.path == ("Pumps", "name | pressure")
    assert middle.prefix == "Pumps\nname | pressure"
    assert chunks[-1].text.endswith("That was all of it.")
    assert chunks[0].path == ("Pumps",)


def test_a_section_holds_the_chunks_under_one_heading() -> None:
    body = "This sentence says something of pumps and of water. " * 60
    text = (
        f"# Guide\n\n## One\n\n{body}\n\n## Two\n\n{body}\n\n## Three\n\nShort. But long enough to stand alone here, "
        + "x " * 60
    )
    _, chunks = cut(text, "a.md")
    two = [one for one in chunks if one.path == ("Guide", "Two")]
    assert len(two) >= 2
    assert {one.section for one in two} == {(two[0].ordinal, two[-1].ordinal)}
    # What is alone under its heading belongs to what stands above.
    assert chunks[-1].path[-1] == "Three"
    assert chunks[-1].section[0] < chunks[-1].ordinal


def test_headings_without_text_between_them_count_as_one() -> None:
    body = "This sentence says something of pumps and of water. " * 60
    _, chunks = cut(f"# Guide\n\n## Pumps\n\n{body}", "a.md")
    assert {one.path for one in chunks} == {("Guide", "Pumps")}
    assert {one.section for one in chunks} == {(0, len(chunks) - 1)}
    # One that holds several sections stands above them.
    _, chunks = cut("# Guide\n\n## Pumps\n\nShort.\n\n## Sluices\n\nShort.", "a.md")
    assert [one.path for one in chunks] == [("Guide",)]


def test_sections_of_a_paper() -> None:
    prose = "We lift water with pumps, and measure it. " * 20
    text = (
        f"On Pumps\nA. Author\n\nAbstract\n{prose}\n1 Introduction\n{prose}\n2 Method\n2.1 Pumps\n{prose}\n7 of them broke\n"
        f"3 Results\n{prose}\nReferences\n[1] B. Author. On Water."
    )
    found = sections(text)
    assert [one.title for one in found] == [
        "Abstract", "1 Introduction", "2 Method", "2.1 Pumps", "3 Results", "References",
    ]  # fmt: skip
    chunks = chunk(text, headings=found)
    assert ("2 Method", "2.1 Pumps") in {one.path for one in chunks}
    assert sections("Shopping\n1 Apples\n2 Pears\n3 Plums\nResults\n") == ()
    assert [one.title for one in sections("Аннотация\nо\n1 Введение\nо\n2 Методы\nСписок литературы\n")][1] == "1 Введение"
    assert [one.title for one in sections("摘要\n水\n1 引言\n水\n参考文献\n")] == ["摘要", "1 引言", "参考文献"]


def test_strategies_do_as_they_say() -> None:
    text = "".join(f"## Part {number}\n\nShort.\n\n" for number in range(5))
    headings = markdown.read(text).headings
    assert len(chunk(text, headings=headings)) == 1
    assert len(chunk(text, headings=headings, settings=ChunkingSettings(ChunkingStrategy.SECTIONS))) == 5
    body = "Water is lifted by pumps of many kinds. " * 30
    long = f"{body}\n## Part\n\n{body}"
    prose = chunk(long, headings=markdown.read(long).headings, settings=ChunkingSettings(ChunkingStrategy.PROSE))
    assert any("## Part" in one.text and not one.text.startswith("## Part") for one in prose)
    rows = "a,b\n" + "1,2\n" * 300
    assert {one.prefix for one in chunk(rows, settings=ChunkingSettings(ChunkingStrategy.TABLE))[1:]} == {"a,b"}


@pytest.mark.parametrize(("target", "overlap"), [(31, 0), (2049, 0), (200, 101), (200, -1)])
def test_settings_out_of_range(target: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="tokens"):
        ChunkingSettings(target_tokens=target, overlap_tokens=overlap)


@given(SETTINGS)
def test_settings_are_kept(settings: ChunkingSettings) -> None:
    assert ChunkingSettings.from_json(settings.to_json()) == settings
    assert ChunkingSettings.from_json(None) == ChunkingSettings()


def test_large_documents_take_linear_time() -> None:
    words = random.Random(1)  # noqa: S311 - no secret
    text = " ".join(words.choice(["water", "pumps.", "Вода", "水。", "\n\n"]) for _ in range(60_000))
    assert len(chunk(text)) > 100
