"""Templates in Jinja's syntax, rendered by an interpreter of its syntax tree that knows few things and counts its steps.

Jinja parses; nothing is compiled to Python. What a template may hold is what `_STATEMENTS`, `_EXPRESSIONS` and `FILTERS` list:
there are no calls, no arithmetic, no attributes of Python objects, so nothing can reach out of it. What it takes is bounded by
steps and bytes rather than by a clock, so that what renders once always renders.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from jinja2 import Environment, TemplateSyntaxError, nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# About 50 ms of one core.
MOST_STEPS: Final = 50_000
MOST_BYTES: Final = 1024 * 1024
# Deeper ones are no prompts.
_DEEPEST: Final = 40
# Of a string that a filter goes through, this many characters are a step.
_STRIDE: Final = 64

_ENVIRONMENT: Final = Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - prompts are no HTML
_STATEMENTS: Final = (nodes.Template, nodes.Output, nodes.If, nodes.For)
_EXPRESSIONS: Final = (
    *(nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Test),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr, nodes.List, nodes.Tuple),
)
_SAID: Final[dict[type[nodes.Node], str]] = {
    nodes.Call: "a call",
    nodes.Include: "`include`",
    nodes.Import: "`import`",
    nodes.FromImport: "`import`",
    nodes.Extends: "`extends`",
    nodes.Block: "`block`",
    nodes.Macro: "`macro`",
    nodes.Assign: "`set`",
    nodes.AssignBlock: "`set`",
    nodes.Slice: "a slice",
    nodes.Dict: "a dictionary",
    nodes.Concat: "`~`",
}
_LOOP: Final = "loop"
_LONGEST_PATH: Final = 256


class TemplateError(ValueError):
    """A template that cannot be used; the text says why, as the continuation of a sentence that begins with its place."""


class RenderError(ValueError):
    """A template that cannot be rendered with these variables."""

    def __init__(self, problem: str, variable: str = "") -> None:
        super().__init__(problem)
        self.variable = variable


@dataclass(frozen=True, slots=True)
class _Missing:
    """What is not there; using it is an error that names it."""

    path: str


@dataclass(frozen=True, slots=True)
class Template:
    """A checked template, and the names that it takes from outside."""

    tree: nodes.Template
    names: frozenset[str]

    def render(self, variables: Mapping[str, Any], room: Room) -> str:
        """Renders.

        Args:
            variables: Plain data: texts, numbers, truth values, lists and dictionaries.
            room: What all templates that are rendered together may take.

        Raises:
            RenderError: A variable is missing or of the wrong kind, or the text becomes too long.
        """
        return "".join(_Renderer(room).body(self.tree.body, variables))


@dataclass(slots=True)
class Room:
    """Steps and bytes that are left."""

    steps: int = MOST_STEPS
    bytes: int = MOST_BYTES

    def step(self, count: int = 1) -> None:
        """Takes steps."""
        self.steps -= count
        if self.steps < 0:
            raise RenderError(f"rendering it takes more than {MOST_STEPS} steps; make the lists shorter")

    def write(self, text: str) -> str:
        """Takes room for a text."""
        self.bytes -= len(text.encode())
        if self.bytes < 0:
            raise RenderError(f"the text becomes longer than {MOST_BYTES} bytes in UTF-8")
        return text


def parsed(source: str) -> Template:
    """Reads a template, and checks that it holds nothing but what can be rendered here.

    Raises:
        TemplateError: It is malformed, or holds something else.
    """
    try:
        tree = _ENVIRONMENT.parse(source)
        names: set[str] = set()
        _check(tree, frozenset(), names, 0)
    except TemplateSyntaxError as error:
        raise TemplateError(f"line {error.lineno}: {error.message}") from None
    except RecursionError:
        raise TemplateError("it is nested too deep") from None
    return Template(tree, frozenset(names))


def _check(node: nodes.Node, bound: frozenset[str], names: set[str], depth: int) -> None:
    if depth > _DEEPEST:
        raise TemplateError(f"line {node.lineno}: it is nested deeper than {_DEEPEST}")
    if wrong := _wrong(node):
        raise TemplateError(f"line {node.lineno}: {wrong}")
    if isinstance(node, nodes.Name) and node.name not in bound:
        names.add(node.name)
    if isinstance(node, nodes.For):
        _check(node.iter, bound, names, depth + 1)
        inner = bound | {getattr(node.target, "name", ""), _LOOP}
        for child in (*node.body, *([node.test] if node.test is not None else ())):
            _check(child, inner, names, depth + 1)
        for child in node.else_:
            _check(child, bound, names, depth + 1)
        return
    for child in node.iter_child_nodes():
        _check(child, bound, names, depth + 1)


def _wrong(node: nodes.Node) -> str:
    """What is wrong with a node in itself; empty where nothing is."""
    if not isinstance(node, (*_STATEMENTS, *_EXPRESSIONS)):
        return f"{_SAID.get(type(node), f'`{type(node).__name__.lower()}`')} is not allowed in a prompt"
    if isinstance(node, nodes.Filter):
        if node.name not in FILTERS or node.node is None:
            return f"the filter `{node.name}` is not one of {', '.join(sorted(FILTERS))}"
        if len(node.args) > 1 or node.kwargs or node.dyn_args or node.dyn_kwargs:
            return f"the filter `{node.name}` takes one argument at most"
    if isinstance(node, nodes.Test) and (node.name != "defined" or node.args):
        return f"the test `{node.name}` is not `defined`"
    if isinstance(node, nodes.For):
        target = node.target
        if not isinstance(target, nodes.Name) or node.recursive or target.name == _LOOP:
            return "`for` takes one name, other than `loop`"
    return ""


class _Renderer:
    def __init__(self, room: Room) -> None:
        self._room = room

    def body(self, statements: list[nodes.Node], scope: Mapping[str, Any]) -> Iterator[str]:
        for statement in statements:
            self._room.step()
            if isinstance(statement, nodes.Output):
                for part in statement.nodes:
                    yield self._room.write(_text(self.value(part, scope)))
            elif isinstance(statement, nodes.If):
                yield from self._if(statement, scope)
            elif isinstance(statement, nodes.For):
                yield from self._for(statement, scope)

    def _if(self, statement: nodes.If, scope: Mapping[str, Any]) -> Iterator[str]:
        for branch in (statement, *statement.elif_):
            if _truth(self.value(branch.test, scope)):
                yield from self.body(branch.body, scope)
                return
        yield from self.body(statement.else_, scope)

    def _for(self, statement: nodes.For, scope: Mapping[str, Any]) -> Iterator[str]:
        items = _there(self.value(statement.iter, scope))
        if not isinstance(items, list | tuple | dict):
            raise RenderError(f"`for` goes through a list, and this is {_kind(items)}", _name(statement.iter))
        self._room.step(len(items) // _STRIDE)
        target = statement.target
        assert isinstance(target, nodes.Name), "checked when it was read"  # noqa: S101 - for the type checker
        chosen = list(items)
        if statement.test is not None:
            test = statement.test
            chosen = [item for item in chosen if _truth(self.value(test, {**scope, target.name: item}))]
        for index, item in enumerate(chosen):
            self._room.step()
            loop = {"index": index + 1, "index0": index, "first": not index, "last": index + 1 == len(chosen)}
            yield from self.body(statement.body, {**scope, target.name: item, _LOOP: loop})
        if not chosen:
            yield from self.body(statement.else_, scope)

    def value(self, node: nodes.Node, scope: Mapping[str, Any]) -> Any:
        self._room.step()
        return self._VALUES[type(node)](self, node, scope)

    def _getattr(self, node: nodes.Getattr, scope: Mapping[str, Any]) -> Any:
        return _field(self.value(node.node, scope), node.attr, _name(node.node))

    def _getitem(self, node: nodes.Getitem, scope: Mapping[str, Any]) -> Any:
        return _field(self.value(node.node, scope), _there(self.value(node.arg, scope)), _name(node.node))

    def _either(self, node: nodes.And | nodes.Or, scope: Mapping[str, Any]) -> Any:
        left = self.value(node.left, scope)
        is_settled = _truth(left) == isinstance(node, nodes.Or)
        return left if is_settled else self.value(node.right, scope)

    def _conditional(self, node: nodes.CondExpr, scope: Mapping[str, Any]) -> Any:
        if _truth(self.value(node.test, scope)):
            return self.value(node.expr1, scope)
        return self.value(node.expr2, scope) if node.expr2 is not None else ""

    def _listed(self, node: nodes.List | nodes.Tuple, scope: Mapping[str, Any]) -> list[Any]:
        return [_there(self.value(item, scope)) for item in node.items]

    def _filtered(self, node: nodes.Filter, scope: Mapping[str, Any]) -> Any:
        assert node.node is not None, "checked when it was read"  # noqa: S101 - for the type checker
        value = self.value(node.node, scope)
        arguments = [_there(self.value(argument, scope)) for argument in node.args]
        if node.name == "default":
            return (arguments or [""])[0] if isinstance(value, _Missing) else value
        value = _there(value)
        if isinstance(value, str | list | dict):
            self._room.step(len(value) // _STRIDE)
        try:
            result = FILTERS[node.name](value, *arguments)
        except (TypeError, AttributeError, LookupError):
            raise RenderError(f"the filter `{node.name}` cannot be applied to {_kind(value)}", _name(node.node)) from None
        if isinstance(result, str):
            self._room.step(len(result) // _STRIDE)
        return result

    def _compared(self, node: nodes.Compare, scope: Mapping[str, Any]) -> bool:
        left = _there(self.value(node.expr, scope))
        for operand in node.ops:
            right = _there(self.value(operand.expr, scope))
            self._room.step(sum(len(one) // _STRIDE for one in (left, right) if isinstance(one, str | list | dict)))
            try:
                if not _COMPARISONS[operand.op](left, right):
                    return False
            except TypeError:
                raise RenderError(f"{_kind(left)} and {_kind(right)} cannot be compared", _name(node.expr)) from None
            left = right
        return True

    # One entry a kind of expression that `_EXPRESSIONS` lets through.
    _VALUES: ClassVar[dict[type[nodes.Node], Callable[..., Any]]] = {
        nodes.TemplateData: lambda _, node, __: node.data,
        nodes.Const: lambda _, node, __: node.value,
        nodes.Name: lambda _, node, scope: scope.get(node.name, _Missing(node.name)),
        nodes.Getattr: _getattr,
        nodes.Getitem: _getitem,
        nodes.Filter: _filtered,
        nodes.Test: lambda self, node, scope: not isinstance(self.value(node.node, scope), _Missing),
        nodes.Compare: _compared,
        nodes.And: _either,
        nodes.Or: _either,
        nodes.Not: lambda self, node, scope: not _truth(self.value(node.node, scope)),
        nodes.CondExpr: _conditional,
        nodes.List: _listed,
        nodes.Tuple: _listed,
    }


def _joined(items: Any, separator: str = "") -> str:
    texts = [_text(item) for item in items]
    if sum(map(len, texts)) + len(separator) * len(texts) > MOST_BYTES:
        raise RenderError(f"the text becomes longer than {MOST_BYTES} bytes in UTF-8")
    return separator.join(texts)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "default": lambda value, _=None: value,
    "first": lambda items: items[0],
    "join": _joined,
    "last": lambda items: items[-1],
    "length": len,
    "lower": lambda text: text.lower(),
    "tojson": _as_json,
    "trim": lambda text: text.strip(),
    "upper": lambda text: text.upper(),
}
_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": lambda one, other: one == other,
    "ne": lambda one, other: one != other,
    "lt": lambda one, other: one < other,
    "lteq": lambda one, other: one <= other,
    "gt": lambda one, other: one > other,
    "gteq": lambda one, other: one >= other,
    "in": lambda one, other: one in other,
    "notin": lambda one, other: one not in other,
}


def _there(value: Any) -> Any:
    if isinstance(value, _Missing):
        raise RenderError("it is not given, and has no default", value.path)
    return value


def _truth(value: Any) -> bool:
    return bool(_there(value))


def _field(value: Any, key: Any, path: str) -> Any:
    """What a value holds under a key; `path` names the value."""
    if isinstance(value, _Missing):
        return _there(value)
    if isinstance(value, dict) and isinstance(key, str):
        return value[key] if key in value else _Missing(f"{path}.{key}"[:_LONGEST_PATH])
    if isinstance(value, list | tuple) and isinstance(key, int):
        return value[key] if -len(value) <= key < len(value) else _Missing(f"{path}.{key}")
    raise RenderError(f"{_kind(value)} has no such field", path)


def _text(value: Any) -> str:
    value = _there(value)
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else _as_json(value)


def _name(node: nodes.Node) -> str:
    """The name of what an expression is made of, such as `user.name`; empty where it has none."""
    if isinstance(node, nodes.Getattr):
        return f"{_name(node.node)}.{node.attr}"[:_LONGEST_PATH]
    if isinstance(node, nodes.Getitem | nodes.Filter) and node.node is not None:
        return _name(node.node)
    return node.name if isinstance(node, nodes.Name) else ""


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {bool: "a truth value", str: "a text", int: "a number", float: "a number", list: "a list"}
    return kinds.get(type(value), "nothing" if value is None else "an object")
