"""What the contract suite needs to know of an engine to hold it to the protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from services.inference.engine import Delta, End, Generation, Message, Passage, Role, Sampling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from services.inference.engine import Engine, Event

PASSAGES = (
    Passage("A penstock carries water from the reservoir to the turbine. It is built to bear high pressure.", "Penstocks"),
    Passage("The sluice gate at the head of a penstock controls the flow. It closes when the turbine stops."),
    Passage("Water hammer is a surge of pressure. It follows when the flow in a penstock is stopped too fast.", "Surges"),
)


@dataclass(frozen=True)
class Subject:
    """An engine under test.

    Attributes:
        engine: The engine.
        model: Its model that writes; empty where it has none.
        embedder: Its model that embeds; empty where it has none.
        absent: An engine of the same technology whose server is not there; None where there is no server.
        busy: How many generations the engine itself says it is working on; None where it cannot be asked from outside.
        notices: Seconds within which that count shows that a client is gone.
        long: Tokens to ask for where a generation has to last; they fit into the context.
        ignores_names: The server takes any model's name for its only model.
        viewer: Its model that reads images; empty where it has none.
        caller: Its model that calls tools; empty where it has none.
    """

    engine: Engine
    model: str = ""
    embedder: str = ""
    absent: Engine | None = None
    busy: Callable[[], Awaitable[int]] | None = None
    notices: float = 0.1
    long: int = 12_000
    ignores_names: bool = False
    viewer: str = ""
    caller: str = ""

    def generation(self, question: str = "What does a penstock carry?", **settings: Any) -> Generation:
        """A greedy generation of a few dozen tokens, over passages."""
        base = Generation(
            model=self.model,
            messages=(Message(Role.USER, question),),
            passages=PASSAGES,
            sampling=Sampling(temperature=0.0),
            max_tokens=24,
        )
        return replace(base, **settings)


async def collect(events: AsyncIterator[Event]) -> tuple[str, list[Delta], list[End]]:
    """All of a stream: its text, its deltas and its ends; fails if anything follows an end."""
    deltas: list[Delta] = []
    ends: list[End] = []
    async for event in events:
        assert not ends, f"{event} after the end"
        if isinstance(event, Delta):
            deltas.append(event)
        else:
            ends.append(event)
    return "".join(delta.text for delta in deltas), deltas, ends
