"""Between the rows of the store in PostgreSQL and the domain."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from penstock.assignment import Arm, RequestType, Unit

from services.experiments.analysis import Boundary, Correction, Direction, Evidence, Kind, Method, Metric, Moments, Plan, Role
from services.experiments.experiments import Author, Change, Design, Experiment, State
from services.experiments.store import MOST_SQUARED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncpg import Record


def evidence_of(rows: Iterable[Record]) -> Evidence:
    """What was summed up over units, by variant and metric."""
    return Evidence({(row["variant"], row["metric"]): _moments(row) for row in rows})


def _moments(row: Record) -> Moments | None:
    if max(abs(row["lowest"]), abs(row["highest"])) > MOST_SQUARED:
        return None
    return Moments(**{one.name: row[one.name] for one in fields(Moments)})


def change_of(row: Record) -> Change:
    """A noted change."""
    return Change(
        number=row["change"],
        before=None if row["before"] is None else State(row["before"]),
        after=State(row["after"]),
        time=row["change_time"],
        author=Author(row["who"], row["why"], row["request_id"]),
    )


def arm_to_json(arm: Arm) -> dict[str, Any]:
    """A variant, without the settings that it leaves as they are."""
    return {name: value for name, value in asdict(arm).items() if value is not None}


def experiment_of(row: Record) -> Experiment:
    """A stored experiment."""
    return Experiment(
        design=Design(
            experiment=row["experiment"],
            hypothesis=row["hypothesis"],
            unit=Unit(row["unit"]),
            variants=tuple(Arm(**arm) for arm in json.loads(row["variants"])),
            metrics=tuple(_metric(one) for one in json.loads(row["metrics"])),
            request_types=tuple(RequestType[name] for name in row["request_types"]),
            analysis=_plan(json.loads(row["analysis"])),
        ),
        state=State(row["state"]),
        hash_version=row["hash_version"],
        salt=row["salt"],
        create_time=row["create_time"],
        start_time=row["start_time"],
        stop_time=row["stop_time"],
    )


def _metric(written: dict[str, Any]) -> Metric:
    """What was written before metrics had kinds gets what they meant then."""
    return Metric(
        written["metric"],
        Direction(written["direction"]),
        Kind(written.get("kind", Kind.MEAN)),
        Role(written.get("role", Role.SECONDARY)),
        written.get("minimal_effect"),
    )


def _plan(written: dict[str, Any]) -> Plan:
    if not written:
        return Plan()
    return Plan(
        **{
            **written,
            "method": written["method"] and Method(written["method"]),
            "boundary": Boundary(written["boundary"]),
            "correction": Correction(written["correction"]),
        }
    )
