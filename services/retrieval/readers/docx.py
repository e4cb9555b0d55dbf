"""Reads Word documents with python-docx."""

from __future__ import annotations

import io
import re
import zipfile
from typing import TYPE_CHECKING, Final

import docx
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.exceptions import PackageNotFoundError
from docx.table import Table
from lxml.etree import LxmlError

from services.retrieval.reading import TABLE_LEVEL, UnreadableError, Writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from docx.document import Document
    from docx.text.paragraph import Paragraph

    from services.retrieval.reading import Reading

MAIN_PART: Final = "word/document.xml"
_MOST_ENTRIES: Final = 5_000
# All of the file is unpacked in memory. Text in XML packs to a tenth; what packs to a hundredth is made to do harm.
_MOST_UNPACKED: Final = 128 * 1024 * 1024
_MOST_MARKUP: Final = 64 * 1024 * 1024
_MOST_RATIO: Final = 200
_RATIO_MATTERS_FROM: Final = 8 * 1024 * 1024
_HEADING: Final = re.compile(r"(?:heading|заголовок|标题)\s*([1-6])", re.IGNORECASE)


def read(data: bytes) -> Reading:
    """Reads paragraphs, headings and tables in order.

    Raises:
        UnreadableError: it is corrupt, no Word document, too large when unpacked, or has no text in it.
    """
    _check(data)
    try:
        document = docx.Document(io.BytesIO(data))
        writing = Writing()
        for block in document.iter_inner_content():
            if isinstance(block, Table):
                _write_table(writing, list(_rows(block)))
            else:
                writing.block(block.text, level=_level(block))
        title = _title(document)
    except (PackageNotFoundError, zipfile.BadZipFile, LxmlError, KeyError, ValueError, EOFError) as error:
        raise UnreadableError("is no Word document that can be read: the file is corrupt") from error
    reading = writing.reading(title)
    if not reading.text:
        raise UnreadableError("is a Word document without text")
    return reading if title else writing.reading(writing.first_heading)


def _title(document: Document) -> str:
    """The title among the file's properties. For a file without any, python-docx would make up `Word Document`."""
    properties = {relation.reltype for relation in document.part.package.rels.values()}
    return document.core_properties.title if RELATIONSHIP_TYPE.CORE_PROPERTIES in properties else ""


def _check(data: bytes) -> None:
    """Looks at the sizes that the archive declares, before anything is unpacked; zipfile holds an entry to its own."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise UnreadableError("is no Word document that can be read: the file is corrupt or cut off") from error
    if MAIN_PART not in {entry.filename for entry in entries}:
        raise UnreadableError(f"is no Word document: it has no {MAIN_PART}")
    unpacked = sum(entry.file_size for entry in entries)
    markup = sum(entry.file_size for entry in entries if entry.filename.endswith((".xml", ".rels")))
    suspicious = unpacked > _RATIO_MATTERS_FROM and unpacked > _MOST_RATIO * len(data)
    if len(entries) > _MOST_ENTRIES or unpacked > _MOST_UNPACKED or markup > _MOST_MARKUP or suspicious:
        raise UnreadableError(f"unpacks to {len(entries)} files of {unpacked} bytes, which is more than a document may")


def _level(paragraph: Paragraph) -> int:
    style = paragraph.style
    name = (style.name or "") if style is not None else ""
    if name == "Title":
        return 1
    found = _HEADING.match(name)
    return int(found[1]) if found else 0


def _write_table(writing: Writing, rows: Sequence[str]) -> None:
    """The first of several rows is the header: Word has no mark for one that people use."""
    has_header = len(rows) > 1 and bool(rows[0].strip(" |"))
    for number, row in enumerate(rows):
        writing.block(row, separator="\n", level=TABLE_LEVEL if has_header and number == 0 else 0)
    if has_header:
        writing.end(TABLE_LEVEL)


def _rows(table: Table) -> Iterator[str]:
    for row in table.rows:
        cells: list[str] = []
        seen = None
        for cell in row.cells:
            # A merged cell is given once for each column that it covers.
            if cell._tc is not seen:  # noqa: SLF001 - python-docx has no other identity of a cell
                cells.append(" ".join(cell.text.split()))
            seen = cell._tc  # noqa: SLF001 - as above
        yield " | ".join(cells)
