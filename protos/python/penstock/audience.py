"""Who takes part in an experiment: conditions on attributes, a slice of a layer, a share of the units.

All of it is a pure function of the unit and its attributes, evaluated in any process with the same result. Each share is cut
with `point` under a salt of its own, so that it is independent of which variant a unit gets, and a share that grows keeps the
units that it had:

* the global holdout: salt `penstock/holdout`; units below the share take part in nothing;
* a layer: salt `penstock/layer/<layer>`; an experiment owns the points from `layer_start` for `layer_share`;
* a ramp: salt `<salt of the experiment>/traffic`; units below the share take part.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_BELOW_ONE: Final = math.nextafter(1.0, 0.0)
# Shares are sums of decimal fractions; a slice that ends at 1 but for rounding ends at 1.
_ROUNDING: Final = 1e-9


def point(salt: str, unit_id: str) -> float:
    """The unit's place from 0 up to, not including, 1: the first 8 bytes of SHA-256 over `salt:unit_id`, over 2^64."""
    digest = hashlib.sha256(f"{salt}:{unit_id}".encode()).digest()
    # The largest digests would round up to 1.
    return min(int.from_bytes(digest[:8], "big") / 2**64, _BELOW_ONE)


class Operator(IntEnum):
    """How an attribute is compared. The numbers are those of penstock.experiments.v1.Operator."""

    IN = 1
    NOT_IN = 2
    PRESENT = 3
    ABSENT = 4
    AT_LEAST = 5
    AT_MOST = 6
    STARTS_WITH = 7


class Exclusion(Enum):
    """Why a unit takes no part."""

    HOLDOUT = "HOLDOUT"
    TARGETING = "TARGETING"
    LAYER = "LAYER"
    TRAFFIC = "TRAFFIC"
    PAUSED = "PAUSED"


@dataclass(frozen=True)
class Condition:
    """One condition on one attribute.

    Attributes:
        attribute: Its name.
        operator: How it is compared. An attribute that is not given is in nothing, begins with nothing and compares with no
            number; only NOT_IN and ABSENT hold for it. A text that is no finite number compares with none.
        values: What it is compared with: any of them for IN and STARTS_WITH, none of them for NOT_IN, one number for AT_LEAST
            and AT_MOST, none for PRESENT and ABSENT.
    """

    attribute: str
    operator: Operator
    values: tuple[str, ...] = ()

    def holds(self, attributes: Mapping[str, str]) -> bool:
        """Whether a unit with these attributes meets it."""
        given = attributes.get(self.attribute)
        if given is None:
            return self.operator in (Operator.NOT_IN, Operator.ABSENT)
        operator, values = self.operator, self.values
        if operator in (Operator.IN, Operator.NOT_IN):
            return (given in values) is (operator is Operator.IN)
        if operator is Operator.STARTS_WITH:
            return given.startswith(values)
        if operator is Operator.AT_LEAST:
            return _number(given) >= _number(values[0])
        if operator is Operator.AT_MOST:
            return _number(given) <= _number(values[0])
        return operator is Operator.PRESENT


def _number(text: str) -> float:
    """NaN, which compares with nothing, where the text is no finite number."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


@dataclass(frozen=True)
class Audience:
    """Who takes part.

    Attributes:
        targeting: Conditions that must all hold.
        layer: Experiments of one layer share no unit; empty is the common layer, without slices.
        layer_start: Where the experiment's slice of the layer begins, 0 to 1.
        layer_share: How wide it is, above 0 to 1.
        traffic: Share of the units in the slice that take part so far, 0 to 1.
    """

    targeting: tuple[Condition, ...] = ()
    layer: str = ""
    layer_start: float = 0.0
    layer_share: float = 1.0
    traffic: float = 1.0

    def exclusion(self, salt: str, unit_id: str, attributes: Mapping[str, str]) -> Exclusion | None:
        """Why the unit takes no part in the experiment with this salt; None where it does."""
        if not all(condition.holds(attributes) for condition in self.targeting):
            return Exclusion.TARGETING
        if self.layer:
            place = point(f"penstock/layer/{self.layer}", unit_id) - self.layer_start
            end = self.layer_share if self.layer_start + self.layer_share < 1 - _ROUNDING else 1.0
            if not 0 <= place < end:
                return Exclusion.LAYER
        if self.traffic < 1 and point(f"{salt}/traffic", unit_id) >= self.traffic:
            return Exclusion.TRAFFIC
        return None


EVERYONE: Final = Audience()


def held_out(unit_id: str, share: float) -> bool:
    """Whether the unit belongs to the global holdout of this share, 0 to 1."""
    return share > 0 and point("penstock/holdout", unit_id) < share
