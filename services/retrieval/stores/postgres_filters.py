"""Filters as SQL over the column `metadata` of documents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from services.retrieval.filters import AllOf, AnyOf, Exists, NoneOf, OneOf, Range, TimeRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.retrieval.filters import Condition

# Conditions are put together from these constants and numbered parameters alone.
# ruff: noqa: S608
_OPERATORS: Final = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
# Stands for the fact, or for one of its elements, in the conditions below.
_FACT: Final = "<fact>"
_TEXT: Final = f"({_FACT} #>> '{{}}')"
_DATE: Final = r"\d{4}-\d\d-\d\d"
_CLOCK: Final = r"[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?"
_OFFSET: Final = r"([Zz]|[+-]\d\d:\d\d)"
# A time as Postgres is to read it whatever its session's zone: without an offset it is UTC. NULL where it is no time.
_MOMENT: Final = f"""CASE
    WHEN {_TEXT} ~ '^{_DATE}{_CLOCK}{_OFFSET}$' THEN {_TEXT}
    WHEN {_TEXT} ~ '^{_DATE}{_CLOCK}$' THEN {_TEXT} || '+00'
    WHEN {_TEXT} ~ '^{_DATE}$' THEN {_TEXT} || ' 00:00:00+00'
END"""


class FilterSql:
    """Builds the condition that a filter is.

    Args:
        parameters: Those of the statement so far; those of the filter are added.
    """

    def __init__(self, parameters: Sequence[object]) -> None:
        self.parameters: list[Any] = list(parameters)

    def of(self, condition: Condition) -> str:  # noqa: PLR0911 - one return a kind
        """SQL that is true or false, never NULL, for a row `d` of documents."""
        match condition:
            case AllOf(conditions):
                return "(" + " AND ".join(map(self.of, conditions)) + ")"
            case AnyOf(conditions):
                return "(" + " OR ".join(map(self.of, conditions)) + ")"
            case NoneOf(conditions):
                return "NOT (" + " OR ".join(map(self.of, conditions)) + ")"
            case Exists(key):
                return f"jsonb_exists(d.metadata, {self._add(key, 'text')})"
            case OneOf(key, values):
                wanted = self._add([json.dumps(value) for value in values], "jsonb[]")
                return self._some(key, f"{_FACT} = ANY({wanted})")
            case Range():
                bounds = self._bounds(condition, f"{_TEXT}::float8", "float8")
                return self._some(condition.key, f"CASE WHEN jsonb_typeof({_FACT}) = 'number' THEN {bounds} ELSE false END")
            case TimeRange():
                # OFFSET keeps the planner from working out the text for every mention, CASE from casting what is no time.
                bounds = self._bounds(condition, "moment::timestamptz", "timestamptz")
                return self._some(
                    condition.key,
                    f"CASE WHEN jsonb_typeof({_FACT}) = 'string' THEN ("
                    f"SELECT CASE WHEN pg_input_is_valid(moment, 'timestamptz') THEN {bounds} ELSE false END "
                    f"FROM (SELECT {_MOMENT} AS moment OFFSET 0) AS moments) ELSE false END",
                )

    def _some(self, key: str, holds: str) -> str:
        """That something holds of a fact, or of one of its elements where it is a list."""
        # Lists are told apart because few facts are, and taking one apart costs five times as much.
        value = f"(d.metadata -> {self._add(key, 'text')})"
        elements = f"EXISTS (SELECT FROM jsonb_array_elements({value}) AS fact WHERE {holds.replace(_FACT, 'fact')})"
        return (
            f"coalesce(CASE WHEN jsonb_typeof({value}) = 'array' THEN {elements} ELSE {holds.replace(_FACT, value)} END, false)"
        )

    def _bounds(self, condition: Range | TimeRange, value: str, kind: str) -> str:
        given = [(operator, getattr(condition, name)) for name, operator in _OPERATORS.items()]
        parts = [f"{value} {operator} {self._add(bound, kind)}" for operator, bound in given if bound is not None]
        return "(" + " AND ".join(parts or ["true"]) + ")"

    def _add(self, parameter: object, kind: str) -> str:
        self.parameters.append(parameter)
        return f"${len(self.parameters)}::{kind}"
