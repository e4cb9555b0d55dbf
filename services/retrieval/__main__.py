"""Runs the retrieval service: `python -m services.retrieval`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from penstock.assigner import Assigner
from penstock.retrieval.v1 import (
    answer_service_pb2_grpc,
    collection_service_pb2_grpc,
    conversation_service_pb2_grpc,
    document_service_pb2_grpc,
    evaluation_service_pb2_grpc,
    ingestion_service_pb2_grpc,
    reindexing_service_pb2_grpc,
    search_service_pb2_grpc,
)

from services.chassis import telemetry
from services.chassis.cache.redis_cache import RedisCache
from services.chassis.cache.tiers import Tiers
from services.chassis.channels import open_channel
from services.chassis.postgres import open_pool
from services.chassis.server import Served, run
from services.chassis.settings import read
from services.retrieval.answer_handlers import AnswerHandlers, ConversationHandlers
from services.retrieval.answering.judging import Judge
from services.retrieval.answering.retrieving import Retriever
from services.retrieval.answers import Answers
from services.retrieval.caching.cached_embedder import CachedEmbedder
from services.retrieval.caching.cached_search import CachedSearch
from services.retrieval.caching.gauges import CacheGauges
from services.retrieval.caching.kept_answers import KeptAnswers
from services.retrieval.catalog import Catalog
from services.retrieval.chunking.rulers import Rulers
from services.retrieval.conversations import Conversations, Limits
from services.retrieval.documents import Library
from services.retrieval.evaluation.evaluations import Evaluations
from services.retrieval.evaluation_handlers import EvaluationHandlers
from services.retrieval.fetching.fetcher import Fetcher
from services.retrieval.handlers import CollectionHandlers, DocumentHandlers, SearchHandlers
from services.retrieval.inference import InferenceEmbedder
from services.retrieval.inference_generation import InferenceGenerator
from services.retrieval.inference_grading import InferenceGrader
from services.retrieval.inference_tokens import InferenceTokenizer
from services.retrieval.ingestion.embeddings import Embeddings
from services.retrieval.ingestion.handlers import IngestionHandlers
from services.retrieval.ingestion.indexer import Indexer
from services.retrieval.ingestion.ingestions import Ingestions
from services.retrieval.ingestion.intake import Intake
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
from services.retrieval.stores.postgres_conversations import PostgresConversations
from services.retrieval.stores.postgres_documents import PostgresDocuments
from services.retrieval.stores.postgres_embeddings import PostgresEmbeddings
from services.retrieval.stores.postgres_ingestions import PostgresIngestions
from services.retrieval.stores.postgres_intake import PostgresIntake
from services.retrieval.stores.postgres_jobs import PostgresJobs
from services.retrieval.stores.postgres_judgments import PostgresJudgments
from services.retrieval.stores.postgres_reindexings import PostgresReindexings
from services.retrieval.stores.postgres_states import CoalescedCollections
from services.retrieval.stores.qdrant import QdrantStore, open_client
from services.retrieval.tidying import kept_up

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from services.chassis.call import Lifecycle

_SCHEMA = "retrieval"


def main() -> None:
    """Runs until it is told to stop."""
    settings = read(RetrievalSettings, "retrieval")

    async def build(stack: AsyncExitStack, lifecycle: Lifecycle) -> list[Served]:
        pool = await stack.enter_async_context(open_pool(settings.database_url, schema=_SCHEMA))
        inference = await open_channel(stack, settings.inference_address)
        store = QdrantStore(await open_client(stack, settings.qdrant_url))
        caches = _caches(settings, stack)
        embedder = CachedEmbedder(InferenceEmbedder(inference), caches.embeddings)

        documents = PostgresDocuments(pool)
        collections = CoalescedCollections(pool)
        catalog = Catalog(collections, store, embedder)
        jobs, checkpoints, vectors = PostgresJobs(pool), PostgresCheckpoints(pool), PostgresEmbeddings(pool)
        indexer = Indexer(
            jobs,
            checkpoints,
            store,
            Pipeline(jobs, checkpoints, store, Embeddings(vectors, embedder), Rulers(InferenceTokenizer(inference))),
            Upkeep(jobs, checkpoints, vectors, store, keep_days=settings.embeddings_keep_days),
            wait_seconds=settings.index_wait_seconds,
        )
        intake = Intake(PostgresIntake(pool), Fetcher(settings.fetch_rules), indexer.wake)
        await stack.enter_async_context(indexer.running(intake.once, intake.once))
        library = Library(catalog, documents, indexer)
        ingestions = Ingestions(catalog, PostgresIngestions(pool), indexer.wake, most_bytes=settings.max_upload_bytes)
        reranker = Reranker(InferenceGrader(inference))
        searcher = Searcher(catalog, documents, store, embedder, suspect_loss=indexer.suspect_loss, reranker=reranker)

        judgments, reindexed = PostgresJudgments(pool), PostgresReindexings(pool)
        mirror = Mirror(
            reindexed, jobs, catalog, store, embeddings=Embeddings(vectors, embedder), gate=QualityGate(searcher, judgments)
        )
        await stack.enter_async_context(mirror.running())
        reindexings = Reindexings(catalog, reindexed, embedder, mirror.wake)

        cached = CachedSearch(catalog, searcher, caches.searches)
        conversations = Conversations(PostgresConversations(pool), _limits(settings))
        await stack.enter_async_context(kept_up(conversations, collections))
        answers = Answers(
            catalog=catalog,
            retriever=Retriever(cached, embedder),
            generates=InferenceGenerator(inference),
            judge=Judge(embedder),
            conversations=conversations,
            assigns=await _assigner(stack, settings),
            kept=KeptAnswers(caches.answers),
        )
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
                f"{package}.IngestionService",
                IngestionHandlers(ingestions, lifecycle.draining),
                ingestion_service_pb2_grpc.add_IngestionServiceServicer_to_server,
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
                SearchHandlers(cached),
                search_service_pb2_grpc.add_SearchServiceServicer_to_server,
            ),
        ]

    run("retrieval", settings, build)


@dataclass(frozen=True, slots=True)
class _Caches:
    """Of what is kept in memory and in Redis; None without a cache."""

    embeddings: Tiers | None
    searches: Tiers | None
    answers: Tiers | None


def _caches(settings: RetrievalSettings, stack: AsyncExitStack) -> _Caches:
    """A third of the memory each."""
    if not settings.cache_bytes:
        return _Caches(None, None, None)
    shared = None
    if settings.redis_url:
        shared = RedisCache(settings.redis_url)
        stack.push_async_callback(shared.close)
    room, seconds = settings.cache_bytes // 3, settings.cache_ttl_seconds
    caches = _Caches(
        Tiers("queries", room, seconds, shared),
        Tiers("searches", room, seconds, shared),
        Tiers("answers", room, settings.answer_cache_ttl_seconds, shared),
    )
    CacheGauges([one for one in (caches.embeddings, caches.searches, caches.answers) if one is not None])
    return caches


def _limits(settings: RetrievalSettings) -> Limits:
    return Limits(
        ttl=timedelta(days=settings.conversation_ttl_days),
        turns=settings.conversation_turns,
        turn_bytes=settings.conversation_bytes,
        user_conversations=settings.user_conversations,
        tenant_bytes=settings.tenant_conversation_bytes,
    )


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
