"""Between the messages about reindexings and the domain."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from penstock.retrieval.v1 import chunking_pb2, reindexing_pb2

from services.chassis.errors import invalid_field
from services.retrieval.chunking.settings import ChunkingSettings, ChunkingStrategy
from services.retrieval.convert import to_timestamp
from services.retrieval.reindexing.reindexing import KEEP, Gate, State, Wanted

if TYPE_CHECKING:
    from datetime import datetime

    from google.protobuf import timestamp_pb2
    from penstock.retrieval.v1 import reindexing_service_pb2

    from services.retrieval.evaluation.measures import Interval
    from services.retrieval.reindexing.reindexing import Outcome, Reindexing

_STRATEGIES: Final = {
    chunking_pb2.CHUNKING_STRATEGY_UNSPECIFIED: ChunkingStrategy.AUTO,
    chunking_pb2.CHUNKING_STRATEGY_AUTO: ChunkingStrategy.AUTO,
    chunking_pb2.CHUNKING_STRATEGY_PROSE: ChunkingStrategy.PROSE,
    chunking_pb2.CHUNKING_STRATEGY_SECTIONS: ChunkingStrategy.SECTIONS,
    chunking_pb2.CHUNKING_STRATEGY_CODE: ChunkingStrategy.CODE,
    chunking_pb2.CHUNKING_STRATEGY_TABLE: ChunkingStrategy.TABLE,
}
_DEFAULT_OVERLAP: Final = ChunkingSettings().overlap_tokens


def from_chunking(message: chunking_pb2.ChunkingSettings, field: str) -> ChunkingSettings:
    """Reads how documents are cut. Raises Failure(INVALID_FIELD)."""
    target = message.target_tokens if message.HasField("target_tokens") else ChunkingSettings().target_tokens
    overlap = message.overlap_tokens if message.HasField("overlap_tokens") else min(_DEFAULT_OVERLAP, target // 2)
    try:
        return ChunkingSettings(_STRATEGIES[message.strategy], target, overlap)
    except ValueError as error:
        name, _, problem = str(error).partition(": ")
        raise invalid_field(f"{field}.{name}", problem) from error


def to_chunking(settings: ChunkingSettings) -> chunking_pb2.ChunkingSettings:
    """Writes how documents are cut."""
    return chunking_pb2.ChunkingSettings(
        strategy=chunking_pb2.ChunkingStrategy.Value(f"CHUNKING_STRATEGY_{settings.strategy.value}"),
        target_tokens=settings.target_tokens,
        overlap_tokens=settings.overlap_tokens,
    )


def from_request(request: reindexing_service_pb2.ReindexRequest) -> Wanted:
    """Reads what a new index is to be. Raises Failure(INVALID_FIELD)."""
    gate, usual = request.gate, Gate()
    return Wanted(
        embedder=request.embedder if request.HasField("embedder") else None,
        chunking=from_chunking(request.chunking, "chunking") if request.HasField("chunking") else None,
        gate=Gate(
            skip=gate.skip,
            most_loss=gate.most_loss if gate.HasField("most_loss") else usual.most_loss,
            most_queries=gate.most_queries if gate.HasField("most_queries") else usual.most_queries,
        ),
        manual=request.manual,
        keep=timedelta(seconds=request.keep.seconds) if request.HasField("keep") else KEEP,
    )


def to_reindexing(found: Reindexing) -> reindexing_pb2.Reindexing:
    """Writes a reindexing."""
    return reindexing_pb2.Reindexing(
        reindexing=str(found.uid),
        collection=found.collection,
        state=to_state(found.state),
        embedder=found.embedder.name,
        embedder_fingerprint=found.embedder.fingerprint,
        dimensions=found.embedder.dimensions,
        chunking=to_chunking(found.chunking),
        document_count=found.total,
        done_count=found.done,
        gate=None if found.outcome is None else _outcome(found.outcome),
        note=found.note,
        create_time=to_timestamp(found.create_time),
        switch_time=_moment(found.switch_time),
        end_time=_moment(found.end_time),
    )


def to_state(state: State) -> reindexing_pb2.ReindexingState.ValueType:
    """The enum value of a state."""
    return reindexing_pb2.ReindexingState.Value(f"REINDEXING_STATE_{state.value}")


def to_interval(interval: Interval) -> reindexing_pb2.Interval:
    """Writes a mean and its interval."""
    return reindexing_pb2.Interval(mean=interval.mean, low=interval.low, high=interval.high)


def _outcome(outcome: Outcome) -> reindexing_pb2.GateOutcome:
    return reindexing_pb2.GateOutcome(
        passed=outcome.passed,
        judged=outcome.judged,
        query_count=outcome.queries,
        old=to_interval(outcome.old),
        new=to_interval(outcome.new),
        difference=to_interval(outcome.difference),
    )


def _moment(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    return None if time is None else to_timestamp(time)
