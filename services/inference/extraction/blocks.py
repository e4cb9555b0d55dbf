"""Plain text and Markdown into blocks of prose: what a reader takes for a paragraph, a list item or a table row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FENCE: Final = re.compile(r"^\s*(```|~~~)")
HEADING: Final = re.compile(r"^\s{0,3}#{1,6}\s+(.*?)\s*#*\s*$")
UNDERLINE: Final = re.compile(r"^\s{0,3}(=+|-{3,}|\*{3,}|_{3,})\s*$")
ITEM: Final = re.compile(r"^\s*(?:[-*+•·–]|\(?\d{1,3}[.)]|[一二三四五六七八九十]{1,3}、)\s+(?=\S)")
ROW: Final = re.compile(r"^\s*\|.*\|\s*$")
RULE_ROW: Final = re.compile(r"^[\s|:+=-]+$")
IMAGE: Final = re.compile(r"!\[[^\]]*\]\([^)]*\)")
LINK: Final = re.compile(r"\[([^\]]+)\]\([^)\s]+(?:\s+\"[^\"]*\")?\)")
EMPHASIS: Final = re.compile(r"(?<![\w*])(\*\*|__|\*|_)(?=\S)(.+?)(?<=\S)\1(?![\w*])")
RUN_IN: Final = re.compile(r"^(\*\*|__)([^*_]{1,40})\.\1\s+(?=\S)")  # **Decision.** It is ...
ADDRESS: Final = re.compile(r"<((?:https?|mailto):[^<>\s]+)>")
TAG: Final = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|<!--.*?-->")
WIDE: Final = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3000-\u303f\uff00-\uffef"
WIDE_GAP: Final = re.compile(rf"(?<=[{WIDE}])\s+(?=[{WIDE}])")
SHORT_CODE: Final = 120


@dataclass(frozen=True, slots=True)
class Block:
    """A run of prose on one line, its markup taken off, and the heading it stands under."""

    text: str
    heading: str = ""


def blocks(text: str) -> Iterator[Block]:
    """Blocks in their order. Headings, code and table heads are none; a sample of one line is, or ends what leads in to it."""
    lines = text.replace("\ufeff", "").splitlines()
    reader = _Reader(in_code=_begins_in_code(lines))
    for line in lines:
        yield from reader.read(line)
    yield from reader.flush()


def _begins_in_code(lines: Sequence[str]) -> bool:
    """Whether a passage was cut out of a document in the middle of a fence. A fence that names a language opens."""
    fences = [line.strip() for line in lines if FENCE.match(line)]
    named = next((place for place, fence in enumerate(fences) if fence not in {"```", "~~~"}), len(fences))
    return named % 2 == 1


class _Reader:
    """Reads lines one by one; holds the block it is in."""

    def __init__(self, *, in_code: bool) -> None:
        self._lines: list[str] = []
        self._code: list[str] | None = [] if in_code else None
        self._fenced = in_code
        self._heading = ""
        self._blank = True
        self._margin = 0  # where the text of the list item around us begins

    def read(self, line: str) -> Iterator[Block]:
        if FENCE.match(line):
            if self._code is None or not self._fenced:
                self._code, self._fenced = [], True
            else:
                yield from self._end_code()
        elif self._fenced:
            self._add_code(line)
        elif not line.strip():
            # The colon before a sample waits for the sample.
            if not self._leads_in():
                yield from self.flush()
            self._blank = True
        elif self._is_indented(line):
            self._add_code(line)
        else:
            if self._code is not None:
                yield from self._end_code()
            yield from self._read_prose(line)
            self._blank = False

    def flush(self) -> Iterator[Block]:
        """Ends the block at hand."""
        text = " ".join(self._lines)
        self._lines = []
        heading = self._heading
        if run_in := RUN_IN.match(text):
            heading, text = f"{heading} {run_in[2]}".strip(), text[run_in.end() :]
        if text := _plain(text):
            yield Block(text, heading)

    def _read_prose(self, line: str) -> Iterator[Block]:
        if heading := HEADING.match(line):
            yield from self.flush()
            self._heading, self._margin = _plain(heading.group(1)), 0
        elif UNDERLINE.match(line):
            if self._lines and not self._blank:
                self._heading, self._margin = _plain(" ".join(self._lines)), 0
                self._lines = []
        elif ROW.match(line):
            yield from self._read_row(line)
        elif item := ITEM.match(line):
            yield from self.flush()
            self._margin = item.end()
            self._lines = [line[item.end() :]]
        else:
            if self._blank:
                yield from self.flush()
                self._margin = self._margin if line.startswith(" ") else 0
            self._lines.append(line.strip().lstrip(">").strip())

    def _read_row(self, line: str) -> Iterator[Block]:
        if RULE_ROW.match(line):
            self._lines = []  # what stood above the rule was the table's head
            return
        yield from self.flush()
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        self._lines = [" — ".join(cell for cell in cells if cell)]

    def _leads_in(self) -> bool:
        return bool(self._lines) and self._lines[-1].rstrip().endswith((":", "："))

    def _is_indented(self, line: str) -> bool:
        """Whether the line is of an indented sample: four columns past the text around it, after a blank line or another."""
        indent = len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip(" "))
        return (self._blank or self._code is not None) and indent >= self._margin + 4 and not ITEM.match(line)

    def _add_code(self, line: str) -> None:
        self._code = [*(self._code or ()), line.strip()]

    def _end_code(self) -> Iterator[Block]:
        code = [line for line in self._code or () if line]
        self._code, self._fenced = None, False
        if len(code) == 1 and len(code[0]) <= SHORT_CODE and "`" not in code[0]:
            if not self._leads_in():
                yield from self.flush()
            self._lines.append(f"`{code[0]}`.")
        yield from self.flush()


def _plain(text: str) -> str:
    """Takes off links, images, emphasis and tags; code spans stay as they are."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a lone backtick opens nothing
        return _prose(text)
    joined = "`".join(piece if place % 2 else _prose(piece) for place, piece in enumerate(pieces))
    return " ".join(joined.split())


def _prose(text: str) -> str:
    text = ADDRESS.sub(r"\1", LINK.sub(r"\1", IMAGE.sub("", text)))
    text = TAG.sub("", EMPHASIS.sub(r"\2", EMPHASIS.sub(r"\2", text)))
    gap = (text[:1].isspace() and " ") or ""
    end = (text[1:][-1:].isspace() and " ") or ""
    return gap + WIDE_GAP.sub("", " ".join(text.split())) + end
