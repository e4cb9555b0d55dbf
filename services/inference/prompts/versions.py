"""What a version of a prompt is, what makes it valid, and how it is rendered."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from enum import StrEnum
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from services.chassis.errors import Failure, Reason, invalid_field
from services.inference.engine import Message, Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.inference.prompts.templates import Template

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SPEAKERS: Final = frozenset({Role.SYSTEM, Role.USER, Role.ASSISTANT})
_MOST_TEMPLATE_BYTES: Final = 64 * 1024
_MOST_MESSAGES: Final = 64
_MOST_VARIABLES: Final = 64
# Beyond, the numbers of JSON are no whole ones any more.
_LARGEST_INTEGER: Final = 2**53


class VariableType(StrEnum):
    """What a variable may hold."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    LIST = "list"
    OBJECT = "object"


_WORDS: Final = {
    VariableType.STRING: "a text",
    VariableType.INTEGER: "a whole number of at most 53 bits",
    VariableType.NUMBER: "a number",
    VariableType.BOOLEAN: "true or false",
    VariableType.LIST: "a list",
    VariableType.OBJECT: "an object",
}


@dataclass(frozen=True, slots=True)
class Variable:
    """What one gives to render a prompt; None as `default` means that it has to be given."""

    name: str
    type: VariableType = VariableType.STRING
    default: Any = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """One message that is rendered."""

    role: Role
    template: str


@dataclass(frozen=True, slots=True)
class Content:
    """What a version says; the part of it that its author gives."""

    messages: tuple[Piece, ...]
    variables: tuple[Variable, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """One version, as it is kept. `request_id` names its creation; empty where nothing does."""

    prompt: str
    version: int
    content: Content
    created: datetime
    request_id: str = ""


def is_name(text: str) -> bool:
    """Whether a prompt may be called so: such a name is safe as that of a folder."""
    return _NAME.fullmatch(text) is not None


def checked(content: Content, *, path: str = "") -> list[Template]:
    """The templates of a version, in its order.

    Args:
        content: What the version says.
        path: What stands before the names of its fields in messages.

    Raises:
        Failure: INVALID_FIELD: a template is malformed, or names what is not declared; a variable is declared twice, or its
            default is none of its type.
    """
    if not 1 <= len(content.messages) <= _MOST_MESSAGES or len(content.variables) > _MOST_VARIABLES:
        raise invalid_field(f"{path}messages", f"there are 1 to {_MOST_MESSAGES}, and up to {_MOST_VARIABLES} variables")
    declared = _declared(content, path)
    return [_read(piece, declared, f"{path}messages[{index}]") for index, piece in enumerate(content.messages)]


def _declared(content: Content, path: str) -> set[str]:
    declared: set[str] = set()
    for index, variable in enumerate(content.variables):
        place = f"{path}variables[{index}]"
        if _VARIABLE.fullmatch(variable.name) is None or variable.name == "loop":
            raise invalid_field(f"{place}.variable", f"{variable.name[:64]!r} is no name for a variable")
        if variable.name in declared:
            raise invalid_field(f"{place}.variable", f"{variable.name!r} is declared twice")
        declared.add(variable.name)
        if variable.default is not None:
            _typed(variable, variable.default, f"{place}.default")
    return declared


def _read(piece: Piece, declared: set[str], place: str) -> Template:
    from services.inference.prompts.templates import TemplateError, parsed  # noqa: PLC0415 - Jinja is for those who have prompts

    if piece.role not in _SPEAKERS:
        raise invalid_field(f"{place}.role", "it is system, user or assistant")
    if len(piece.template.encode()) > _MOST_TEMPLATE_BYTES:
        raise invalid_field(f"{place}.template", f"it is longer than {_MOST_TEMPLATE_BYTES} bytes in UTF-8")
    try:
        template = parsed(piece.template)
    except TemplateError as error:
        raise invalid_field(f"{place}.template", str(error)) from None
    if undeclared := sorted(template.names - declared):
        raise invalid_field(f"{place}.template", f"it names {', '.join(undeclared)}, which `variables` does not declare")
    return template


def rendered(
    content: Content, templates: Sequence[Template], given: Mapping[str, Any], *, field: str = "prompt_template.variables"
) -> tuple[Message, ...]:
    """The messages that a version gives with these variables; those that come out empty are left out.

    Raises:
        Failure: INVALID_FIELD naming the variable that is missing, unknown or of another type, or saying what takes too much.
    """
    from services.inference.prompts.templates import RenderError, Room  # noqa: PLC0415 - as in `_read`

    known = {variable.name: variable for variable in content.variables}
    for name in given:
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise invalid_field(f"{field}.{name[:64]}", f"the prompt has no such variable; {takes}")
    values: dict[str, Any] = {}
    for variable in content.variables:
        value = given.get(variable.name, variable.default)
        if value is None:
            raise invalid_field(f"{field}.{variable.name}", f"it has to be given: {_WORDS[variable.type]}")
        values[variable.name] = _typed(variable, value, f"{field}.{variable.name}")
    room = Room()
    messages = []
    for piece, template in zip(content.messages, templates, strict=True):
        try:
            text = template.render(values, room).strip()
        except RenderError as error:
            raise invalid_field(f"{field}.{error.variable}" if error.variable else field, str(error)) from None
        if text:
            messages.append(Message(piece.role, text))
    return tuple(messages)


def joined(first: Sequence[Message], then: Sequence[Message]) -> tuple[Message, ...]:
    """What is rendered and then the conversation, with all system messages in front."""
    both = (*first, *then)
    system = [message for message in both if message.role is Role.SYSTEM]
    return (*system, *(message for message in both if message.role is not Role.SYSTEM))


def not_found(prompt: str, version: int = 0) -> Failure:
    """PROMPT_NOT_FOUND."""
    message = f"prompt {prompt!r}: there is no version {version}" if version else f"prompt {prompt!r}: there is none"
    facts = {"prompt": prompt, **({"version": str(version)} if version else {})}
    return Failure(Reason.PROMPT_NOT_FOUND, f"{message}; ListPrompts names all", metadata=facts)


def _typed(variable: Variable, value: Any, field: str) -> Any:
    """The value as what the variable is declared to be."""
    match variable.type:
        case VariableType.STRING:
            fits = isinstance(value, str)
        case VariableType.BOOLEAN:
            fits = isinstance(value, bool)
        case VariableType.LIST:
            fits = isinstance(value, list)
        case VariableType.OBJECT:
            fits = isinstance(value, dict)
        case _:
            fits = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if fits and variable.type is VariableType.INTEGER:
        fits = value == int(value) and abs(value) <= _LARGEST_INTEGER
    if not fits:
        raise invalid_field(field, f"it has to be {_WORDS[variable.type]}")
    return int(value) if variable.type is VariableType.INTEGER else value
