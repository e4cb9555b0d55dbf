"""Turns messages into what is judged, and judgements into messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.experiments.v1 import quality_pb2, quality_service_pb2

from services.experiments.quality.assessment import FORMULA_VERSION, Criterion, Subject
from services.experiments.quality.records import Grouping, Origin, Wanted

if TYPE_CHECKING:
    from services.experiments.quality.assessment import Assessment, Evidence, Judgement
    from services.experiments.quality.records import Statistic

_DAYS: Final = 30


def subject_from_proto(request: quality_service_pb2.AssessQualityRequest) -> Subject:
    """What is to be judged."""
    return Subject(
        text=request.text,
        question=request.question,
        contexts=tuple(request.contexts),
        reference=request.reference,
        language=request.language,
        keywords=tuple(request.keywords),
    )


def criteria_from_proto(request: quality_service_pb2.AssessQualityRequest) -> set[Criterion]:
    """By which criteria; empty means all."""
    return {Criterion(value) for value in request.criteria}


def assessment_to_proto(assessment: Assessment) -> quality_pb2.QualityAssessment:
    """All judgements of a text."""
    return quality_pb2.QualityAssessment(
        scores=[_score_to_proto(one) for one in assessment.judgements],
        language=assessment.language,
        formula_version=FORMULA_VERSION,
    )


def _score_to_proto(judgement: Judgement) -> quality_pb2.QualityScore:
    return quality_pb2.QualityScore(
        criterion=quality_pb2.QualityCriterion.ValueType(judgement.criterion.value),
        state=quality_pb2.QualityState.ValueType(judgement.state.value),
        score=judgement.score,
        out_of_ten=None if judgement.score is None else round(judgement.score * 10, 1),
        reason=quality_pb2.QualityReason.ValueType(judgement.reason.value),
        explanation=judgement.explanation,
        evidence=[_evidence_to_proto(one) for one in judgement.evidence],
        measures=[quality_pb2.QualityMeasure(measure=name, value=value) for name, value in judgement.measures],
        suggestions=judgement.suggestions,
    )


def _evidence_to_proto(evidence: Evidence) -> quality_pb2.QualityEvidence:
    return quality_pb2.QualityEvidence(
        finding=evidence.finding, start=evidence.start, end=evidence.end, context=evidence.context
    )


def origin_from_proto(origin: quality_pb2.QualityOrigin) -> Origin:
    """What made the text."""
    return Origin(origin.model, origin.prompt, origin.variant)


def wanted_from_proto(request: quality_service_pb2.GetQualityStatsRequest) -> Wanted:
    """Which assessments are counted."""
    return Wanted(
        days=request.days if request.HasField("days") else _DAYS,
        grouping=Grouping(request.grouping),
        model=request.model if request.HasField("model") else None,
        prompt=request.prompt if request.HasField("prompt") else None,
        variant=request.variant if request.HasField("variant") else None,
    )


def statistic_to_proto(statistic: Statistic) -> quality_pb2.QualityStatistic:
    """One criterion of one group."""
    trend = statistic.trend
    return quality_pb2.QualityStatistic(
        group=statistic.group,
        criterion=quality_pb2.QualityCriterion.ValueType(statistic.criterion.value),
        scored=statistic.scored,
        abstained=sum(day.abstained for day in statistic.days),
        failed=sum(day.failed for day in statistic.days),
        mean=statistic.mean,
        days=[
            quality_pb2.QualityDay(day=day.day.isoformat(), scored=day.scored, mean=day.total / day.scored)
            for day in statistic.days
            if day.scored
        ],
        trend=None
        if trend is None
        else quality_pb2.QualityTrend(
            slope=trend.slope, lower=trend.lower, upper=trend.upper, tau=trend.tau, p_value=trend.p_value
        ),
        trend_missing=quality_pb2.QualityTrendMissing.ValueType(statistic.missing.value),
    )
