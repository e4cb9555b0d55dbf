"""How every store words what was done, where the states of an experiment do not say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.experiments.experiments import Promotion


def promoted(promotion: Promotion) -> str:
    """A promotion began to hold."""
    return f"variant {promotion.arm.variant} promoted ({promotion.number})"


def taken_back(promotion: Promotion) -> str:
    """A promotion was reverted."""
    return f"promotion {promotion.number} of variant {promotion.arm.variant} reverted"


def holdout_set(before: float, after: float) -> str:
    """The holdout changed."""
    return f"holdout {before:g} -> {after:g}"
