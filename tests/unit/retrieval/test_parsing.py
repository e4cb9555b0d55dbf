import io
import zipfile

import docx
import pytest
from docx.opc.constants import RELATIONSHIP_TYPE
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.media_types import DOCX, HTML, MARKDOWN, PDF, PLAIN
from services.retrieval.parsing import UnsupportedMediaTypeError, parse
from services.retrieval.reading import TABLE_LEVEL, Heading, UnreadableError

PAGE = """<!DOCTYPE html><html><head><title>All &amp; more</title><style>p {}</style></head><body>
<nav><a href="/">Home</a></nav><main><h1>Cats</h1><p>They <b>sleep</b>
a lot.<script>alert(1)</script></p><h2>Food</h2><ul><li>mice</li><li>fish</li></ul>
<table><tr><th>Name</th><th>Age</th></tr><tr><td>Tom</td><td>3</td></tr></table><pre>a
    b</pre></main><footer>Imprint</footer></body></html>"""


def pdf(*pages: str, password: bool = False) -> bytes:
    """A PDF made by hand: one line of Helvetica a page."""
    kids = " ".join(f"{3 + 2 * number} 0 R" for number in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources {font} /Contents {4 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n" + "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    encrypt = f" /Encrypt << /Filter /Standard /V 1 /R 2 /O ({'o' * 32}) /U ({'u' * 32}) /P -4 >> /ID [(a) (a)]"
    out += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R{encrypt if password else ''} >>\nstartxref\n{start}\n%%EOF\n"
    return out.encode()


def word(*, heading: str = "Cats", text: str = "They sleep.") -> bytes:
    document = docx.Document()
    document.add_heading(heading, level=1)
    document.add_paragraph(text)
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Tom", "3"
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def test_html_keeps_the_main_text_and_its_headings() -> None:
    kind, reading = parse(PAGE)
    assert (kind, reading.title) == (HTML, "All & more")
    assert reading.text.startswith("Cats\n\nThey sleep a lot.\n\nFood\n- mice\n- fish\nName | Age\nTom | 3\n\na\n    b")
    header, end = reading.text.index("Name | Age"), reading.text.index("\n\na\n")
    assert reading.headings == (
        Heading(0, 1, "Cats"),
        Heading(reading.text.index("Food"), 2, "Food"),
        Heading(header, TABLE_LEVEL, "Name | Age"),
        Heading(end, TABLE_LEVEL, ""),
    )
    for dropped in ("Home", "alert", "p {}", "Imprint"):
        assert dropped not in reading.text


def test_html_may_be_nested_deeper_than_the_stack() -> None:
    assert parse("<html><body>" + "<div>" * 1_900 + "deep", media_type="text/html")[1].text == "deep"
    # As pages are that leave out what may be left out, or close what was never opened.
    assert parse("<p>a<li>b<br></div>" * 5_000)[1].text
    with pytest.raises(UnreadableError, match="nested"):
        parse("<html><body>" + "<div>" * 50_000 + "deep", media_type="text/html")


def test_pdf_tells_its_pages() -> None:
    kind, reading = parse(pdf("Hello first page", "", "Hello third page"))
    assert kind == PDF
    assert reading.text == "Hello first page\n\nHello third page"
    assert reading.pages == (0, 16, 18)


def test_docx_keeps_headings_and_tables() -> None:
    kind, reading = parse(word())
    assert kind == DOCX
    assert reading.text == "Cats\n\nThey sleep.\nTom | 3"
    assert (reading.title, reading.headings) == ("Cats", (Heading(0, 1, "Cats"),))


def test_docx_without_properties_has_no_made_up_title() -> None:
    document = docx.Document(io.BytesIO(word()))
    relations = document.part.package.rels
    del relations[next(key for key, one in relations.items() if one.reltype == RELATIONSHIP_TYPE.CORE_PROPERTIES)]
    out = io.BytesIO()
    document.save(out)
    assert parse(out.getvalue())[1].title == "Cats"


def test_markdown_headings() -> None:
    text = "---\ntitle: x\n---\nIntro\n\nTop\n===\n\n```sh\n# no heading\n```\n\n## Sub ##\r\n\nText"
    kind, reading = parse(text, document="a.md")
    assert kind == MARKDOWN
    assert [(one.level, one.title) for one in reading.headings] == [(1, "Top"), (2, "Sub")]
    assert reading.text[reading.headings[0].start :].startswith("Top\n===")
    assert reading.text[reading.headings[1].start :].startswith("## Sub")
    assert (reading.title, "\r" in reading.text) == ("Top", False)


@pytest.mark.parametrize(
    ("content", "media_type", "document", "expected"),
    [
        ("plain words", "", "", PLAIN),
        ("# A heading\n\ntext", "", "", MARKDOWN),
        ("# A comment", "", "x.txt", PLAIN),
        ("# A heading", "text/plain; charset=utf-8", "x.md", PLAIN),
        ("  <!doctype HTML><p>x", "", "", HTML),
        (b"<html><body>x</body></html>", "application/octet-stream", "", HTML),
        (b"plain", "", "readme.MD", MARKDOWN),
        ("x", "text/x-markdown", "", MARKDOWN),
    ],
)
def test_media_type(content: str | bytes, media_type: str, document: str, expected: str) -> None:
    assert parse(content, media_type=media_type, document=document)[0] == expected


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("utf-8", "Grüße, мир, 世界"),
        ("utf-8-sig", "Grüße"),
        ("utf-16", "Grüße, мир"),
        ("cp1251", "Привет, мир! Это проверка кодировки текста в старой системе, довольно длинная."),
        ("gb18030", "猫在睡觉。这是一个关于旧系统中文本编码的测试，内容相当长，足以识别。"),
        ("shift_jis", "猫は眠っています。これは古いシステムの文字コードのテストです。十分に長い文章です。"),
    ],
)
def test_charsets(charset: str, text: str) -> None:
    assert parse(text.encode(charset))[1].text == text


@pytest.mark.parametrize(
    ("content", "media_type", "said"),
    [
        (b"%PDF-1.4\ngarbage", "", "corrupt"),
        (pdf("cut off")[:200], "", "corrupt"),
        (b"no pdf at all", PDF, "corrupt"),
        (pdf(""), "", "OCR"),
        (pdf("secret", password=True), "", "password"),
        (word()[:500], "", "corrupt"),
        (b"PK\x03\x04garbage", "", "corrupt"),
        (b"no zip", DOCX, "corrupt"),
        ("text", PDF, "`data`"),
        (" \n ", "", "no text"),
        ("<html><script>x</script></html>", "", "no text"),
        (b"\x00 ", PLAIN, "no text"),
    ],
)
def test_unreadable(content: str | bytes, media_type: str, said: str) -> None:
    with pytest.raises(UnreadableError, match=said):
        parse(content, media_type=media_type)


@pytest.mark.parametrize(
    ("content", "media_type", "named"),
    [
        (b"\x89PNG\r\n\x1a\n\x00", "", "image/png"),
        (b"\x00\x01\x02", "", "application/octet-stream"),
        ("x", "image/png", "image/png"),
        (b"x", "application/x-tar", "application/x-tar"),
    ],
)
def test_unsupported(content: str | bytes, media_type: str, named: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match=named):
        parse(content, media_type=media_type)


def test_another_zip_is_no_document() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(UnsupportedMediaTypeError, match="application/zip"):
        parse(out.getvalue())
    with pytest.raises(UnreadableError, match="no Word document"):
        parse(out.getvalue(), media_type=DOCX)


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    out = io.BytesIO(word())
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/media/zeros.bin", bytes(64 * 1024 * 1024))
    with pytest.raises(UnreadableError, match="unpacks to"):
        parse(out.getvalue())


def test_entities_are_not_expanded() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(word())) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            body = source.read(entry)
            if entry.filename == "word/document.xml":
                declaration = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname"><!ENTITY b "boom">]>'
                head, _, rest = body.partition(b"?>")
                body = head + b"?>" + declaration + rest.replace(b"They sleep.", b"They &b;&e; sleep.")
            target.writestr(entry, body)
    _, reading = parse(out.getvalue())
    assert "boom" not in reading.text


@given(st.binary(max_size=200), st.sampled_from(["", PDF, DOCX, HTML, MARKDOWN, PLAIN]))
def test_any_bytes_are_read_or_refused(content: bytes, media_type: str) -> None:
    try:
        _, reading = parse(content, media_type=media_type)
    except (UnreadableError, UnsupportedMediaTypeError):
        return
    assert reading.text.strip()
    assert "\x00" not in reading.text
    reading.text.encode()
