"""Between the rows of the store in PostgreSQL and the domain."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from penstock.assignment import Arm, PromptVersion, RequestType, Unit
from penstock.audience import Condition, Operator

from services.experiments.analysis import Boundary, Correction, Direction, Evidence, Kind, Method, Metric, Moments, Plan, Role
from services.experiments.experiments import Author, Change, Conclusion, Design, Experiment, Factor, Promotion, Ramp, State
from services.experiments.store import MOST_SQUARED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncpg import Record
    from penstock.exposures import Execution


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
        after=None if row["after"] is None else State(row["after"]),
        time=row["change_time"],
        author=Author(row["who"], row["why"], row["request_id"]),
        experiment=row["experiment"] or "",
        what=row["what"],
    )


def promotion_of(row: Record) -> Promotion:
    """A stored promotion."""
    return Promotion(
        number=row["promotion"],
        experiment=row["experiment"],
        arm=arm_of(json.loads(row["variant"])),
        request_types=tuple(RequestType[name] for name in row["request_types"]),
        promote_time=row["promote_time"],
        revert_time=row["revert_time"],
    )


def audience_to_json(design: Design) -> dict[str, Any]:
    """Who takes part by design, and the factors; what is left out has its default."""
    return {
        "targeting": [[one.attribute, one.operator.name, list(one.values)] for one in design.targeting],
        "layer": design.layer,
        "layer_share": design.layer_share,
        "ramp": design.ramp and asdict(design.ramp),
        "factors": [[one.factor, [arm_to_json(level) for level in one.levels]] for one in design.factors],
    }


def execution_to_json(execution: Execution) -> str:
    """What was really executed; what is left out is as plain as it can be."""
    written = {"digest": execution.model_digest, "indexes": execution.indexes, "cached": execution.cached}
    attempts = [attempt._asdict() for attempt in execution.attempts]
    return json.dumps({name: value for name, value in {**written, "attempts": attempts}.items() if value})


def conclusion_to_json(conclusion: Conclusion | None) -> str | None:
    """What was decided."""
    if conclusion is None:
        return None
    return json.dumps({**asdict(conclusion), "time": conclusion.time.isoformat()})


def _conclusion(written: str | None) -> Conclusion | None:
    if written is None:
        return None
    found = json.loads(written)
    return Conclusion(**{**found, "time": datetime.fromisoformat(found["time"])})


def _audience(written: dict[str, Any]) -> dict[str, Any]:
    if not written:
        return {}
    ramp = written["ramp"]
    return {
        "targeting": tuple(Condition(name, Operator[how], tuple(values)) for name, how, values in written["targeting"]),
        "layer": written["layer"],
        "layer_share": written["layer_share"],
        "ramp": ramp and Ramp(tuple(ramp["stages"]), ramp["stage_seconds"]),
        "factors": tuple(Factor(name, tuple(arm_of(level) for level in levels)) for name, levels in written["factors"]),
    }


def arm_to_json(arm: Arm) -> dict[str, Any]:
    """A variant, without the settings that it leaves as they are."""
    return {name: value for name, value in asdict(arm).items() if value is not None}


def arm_of(written: dict[str, Any]) -> Arm:
    """Reads what `arm_to_json` has written."""
    version = written.get("prompt_version")
    return Arm(**{**written, "prompt_version": PromptVersion(*version) if version else None})


def experiment_of(row: Record) -> Experiment:
    """A stored experiment."""
    return Experiment(
        design=Design(
            experiment=row["experiment"],
            hypothesis=row["hypothesis"],
            unit=Unit(row["unit"]),
            variants=tuple(arm_of(arm) for arm in json.loads(row["variants"])),
            metrics=tuple(_metric(one) for one in json.loads(row["metrics"])),
            request_types=tuple(RequestType[name] for name in row["request_types"]),
            analysis=_plan(json.loads(row["analysis"])),
            **_audience(json.loads(row["audience"])),
        ),
        state=State(row["state"]),
        hash_version=row["hash_version"],
        salt=row["salt"],
        create_time=row["create_time"],
        start_time=row["start_time"],
        stop_time=row["stop_time"],
        traffic=row["traffic"],
        stage_time=row["stage_time"],
        layer_start=row["layer_start"],
        paused=tuple(row["paused"]),
        conclusion=_conclusion(row["conclusion"]),
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
