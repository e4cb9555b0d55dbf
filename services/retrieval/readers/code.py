"""Reads source code with tree-sitter: the text as it is, its definitions as headings."""

from __future__ import annotations

import importlib
import re
from functools import cache
from typing import TYPE_CHECKING, Final

from tree_sitter import Language, Parser

from services.retrieval.reading import Heading, Reading, storable

if TYPE_CHECKING:
    from tree_sitter import Node

# The grammars on board by language, and the function in them where it is not called `language`.
_GRAMMARS: Final = {
    "bash": ("tree_sitter_bash", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "csharp": ("tree_sitter_c_sharp", "language"),
    "go": ("tree_sitter_go", "language"),
    "java": ("tree_sitter_java", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "kotlin": ("tree_sitter_kotlin", "language"),
    "lua": ("tree_sitter_lua", "language"),
    "php": ("tree_sitter_php", "language_php"),
    "python": ("tree_sitter_python", "language"),
    "ruby": ("tree_sitter_ruby", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "scala": ("tree_sitter_scala", "language"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
}
# Grammars name what defines something much alike. Ruby names it by its keyword.
_DEFINITION: Final = re.compile(
    r"(?:abstract_)?(?:async_)?(?:generator_)?"
    r"(?:function|method|constructor|class|struct|union|enum|interface|trait|impl|module|mod|namespace|object|record|protocol|type"
    r"|singleton_method|extension|macro|annotation_type|file_scoped_namespace)"
    r"_(?:definition|declaration|item|spec|specifier|declarator)"
)
_KEYWORDS: Final = frozenset({"method", "singleton_method", "class", "module"})
# What stands directly above a definition and belongs to it.
_BELONGS: Final = re.compile(r".*(?:comment|decorator|attribute|annotation|template_parameter_list).*")
_WRAPPERS: Final = frozenset({"decorated_definition", "export_statement", "template_declaration", "type_declaration"})
_MOST_SYNTAX_CHARACTERS: Final = 2 * 1024 * 1024
_MOST_NODES: Final = 400_000
_MOST_DEPTH: Final = 8
_TITLE_CHARACTERS: Final = 120
_SPACE: Final = re.compile(r"\s+")


def read(text: str, language: str) -> Reading:
    """Reads code. Without a grammar, or beyond 2 MiB, it has no headings and is cut by its lines."""
    text = storable(text.removeprefix("\ufeff"))
    if language not in _GRAMMARS or len(text) > _MOST_SYNTAX_CHARACTERS:
        return Reading(text)
    source = text.encode()
    tree = _parser(language).parse(source)
    return Reading(text, headings=tuple(_Definitions(text, source).of(tree.root_node)))


@cache
def _parser(language: str) -> Parser:
    module, function = _GRAMMARS[language]
    return Parser(Language(getattr(importlib.import_module(module), function)()))


class _Definitions:
    """Collects the definitions of a file, each from the start of a line to the end of one."""

    def __init__(self, text: str, source: bytes) -> None:
        self._source = source
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self._length = len(text)
        self._found: dict[int, Heading] = {}
        self._ends: dict[int, int] = {}

    def of(self, root: Node) -> list[Heading]:
        """The definitions in order, and where the outermost of those that end at a place does so."""
        todo: list[tuple[Node, int]] = [(root, 0)]
        visited = 0
        while todo and visited < _MOST_NODES:
            node, depth = todo.pop()
            visited += 1
            if depth < _MOST_DEPTH and self._defines(node):
                depth += self._enter(node, depth + 1)
            todo += [(child, depth) for child in reversed(node.named_children)]
        ends = [Heading(place, level, "") for place, level in self._ends.items() if place < self._length]
        return sorted([*self._found.values(), *(end for end in ends if self._is_needed(end))], key=lambda one: one.start)

    def _defines(self, node: Node) -> bool:
        kind = node.type
        # Python calls all of a file a module.
        if kind in _KEYWORDS:
            return node.parent is not None
        if _DEFINITION.fullmatch(kind) is None:
            return False
        # `struct point p;` uses one and defines none.
        return not kind.endswith("_specifier") or node.child_by_field_name("body") is not None

    def _enter(self, node: Node, level: int) -> bool:
        """Notes a definition; False where its line begins another already."""
        whole = node
        while whole.parent is not None and whole.parent.type in _WRAPPERS:
            whole = whole.parent
        first = whole
        while (above := first.prev_named_sibling) is not None and _is_right_above(above, first):
            first = above
        start = self._lines[first.start_point[0]]
        if start in self._found:
            return False
        self._found[start] = Heading(start, level, self._signature(node))
        end = self._line_after(whole)
        self._ends[end] = min(level, self._ends.get(end, level))
        return True

    def _line_after(self, node: Node) -> int:
        row, column = node.end_point
        row += column > 0
        return self._lines[row] if row < len(self._lines) else self._length

    def _is_needed(self, end: Heading) -> bool:
        """Not where a definition of the same or a higher level begins."""
        begun = self._found.get(end.start)
        return begun is None or begun.level > end.level

    def _signature(self, node: Node) -> str:
        """The definition up to its body, on one line."""
        body = node.child_by_field_name("body")
        end = body.start_byte if body is not None and body.start_byte > node.start_byte else node.end_byte
        told = self._source[node.start_byte : min(end, node.start_byte + 4 * _TITLE_CHARACTERS)].decode(errors="ignore")
        if body is None:
            told = told.partition("\n")[0]
        return _SPACE.sub(" ", told).strip(" {:=\t")[:_TITLE_CHARACTERS] or node.type


def _is_right_above(above: Node, below: Node) -> bool:
    if _BELONGS.fullmatch(above.type) is None:
        return False
    last_row = above.end_point[0] - (above.end_point[1] == 0)
    before = above.prev_named_sibling
    # A comment at the end of a line belongs to that line.
    shares_line = before is not None and before.end_point[0] == above.start_point[0] and before.end_point[1] > 0
    return below.start_point[0] - last_row <= 1 and not shares_line
