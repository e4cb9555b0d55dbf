"""Between the messages about the quality of retrieval and the domain."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from penstock.retrieval.v1 import evaluation_pb2, evaluation_service_pb2

from services.chassis.errors import invalid_field
from services.retrieval.convert import from_mode, to_timestamp
from services.retrieval.evaluation.evaluations import MOST_MADE, Way
from services.retrieval.evaluation.measures import Measure
from services.retrieval.evaluation.queries import Judged
from services.retrieval.evaluation.report import plot, table
from services.retrieval.passages import Options
from services.retrieval.reindex_convert import to_interval
from services.retrieval.search_convert import from_fusion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.retrieval.evaluation.evaluations import Calibrated, Evaluated
    from services.retrieval.evaluation.evaluator import Score


def from_queries(messages: Iterable[evaluation_pb2.JudgedQuery]) -> list[Judged]:
    """Reads judged queries. Raises Failure(INVALID_FIELD)."""
    queries = [Judged(message.query, tuple(message.relevant)) for message in messages]
    for number, one in enumerate(queries):
        if "\x00" in one.query or any("\x00" in document for document in one.relevant):
            raise invalid_field(f"queries[{number}]", "must not hold the character U+0000")
    return queries


def to_query(judged: Judged) -> evaluation_pb2.JudgedQuery:
    """Writes a judged query."""
    return evaluation_pb2.JudgedQuery(query=judged.query, relevant=judged.relevant)


def from_settings(messages: Iterable[evaluation_pb2.EvaluationSetting]) -> list[Way]:
    """Reads the settings to compare. Raises Failure(INVALID_FIELD)."""
    return [
        Way(
            name=message.name,
            collection=message.collection,
            mode=from_mode(message.mode),
            options=Options(
                fusion=from_fusion(message.fusion, f"settings[{number}].fusion") if message.HasField("fusion") else None,
                mmr_lambda=message.mmr_lambda if message.HasField("mmr_lambda") else None,
                min_relevance=message.min_relevance,
                reranker=message.reranker if message.HasField("reranker") else None,
            ),
        )
        for number, message in enumerate(messages)
    ]


def most_made(request: evaluation_service_pb2.EvaluateRetrievalRequest) -> int:
    """How many queries may be made."""
    return request.most_made if request.HasField("most_made") else MOST_MADE


def to_response(evaluated: Evaluated, collection: str) -> evaluation_service_pb2.EvaluateRetrievalResponse:
    """Writes how good settings are."""
    queries = f"{evaluated.queries} {'judged' if evaluated.judged else 'made'} queries"
    return evaluation_service_pb2.EvaluateRetrievalResponse(
        query_count=evaluated.queries,
        judged=evaluated.judged,
        scores=[_score(one) for one in evaluated.scores],
        table=table(evaluated.scores),
        plot=plot(evaluated.scores, f"{collection}: {queries}, 95 % intervals"),
    )


def to_calibration(calibrated: Calibrated) -> evaluation_pb2.Calibration:
    """Writes a calibration."""
    calibration = calibrated.calibration
    return evaluation_pb2.Calibration(
        embedder_fingerprint=calibration.fingerprint,
        query_count=calibration.queries,
        passage_count=calibration.examples,
        judged=calibration.judged,
        calibration_error=calibration.error,
        uncalibrated_error=calibrated.uncalibrated_error,
        create_time=to_timestamp(datetime.fromisoformat(calibration.time)),
    )


def _score(score: Score) -> evaluation_pb2.SettingScore:
    return evaluation_pb2.SettingScore(
        name=score.name,
        ndcg_at_10=_measurement(score, Measure.NDCG),
        recall_at_10=_measurement(score, Measure.RECALL),
        mrr_at_10=_measurement(score, Measure.MRR),
        hit_at_1=_measurement(score, Measure.HIT),
        by_words_alone_count=score.by_words_alone,
        p50_ms=score.p50_ms,
        p95_ms=score.p95_ms,
    )


def _measurement(score: Score, measure: Measure) -> evaluation_pb2.Measurement:
    difference = score.differences.get(measure)
    return evaluation_pb2.Measurement(
        value=to_interval(score.measures[measure]), difference=to_interval(difference) if difference else None
    )
