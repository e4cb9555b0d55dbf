"""Reads HTML with selectolax: the text of the main part, block by block."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from selectolax.lexbor import LexborHTMLParser

from services.retrieval.reading import TABLE_LEVEL, UnreadableError, Writing

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

    from services.retrieval.reading import Reading

_DROPPED: Final = "script style template noscript nav footer aside form button select dialog svg iframe object head"
_HEADINGS: Final = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_BLOCK_TAGS: Final = (
    "address article blockquote body caption dd details div dl dt fieldset figcaption figure footer header hr html li main ol "
    "p pre section summary table tbody tfoot thead tr ul"
)
_BLOCKS: Final = frozenset(_BLOCK_TAGS.split()) | frozenset(_HEADINGS)
_CLOSE: Final = frozenset({"li", "tr", "dt", "dd"})
_SPACES: Final = re.compile(r"[ \t\n\r\f\u00a0]+")
_TEXT: Final = "-text"
_TAG: Final = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9-]*)")
# These have no content, or are closed by the next of their kind.
_NEVER_NESTED_TAGS: Final = (
    "area base br col embed hr img input link meta param source track wbr p li dt dd option optgroup tr td th thead tbody tfoot"
)
_NEVER_NESTED: Final = frozenset(_NEVER_NESTED_TAGS.split())
_MOST_DEPTH: Final = 2_000
# Below this many characters a <main> is a shell that a script would have filled.
_LEAST_MAIN: Final = 200


def read(text: str) -> Reading:
    """Reads the page; menus, forms and scripts are left out. The title is that of the page, or else its first heading."""
    _check_depth(text)
    tree = LexborHTMLParser(text)
    titles = tree.css("title")
    title = _SPACES.sub(" ", titles[0].text()).strip() if titles else ""
    tree.strip_tags(_DROPPED.split())
    root = _main(tree)
    writing = _Walk()
    if root is not None:
        writing.walk(root)
    reading = writing.out.reading(title)
    return reading if title else writing.out.reading(writing.out.first_heading)


def _check_depth(text: str) -> None:
    """Refuses what is nested so deep that it was made to do harm: the parser's time grows with the square of the depth."""
    opened: dict[str, int] = {}
    depth = 0
    for match in _TAG.finditer(text):
        closing, name = match[1], match[2].lower()
        if name in _NEVER_NESTED:
            continue
        before = opened.get(name, 0)
        opened[name] = max(0, before - 1) if closing else before + 1
        depth += opened[name] - before
        if depth > _MOST_DEPTH:
            raise UnreadableError(f"is HTML nested deeper than {_MOST_DEPTH} elements")


def _main(tree: LexborHTMLParser) -> LexborNode | None:
    for selector in ("main", "[role=main]", "article"):
        found = tree.css(selector)
        if len(found) == 1 and len(found[0].text()) >= _LEAST_MAIN:
            return found[0]
    return tree.body


class _Walk:
    """Goes through the tree without recursion: pages may be nested deeper than Python's stack."""

    def __init__(self) -> None:
        self.out = Writing()
        self._inline: list[str] = []
        self._level = 0
        self._separator = "\n\n"
        self._preformatted = 0
        # Of the innermost table: its rows so far, and whether the first of them is a header.
        self._rows = 0
        self._has_header = False

    def walk(self, root: LexborNode) -> None:
        """Writes all blocks below the root."""
        node: LexborNode | None = root
        while node is not None:
            self._enter(node)
            if node.child is not None:
                node = node.child
                continue
            while node is not None:
                self._leave(node)
                if node.mem_id == root.mem_id:
                    node = None
                elif node.next is not None:
                    node = node.next
                    break
                else:
                    node = node.parent
        self._flush()

    def _enter(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag == _TEXT:
            text = node.text_content or ""
            self._inline.append(text if self._preformatted else _SPACES.sub(" ", text))
        elif tag == "br":
            self._inline.append("\n")
        elif tag in ("td", "th"):
            self._inline.append(" | " if self._inline else "")
            # A header is a first row of nothing but names of columns.
            self._level = TABLE_LEVEL if tag == "th" and self._rows == 1 and (self._level or not self._inline[:-1]) else 0
        elif tag in _BLOCKS:
            self._flush()
            self._separator = "\n" if tag in _CLOSE else "\n\n"
            self._level = _HEADINGS.get(tag, 0)
            self._preformatted += tag == "pre"
            self._rows = 0 if tag == "table" else self._rows + (tag == "tr")
            if tag == "li":
                self._inline.append("- ")

    def _leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag in _BLOCKS:
            self._flush()
            self._level = 0
            self._preformatted -= tag == "pre"
            if tag == "table" and self._has_header:
                self.out.end(TABLE_LEVEL)
                self._has_header = False

    def _flush(self) -> None:
        text = "".join(self._inline)
        self._inline.clear()
        if not self._preformatted:
            text = re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", text))
        if text.strip(" -|\n"):
            self.out.block(text, level=self._level, separator=self._separator)
            self._has_header |= self._level == TABLE_LEVEL
            self._separator = "\n\n"
