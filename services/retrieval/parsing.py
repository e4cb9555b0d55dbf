"""Tells what a document's content is, and has it read."""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from email.message import Message
from typing import IO, TYPE_CHECKING, Final

from services.retrieval.charsets import WIDE, charset_of, decoded
from services.retrieval.media_types import (
    CONTAINERS,
    CSV,
    DOCX,
    HTML,
    JSONL,
    MARKDOWN,
    PDF,
    PLAIN,
    TSV,
    ZIP,
    by_name,
    is_code,
    is_readable,
    language_of,
    usual,
)
from services.retrieval.reading import MOST_CHARACTERS, Reading, UnreadableError, storable

if TYPE_CHECKING:
    from collections.abc import Mapping

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
_HEAD: Final = 4096
_LOOKS_HTML: Final = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_LOOKS_MARKDOWN: Final = re.compile(r"^(?:#{1,6} \S|```|\s*[-*] \[[ x]\] )", re.MULTILINE)
_SHEBANG: Final = re.compile(r"#!.*?\b(python|bash|zsh|sh|ruby|perl|node|lua|php)[\d.]*(?:\s|$)")
_SHEBANGS: Final = {"sh": "bash", "zsh": "bash", "node": "javascript"}
_OFFICE: Final = {
    "xl/workbook.xml": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "ppt/presentation.xml": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}
_MOST_TYPE_BYTES: Final = 128


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
        UnsupportedMediaTypeError: there is no reader for it, or it holds many documents.
    """
    kind = media_type_of(content, media_type, document)
    if kind in CONTAINERS:
        raise UnsupportedMediaTypeError(kind)
    reading = _read(content, kind, parameters_of(media_type))
    if not reading.text.strip():
        raise UnreadableError("holds no text")
    return kind, reading


def media_type_of(content: str | bytes, media_type: str, document: str, *, contains: bool = False) -> str:
    """What to read the content as: see `parse`, whose failures are raised here already where they can be told.

    Args:
        content: The content, or enough of its beginning; of a ZIP archive or Word document all of it.
        media_type: As its sender gave it.
        document: Its id or file name.
        contains: Whether it may hold many documents; else JSON lines that nobody calls so are plain text.
    """
    kind = _given(media_type) or _told(content, document)
    return PLAIN if kind == JSONL and not contains and not _given(media_type) else kind


def parameters_of(media_type: str) -> dict[str, str]:
    """The parameters of a media type, by lower-case names."""
    message = Message()
    message["content-type"] = media_type
    return {name.lower(): value for name, value in message.get_params(failobj=[])[1:]}


def _given(media_type: str) -> str:
    kind = usual(media_type)
    # Browsers and curl say these of what they do not know.
    if kind in {"application/octet-stream", "application/x-www-form-urlencoded", "binary/octet-stream"}:
        return ""
    if kind and not is_readable(kind):
        raise UnsupportedMediaTypeError(media_type)
    return kind


def _told(content: str | bytes, document: str) -> str:
    if isinstance(content, bytes):
        if b"%PDF-" in content[:1024]:
            return PDF
        if content.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return of_archive(io.BytesIO(content))
        head = _text_head(content)
    else:
        head = content[:_HEAD]
    named = by_name(document)
    if named:
        return named
    return _by_text(head)


def _by_text(head: str) -> str:
    if _LOOKS_HTML.match(head):
        return HTML
    if found := _SHEBANG.match(head):
        return f"text/x-{_SHEBANGS.get(found[1], found[1])}"
    if _are_json_lines(head):
        return JSONL
    if _LOOKS_MARKDOWN.search(head):
        return MARKDOWN
    from services.retrieval.readers import table  # noqa: PLC0415 - see _read

    return CSV if table.looks_tabular(head) else PLAIN


def _are_json_lines(head: str) -> bool:
    first, end, rest = head.partition("\n")
    if not end or not first.startswith("{") or not rest.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def of_archive(file: IO[bytes]) -> str:
    """What a ZIP archive is: a Word document, or just an archive. Raises what `parse` does."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            # OpenDocument and EPUB say what they are in an entry of their own.
            own = entries.get("mimetype")
            is_told = own is not None and own.file_size <= _MOST_TYPE_BYTES
            own_type = archive.read("mimetype").decode("ascii", errors="replace").strip() if is_told else ""
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise UnreadableError("is a ZIP archive or Word document that is corrupt or cut off") from error
    if "word/document.xml" in entries:
        return DOCX
    unread = next((kind for part, kind in _OFFICE.items() if part in entries), own_type)
    if unread:
        raise UnsupportedMediaTypeError(unread)
    return ZIP


def _text_head(content: bytes) -> str:
    if not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        for signature, kind in _SIGNATURES.items():
            if content.startswith(signature):
                raise UnsupportedMediaTypeError(kind)
        if b"\x00" in content[:_HEAD] and charset_of(content[:_HEAD], cut=True) not in WIDE:
            raise UnsupportedMediaTypeError("application/octet-stream")
    return decoded(content[:_HEAD], cut=True)


def _read(content: str | bytes, kind: str, parameters: Mapping[str, str]) -> Reading:
    # Each reader is imported with the first document of its kind: together they would double the start-up time.
    if kind in (PDF, DOCX):
        if isinstance(content, str):
            raise UnreadableError(f"is text, and cannot be {kind}; send the file's bytes as `data`")
        if kind == PDF:
            from services.retrieval.readers import pdf  # noqa: PLC0415 - see above

            return pdf.read(content)
        from services.retrieval.readers import docx  # noqa: PLC0415 - as above

        return docx.read(content)
    text = content if isinstance(content, str) else decoded(content, said=parameters.get("charset", ""))
    if len(text) > MOST_CHARACTERS:
        raise UnreadableError(f"holds more than {MOST_CHARACTERS} characters of text; split it")
    return read_text(text, kind, parameters)


def read_text(text: str, kind: str, parameters: Mapping[str, str]) -> Reading:
    """Reads a text of the kind. Raises UnreadableError."""
    if kind == HTML:
        from services.retrieval.readers import html  # noqa: PLC0415 - see _read

        return html.read(text)
    if kind == MARKDOWN:
        from services.retrieval.readers import markdown  # noqa: PLC0415 - as above

        return markdown.read(text)
    if kind in (CSV, TSV):
        from services.retrieval.readers import table  # noqa: PLC0415 - as above

        return table.read(text, delimiter_given(kind, parameters), header=header_given(parameters))
    if is_code(kind):
        from services.retrieval.readers import code  # noqa: PLC0415 - as above

        return code.read(text, language_of(kind))
    return Reading(storable(text.removeprefix("\ufeff")))


def delimiter_given(kind: str, parameters: Mapping[str, str]) -> str:
    """What stands between the cells of a table as its sender says; empty if that is to be told."""
    given = parameters.get("delimiter", "")
    if kind == TSV or given in {"tab", "\\t"}:
        return "\t"
    if len(given) > 1 or given in {'"', "\r", "\n"}:
        raise UnreadableError(f"cannot have {given[:16]!r} between its cells: `delimiter` is one character or `tab`")
    return given


def header_given(parameters: Mapping[str, str]) -> bool | None:
    """Whether a table's first row names its columns, as the parameter `header` of RFC 4180 says; None if nothing does."""
    return {"present": True, "absent": False}.get(parameters.get("header", ""))
