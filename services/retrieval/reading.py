"""What a reader makes of a document's content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# Text of a document, in characters: what 16 MiB of plain text can have. Compressed formats are held to it as well.
MOST_CHARACTERS: Final = 16 * 1024 * 1024
_UNSTORABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")


# A heading of this level or deeper is no line of prose: it is the header row of a table, and what stands under it are its rows.
TABLE_LEVEL: Final = 16


class UnreadableError(Exception):
    """The content cannot be read as what it is given as; the message continues "the content ..." for its sender."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: where it starts in the text, in characters; its level, from 1 for the highest; and its title.

    In code it is a definition. One without a title ends what is open at its level: a definition, a table.
    """

    start: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of a document.

    Attributes:
        text: All that is there to search and cite.
        title: As the content itself names it; may be empty.
        headings: In order.
        pages: Where each page starts in the text, in characters; empty where the format has none.
    """

    text: str
    title: str = ""
    headings: tuple[Heading, ...] = ()
    pages: tuple[int, ...] = ()


def storable(text: str) -> str:
    """The text with line feeds as line ends, and without characters that no text should have and Postgres cannot hold."""
    return _UNSTORABLE.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))


class Writing:
    """Collects the text of a document block by block, with its headings."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._headings: list[Heading] = []

    def block(self, text: str, *, level: int = 0, separator: str = "\n\n") -> None:
        """Adds a block after a separator; nothing for a blank one. A level above 0 makes it a heading.

        Raises:
            UnreadableError: the document holds more text than any may.
        """
        text = storable(text).strip()
        if not text:
            return
        if self._parts:
            self._add(separator)
        if level:
            self._headings.append(Heading(self._length, level, text))
        self._add(text)

    def end(self, level: int) -> None:
        """Says that what was open at this level ends here."""
        if self._headings and self._headings[-1].title:
            self._headings.append(Heading(self._length, level, ""))

    @property
    def first_heading(self) -> str:
        """The title of the first heading that is no table's header; empty without one."""
        return next((one.title for one in self._headings if one.title and one.level < TABLE_LEVEL), "")

    def reading(self, title: str = "") -> Reading:
        """All that was added."""
        return Reading("".join(self._parts), storable(title).strip(), tuple(self._headings))

    @property
    def length(self) -> int:
        """Characters so far."""
        return self._length

    def _add(self, text: str) -> None:
        self._length += len(text)
        if self._length > MOST_CHARACTERS:
            raise UnreadableError(f"holds more than {MOST_CHARACTERS} characters of text; split it")
        self._parts.append(text)
