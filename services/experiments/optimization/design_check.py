"""What may be wrong with a design beyond the limits in the proto. All that is wrong is said at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.assignment import RequestType

from services.chassis.errors import Failure, Reason
from services.experiments.optimization.measuring import Objective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.experiments.optimization.optimizations import Design

_UNSUPPORTED: Final = {
    "QUANTIZATION": (
        "no service here writes weights; quantize with the engine's own tools, load the result, and compare it with the "
        "original by HYPERPARAMETER_TUNING over `models`"
    ),
    "PRUNING": "none of the engines serves a pruned model faster than the whole one, so there is nothing to win",
}
_FEWEST_PROMPTS: Final = 2
_MOST_TOP_K: Final = 100


def check(design: Design, request_id: str = "") -> None:
    """Refuses what cannot be done.

    Raises:
        Failure: OPTIMIZATION_UNSUPPORTED; INVALID_FIELD.
    """
    if design.kind in _UNSUPPORTED:
        raise Failure(
            Reason.OPTIMIZATION_UNSUPPORTED,
            f"{design.kind} cannot be done: {_UNSUPPORTED[design.kind]}",
            metadata={"type": design.kind},
        )
    violations = [*_misplaced(design), *_out_of_range(design), *_unjudged(design), *_texts(design, request_id)]
    if violations:
        message = "; ".join(f"{field}: {problem}" for field, problem in violations)
        raise Failure(Reason.INVALID_FIELD, message, metadata={"field": violations[0][0]}, violations=violations)


def _misplaced(design: Design) -> Iterator[tuple[str, str]]:
    space = design.space
    if design.request_type is RequestType.ANSWER:
        if not design.collections:
            yield "optimization.collections", "must name what to answer from"
    else:
        yield from _for_answers_only(design)
    if space.is_empty:
        yield "optimization.space", "must have something to try"
    if design.kind == "PROMPT" and len(space.prompt) < _FEWEST_PROMPTS:
        yield "optimization.space.prompts", "must be at least 2 with OPTIMIZATION_TYPE_PROMPT"
    if design.kind != "PROMPT" and space.prompt:
        yield "optimization.space.prompts", "must be empty but with OPTIMIZATION_TYPE_PROMPT"


def _for_answers_only(design: Design) -> Iterator[tuple[str, str]]:
    if design.collections:
        yield "optimization.collections", "must be empty but for answers"
    for name, field in (
        ("top_k", "top_k"),
        ("fusion", "fusions"),
        ("reranker", "rerankers"),
        ("min_relevance", "min_relevance"),
    ):
        if getattr(design.space, name):
            yield f"optimization.space.{field}", "is for answers only"
    if any(case.relevant for case in design.cases):
        yield "optimization.cases", "name relevant documents, which are for answers only"


def _out_of_range(design: Design) -> Iterator[tuple[str, str]]:
    space = design.space
    if space.top_p and not 0 < space.top_p.low <= space.top_p.high <= 1:
        yield "optimization.space.top_p", "must lie above 0 and up to 1"
    if space.min_relevance and space.min_relevance.high > 1:
        yield "optimization.space.min_relevance", "must lie from 0 to 1"
    if space.top_k and space.top_k.high > _MOST_TOP_K:
        yield "optimization.space.top_k", f"must lie from 1 to {_MOST_TOP_K}"


def _unjudged(design: Design) -> Iterator[tuple[str, str]]:
    if Objective.QUALITY_SCORE in design.objectives and not all(case.is_judged for case in design.cases):
        yield "optimization.cases", "must each have a reference or relevant documents, as TARGET_METRIC_QUALITY_SCORE decides"


def _texts(design: Design, request_id: str) -> Iterator[tuple[str, str]]:
    if "\0" in request_id:
        yield "request_id", "holds the character U+0000; leave it out"
    if "\\x00" in repr(design):
        yield "optimization", "holds the character U+0000; leave it out"
