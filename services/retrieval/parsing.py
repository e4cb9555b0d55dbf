"""Tells what a document's content is, and has it read."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Final

from charset_normalizer import from_bytes

from services.retrieval.reading import MOST_CHARACTERS, Reading, UnreadableError, storable

PLAIN: Final = "text/plain"
MARKDOWN: Final = "text/markdown"
HTML: Final = "text/html"
PDF: Final = "application/pdf"
DOCX: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
SUPPORTED: Final = (PLAIN, MARKDOWN, HTML, PDF, DOCX)

_ALIASES: Final = {
    "text/x-markdown": MARKDOWN,
    "text/md": MARKDOWN,
    "application/xhtml+xml": HTML,
    "application/x-pdf": PDF,
}
_ENDINGS: Final = {
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".txt": PLAIN,
    ".text": PLAIN,
    ".rst": PLAIN,
}
# First bytes of what people send by mistake, to be named in the refusal.
_SIGNATURES: Final = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"\x1f\x8b": "application/gzip",
    b"\xd0\xcf\x11\xe0": "application/msword",
    b"{\\rtf": "application/rtf",
    b"\x7fELF": "application/x-executable",
}
_BOMS: Final = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_HEAD: Final = 4096
_LOOKS_HTML: Final = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_LOOKS_MARKDOWN: Final = re.compile(r"^(?:#{1,6} \S|```|\s*[-*] \[[ x]\] )", re.MULTILINE)
_CHARSET_SAMPLE: Final = 64 * 1024


class UnsupportedMediaTypeError(Exception):
    """There is no reader for the media type that `args[0]` names."""


def parse(content: str | bytes, *, media_type: str = "", document: str = "") -> tuple[str, Reading]:
    """Reads a document's content. Takes its time: call it in a thread.

    Args:
        content: Text, or a file's bytes.
        media_type: As its sender gave it; empty means that content and id tell.
        document: The document's id, whose ending is a hint.

    Returns:
        The media type it was read as, and what was read.

    Raises:
        UnreadableError: it is not what it is given as, or there is no text in it.
        UnsupportedMediaTypeError: there is no reader for it.
    """
    kind = media_type_of(content, media_type, document)
    reading = _read(content, kind)
    if not reading.text.strip():
        raise UnreadableError("holds no text")
    return kind, reading


def media_type_of(content: str | bytes, media_type: str, document: str) -> str:
    """What to read the content as: see `parse`, whose failures are raised here already where they can be told."""
    return _given(media_type) or _told(content, document)


def _given(media_type: str) -> str:
    bare = media_type.partition(";")[0].strip().lower()
    kind = _ALIASES.get(bare, bare)
    # Browsers and curl say this of what they do not know.
    if kind == "application/octet-stream":
        return ""
    if kind and kind not in SUPPORTED:
        raise UnsupportedMediaTypeError(media_type)
    return kind


def _told(content: str | bytes, document: str) -> str:
    if isinstance(content, bytes):
        if b"%PDF-" in content[:1024]:
            return PDF
        if content.startswith(b"PK\x03\x04"):
            return _of_archive(content)
        head = _text_head(content)
    else:
        head = content[:_HEAD]
    _, dot, ending = document.rpartition(".")
    by_ending = _ENDINGS.get(dot + ending.lower())
    if by_ending:
        return by_ending
    if _LOOKS_HTML.match(head):
        return HTML
    return MARKDOWN if _LOOKS_MARKDOWN.search(head) else PLAIN


def _of_archive(content: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UnreadableError("is a ZIP archive or Word document that is corrupt or cut off") from error
    if "word/document.xml" in names:
        return DOCX
    raise UnsupportedMediaTypeError("application/zip")


def _text_head(content: bytes) -> str:
    if not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        for signature, kind in _SIGNATURES.items():
            if content.startswith(signature):
                raise UnsupportedMediaTypeError(kind)
        if b"\x00" in content[:_HEAD]:
            raise UnsupportedMediaTypeError("application/octet-stream")
    return decoded(content[:_HEAD], cut=True)


def _read(content: str | bytes, kind: str) -> Reading:
    # Each reader is imported with the first document of its kind: together they would double the start-up time.
    if kind in (PDF, DOCX):
        if isinstance(content, str):
            raise UnreadableError(f"is text, and cannot be {kind}; send the file's bytes as `data`")
        if kind == PDF:
            from services.retrieval.readers import pdf  # noqa: PLC0415 - see above

            return pdf.read(content)
        from services.retrieval.readers import docx  # noqa: PLC0415 - as above

        return docx.read(content)
    text = content if isinstance(content, str) else decoded(content)
    if len(text) > MOST_CHARACTERS:
        raise UnreadableError(f"holds more than {MOST_CHARACTERS} characters of text; split it")
    if kind == HTML:
        from services.retrieval.readers import html  # noqa: PLC0415 - as above

        return html.read(text)
    if kind == MARKDOWN:
        from services.retrieval.readers import markdown  # noqa: PLC0415 - as above

        return markdown.read(text)
    return Reading(storable(text.removeprefix("\ufeff")))


def decoded(content: bytes, *, cut: bool = False) -> str:
    """Text from bytes: by its byte order mark, as UTF-8, or as the charset that its letters make most likely.

    Args:
        content: The bytes.
        cut: Whether they may end in the middle of a character.

    Raises:
        UnreadableError: no charset fits.
    """
    for mark, charset in _BOMS.items():
        if content.startswith(mark):
            return content.decode(charset, errors="ignore" if cut else "replace")
    try:
        return content.decode(errors="ignore") if cut and _is_utf8(content) else content.decode()
    except UnicodeDecodeError:
        best = from_bytes(content[:_CHARSET_SAMPLE]).best()
        if best is None:
            raise UnreadableError("is no text in any known charset; send it in UTF-8") from None
        return content.decode(best.encoding, errors="replace")


def _is_utf8(content: bytes) -> bool:
    """Whether these are the first bytes of a text in UTF-8: at most its last character is incomplete."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True
