"""Reads Markdown. The text stays as it is written; its headings are found so that chunks can follow them."""

from __future__ import annotations

import re
from typing import Final

from services.retrieval.reading import TABLE_LEVEL, Heading, Reading, storable

_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING: Final = re.compile(r" {0,3}(#{1,6})[ \t]+(.+?)[ \t#]*$")
_UNDERLINE: Final = re.compile(r" {0,3}(=+|-{3,})[ \t]*$")
_FRONT_MATTER: Final = re.compile(r"\A---\n(?:.*\n)*?---\n")
# What stands between the header of a table and its rows.
_RULE: Final = re.compile(r" {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")


def read(text: str) -> Reading:
    """Finds the headings, those in code left out; the first of the highest level becomes the title."""
    text = storable(text)
    headings: list[Heading] = []
    fence, position, before, in_table = "", 0, "", False
    front = _FRONT_MATTER.match(text)
    skipped = front.end() if front else 0
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\n")
        if position >= skipped:
            mark = _FENCE.match(bare)
            if fence:
                if mark and mark[1].startswith(fence) and not bare[mark.end() :].strip():
                    fence = ""
            elif mark:
                fence = mark[1]
            elif found := _HEADING.match(bare):
                headings.append(Heading(position, len(found[1]), found[2].strip()))
            elif _RULE.fullmatch(bare) and "|" in bare and "|" in before and _can_head(before):
                headings.append(Heading(position - len(before), TABLE_LEVEL, _cells(before)))
                in_table = True
            elif in_table and "|" not in bare:
                headings.append(Heading(position, TABLE_LEVEL, ""))
                in_table = False
            elif (under := _UNDERLINE.match(bare)) and _can_be_title(before):
                headings.append(Heading(position - len(before), 1 if under[1][0] == "=" else 2, before.strip()))
        position += len(line)
        before = line
    titled = [heading for heading in headings if heading.level < TABLE_LEVEL]
    title = min(titled, key=lambda heading: heading.level).title if titled else ""
    return Reading(text, title, tuple(headings))


def _can_head(line: str) -> bool:
    """Whether a line can be the header of a table: it names something."""
    return bool(line.strip(" \t\n|"))


def _cells(line: str) -> str:
    return " | ".join(cell.strip() for cell in line.strip().strip("|").split("|"))


def _can_be_title(line: str) -> bool:
    """Whether an underline makes this line a heading: it must be text, and of no other block."""
    return bool(line.strip()) and line.lstrip()[0] not in "#>|-*+=`~"
