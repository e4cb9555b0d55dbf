"""Rooms for requests that the processes of one machine share: the same one wherever it is asked for by the same name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.inference.admission import Admission
from services.inference.workers.ledger import Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.inference.admission import Class, Priority
    from services.inference.workers.ledger import Ledger
    from services.inference.workers.seats import Seats


class Rooms:
    """Makes admissions.

    Args:
        seats: The processes; None where this one is alone.
        sharers: How many of them take part, those of the first seats.
    """

    def __init__(self, seats: Seats | None = None, sharers: int = 1) -> None:
        self._seats = seats
        self._sharers = sharers
        self._opened: dict[str, Admission] = {}

    def open(self, name: str, room: int, classes: Mapping[Priority, Class] | None = None, *, tenant_room: int = 0) -> Admission:
        """The room of this name. Raises LedgerError where other processes have it with other limits."""
        known = self._opened.get(name)
        if known is not None:
            return known
        seats = self._seats
        if seats is None:
            return Admission(room, classes, tenant_room=tenant_room)

        def opened(tenants: int, limits: str) -> Ledger:
            return seats.ledger(name, Shape(self._sharers, tenants, limits))

        admission = Admission(
            room, classes, tenant_room=tenant_room, open_ledger=opened, neighbors=_Sharers(seats, f"room {name}")
        )
        seats.listen(f"room {name}", admission.look)
        seats.on_look.append(admission.look_again)
        self._opened[name] = admission
        return admission


class _Sharers:
    """The processes that share one room."""

    def __init__(self, seats: Seats, topic: str) -> None:
        self._seats = seats
        self._topic = topic

    def lives(self, row: int) -> bool:
        return self._seats.lives(row)

    def ring(self, row: int) -> bool:
        return self._seats.ring(row, self._topic)
