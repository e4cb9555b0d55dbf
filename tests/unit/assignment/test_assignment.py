"""The hash that decides who gets what: its published cases, and the laws it must keep."""

from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock.assignment import (
    VECTORS,
    Arm,
    AssignmentKey,
    Plan,
    RequestType,
    Unit,
    Vector,
    assignment_key,
    bounds,
    parse_assignment_key,
)
from penstock.audience import point
from penstock.experiments.v1 import experiment_pb2

ids = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", fullmatch=True)
units = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)
weights = st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=2, max_size=20)


def plan_of(weights: list[float], salt: str = "salt", experiment: str = "e1") -> Plan:
    arms = [Arm(f"v{index}", weight) for index, weight in enumerate(weights)]
    return Plan(experiment=experiment, salt=salt, hash_version=1, unit=Unit.USER, arms=arms)


@pytest.mark.parametrize("vector", VECTORS)
def test_published_vectors(vector: Vector) -> None:
    assert point(vector.salt, vector.unit_id) == vector.point
    assert bisect_right(bounds(vector.weights), vector.point) == vector.arm


def test_a_point_is_what_the_documentation_says() -> None:
    digest = hashlib.sha256("salt:user-1".encode()).hexdigest()  # noqa: UP012 - says the encoding aloud
    assert point("salt", "user-1") == int(digest[:16], 16) / 2**64


@given(st.text(st.characters(exclude_categories=["Cs"])), units)
def test_a_point_is_at_least_0_and_below_1_and_stays(salt: str, unit: str) -> None:
    assert 0 <= point(salt, unit) < 1
    assert point(salt, unit) == point(salt, unit)


@given(weights)
def test_bounds_divide_the_line(weights: list[float]) -> None:
    ends = [0.0, *bounds(weights), 1.0]
    assert all(low <= high for low, high in pairwise(ends))
    for weight, low, high in zip(weights, ends, ends[1:], strict=False):
        assert math.isclose(high - low, weight / math.fsum(weights), abs_tol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(min_value=0.05, max_value=1), min_size=2, max_size=6), st.integers(0, 2**32))
def test_weights_are_kept(weights: list[float], seed: int) -> None:
    plan = plan_of(weights, salt=f"salt-{seed}")
    n = 4000
    counts = Counter(plan.arm_of(f"user-{number}").variant for number in range(n))
    # Six standard deviations: over all arms and examples a false alarm is rarer than one in a million runs.
    for index, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(counts[f"v{index}"] - n * share) <= 6 * math.sqrt(n * share * (1 - share)) + 1


@given(weights, units)
def test_a_unit_keeps_its_variant_and_key(weights: list[float], unit: str) -> None:
    first, second = plan_of(weights).treat(unit), plan_of(list(weights)).treat(unit)
    assert first == second
    assert parse_assignment_key(first.assignment) == AssignmentKey("e1", first.variant, first.assignment.split("~")[3])


@given(st.floats(min_value=0.01, max_value=100), units)
def test_only_the_ratio_of_weights_counts(factor: float, unit: str) -> None:
    weights = [0.5, 0.25, 0.25]
    # Powers of two scale without rounding.
    exact = 2.0 ** round(math.log2(factor))
    assert plan_of(weights).arm_of(unit).variant == plan_of([weight * exact for weight in weights]).arm_of(unit).variant


def test_raising_a_weight_moves_nobody_out_of_that_variant() -> None:
    before, after = plan_of([1.0, 9.0]), plan_of([2.0, 8.0])
    early = {f"u{number}" for number in range(2000) if before.arm_of(f"u{number}").variant == "v0"}
    assert early
    assert all(after.arm_of(unit).variant == "v0" for unit in early)


def test_two_salts_are_independent() -> None:
    pairs = 10
    threshold = 27.9  # chi-square, 9 degrees of freedom, 0.1 %
    exceeded = 0
    for pair in range(pairs):
        one, other = plan_of([1, 1, 1, 1], salt=f"a{pair}"), plan_of([1, 1, 1, 1], salt=f"b{pair}")
        n = 8000
        table = Counter((one.arm_of(f"u{unit}").variant, other.arm_of(f"u{unit}").variant) for unit in range(n))
        rows = Counter[str]()
        columns = Counter[str]()
        for (row, column), count in table.items():
            rows[row] += count
            columns[column] += count
        chi = sum((table[row, column] - rows[row] * columns[column] / n) ** 2 / (rows[row] * columns[column] / n)
                  for row in rows for column in columns)  # fmt: skip
        exceeded += chi > threshold
    assert exceeded == 0


def test_points_are_uniform() -> None:
    n, cells = 20_000, 20
    counts = Counter(int(point("uniform", f"user-{number}") * cells) for number in range(n))
    chi = sum((counts[cell] - n / cells) ** 2 / (n / cells) for cell in range(cells))
    # Wilson and Hilferty's approximation of chi-square's quantile at 0.1 %.
    df = cells - 1
    assert chi < df * (1 - 2 / (9 * df) + NormalDist().inv_cdf(0.999) * math.sqrt(2 / (9 * df))) ** 3


@given(ids, ids, units)
def test_a_key_tells_experiment_and_variant_and_fits_a_url(experiment: str, variant: str, unit: str) -> None:
    key = assignment_key(experiment, variant, unit)
    assert re.fullmatch(r"[A-Za-z0-9._~-]{1,256}", key)
    parsed = parse_assignment_key(key)
    assert parsed is not None
    assert (parsed.experiment, parsed.variant) == (experiment, variant)


def test_keys_differ_by_unit_variant_and_experiment() -> None:
    keys = {assignment_key(e, v, u) for e in ("e1", "e2") for v in ("a", "b") for u in ("u1", "u2", "u1 ")}
    assert len(keys) == 12


@given(st.text(max_size=300))
def test_other_text_is_no_key(text: str) -> None:
    parsed = parse_assignment_key(text)
    assert parsed is None or text == f"1~{parsed.experiment}~{parsed.variant}~{parsed.unit_digest}"


@pytest.mark.parametrize(
    "text", ["", "1~e~v", "2~e~v~" + "a" * 22, "1~e~v~" + "a" * 23, "1~E~v~" + "a" * 22, "1~~v~" + "a" * 22]
)
def test_broken_keys_are_none(text: str) -> None:
    assert parse_assignment_key(text) is None


def test_an_unknown_hash_version_is_refused() -> None:
    with pytest.raises(ValueError, match="hash version 2"):
        Plan(experiment="e1", salt="s", hash_version=2, unit=Unit.USER, arms=[Arm("a", 1), Arm("b", 1)])


def test_request_types_have_the_numbers_of_the_proto() -> None:
    assert {f"REQUEST_TYPE_{kind.name}": kind.value for kind in RequestType} == {
        name: number for name, number in experiment_pb2.RequestType.items() if number
    }


def test_the_module_imports_neither_grpc_nor_protobuf() -> None:
    code = (
        "import sys, penstock.assignment\n"
        "loaded = {name for name in sys.modules if name.startswith(('grpc', 'google'))}\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
