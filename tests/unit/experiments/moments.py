"""Moments of plain values, as a store would sum them up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.simulate import summed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.experiments.analysis import Moments


def moments(units: Sequence[Sequence[float]]) -> Moments:
    """Of units, each with the values of its outcomes."""
    return summed(np.array([sum(values) for values in units]), np.array([float(len(values)) for values in units]))


def single(values: Sequence[float]) -> Moments:
    """Of units with one outcome each."""
    return moments([[value] for value in values])
