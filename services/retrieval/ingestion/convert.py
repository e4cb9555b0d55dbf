"""Between the messages about ingestions and the domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.errors.v1 import error_reason_pb2
from penstock.retrieval.v1 import ingestion_pb2

from services.retrieval.convert import of_facts, to_timestamp
from services.retrieval.ingestion.ingestions import IngestionState, Source, SourceKind
from services.retrieval.ingestion.jobs import Stage

if TYPE_CHECKING:
    from penstock.retrieval.v1 import document_pb2, ingestion_service_pb2

    from services.retrieval.ingestion.ingestions import Ingestion, ItemFailure, StageProgress

_STAGES: Final = {
    Stage.READ: ingestion_pb2.INGESTION_STAGE_READ,
    Stage.CHUNK: ingestion_pb2.INGESTION_STAGE_CHUNK,
    Stage.EMBED: ingestion_pb2.INGESTION_STAGE_EMBED,
    Stage.INDEX: ingestion_pb2.INGESTION_STAGE_INDEX,
}
_OF_STAGE: Final = {value: stage for stage, value in _STAGES.items()}
_STATES: Final = {
    IngestionState.RECEIVING: ingestion_pb2.INGESTION_STATE_RECEIVING,
    IngestionState.QUEUED: ingestion_pb2.INGESTION_STATE_QUEUED,
    IngestionState.RUNNING: ingestion_pb2.INGESTION_STATE_RUNNING,
    IngestionState.SUCCEEDED: ingestion_pb2.INGESTION_STATE_SUCCEEDED,
    IngestionState.FAILED: ingestion_pb2.INGESTION_STATE_FAILED,
    IngestionState.CANCELLED: ingestion_pb2.INGESTION_STATE_CANCELLED,
}


def of_stage(stage: ingestion_pb2.IngestionStage.ValueType) -> Stage | None:
    """The stage that an enum value names; None where it names none."""
    return _OF_STAGE.get(stage)


def of_sources(request: ingestion_service_pb2.CreateIngestionRequest) -> list[Source]:
    """What is to be brought in."""
    if request.HasField("url"):
        return [Source(SourceKind.URL, request.url.url)]
    return [_of_document(message, number) for number, message in enumerate(request.documents.documents)]


def _of_document(message: document_pb2.DocumentInput, number: int) -> Source:
    is_text = message.WhichOneof("content") == "text"
    return Source(
        kind=SourceKind.TEXT if is_text else SourceKind.FILE,
        name=message.document,
        content=message.text.encode() if is_text else message.data,
        title=message.title,
        media_type=message.media_type,
        metadata=of_facts(message.metadata, f"documents.documents[{number}].metadata"),
        ttl=message.ttl.ToTimedelta() if message.HasField("ttl") else None,
    )


def of_upload(first: ingestion_service_pb2.UploadIngestionRequest) -> Source:
    """What the first message tells of a file."""
    return Source(
        kind=SourceKind.FILE,
        name=first.name,
        media_type=first.body.content_type[:256],
        metadata=of_facts(first.metadata, "metadata"),
        ttl=first.ttl.ToTimedelta() if first.HasField("ttl") else None,
    )


def to_ingestion(ingestion: Ingestion) -> ingestion_pb2.Ingestion:
    """An ingestion as a message."""
    return ingestion_pb2.Ingestion(
        ingestion=str(ingestion.uid),
        collection=ingestion.collection,
        state=_STATES[ingestion.state],
        stages=[_to_stage(stage) for stage in ingestion.stages],
        unchanged_count=ingestion.unchanged_count,
        superseded_count=ingestion.superseded_count,
        failed_count=ingestion.failed_count,
        failures=[to_failure(failure) for failure in ingestion.failures],
        reused_chunk_count=ingestion.reused_chunk_count,
        create_time=to_timestamp(ingestion.create_time),
        start_time=to_timestamp(ingestion.start_time) if ingestion.start_time else None,
        end_time=to_timestamp(ingestion.end_time) if ingestion.end_time else None,
        heartbeat_time=to_timestamp(ingestion.heartbeat_time) if ingestion.heartbeat_time else None,
    )


def to_failure(failure: ItemFailure) -> ingestion_pb2.IngestionFailure:
    """A failure as a message."""
    return ingestion_pb2.IngestionFailure(
        name=failure.name,
        stage=_STAGES[failure.stage],
        reason=error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{failure.reason}"),
        message=failure.message,
    )


def _to_stage(stage: StageProgress) -> ingestion_pb2.StageProgress:
    return ingestion_pb2.StageProgress(
        stage=_STAGES[stage.stage],
        documents_done=stage.documents_done,
        documents_total=stage.documents_total,
        chunks_done=stage.chunks_done,
        chunks_total=stage.chunks_total,
        bytes_done=stage.bytes_done,
        bytes_total=stage.bytes_total,
        rate=stage.rate,
        complete=stage.complete,
    )
