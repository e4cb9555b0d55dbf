"""What the faces need of inference, whatever is wrapped around it: measuring, a cache."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from services.chassis.errors import Failure, Reason
from services.inference.answers import Gathering
from services.inference.engine import Delta
from services.inference.inference import Completed, Finished, Started

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.inference import Embedded, Event, Request


class Streams(Protocol):
    """Generates and embeds, as `Inference` does; see there."""

    def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Streams Started, deltas and running usage, and exactly one Finished. Closing it gives everything up."""

    async def embed(self, model: str, inputs: Sequence[str]) -> Embedded:
        """Embeds the inputs, all or none."""


class Serves(Streams, Protocol):
    """The same, and whole answers."""

    async def complete(self, request: Request) -> Completed:
        """Generates all of the text at once; raises Failure if it does not come to its end."""


async def completed(events: AsyncGenerator[Event, None], alternatives: int) -> Completed:
    """Takes a whole stream in, and gives what it held; raises Failure if it does not come to its end."""
    gathering = Gathering()
    started: Started | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Delta):
                gathering.add(event)
            elif isinstance(event, Started):
                started = event
            elif isinstance(event, Finished) and event.failure is None and started is not None:
                return Completed(started, gathering.answers(alternatives), event)
    raise Failure(Reason.GENERATION_FAILED, "the generation ended without saying so")
