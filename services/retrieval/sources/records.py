"""Documents that are records of a file: lines of JSON, or rows of a table that names its columns so.

The conventions are those of the public sets of texts to search: `_id` or `id`, `title`, `text`. See docs/how-to/documents.md.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Final

from services.retrieval.media_types import PLAIN
from services.retrieval.parsing import UnsupportedMediaTypeError, media_type_of, read_text
from services.retrieval.reading import MOST_CHARACTERS, Reading, UnreadableError, storable
from services.retrieval.sources.entries import NAME_CHARACTERS, Entry, Found, Outcome, hash_of, refused, unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from services.retrieval.readers.table import Table
    from services.retrieval.sources.entries import Item

# The first of these that a record has is meant.
_IDS: Final = ("document", "id", "_id", "doc_id", "docid", "document_id")
_TITLES: Final = ("title", "headline", "name")
_TEXTS: Final = ("text", "content", "contents", "body", "passage")
_METADATA: Final = ("metadata", "meta")
_MEDIA_TYPE: Final = "media_type"
_TITLE_CHARACTERS: Final = 1024
_MOST_LINE: Final = 16 * 1024 * 1024
_MOST_FACTS: Final = 256
_MOST_DEPTH: Final = 8


def of_lines(lines: Iterable[str], name: str) -> Iterator[Item]:
    """One item for each line that is not blank, which is to hold one JSON object."""
    for number, line in enumerate(lines, 1):
        if line.strip("\ufeff \t\r\n"):
            place = f"{name}#{number}"
            yield Found(place, lambda line=line, place=place: _of_line(line, place), is_quick=len(line) < _MOST_LINE // 64)  # type: ignore[misc]  # mypy takes no defaults for those of the callable


def are_documents(table: Table) -> bool:
    """Whether the rows of a table are documents by its columns: it has a text, and an id or a title."""
    columns = {column.casefold() for column in table.columns}
    return any(one in columns for one in _TEXTS) and any(one in columns for one in (*_IDS, *_TITLES))


def of_rows(table: Table, name: str) -> Iterator[Item]:
    """One item for each row. Raises UnreadableError where the table breaks off."""
    for number, row in enumerate(table.rows(), 1):
        place = f"{name}#{number}"
        yield Found(place, lambda row=row, place=place: _of_row(table, row, place), is_quick=True)  # type: ignore[misc]  # as above


def _of_row(table: Table, row: list[str], place: str) -> Outcome:
    columns = [*table.columns, *(f"column {number}" for number in range(len(table.columns) + 1, len(row) + 1))]
    record: dict[str, object] = {column: cell for column, cell in zip(columns, row, strict=False) if cell}
    if are_documents(table):
        return _of_record({_known(column): value for column, value in record.items()}, place, repr(row))
    text = storable("\n".join(f"{column}: {cell}" for column, cell in record.items()))
    facts = _facts({column: value for column, value in record.items() if len(str(value)) <= _MOST_FACTS})
    return Entry(place[:NAME_CHARACTERS], "", PLAIN, facts, hash_of(text), Reading(text))


def _known(column: str) -> str:
    """A column's name, in small letters where it is one of the conventions'."""
    small = column.casefold()
    return small if small in {*_IDS, *_TITLES, *_TEXTS, _MEDIA_TYPE} else column


def _of_line(line: str, place: str) -> Outcome:
    if len(line) > _MOST_LINE:
        return refused(place, f"is a line of more than {_MOST_LINE} characters; split it")
    try:
        record = json.loads(line.strip("\ufeff"))
    except ValueError as error:
        return refused(place, f"is no JSON: {error}")
    except RecursionError:
        return refused(place, "is JSON nested too deep")
    if not isinstance(record, dict):
        return refused(place, "is no JSON object; each line is to be one, with its text in `text`")
    return _of_record(record, place, line)


def _of_record(record: Mapping[str, object], place: str, source: str) -> Outcome:
    """Makes a document of a record: what none of the conventions names are facts."""
    rest = dict(record)
    given_id, title, text = (_taken(rest, names) for names in (_IDS, _TITLES, _TEXTS))
    name = storable(str(given_id)).strip()[:NAME_CHARACTERS] if isinstance(given_id, str | int) and given_id != "" else place
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "\n\n".join(text)
    if not isinstance(text, str):
        return refused(name, f"has no text: none of the fields {', '.join(_TEXTS)} is a string")
    if len(text) > MOST_CHARACTERS:
        return refused(name, f"holds more than {MOST_CHARACTERS} characters of text; split it")
    media_type = rest.pop(_MEDIA_TYPE, PLAIN)
    facts = _taken(rest, _METADATA)
    rest = {**rest, **(facts if isinstance(facts, dict) else {} if facts is None else {"metadata": facts})}
    try:
        kind = media_type_of(text, str(media_type), name)
        reading = read_text(text, kind, {})
    except UnreadableError as error:
        return refused(name, str(error))
    except UnsupportedMediaTypeError as error:
        return unsupported(name, str(error))
    if not reading.text.strip():
        return refused(name, "holds no text")
    called = storable(title).strip() if isinstance(title, str) else ""
    return Entry(name, (called or reading.title)[:_TITLE_CHARACTERS], kind, _facts(rest), hash_of(source), reading)


def _taken(record: dict[str, object], names: tuple[str, ...]) -> object:
    found = next((name for name in names if record.get(name) is not None), None)
    return None if found is None else record.pop(found)


def _facts(record: Mapping[str, object]) -> dict[str, object]:
    """What metadata can hold: strings, numbers, booleans and lists of these. Objects become names with dots; null is none."""
    facts: dict[str, object] = {}
    todo: list[tuple[str, object, int]] = [(name, value, 1) for name, value in record.items()]
    while todo and len(facts) < _MOST_FACTS:
        name, value, depth = todo.pop(0)
        if isinstance(value, dict) and depth < _MOST_DEPTH:
            todo += [(f"{name}.{inner}", one, depth + 1) for inner, one in value.items()]
        elif isinstance(value, list):
            plain = [_plain(one) for one in value if _is_plain(one)]
            if plain:
                facts[storable(name)] = plain
        elif _is_plain(value):
            facts[storable(name)] = _plain(value)
    return facts


def _is_plain(value: object) -> bool:
    return isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) < math.inf)


def _plain(value: object) -> object:
    if isinstance(value, str):
        return storable(value)
    # What metadata holds of numbers are doubles.
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53 else value
