"""How a request names a prompt, and how its answer tells which version it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.inference.engine import Message


@dataclass(frozen=True, slots=True)
class PromptReference:
    """Which version of which prompt was rendered."""

    name: str
    version: int


@dataclass(frozen=True, slots=True)
class PromptUse:
    """Has a request generate from a prompt.

    Attributes:
        name: The prompt's id.
        version: 0 takes the default.
        variables: By their names; plain data.
        messages: The conversation that follows what is rendered.
    """

    name: str
    version: int = 0
    variables: tuple[tuple[str, Any], ...] = ()
    messages: tuple[Message, ...] = ()
