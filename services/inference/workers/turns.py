"""Whose turn it is, over all processes that share a ledger. Everything here is called while `Ledger.turn` is held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from services.inference.workers.ledger import IN_USE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.inference.workers.ledger import Ledger

# Seconds after which a process that was asked to serve its first in line, and has not, is passed over until it does.
_PASSED_OVER_AFTER: Final = 0.25


class Neighbors(Protocol):
    """The other processes that share a ledger."""

    def lives(self, row: int) -> bool:
        """Whether the row's process is there."""

    def ring(self, row: int) -> bool:
        """Asks the row's process to call `Admission.look`; false where it is gone."""


class Rules(Protocol):
    """What there is to know of a class, as `admission.Class` has it."""

    @property
    def reserved(self) -> int:
        """Permits that no other class may take."""

    @property
    def patience(self) -> float:
        """Seconds of waiting after which one goes before all other classes."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Finds who is next, and asks him to go on.

    Attributes:
        ledger: What all hold.
        rules: Of the classes, the highest first, by their number in the ledger.
        room: How many permits there are.
        clock: Gives seconds.
        neighbors: The other processes; None where there are none.
    """

    ledger: Ledger
    rules: Sequence[Rules]
    room: int
    clock: Callable[[], float]
    neighbors: Neighbors | None

    def free(self) -> int:
        """Permits that nobody holds."""
        return self.room - sum([self.ledger.total(IN_USE, number) for number in range(len(self.rules))])

    def kept(self) -> int:
        """Permits that are free, but kept for a class that is not using them at the moment."""
        kept = 0
        for number, rules in enumerate(self.rules):
            kept += max(0, rules.reserved - self.ledger.total(IN_USE, number))
        return kept

    def may_take(self, number: int, free: int, kept: int) -> bool:
        """Whether there is a permit for a class, where so many are free and so many of these kept for one class or another."""
        return free > 0 and (free > kept or self.ledger.total(IN_USE, number) < self.rules[number].reserved)

    def next(self, free: int) -> tuple[int, int] | None:
        """The row and the class that are served next: who has waited longest past his patience, else the highest class."""
        now, kept = self.clock(), self.kept()
        first: tuple[int, int] | None = None
        impatient: tuple[int, int] | None = None
        oldest = now
        for number, rules in enumerate(self.rules):
            head = self.line_of(number)
            if head is None or not self.may_take(number, free, kept):
                continue
            since, row = head
            first = first or (row, number)
            if now - since >= rules.patience and (impatient is None or since < oldest):
                impatient, oldest = (row, number), since
        return impatient or first

    def line_of(self, number: int) -> tuple[float, int] | None:
        """Since when the first in the line of a class waits, and in which row; None where nobody does."""
        ledger, best = self.ledger, None
        for row in ledger.rows:
            since = ledger.head(row, number)
            if since and (best is None or since < best[0]) and not self.is_passed_over(row):
                best = since, row
        return best

    def parked_first(self, place: int) -> int | None:
        """The row where a tenant's surplus has waited longest; None where there is none."""
        ledger, best = self.ledger, None
        for row in ledger.rows:
            since = ledger.parked(row, place)
            if since and (best is None or since < best[0]) and not self.is_passed_over(row):
                best = since, row
        return None if best is None else best[1]

    def is_passed_over(self, row: int) -> bool:
        """Whether a process hears nothing at the moment, so that the others need not wait for it."""
        if row == self.ledger.mine:
            return False
        asked = self.ledger.asked(row)
        return asked > 0 and self.clock() - asked > _PASSED_OVER_AFTER

    def asks(self, row: int) -> bool:
        """Asks another process to serve its first in line; false where it is gone, and what it held is given back."""
        if not self.ledger.asked(row):
            self.ledger.ask(row, self.clock())
        if self.neighbors is not None and self.neighbors.ring(row):
            return True
        self.ledger.empty(row)
        return False

    def reap(self) -> bool:
        """Gives back what processes held that are gone; whether there was something."""
        neighbors, mine = self.neighbors, self.ledger.mine
        if neighbors is None:
            return False
        used = [row for row in self.ledger.rows if row != mine and not self.ledger.is_blank(row)]
        gone = [row for row in used if not neighbors.lives(row)]
        for row in gone:
            self.ledger.empty(row)
        return bool(gone)
