"""The inference service: `python -m services.inference`."""

from __future__ import annotations

import logging
import sys
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from penstock.assigner import Assigner
from penstock.inference.v1 import (
    embedding_service_pb2_grpc,
    generation_service_pb2_grpc,
    model_service_pb2_grpc,
    openai_service_pb2_grpc,
    policy_service_pb2_grpc,
    prompt_service_pb2_grpc,
    routing_service_pb2_grpc,
    tokenization_service_pb2_grpc,
)

from services.chassis import server, telemetry
from services.chassis.cache.tiers import Tiers
from services.chassis.channels import open_channel
from services.chassis.server import Served
from services.chassis.settings import read
from services.inference.auto.chooser import Chooser
from services.inference.auto.gauges import LearningGauges
from services.inference.auto.learning import Learning
from services.inference.auto.sqlite import SqliteRecords
from services.inference.cached_vectors import CachedVectors
from services.inference.caching import CachedInference
from services.inference.gauges import Gauges
from services.inference.generation import TimeLimits
from services.inference.handlers import EmbeddingService, GenerationService, TokenizationService
from services.inference.inference import EMBEDDING_ROOM, Inference
from services.inference.lifecycle import ModelLifecycle
from services.inference.memory import Memory
from services.inference.metrics import Figures, Metered
from services.inference.model_handlers import ModelService
from services.inference.models import Models
from services.inference.openai.handlers import OpenAIService
from services.inference.openai.retrieval import Retrieval
from services.inference.policy_file import PolicyFile
from services.inference.policy_handlers import PolicyService
from services.inference.prompt_handlers import PromptService
from services.inference.prompts.files import PromptFiles
from services.inference.resilience import Patience
from services.inference.routing import Router
from services.inference.routing_handlers import RoutingService
from services.inference.semantic.gauges import SemanticGauges
from services.inference.semantic.index import Embedder, SemanticIndex
from services.inference.settings import InferenceSettings
from services.inference.workers.engine_handlers import Lender, register
from services.inference.workers.forwarding_handlers import ForwardedModelService
from services.inference.workers.frames import SERVICE
from services.inference.workers.house import House
from services.inference.workers.ledger import LedgerError
from services.inference.workers.seats import SeatTakenError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack

    from services.chassis.call import Lifecycle
    from services.inference.engine import Engine
    from services.inference.serving import Serves

_log = logging.getLogger("services.inference")
_PACKAGE: Final = "penstock.inference.v1"


def main() -> None:
    """Builds the settings and serves."""
    settings = read(InferenceSettings, "inference")

    async def build(stack: AsyncExitStack, lifecycle: Lifecycle) -> Sequence[Served]:  # noqa: ARG001 - no stream outlives its call
        memory = await stack.enter_async_context(Memory(least=settings.min_memory, most=settings.max_memory))
        house = await stack.enter_async_context(_house(settings))
        embedded = house.borrowed or _embedded_engines(settings, memory)
        engines = [*_remote_engines(settings), *embedded, *_extractive(embedded)]
        models = await _models(settings, engines, stack)
        policy = await stack.enter_async_context(PolicyFile(settings.policy_path, changed=partial(house.tell, "policy")))
        house.listen("policy", policy.look)
        learning = Learning(SqliteRecords(settings.data_dir / "routing.db"), lambda: policy.policy)
        await stack.enter_async_context(learning)
        chooser = Chooser(learning.fitted)
        router = Router(models, policy=lambda: policy.policy, room=house.rooms.open, standing=house.standing, chooser=chooser)
        await _watch_queues(settings, router, stack)
        admission = house.rooms.open("generation", settings.max_concurrency, tenant_room=settings.tenant_concurrency)
        assigner = await _assigner(settings, stack)
        prompts = PromptFiles(settings.prompts_folder)
        inference = Inference(
            models,
            assigner,
            router=router,
            admission=admission,
            embedding=house.rooms.open("embedding", *EMBEDDING_ROOM),
            limits=TimeLimits(settings.first_token_seconds, settings.inter_token_seconds, settings.total_seconds),
            patience=Patience(total=settings.max_attempts),
            prompts=prompts,
            record=learning.record,
        )
        answers, vectors = _caches(settings, stack)
        cached_vectors = CachedVectors(inference, models, vectors)
        semantic = _semantic(settings, cached_vectors)
        cached = CachedInference(
            inference,
            cached_vectors,
            plan=inference.plan,
            shape=inference.shape,
            assigner=assigner,
            tiers=answers,
            semantic=semantic,
        )
        figures = _figures(models, memory)
        admission.waited = figures.waited
        Gauges(None if house.borrowed else models, router, admission, (answers, vectors))
        LearningGauges(learning)
        model_service: model_service_pb2_grpc.ModelServiceServicer
        model_service = local = ModelService(models, ModelLifecycle(models, engines, memory), memory)
        if house.channel is not None:
            house.listen("models", models.look)
            model_service = ForwardedModelService(local, models, house.borrowed, house.channel, partial(house.tell, "models"))
        metered = Metered(cached if settings.cache_bytes else inference, figures)
        served = _served(metered, models, model_service, await _collections(settings, stack))
        return [
            *served,
            Served(
                f"{_PACKAGE}.PolicyService", PolicyService(policy), policy_service_pb2_grpc.add_PolicyServiceServicer_to_server
            ),
            Served(
                f"{_PACKAGE}.RoutingService",
                RoutingService(learning),
                routing_service_pb2_grpc.add_RoutingServiceServicer_to_server,
            ),
            Served(
                f"{_PACKAGE}.PromptService", PromptService(prompts), prompt_service_pb2_grpc.add_PromptServiceServicer_to_server
            ),
        ]

    try:
        server.run("inference", settings, build if settings.worker else partial(_lender, settings))
    except (SeatTakenError, LedgerError) as error:
        sys.exit(f"inference: {error}")


async def _lender(settings: InferenceSettings, stack: AsyncExitStack, lifecycle: Lifecycle) -> Sequence[Served]:  # noqa: ARG001 - as above
    """The process that runs the embedded engines for several workers, and manages the models of all engines for them."""
    memory = await stack.enter_async_context(Memory(least=settings.min_memory, most=settings.max_memory))
    embedded = _embedded_engines(settings, memory)
    engines = [*_remote_engines(settings), *embedded]
    models = await _models(settings, engines, stack)
    _figures(models, memory)
    Gauges(models)
    lender = Lender({engine.name: engine for engine in embedded})
    return [
        _model_service(ModelService(models, ModelLifecycle(models, engines, memory), memory)),
        Served(SERVICE, lender, register),
    ]


def _house(settings: InferenceSettings) -> House:
    vllm = bool(settings.vllm_model) and find_spec("vllm") is not None
    return House(settings.data_dir / "workers", settings.worker, settings.workers, settings.engines_address, vllm)


async def _models(settings: InferenceSettings, engines: Sequence[Engine], stack: AsyncExitStack) -> Models:
    for engine in engines:
        stack.push_async_callback(engine.close)
    models = Models(
        engines,
        auto_model=settings.auto_model,
        auto_embedding_model=settings.auto_embedding_model,
        probe_seconds=settings.probe_seconds,
    )
    return await stack.enter_async_context(models)


def _figures(models: Models, memory: Memory) -> Figures:
    figures = Figures(lambda: (one.model.name for one in models.listed()))
    memory.observe = partial(figures.loaded, "llamacpp")
    return figures


def _model_service(service: model_service_pb2_grpc.ModelServiceServicer) -> Served:
    return Served(f"{_PACKAGE}.ModelService", service, model_service_pb2_grpc.add_ModelServiceServicer_to_server)


async def _collections(settings: InferenceSettings, stack: AsyncExitStack) -> Retrieval | None:
    """Who answers for models named after collections; the channel connects with the first of them."""
    return Retrieval(await open_channel(stack, settings.retrieval_address)) if settings.retrieval_address else None


def _served(
    inference: Serves,
    models: Models,
    model_service: model_service_pb2_grpc.ModelServiceServicer,
    collections: Retrieval | None,
) -> list[Served]:
    return [
        Served(
            f"{_PACKAGE}.GenerationService",
            GenerationService(inference),
            generation_service_pb2_grpc.add_GenerationServiceServicer_to_server,
        ),
        Served(
            f"{_PACKAGE}.EmbeddingService",
            EmbeddingService(inference, models),
            embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server,
        ),
        Served(
            f"{_PACKAGE}.TokenizationService",
            TokenizationService(models),
            tokenization_service_pb2_grpc.add_TokenizationServiceServicer_to_server,
        ),
        _model_service(model_service),
        Served(
            f"{_PACKAGE}.OpenAIService",
            OpenAIService(inference, models, collections),
            openai_service_pb2_grpc.add_OpenAIServiceServicer_to_server,
        ),
    ]


def _caches(settings: InferenceSettings, stack: AsyncExitStack) -> tuple[Tiers, Tiers]:
    """Of answers, and of vectors; half of the memory each."""
    shared = None
    if settings.redis_url and settings.cache_bytes:
        from services.chassis.cache.redis_cache import RedisCache  # noqa: PLC0415 - takes memory that others need not pay

        shared = RedisCache(settings.redis_url)
        stack.push_async_callback(shared.close)
    room, seconds = settings.cache_bytes // 2, settings.cache_ttl_seconds
    return Tiers("responses", room, seconds, shared), Tiers("embeddings", room, seconds, shared)


def _semantic(settings: InferenceSettings, vectors: CachedVectors) -> SemanticIndex | None:
    if not (settings.semantic_cache_threshold and settings.cache_bytes):
        return None
    embedder = Embedder(settings.semantic_cache_model, settings.semantic_cache_fingerprint, settings.semantic_cache_threshold)
    index = SemanticIndex(vectors, embedder, settings.semantic_cache_bytes)
    SemanticGauges(index)
    return index


async def _assigner(settings: InferenceSettings, stack: AsyncExitStack) -> Assigner | None:
    if not settings.experiments_address:
        return None
    channel = await open_channel(stack, settings.experiments_address)
    assigner = await stack.enter_async_context(Assigner(channel, "inference"))
    telemetry.watch_exposures(assigner.exposures)
    return assigner


def _remote_engines(settings: InferenceSettings) -> list[Engine]:
    """Engines behind HTTP, in the order in which `auto` prefers them."""
    anthropic_key = settings.anthropic_api_key.get_secret_value()
    if not (settings.vllm_base_url or settings.openai_base_url or settings.ollama_base_url or anthropic_key):
        return []
    # A suite without such engines need not pay for their client.
    from services.inference.engines.anthropic import AnthropicEngine  # noqa: PLC0415 - brings the HTTP client
    from services.inference.engines.ollama import OllamaEngine  # noqa: PLC0415 - brings the HTTP client
    from services.inference.engines.openai import OpenAIEngine  # noqa: PLC0415 - brings the HTTP client
    from services.inference.engines.remote import Limits  # noqa: PLC0415 - brings the HTTP client
    from services.inference.engines.vllm import VllmEngine  # noqa: PLC0415 - brings the HTTP client

    limits = Limits(settings.connect_seconds, settings.first_token_seconds, settings.inter_token_seconds)
    embedders, viewers = _names(settings.embedding_models), _names(settings.image_models)
    engines: list[Engine] = []
    for url, key, engine in (
        (settings.vllm_base_url, settings.vllm_api_key, VllmEngine),
        (settings.openai_base_url, settings.openai_api_key, OpenAIEngine),
    ):
        engines += [
            engine(one, api_key=key.get_secret_value(), embedding_models=embedders, image_models=viewers, limits=limits)
            for one in _urls(url)
        ]
    engines += [
        OllamaEngine(one, limits=limits, keep_alive=settings.ollama_keep_alive) for one in _urls(settings.ollama_base_url)
    ]
    if anthropic_key:
        engines.append(AnthropicEngine(settings.anthropic_base_url, api_key=anthropic_key, limits=limits))
    return engines


async def _watch_queues(settings: InferenceSettings, router: Router, stack: AsyncExitStack) -> None:
    """Has the router, and Prometheus, know how many requests wait at each vLLM server and how full its KV cache is."""
    urls = _urls(settings.vllm_base_url)
    if urls:
        from services.inference.engines.remote import Limits  # noqa: PLC0415 - as in `_remote_engines`
        from services.inference.engines.vllm_queue import VllmGauges, VllmQueues  # noqa: PLC0415 - brings the HTTP client

        # vLLM's servers are the first of the engines.
        servers = zip(router.models.engines, urls, strict=False)
        queues = await stack.enter_async_context(VllmQueues(servers, Limits(settings.connect_seconds)))
        router.waiting = queues.waiting
        VllmGauges(queues)


def _names(given: str) -> set[str]:
    return {name.strip() for name in given.split(",")} - {""}


def _urls(given: str) -> list[str]:
    return [url.strip() for url in given.split(",") if url.strip()]


def _vllm_in_process(settings: InferenceSettings) -> list[Engine]:
    if not settings.vllm_model:
        return []
    if find_spec("vllm") is None:
        _log.warning("VLLM_MODEL is left out: vllm is not installed; docs/how-to/run-vllm-in-process.md says how")
        return []
    from services.inference.engines.async_llm import AsyncLlmEngine, Options  # noqa: PLC0415 - brings vllm

    options = Options(
        settings.vllm_model,
        settings.vllm_served_name,
        settings.vllm_max_model_len,
        settings.vllm_gpu_memory_utilization,
        settings.vllm_tensor_parallel_size,
        settings.vllm_quantization,
        dict(settings.vllm_options),
    )
    engine = AsyncLlmEngine(options)
    engine.start_loading()
    return [engine]


def _embedded_engines(settings: InferenceSettings, memory: Memory) -> list[Engine]:
    """Engines in this process that load models. One whose package is not installed is left out, and the log says so."""
    engines: list[Engine] = _vllm_in_process(settings)
    try:
        from services.inference.engines.llamacpp import LlamaCppEngine  # noqa: PLC0415 - its package may be missing

        converted = settings.data_dir / "converted"
        engines.append(LlamaCppEngine(settings.gguf_folder, converted_dir=converted, memory=memory))
    except ImportError as error:
        _log.warning("engine llamacpp is left out: %s is not installed", error.name)
    try:
        from services.inference.engines.minilm import MiniLMEngine  # noqa: PLC0415 - as above

        minilm = MiniLMEngine()
        minilm.start_loading()
        engines.append(minilm)
    except ImportError as error:
        _log.warning("engine minilm is left out: %s is not installed", error.name)
    return engines


def _extractive(embedded: Sequence[Engine]) -> list[Engine]:
    """The engine that needs no model, and embeds with another one where that is there."""
    try:
        from services.inference.engines.extractive import ExtractiveEngine  # noqa: PLC0415 - as above
    except ImportError as error:
        _log.warning("engine extractive is left out: %s is not installed", error.name)
        return []
    return [ExtractiveEngine(next((engine for engine in embedded if engine.name == "minilm"), None))]


if __name__ == "__main__":
    main()
