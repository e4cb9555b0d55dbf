"""What is wrong with a form, told before any engine is asked.

Regular expressions are RE2's: its syntax is what engines share, and no pattern makes it run away.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import re2  # type: ignore[import-untyped] # a C module without types

from services.chassis.errors import invalid_field
from services.inference.form import ToolUse

if TYPE_CHECKING:
    from services.inference.form import Tool

_MAX_BYTES: Final = 1 << 20


def compiled(pattern: str) -> Any:
    """The pattern, ready to match. Raises ValueError, with the reason, for what is none or would take over 1 MiB."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        told = error.args[0]
        raise ValueError(told.decode(errors="replace") if isinstance(told, bytes) else str(told)) from error


def check_choice(field: str, tools: tuple[Tool, ...], use: ToolUse, name: str) -> None:
    """Raises INVALID_FIELD for a choice among tools that are not there, and for two tools of one name."""
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise invalid_field("tools", "two of them have the same name")
    if use is ToolUse.REQUIRED and not tools:
        raise invalid_field(field, "there are no tools to call; give some, or leave it out")
    if name and use is not ToolUse.REQUIRED:
        raise invalid_field(f"{field}.tool", "only goes with TOOL_USE_REQUIRED")
    if name and name not in names:
        raise invalid_field(f"{field}.tool", f"{name!r} is none of the tools")


def check_object(field: str, schema: str) -> None:
    """Raises INVALID_FIELD for what is not the text of a JSON object."""
    try:
        document = json.loads(schema)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise invalid_field(field, "it is not the text of a JSON object")


def check_pattern(field: str, pattern: str) -> None:
    """Raises INVALID_FIELD for what is not a regular expression, or one that engines do not know."""
    try:
        compiled(pattern)
    except ValueError as error:
        raise invalid_field(field, f"it is not a regular expression in RE2's syntax: {error}") from error
