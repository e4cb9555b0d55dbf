"""What the faces need of inference, whatever is wrapped around it: measuring, a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from services.inference.admission import Priority

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.generation import Completed, Embedded, Event, Request


class Streams(Protocol):
    """Generates and embeds, as `Inference` does; see there."""

    def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Streams Started, deltas and running usage, and exactly one Finished. Closing it gives everything up."""

    async def embed(self, model: str, inputs: Sequence[str], priority: Priority = Priority.DEFAULT) -> Embedded:
        """Embeds the inputs, all or none."""


class Serves(Streams, Protocol):
    """The same, and whole answers."""

    async def complete(self, request: Request) -> Completed:
        """Generates all of the text at once; raises Failure if it does not come to its end."""
