"""Runs the retrieval service: `python -m services.retrieval`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.assigner import Assigner
from penstock.retrieval.v1 import (
    answer_service_pb2_grpc,
    collection_service_pb2_grpc,
    conversation_service_pb2_grpc,
    document_service_pb2_grpc,
    evaluation_service_pb2_grpc,
    reindexing_service_pb2_grpc,
    search_service_pb2_grpc,
)

from services.chassis import telemetry
from services.chassis.channels import open_channel
from services.chassis.postgres import open_pool
from services.chassis.server import Served, run
from services.chassis.settings import read
from services.retrieval.answer_handlers import AnswerHandlers, ConversationHandlers
from services.retrieval.answers import Answers
from services.retrieval.catalog import Catalog
from services.retrieval.conversations import Conversations
from services.retrieval.documents import Library
from services.retrieval.evaluation.evaluations import Evaluations
from services.retrieval.evaluation_handlers import EvaluationHandlers
from services.retrieval.handlers import CollectionHandlers, DocumentHandlers, SearchHandlers
from services.retrieval.inference import InferenceEmbedder
from services.retrieval.inference_generation import InferenceGenerator
from services.retrieval.inference_grading import InferenceGrader
from services.retrieval.ingestion.embeddings import Embeddings
from services.retrieval.ingestion.indexer import Indexer
from services.retrieval.ingestion.pipeline import Pipeline
from services.retrieval.ingestion.upkeep import Upkeep
from services.retrieval.reindex_handlers import ReindexingHandlers
from services.retrieval.reindexing.gate import QualityGate
from services.retrieval.reindexing.mirror import Mirror
from services.retrieval.reindexing.reindexing import Reindexings
from services.retrieval.reranking import Reranker
from services.retrieval.search import Searcher
from services.retrieval.settings import RetrievalSettings
from services.retrieval.stores.postgres_checkpoints import PostgresCheckpoints
from services.retrieval.stores.postgres_collections import PostgresCollections
from services.retrieval.stores.postgres_conversations import PostgresConversations
from services.retrieval.stores.postgres_documents import PostgresDocuments
from services.retrieval.stores.postgres_embeddings import PostgresEmbeddings
from services.retrieval.stores.postgres_jobs import PostgresJobs
from services.retrieval.stores.postgres_judgments import PostgresJudgments
from services.retrieval.stores.postgres_reindexings import PostgresReindexings
from services.retrieval.stores.qdrant import QdrantStore, open_client

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from services.chassis.call import Lifecycle

_SCHEMA = "retrieval"


def main() -> None:
    """Runs until it is told to stop."""
    settings = read(RetrievalSettings, "retrieval")

    async def build(stack: AsyncExitStack, _lifecycle: Lifecycle) -> list[Served]:
        pool = await stack.enter_async_context(open_pool(settings.database_url, schema=_SCHEMA))
        inference = await open_channel(stack, settings.inference_address)
        store = QdrantStore(await open_client(stack, settings.qdrant_url))
        embedder = InferenceEmbedder(inference)

        documents = PostgresDocuments(pool)
        catalog = Catalog(PostgresCollections(pool), store, embedder)
        jobs, checkpoints, vectors = PostgresJobs(pool), PostgresCheckpoints(pool), PostgresEmbeddings(pool)
        indexer = Indexer(
            jobs,
            checkpoints,
            store,
            Pipeline(jobs, checkpoints, store, Embeddings(vectors, embedder)),
            Upkeep(jobs, checkpoints, vectors, store, keep_days=settings.embeddings_keep_days),
            wait_seconds=settings.index_wait_seconds,
        )
        await stack.enter_async_context(indexer.running())
        library = Library(catalog, documents, indexer)
        reranker = Reranker(InferenceGrader(inference))
        searcher = Searcher(catalog, documents, store, embedder, suspect_loss=indexer.suspect_loss, reranker=reranker)

        judgments, reindexed = PostgresJudgments(pool), PostgresReindexings(pool)
        mirror = Mirror(
            reindexed, jobs, catalog, store, embeddings=Embeddings(vectors, embedder), gate=QualityGate(searcher, judgments)
        )
        await stack.enter_async_context(mirror.running())
        reindexings = Reindexings(catalog, reindexed, embedder, mirror.wake)

        conversations = Conversations(PostgresConversations(pool))
        assigner = await _assigner(stack, settings)
        answers = Answers(searcher, InferenceGenerator(inference), conversations, assigner)
        stack.push_async_callback(answers.close)

        package = "penstock.retrieval.v1"
        return [
            Served(
                f"{package}.AnswerService",
                AnswerHandlers(answers),
                answer_service_pb2_grpc.add_AnswerServiceServicer_to_server,
            ),
            Served(
                f"{package}.ConversationService",
                ConversationHandlers(conversations),
                conversation_service_pb2_grpc.add_ConversationServiceServicer_to_server,
            ),
            Served(
                f"{package}.CollectionService",
                CollectionHandlers(catalog),
                collection_service_pb2_grpc.add_CollectionServiceServicer_to_server,
            ),
            Served(
                f"{package}.DocumentService",
                DocumentHandlers(library),
                document_service_pb2_grpc.add_DocumentServiceServicer_to_server,
            ),
            Served(
                f"{package}.EvaluationService",
                EvaluationHandlers(Evaluations(catalog, judgments, searcher)),
                evaluation_service_pb2_grpc.add_EvaluationServiceServicer_to_server,
            ),
            Served(
                f"{package}.ReindexingService",
                ReindexingHandlers(reindexings),
                reindexing_service_pb2_grpc.add_ReindexingServiceServicer_to_server,
            ),
            Served(
                f"{package}.SearchService",
                SearchHandlers(searcher),
                search_service_pb2_grpc.add_SearchServiceServicer_to_server,
            ),
        ]

    run("retrieval", settings, build)


async def _assigner(stack: AsyncExitStack, settings: RetrievalSettings) -> Assigner | None:
    """What evaluates experiments in this process, if there is an experiments service."""
    if not settings.experiments_address:
        return None
    channel = await open_channel(stack, settings.experiments_address)
    assigner = await stack.enter_async_context(Assigner(channel, "retrieval"))
    telemetry.watch_exposures(assigner.exposures)
    return assigner


if __name__ == "__main__":
    main()
