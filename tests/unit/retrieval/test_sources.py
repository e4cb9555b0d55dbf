"""Files that hold many documents, read in a child as they are in production."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Reason
from services.retrieval.charsets import charset_of, decoded
from services.retrieval.readers import table
from services.retrieval.sources import archives
from services.retrieval.sources.archives import Budget, plain_name
from services.retrieval.sources.entries import Entry, Found, Refused, refused
from services.retrieval.sources.files import items
from services.retrieval.sources.stream import Position, read_source
from tests.unit.retrieval.test_parsing import pdf, word

RUSSIAN = "Насосы поднимают воду из реки, а шлюзы удерживают её до весны. Так было всегда."


def archive(*entries: tuple[str, str | bytes], packed: bool = True) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as target:
        for name, content in entries:
            target.writestr(name, content)
    return out.getvalue()


def read(tmp_path: Path, content: bytes, name: str, media_type: str = "", *, is_text: bool = False) -> list[Entry | Refused]:
    """In this process, which shows more of a failure."""
    path = tmp_path / "it"
    path.write_bytes(content)
    return [item.read() for item in items(path, name=name, media_type=media_type, is_text=is_text)]


def told(found: Sequence[Entry | Refused]) -> dict[str, str]:
    return {one.name: one.reading.text if isinstance(one, Entry) else one.message for one in found}


async def test_each_part_of_an_archive_is_read_or_refused_alone(tmp_path: Path) -> None:
    path = tmp_path / "it"
    inner = archive(("deep/words.txt", "deep words"))
    path.write_bytes(
        archive(
            ("a/readme.md", "# Pumps\n\nThey lift."),
            ("broken.pdf", b"%PDF-1.4 nothing of the kind"),
            ("secret.pdf", pdf("secret", password=True)),
            ("page.pdf", pdf("Hello page")),
            ("cut.docx", word()[:700]),
            ("letter.docx", word()),
            ("picture.png", b"\x89PNG\r\n\x1a\n\x00"),
            ("old.txt", RUSSIAN.encode("koi8-r")),
            ("pump.py", "def lift():\n    return 1\n"),
            ("list.jsonl", '{"_id": "q1", "text": "from a line"}\nno json\n'),
            ("inner.zip", inner),
            ("__MACOSX/._a", "x"),
            (".DS_Store", "x"),
        )
    )
    found = [one async for one in read_source(path, name="all.zip")]
    texts = told(found)
    assert texts["a/readme.md"] == "# Pumps\n\nThey lift."
    assert "corrupt" in texts["broken.pdf"]
    assert "password" in texts["secret.pdf"]
    assert texts["page.pdf"] == "Hello page"
    assert "corrupt" in texts["cut.docx"]
    assert texts["letter.docx"].startswith("Cats")
    assert "image/png" in texts["picture.png"]
    assert texts["old.txt"] == RUSSIAN
    assert texts["q1"] == "from a line"
    assert "no JSON" in texts["list.jsonl#2"]
    assert texts["inner.zip/deep/words.txt"] == "deep words"
    assert len(found) == 12
    reasons = {one.name: one.reason for one in found if isinstance(one, Refused)}
    assert reasons.pop("picture.png") == Reason.UNSUPPORTED_MEDIA_TYPE
    assert set(reasons.values()) == {Reason.DOCUMENT_UNREADABLE}
    # After a restart the first ones are left out, and the rest comes as it was.
    again = [one async for one in read_source(path, name="all.zip", skip=7)]
    assert again == found[7:]


@pytest.mark.parametrize("kind", ["zip", "jsonl"])
async def test_how_much_of_a_file_is_read_grows_with_its_documents(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"all.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(40):
                archive.writestr(f"{number}.txt", f"{number} " + "water " * 4000)
    else:
        path.write_text("".join(json.dumps({"id": str(number), "text": "water " * 4000}) + "\n" for number in range(40)))
    position = Position()
    told = [position.size async for _ in read_source(path, name=path.name, position=position)]
    size = path.stat().st_size
    assert told == sorted(told)
    assert told[-1] <= size
    for part in (0.25, 0.5, 0.75):
        assert abs(told[int(40 * part)] - part * size) < 0.15 * size


async def test_a_reader_that_dies_costs_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The child runs this instead: the second document makes its reader crash as native code does.
    program = (
        "import os\n"
        "from services.retrieval.sources import stream\n"
        "from services.retrieval.sources.entries import Found, document\n"
        "def items(path, **_):\n"
        "    yield Found('a', lambda: document('a', 'one', ''))\n"
        "    yield Found('b', lambda: os.abort())\n"
        "    yield Found('c', lambda: document('c', 'three', ''))\n"
        "stream.items = items\n"
        "stream.main()\n"
    )
    monkeypatch.setattr("services.retrieval.sources.stream._CHILD", program)
    found = [one async for one in read_source(tmp_path / "it", name="all")]
    assert [one.name for one in found] == ["a", "b", "c"]
    assert told(found)["c"] == "three"
    assert isinstance(found[1], Refused)
    assert "reader fail" in found[1].message


async def test_a_reader_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import time\n"
        "from services.retrieval.sources import stream\n"
        "from services.retrieval.sources.entries import Found, document\n"
        "def items(path, **_):\n"
        "    yield Found('a', lambda: time.sleep(60))\n"
        "    yield Found('b', lambda: document('b', 'two', ''))\n"
        "stream.items = items\n"
        "stream.main()\n"
    )
    monkeypatch.setattr("services.retrieval.sources.stream._CHILD", program)
    monkeypatch.setattr("services.retrieval.sources.stream._LIMIT_SECONDS", 0.7)
    found = [one async for one in read_source(tmp_path / "it", name="all")]
    assert [one.name for one in found] == ["a", "b"]
    assert isinstance(found[0], Refused)
    assert "takes more than" in found[0].message


async def test_a_file_that_is_gone_is_one_refusal(tmp_path: Path) -> None:
    found = [one async for one in read_source(tmp_path / "nowhere", name="gone.txt")]
    assert [one.name for one in found] == ["gone.txt"]
    assert isinstance(found[0], Refused)


def test_bombs_are_refused_before_they_go_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(8 * 1024 * 1024)
    texts = told(read(tmp_path, archive(("zeros.txt", zeros), ("a.txt", "fine")), "a.zip"))
    assert "unpacks to 8388608" in texts["zeros.txt"]
    assert texts["a.txt"] == "fine"
    nested = archive(("a.txt", "x"))
    for _ in range(4):
        nested = archive(("n.zip", nested))
    assert "within 2 others" in told(read(tmp_path, nested, "a.zip"))["n.zip/n.zip"]
    monkeypatch.setattr(archives, "MOST_ENTRY", 10)
    assert "may have 10" in told(read(tmp_path, archive(("a.txt", "x" * 11)), "a.zip"))["a.txt"]
    found = list(
        archives.of_archive(
            io.BytesIO(archive(*((f"{number}.txt", "xxx") for number in range(9)))),
            "",
            Budget(entries=5, unpacked=10),
            lambda data, name, _: iter([Found(name, lambda: refused(name, str(len(data))))]),
            0,
        )
    )
    # Three fit; the fourth is beyond, and nothing more is looked at.
    assert [one.name for one in found] == ["0.txt", "1.txt", "2.txt", "3.txt"]


def test_an_archive_cut_off_or_with_a_password(tmp_path: Path) -> None:
    whole = archive(("a.txt", "x" * 1000), packed=False)
    assert "corrupt" in told(read(tmp_path, whole[:300], "a.zip"))["a.zip"]
    locked = bytearray(whole)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + at] |= 1
    assert "password" in told(read(tmp_path, bytes(locked), "a.zip"))["a.txt"]
    spoiled = bytearray(whole)
    spoiled[100] ^= 1
    assert "corrupt" in told(read(tmp_path, bytes(spoiled), "a.zip"))["a.txt"]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("/abs/a.txt", "abs/a.txt"),
        ("C:\\x\\a.txt", "x/a.txt"),
        ("a/./b/../c.txt", "a/b/c.txt"),
        ("..", "unnamed"),
        ("a\x00\nb", "a  b"),
    ],
)
def test_names_lead_nowhere(name: str, plain: str) -> None:
    assert plain_name(name) == plain


@given(st.text(max_size=600))
def test_any_name_becomes_an_id(name: str) -> None:
    steps = plain_name(name).split("/")
    assert all(steps)
    assert not {".", ".."} & set(steps)
    assert 1 <= len(plain_name(name)) <= 512


def test_names_in_the_charset_of_an_old_machine(tmp_path: Path) -> None:
    name = "документы/насосы и шлюзы.txt"
    raw = archive(("x" * len(name), "text")).replace(b"x" * len(name), name.encode("cp866"))
    assert told(read(tmp_path, raw, "a.zip")) == {name: "text"}


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        {
            "_id": "d1",
            "title": "Pumps",
            "text": "They lift.",
            "metadata": {"year": 1999},
            "tags": ["a", "b"],
            "deep": {"x": {"y": True}},
        },
        {"id": 7, "content": ["one", "two"], "none": None},
        {"text": "# Head\n\nbody", "media_type": "text/markdown"},
        {"id": "e"},
        [1],
        {"id": "f", "text": " "},
        {"id": "g", "text": "x", "media_type": "image/png"},
    ]
    content = "\n\n".join(json.dumps(line) for line in lines).encode()
    found = read(tmp_path, content, "set.jsonl")
    first = found[0]
    assert isinstance(first, Entry)
    assert (first.name, first.title, first.reading.text) == ("d1", "Pumps", "They lift.")
    assert first.metadata == {"year": 1999, "tags": ["a", "b"], "deep.x.y": True}
    texts = told(found)
    assert texts["7"] == "one\n\ntwo"
    third = found[2]
    assert isinstance(third, Entry)
    assert (third.name, third.title, third.media_type) == ("set.jsonl#5", "Head", "text/markdown")
    assert "no text" in texts["e"]
    assert "no JSON object" in texts["set.jsonl#9"]
    assert "no text" in texts["f"]
    assert "image/png" in texts["g"]
    # Told from the content alone, and in another charset.
    russian = "\n".join(json.dumps({"id": str(number), "text": RUSSIAN}, ensure_ascii=False) for number in range(3))
    assert told(read(tmp_path, russian.encode("cp1251"), "upload")) == dict.fromkeys("012", RUSSIAN)
    assert told(read(tmp_path, russian.encode("utf-16"), "a.jsonl")) == dict.fromkeys("012", RUSSIAN)


def test_tables(tmp_path: Path) -> None:
    table_text = 'name;price\nPump, large;3,5\n"Sluice; old";4\n'
    assert told(read(tmp_path, table_text.encode("utf-8-sig"), "a.csv")) == {
        "a.csv": "name | price\nPump, large | 3,5\nSluice; old | 4"
    }
    rows = read(tmp_path, table_text.encode(), "a.csv", "text/csv; rows=documents")
    assert told(rows) == {"a.csv#1": "name: Pump, large\nprice: 3,5", "a.csv#2": "name: Sluice; old\nprice: 4"}
    first = rows[0]
    assert isinstance(first, Entry)
    assert first.metadata == {"name": "Pump, large", "price": "3,5"}
    documents = b"id,Title,Text,year\nd1,Pumps,They lift.,1999\nd2,,Second,\n"
    found = read(tmp_path, documents, "a.csv")
    assert told(found) == {"d1": "They lift.", "d2": "Second"}
    assert isinstance(found[0], Entry)
    assert (found[0].title, found[0].metadata) == ("Pumps", {"year": "1999"})
    assert len(read(tmp_path, documents, "a.csv", "text/csv; rows=groups")) == 1
    assert "`delimiter`" in told(read(tmp_path, documents, "a.csv", "text/csv; delimiter=ab"))["a.csv#rest"]
    assert told(read(tmp_path, b"sep=|\na|b\n1|2\n", "a.csv"))["a.csv"] == "a | b\n1 | 2"
    assert told(read(tmp_path, b"1\t2\n3\t4\n", "a.tsv"))["a.tsv"] == "1 | 2\n3 | 4"
    wild = b'a,b\n1,"' + b"x" * 1_200_000
    assert "cannot be read" in "".join(told(read(tmp_path, wild, "a.csv")).values())


@given(st.lists(st.lists(st.text('abc,;" яв水', min_size=1, max_size=6).map(str.strip).filter(bool), min_size=2, max_size=2),
                min_size=1, max_size=8))  # fmt: skip
def test_no_cell_is_lost(rows: list[list[str]]) -> None:
    import csv  # noqa: PLC0415 - only to write one

    out = io.StringIO()
    csv.writer(out).writerows([["first column", "second column"], *rows])
    lines = table.read(out.getvalue(), ",", header=True).text.split("\n")
    assert lines == ["first column | second column", *(" | ".join(" ".join(cell.split()) for cell in row) for row in rows)]


@pytest.mark.parametrize(
    ("text", "charset"),
    [(RUSSIAN, charset) for charset in ("cp1251", "koi8-r", "cp866", "iso8859-5", "utf-16-le", "utf-16-be", "utf-32", "utf-8")]
    + [("水泵提水，闸门挡水。这是一个测试，说明了旧系统中的文字。", charset) for charset in ("gb18030", "gbk", "utf-16-le")]
    + [("水泵提水，閘門擋水。這是一個測試，說明了舊系統中的文字。", charset) for charset in ("big5", "gb18030")]
    + [("ポンプは水を上げます。水門は水を止めます。", charset) for charset in ("shift_jis", "euc_jp")]
    + [("Größe und Höhe der Pumpen, wie früher üblich, für alle Häuser.", charset) for charset in ("cp1252", "utf-16-le")],
)  # fmt: skip
def test_charsets(text: str, charset: str) -> None:
    assert decoded(text.encode(charset)).removeprefix("\ufeff") == text


def test_a_charset_that_is_said_is_believed_if_it_fits() -> None:
    assert charset_of("wörter".encode("cp1252"), said="cp1252") == "cp1252"
    assert charset_of("слова".encode(), said="ascii") == "utf-8"
    assert charset_of("слова".encode(), said="no-such") == "utf-8"


@given(st.binary(max_size=400), st.sampled_from(["a.zip", "a.csv", "a.jsonl", "a.py", "a.txt", "upload"]), st.booleans())
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str, packed: bool
) -> None:
    if packed:
        content = archive((name, content))[: 40 + len(content)]
    for one in read(tmp_path_factory.getbasetemp(), content, name):
        assert 1 <= len(one.name) <= 512
        if isinstance(one, Entry):
            one.reading.text.encode()
            assert "\x00" not in one.reading.text + one.title + one.name
