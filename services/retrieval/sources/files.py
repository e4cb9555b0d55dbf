"""Finds the documents in a file, one after the other, without reading them yet."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Final

from services.retrieval.charsets import charset_of
from services.retrieval.media_types import CSV, JSONL, TSV, ZIP
from services.retrieval.parsing import (
    UnsupportedMediaTypeError,
    delimiter_given,
    header_given,
    media_type_of,
    of_archive,
    parameters_of,
)
from services.retrieval.reading import UnreadableError, storable
from services.retrieval.sources import archives, records
from services.retrieval.sources.archives import Budget
from services.retrieval.sources.entries import NAME_CHARACTERS, Found, document, refusal, unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from services.retrieval.sources.entries import Item

# Of one document; lines and rows are no document.
MOST_DOCUMENT_BYTES: Final = 64 * 1024**2
_HEAD: Final = 64 * 1024
_ROWS: Final = "rows"


def items(
    path: Path,
    *,
    name: str,
    media_type: str = "",
    is_text: bool = False,
    opened: Callable[[IO[bytes]], object] = lambda _file: None,
) -> Iterator[Item]:
    """The documents in a file, in an order that is always the same.

    Args:
        path: The file.
        name: Its name as its sender knows it; becomes the id of what is one document.
        media_type: As its sender gave it; empty means that content and name tell. `text/csv` may carry `header` (`present`,
            `absent`), `delimiter` (one character or `tab`) and `rows` (`documents`: each row is one, `groups`: all are one).
        is_text: Whether the content was given as text, so that it is in UTF-8.
        opened: Told of the open file, whose position tells how far it is read.
    """
    name = storable(name).strip()[:NAME_CHARACTERS] or "unnamed"
    with path.open("rb") as file:
        opened(file)
        try:
            kind = _kind(file, media_type, name, is_text=is_text)
        except UnreadableError as error:
            yield refusal(name, str(error))
            return
        except UnsupportedMediaTypeError as error:
            said = str(error)
            yield Found(name, lambda: unsupported(name, said), is_quick=True)
            return
        yield from _Finder(Budget()).of_file(file, name, kind, media_type, is_text=is_text)


def _kind(file: IO[bytes], media_type: str, name: str, *, is_text: bool) -> str:
    head = file.read(_HEAD)
    file.seek(0)
    if not is_text and head.startswith(b"PK") and not media_type_is_given(media_type):
        kind = of_archive(file)
        file.seek(0)
        return kind
    content = head.decode(errors="replace") if is_text else head
    return media_type_of(content, media_type, name, contains=True)


def media_type_is_given(media_type: str) -> bool:
    """Whether a sender's media type says anything."""
    return media_type.partition(";")[0].strip().lower() not in {"", "application/octet-stream", "binary/octet-stream"}


class _Finder:
    """Finds documents within the budget of one file."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def of_file(
        self, file: IO[bytes], name: str, kind: str, media_type: str, *, is_text: bool, nesting: int = 0
    ) -> Iterator[Item]:
        """The items of a file of this kind."""
        parameters = parameters_of(media_type)
        if kind == ZIP:
            yield from archives.of_archive(file, name if nesting else "", self._budget, self._of_entry, nesting)
        elif kind == JSONL:
            yield from self._guarded(records.of_lines(_text(file, parameters, is_text=is_text), name), name)
        elif kind in (CSV, TSV) and parameters.get(_ROWS, "") != "groups":
            yield from self._guarded(self._of_table(file, name, kind, media_type, is_text=is_text), name)
        else:
            yield self._whole(file, name, media_type, is_text=is_text)

    def _of_entry(self, data: bytes, name: str, nesting: int) -> Iterator[Item]:
        try:
            kind = media_type_of(data, "", name, contains=True)
        except UnreadableError as error:
            yield refusal(name, str(error))
        except UnsupportedMediaTypeError as error:
            said = str(error)
            yield Found(name, lambda: unsupported(name, said), is_quick=True)
        else:
            yield from self.of_file(io.BytesIO(data), name, kind, "", is_text=False, nesting=nesting)

    def _of_table(self, file: IO[bytes], name: str, kind: str, media_type: str, *, is_text: bool) -> Iterator[Item]:
        from services.retrieval.readers.table import Table  # noqa: PLC0415 - only where there is one

        parameters = parameters_of(media_type)
        lines = _text(file, parameters, is_text=is_text)
        sample = lines.read(_HEAD)
        file.seek(0)
        lines = _text(file, parameters, is_text=is_text)
        table = Table(lines, sample, delimiter_given(kind, parameters), header=header_given(parameters))
        if parameters.get(_ROWS) == "documents" or records.are_documents(table):
            yield from records.of_rows(table, name)
        else:
            file.seek(0)
            yield self._whole(file, name, media_type or kind, is_text=is_text)

    def _whole(self, file: IO[bytes], name: str, media_type: str, *, is_text: bool) -> Item:
        data = file.read(MOST_DOCUMENT_BYTES + 1)
        if len(data) > MOST_DOCUMENT_BYTES:
            return refusal(name, f"has more than {MOST_DOCUMENT_BYTES} bytes, which is more than one document may; split it")
        content = data.decode(errors="replace") if is_text else data
        return Found(name, lambda: document(name, content, media_type))

    def _guarded(self, found: Iterator[Item], name: str) -> Iterator[Item]:
        """Ends with a refusal where a file breaks off in the middle."""
        try:
            yield from found
        except UnreadableError as error:
            yield refusal(f"{name}#rest"[-NAME_CHARACTERS:], f"{error}; what comes after is not read")


def _text(file: IO[bytes], parameters: Mapping[str, str], *, is_text: bool) -> io.TextIOWrapper:
    """The file's lines as text, by a charset that its beginning tells. The wrapper never closes the file."""
    head = file.read(_HEAD)
    file.seek(0)
    charset = "utf-8-sig" if is_text else charset_of(head, cut=True, said=parameters.get("charset", ""))
    return _Lines(file, encoding=charset, errors="replace", newline="")


class _Lines(io.TextIOWrapper):
    """Text over a file that others still use."""

    def __del__(self) -> None:
        """Leaves the file open."""
        if not self.closed:
            self.detach()
