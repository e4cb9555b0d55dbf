"""Reads PDF with PDFium: the text of its pages, and the sections of a paper."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Final

import pypdfium2  # type: ignore[import-untyped]  # ships no types

from services.retrieval.readers.sections import sections
from services.retrieval.reading import Reading, UnreadableError, Writing

# PDFium is not safe to use from two threads at once, not even on two documents.
_pdfium = threading.Lock()
_MOST_PAGES: Final = 5_000
_PASSWORD: Final = 4


def read(data: bytes) -> Reading:
    """Reads the text of all pages.

    Raises:
        UnreadableError: it is corrupt, asks for a password, has too many pages, or has no text in it.
    """
    with _pdfium:
        try:
            opened = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) == _PASSWORD:
                raise UnreadableError("is a PDF that asks for a password; send it without one") from error
            raise UnreadableError("is no PDF that can be read: the file is corrupt or cut off") from error
        with closing(opened) as document:
            return _read(document)


def _read(document: pypdfium2.PdfDocument) -> Reading:
    count = len(document)
    if count > _MOST_PAGES:
        raise UnreadableError(f"has {count} pages; the limit is {_MOST_PAGES}; split it")
    writing, pages = Writing(), []
    for number in range(count):
        # A separator comes before the page's text where there is text before it.
        before = writing.length
        try:
            with closing(document[number]) as page, closing(page.get_textpage()) as text:
                writing.block(_joined(text.get_text_bounded()))
        except pypdfium2.PdfiumError as error:
            raise UnreadableError(f"is a PDF whose page {number + 1} cannot be read: the file is corrupt") from error
        pages.append(before + (2 if 0 < before < writing.length else 0))
    reading = writing.reading(document.get_metadata_value("Title"))
    if not reading.text:
        raise UnreadableError("is a PDF without text, such as a scan; run text recognition (OCR) over it first")
    return Reading(reading.text, reading.title, sections(reading.text), tuple(pages))


def _joined(text: str) -> str:
    """PDFium marks a hyphen at a line's end by U+FFFE (or U+0002): the word goes on there."""
    return text.replace("\ufffe\r\n", "").replace("\x02\r\n", "").replace("\ufffe", "").replace("\x02", "")
