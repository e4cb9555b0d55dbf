"""Documents in ZIP archives, which may hold archives in turn.

Nothing is ever written to disk under a name from an archive, so that no name can lead anywhere; as ids they are made plain.
What an archive declares of its sizes is looked at before anything is unpacked, and zipfile holds each entry to its own.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from services.retrieval.charsets import decoded
from services.retrieval.reading import UnreadableError, storable
from services.retrieval.sources.entries import NAME_CHARACTERS, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services.retrieval.sources.entries import Item

MOST_ENTRIES: Final = 20_000
MOST_UNPACKED: Final = 1024**3
MOST_ENTRY: Final = 64 * 1024**2
# Text packs to a tenth; what packs to less than a two-hundredth is made to do harm.
MOST_RATIO: Final = 200
_RATIO_MATTERS_FROM: Final = 4 * 1024**2
MOST_NESTING: Final = 2
_UTF8_NAME: Final = 0x800
_ENCRYPTED: Final = 0x1
# What systems leave in archives beside what was put there.
_LITTER: Final = re.compile(r"(?:^|/)(?:__MACOSX/|\.DS_Store$|Thumbs\.db$|desktop\.ini$|\._)", re.IGNORECASE)
_DRIVE: Final = re.compile("[A-Za-z]:")
_UNPLAIN: Final = re.compile(r"[\x00-\x1f\x7f]")
_CORRUPT: Final = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, OSError)


@dataclass(slots=True)
class Budget:
    """What may still be unpacked out of one file, whatever its nesting."""

    entries: int = MOST_ENTRIES
    unpacked: int = MOST_UNPACKED

    def problem(self, entry: zipfile.ZipInfo) -> str:
        """Why an entry is not to be unpacked; empty if it is, which then counts."""
        self.entries -= 1
        if self.entries < 0:
            return f"is beyond the {MOST_ENTRIES} files that an archive may hold; split it"
        if entry.flag_bits & _ENCRYPTED:
            return "asks for a password; send it without one"
        if entry.file_size > MOST_ENTRY:
            return f"has {entry.file_size} bytes; a file in an archive may have {MOST_ENTRY}"
        if entry.file_size > _RATIO_MATTERS_FROM and entry.file_size > MOST_RATIO * entry.compress_size:
            return f"unpacks to {entry.file_size} bytes from {entry.compress_size}, which no document does"
        self.unpacked -= entry.file_size
        return f"is beyond the {MOST_UNPACKED} bytes that an archive may unpack to; split it" if self.unpacked < 0 else ""

    @property
    def is_spent(self) -> bool:
        """Whether nothing more can be unpacked."""
        return self.entries < 0 or self.unpacked < 0


def of_archive(
    file: IO[bytes], within: str, budget: Budget, contents: Callable[[bytes, str, int], Iterator[Item]], nesting: int
) -> Iterator[Item]:
    """The documents of an archive, in its order.

    Args:
        file: The archive.
        within: The path of the archive in the one it is in; empty for the outermost.
        budget: What is left to unpack.
        contents: Tells the items of an entry, given its bytes, its name and how many archives it is in.
        nesting: How many archives this one is in.
    """
    if nesting >= MOST_NESTING:
        yield refusal(within, f"is a ZIP archive within {nesting} others; unpack it first")
        return
    place = within
    try:
        with zipfile.ZipFile(file) as archive:
            seen: set[str] = set()
            for entry in archive.infolist():
                place = plain_name(f"{within}/{_name(entry)}" if within else _name(entry))
                if entry.is_dir() or _LITTER.search(place):
                    continue
                problem = budget.problem(entry) or ("stands in the archive twice under one name" if place in seen else "")
                seen.add(place)
                if problem:
                    yield refusal(place, problem)
                    if budget.is_spent:
                        return
                    continue
                yield from contents(archive.read(entry), place, nesting + 1)
    except _CORRUPT:
        yield refusal(place or "archive", "is corrupt or cut off in its ZIP archive")


def plain_name(name: str) -> str:
    """A name from an archive as an id: a path with `/`, without a root, a drive or steps that lead out."""
    steps = _UNPLAIN.sub(" ", storable(name)).replace("\\", "/").split("/")
    plain = "/".join(step for step in steps if step not in {"", ".", ".."} and not _DRIVE.fullmatch(step))
    return plain[-NAME_CHARACTERS:] or "unnamed"


def _name(entry: zipfile.ZipInfo) -> str:
    """The name as its archiver meant it: without the mark for UTF-8 it is in the charset of that machine."""
    if entry.flag_bits & _UTF8_NAME or entry.filename.isascii():
        return entry.filename
    try:
        return decoded(entry.filename.encode("cp437"))
    except (UnreadableError, UnicodeEncodeError):
        return entry.filename
