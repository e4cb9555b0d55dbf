"""What comes out of a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from services.chassis.errors import Reason
from services.retrieval.parsing import UnsupportedMediaTypeError, parse
from services.retrieval.reading import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from services.retrieval.reading import Reading

NAME_CHARACTERS: Final = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """A document that was read.

    Attributes:
        name: Becomes its id: the file's name, its path in an archive, or what the record itself says; 1 to 512 characters.
        title: What the content calls itself; may be empty.
        media_type: What it was read as.
        metadata: Facts that the record brings: strings, numbers, booleans and lists of these.
        content_hash: SHA-256 of its content, in hexadecimal.
        reading: Its text and outline.
    """

    name: str
    title: str
    media_type: str
    metadata: Mapping[str, object]
    content_hash: str
    reading: Reading


@dataclass(frozen=True, slots=True)
class Refused:
    """What cannot be read, in place of the document it would have been.

    Attributes:
        name: As the entry's would have been, as far as it can be told.
        reason: DOCUMENT_UNREADABLE or UNSUPPORTED_MEDIA_TYPE.
        message: What is wrong with it, for its sender.
    """

    name: str
    reason: Reason
    message: str


Outcome: TypeAlias = Entry | Refused


class Item(Protocol):
    """Something to read, found in a file but not read yet.

    Attributes:
        name: What it is called, as far as that can be told without reading it.
        is_quick: Whether reading it is a matter of a line, which needs no announcement.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class

    @property
    def is_quick(self) -> bool: ...  # noqa: D102 - see the class

    def read(self) -> Outcome:
        """Reads it. Takes its time."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """An item that a function reads."""

    name: str
    reader: Callable[[], Outcome]
    is_quick: bool = False

    def read(self) -> Outcome:
        """See `Item.read`."""
        return self.reader()


def refused(name: str, problem: str) -> Refused:
    """That a content cannot be read; the problem continues "the content ..."."""
    return Refused(name[:NAME_CHARACTERS], Reason.DOCUMENT_UNREADABLE, f"the content {problem}")


def unsupported(name: str, media_type: str) -> Refused:
    """That there is no reader for a media type."""
    return Refused(name[:NAME_CHARACTERS], Reason.UNSUPPORTED_MEDIA_TYPE, f"there is no reader for {media_type[:256]!r}")


def refusal(name: str, problem: str) -> Found:
    """An item that is refused already."""
    return Found(name, lambda: refused(name, problem), is_quick=True)


def document(name: str, content: str | bytes, media_type: str) -> Outcome:
    """Reads a content that is one document."""
    try:
        kind, reading = parse(content, media_type=media_type, document=name)
    except UnreadableError as error:
        return refused(name, str(error))
    except UnsupportedMediaTypeError as error:
        return unsupported(name, str(error))
    except (MemoryError, RecursionError):
        return refused(name, "needs more memory to be read than a document may")
    return Entry(name, reading.title, kind, {}, hash_of(content), reading)


def hash_of(content: str | bytes) -> str:
    """SHA-256 of a content, in hexadecimal."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
