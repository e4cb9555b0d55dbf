"""The client for asyncio; `penstock.client` holds the one for ordinary code."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, TypeVar

import grpc.aio

from penstock import requests
from penstock.connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, Connection
from penstock.errors import error_of_call
from penstock.experiments.v1 import (
    assignment_service_pb2,
    assignment_service_pb2_grpc,
    experiment_service_pb2,
    experiment_service_pb2_grpc,
    optimization_service_pb2,
    optimization_service_pb2_grpc,
    outcome_service_pb2_grpc,
    quality_pb2,
    quality_service_pb2,
    quality_service_pb2_grpc,
    result_service_pb2,
    result_service_pb2_grpc,
)
from penstock.inference.v1 import (
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    prompt_service_pb2,
    prompt_service_pb2_grpc,
    routing_service_pb2,
    routing_service_pb2_grpc,
    tokenization_service_pb2,
    tokenization_service_pb2_grpc,
)
from penstock.retrieval.v1 import (
    answer_service_pb2_grpc,
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    conversation_service_pb2,
    conversation_service_pb2_grpc,
    document_service_pb2,
    document_service_pb2_grpc,
    ingestion_service_pb2,
    ingestion_service_pb2_grpc,
    search_service_pb2_grpc,
)
from penstock.streams import AsyncEventStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from types import TracebackType
    from typing import BinaryIO

    from typing_extensions import Self, Unpack  # noqa: UP035 - the wheel serves Python 3.10 too

    from penstock.experiments.v1 import experiment_pb2, optimization_pb2, outcome_service_pb2
    from penstock.inference.v1 import generation_service_pb2, model_pb2, policy_pb2, prompt_pb2, routing_pb2, system_pb2
    from penstock.requests import (
        AnswerOptions,
        CreateModelOptions,
        DocumentLike,
        GenerateOptions,
        LoadOptions,
        MetricLike,
        OutcomeLike,
        PromptOptions,
        SearchOptions,
        VariantLike,
    )
    from penstock.retrieval.v1 import (
        answer_service_pb2,
        conversation_pb2,
        document_pb2,
        ingestion_pb2,
        search_service_pb2,
    )

# ruff: noqa: ASYNC109 - a timeout is the call's deadline, which the server sees too

Request = TypeVar("Request")
Response = TypeVar("Response")


class AsyncClient:
    """A connection to penstock. Make it in the event loop that uses it, in an `async with` block, or `aclose` it.

    Every method takes `timeout` in seconds, None for the client's own and `math.inf` for no limit, and raises a subclass of
    `penstock.PenstockError`. Calls that a second attempt cannot harm are repeated up to three times while the server is
    unavailable. Methods return the messages of `penstock.<domain>.v1`.

    Args:
        address: `host:port` or URL of the gateway, or of one service's gRPC port.
        api_key: Sent as a bearer token; empty for none.
        tls: Whether to encrypt; None means as the URL says, and where there is none, not.
        root_certificates: PEM of the authorities to trust; None means those of the system.
        timeout: Seconds that a call may take unless it says otherwise.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        api_key: str = "",
        tls: bool | None = None,
        root_certificates: bytes | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self._connection = connection = Connection.parse(
            address, api_key=api_key, tls=tls, root_certificates=root_certificates, timeout=timeout
        )
        options = connection.options()
        if connection.credentials is None:
            self.channel = grpc.aio.insecure_channel(connection.target, options=options)
        else:
            self.channel = grpc.aio.secure_channel(connection.target, connection.credentials, options=options)
        self._generation = generation_service_pb2_grpc.GenerationServiceStub(self.channel)
        self._embedding = embedding_service_pb2_grpc.EmbeddingServiceStub(self.channel)
        self._tokenization = tokenization_service_pb2_grpc.TokenizationServiceStub(self.channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self._policy = policy_service_pb2_grpc.PolicyServiceStub(self.channel)
        self._prompts = prompt_service_pb2_grpc.PromptServiceStub(self.channel)
        self._routing = routing_service_pb2_grpc.RoutingServiceStub(self.channel)
        self._collections = collection_service_pb2_grpc.CollectionServiceStub(self.channel)
        self._documents = document_service_pb2_grpc.DocumentServiceStub(self.channel)
        self._ingestions = ingestion_service_pb2_grpc.IngestionServiceStub(self.channel)
        self._search = search_service_pb2_grpc.SearchServiceStub(self.channel)
        self._answers = answer_service_pb2_grpc.AnswerServiceStub(self.channel)
        self._conversations = conversation_service_pb2_grpc.ConversationServiceStub(self.channel)
        self._experiments = experiment_service_pb2_grpc.ExperimentServiceStub(self.channel)
        self._assignments = assignment_service_pb2_grpc.AssignmentServiceStub(self.channel)
        self._outcomes = outcome_service_pb2_grpc.OutcomeServiceStub(self.channel)
        self._results = result_service_pb2_grpc.ResultServiceStub(self.channel)
        self._optimizations = optimization_service_pb2_grpc.OptimizationServiceStub(self.channel)
        self._quality = quality_service_pb2_grpc.QualityServiceStub(self.channel)

    async def aclose(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def generate(
        self, prompt: str | None = None, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> generation_service_pb2.GenerateResponse:
        """Generates text from a prompt or from `messages`. Never begun twice."""
        return await self._call(self._generation.Generate, requests.generate(prompt, options), timeout)

    def stream_generate(
        self, prompt: str | None = None, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncEventStream[generation_service_pb2.StreamGenerateResponse]:
        """Generates text as a stream of events."""
        return self._stream(self._generation.StreamGenerate, requests.stream_generate(prompt, options), timeout)

    async def embed(
        self,
        inputs: str | Iterable[str],
        *,
        model: str = "",
        dimensions: int | None = None,
        timeout: float | None = None,
    ) -> embedding_service_pb2.EmbedResponse:
        """Turns texts into vectors, all of them or none; into shorter ones where the model is trained for that."""
        request = embedding_service_pb2.EmbedRequest(inputs=requests.names(inputs), model=model, dimensions=dimensions)
        return await self._call(self._embedding.Embed, request, timeout)

    async def tokenize(
        self, text: str, *, model: str = "", timeout: float | None = None
    ) -> tokenization_service_pb2.TokenizeResponse:
        """Tells how many tokens a text is for a model."""
        request = tokenization_service_pb2.TokenizeRequest(text=text, model=model)
        return await self._call(self._tokenization.Tokenize, request, timeout)

    async def policy(self, *, timeout: float | None = None) -> policy_service_pb2.GetPolicyResponse:
        """How requests are routed: the policy in force and its revision."""
        return await self._call(self._policy.GetPolicy, policy_service_pb2.GetPolicyRequest(), timeout)

    async def update_policy(
        self, policy: policy_pb2.Policy, *, revision: str = "", timeout: float | None = None
    ) -> policy_service_pb2.UpdatePolicyResponse:
        """Replaces the whole policy; with a revision, only if it has not changed since."""
        request = policy_service_pb2.UpdatePolicyRequest(policy=policy, revision=revision)
        return await self._call(self._policy.UpdatePolicy, request, timeout)

    async def record_feedback(
        self, request_id: str, reward: float, *, is_persons: bool = True, timeout: float | None = None
    ) -> bool:
        """Tells how good the answer to a request was, 0 to 1; whether the request is known to routing."""
        request = requests.record_feedback(request_id, reward, is_persons=is_persons)
        return (await self._call(self._routing.RecordFeedback, request, timeout)).is_known

    async def routing(self, alias: str = "", *, timeout: float | None = None) -> list[routing_pb2.RoutingState]:
        """What has been learned of an alias's models, or of those of all aliases that learn."""
        request = routing_service_pb2.GetRoutingRequest(alias=alias)
        return list((await self._call(self._routing.GetRouting, request, timeout)).states)

    async def calibrate_routing(self, alias: str, *, timeout: float | None = None) -> routing_pb2.RoutingState:
        """Fits an alias to its records now."""
        request = routing_service_pb2.CalibrateRoutingRequest(alias=alias)
        return (await self._call(self._routing.CalibrateRouting, request, timeout)).state

    async def models(self, *, timeout: float | None = None) -> list[model_pb2.Model]:
        """The models of all engines in reach."""
        return list((await self._call(self._models.ListModels, model_service_pb2.ListModelsRequest(), timeout)).models)

    def load_model(
        self, model: str, *, timeout: float | None = None, **options: Unpack[LoadOptions]
    ) -> AsyncEventStream[model_service_pb2.LoadModelResponse]:
        """Brings a model into memory, as a stream of `progress` and one `finished`."""
        return self._stream(self._models.LoadModel, requests.load_model(model, options), timeout)

    async def unload_model(
        self, model: str, *, force: bool = False, timeout: float | None = None
    ) -> model_service_pb2.UnloadModelResponse:
        """Takes a model out of memory; `force` ends the requests that use it."""
        request = model_service_pb2.UnloadModelRequest(model=model, force=force)
        return await self._call(self._models.UnloadModel, request, timeout)

    def pull_model(self, model: str, *, timeout: float | None = None) -> AsyncEventStream[model_service_pb2.PullModelResponse]:
        """Fetches a model from its engine's registry, as a stream of `progress` and one `finished`."""
        return self._stream(self._models.PullModel, model_service_pb2.PullModelRequest(model=model), timeout)

    async def delete_model(
        self, model: str, *, force: bool = False, timeout: float | None = None
    ) -> model_service_pb2.DeleteModelResponse:
        """Deletes a model's files; `force` ends the requests that use it."""
        request = model_service_pb2.DeleteModelRequest(model=model, force=force)
        return await self._call(self._models.DeleteModel, request, timeout)

    def create_model(
        self, model: str, base: str, *, timeout: float | None = None, **options: Unpack[CreateModelOptions]
    ) -> AsyncEventStream[model_service_pb2.CreateModelResponse]:
        """Makes a model out of another one, as a stream of `progress` and one `finished`."""
        return self._stream(self._models.CreateModel, requests.create_model(model, base, options), timeout)

    async def optimize_memory(
        self, *, idle: float = 0.0, timeout: float | None = None
    ) -> model_service_pb2.OptimizeMemoryResponse:
        """Unloads the models of the service's own process that have been idle for so many seconds."""
        return await self._call(self._models.OptimizeMemory, requests.optimize_memory(idle), timeout)

    async def system(self, *, timeout: float | None = None) -> system_pb2.System:
        """The machine and the process of the inference service, and the loaded models."""
        return (await self._call(self._models.GetSystem, model_service_pb2.GetSystemRequest(), timeout)).system

    async def create_prompt_version(
        self,
        prompt: str,
        messages: Iterable[prompt_pb2.PromptMessage | Mapping[str, str]],
        *,
        timeout: float | None = None,
        **options: Unpack[PromptOptions],
    ) -> prompt_pb2.PromptVersion:
        """Adds a version to a prompt. Messages may be dictionaries: `{"role": "system", "template": "Hi {{ name }}"}`."""
        request = requests.create_prompt_version(prompt, messages, options)
        return (await self._call(self._prompts.CreatePromptVersion, request, timeout)).version

    async def prompts(self, *, page_size: int = 0, timeout: float | None = None) -> AsyncIterator[prompt_pb2.Prompt]:
        """All prompts by id, fetched page by page; `timeout` is that of one page."""
        request = prompt_service_pb2.ListPromptsRequest(page_size=page_size)
        while True:
            page = await self._call(self._prompts.ListPrompts, request, timeout)
            for prompt in page.prompts:
                yield prompt
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def prompt_versions(
        self, prompt: str, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[prompt_pb2.PromptVersion]:
        """All versions of a prompt, the latest first, fetched page by page; `timeout` is that of one page."""
        request = prompt_service_pb2.ListPromptVersionsRequest(prompt=prompt, page_size=page_size)
        while True:
            page = await self._call(self._prompts.ListPromptVersions, request, timeout)
            for version in page.versions:
                yield version
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_prompt(
        self, prompt: str, *, version: int = 0, timeout: float | None = None
    ) -> prompt_service_pb2.GetPromptResponse:
        """A prompt and one of its versions: the default where none is named."""
        request = prompt_service_pb2.GetPromptRequest(prompt=prompt, version=version)
        return await self._call(self._prompts.GetPrompt, request, timeout)

    async def set_default_prompt_version(self, prompt: str, version: int, *, timeout: float | None = None) -> prompt_pb2.Prompt:
        """Makes a version the default of its prompt."""
        request = prompt_service_pb2.SetDefaultPromptVersionRequest(prompt=prompt, version=version)
        return (await self._call(self._prompts.SetDefaultPromptVersion, request, timeout)).prompt

    async def render_prompt(
        self,
        prompt: str,
        variables: Mapping[str, Any] | None = None,
        *,
        version: int = 0,
        timeout: float | None = None,
    ) -> prompt_service_pb2.RenderPromptResponse:
        """Renders a version of a prompt without generating from it."""
        request = requests.render_prompt(prompt, variables, version)
        return await self._call(self._prompts.RenderPrompt, request, timeout)

    async def create_collection(
        self,
        collection: str,
        *,
        description: str = "",
        embedder: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> collection_pb2.Collection:
        """Creates an empty collection."""
        request = collection_service_pb2.CreateCollectionRequest(
            collection=collection_pb2.Collection(collection=collection, description=description, embedder=embedder),
            request_id=request_id or str(uuid.uuid4()),
        )
        return (await self._call(self._collections.CreateCollection, request, timeout)).collection

    async def get_collection(self, collection: str, *, timeout: float | None = None) -> collection_pb2.Collection:
        """Returns one collection."""
        request = collection_service_pb2.GetCollectionRequest(collection=collection)
        return (await self._call(self._collections.GetCollection, request, timeout)).collection

    async def list_collections(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[collection_pb2.Collection]:
        """All collections by id, fetched page by page; `timeout` is that of one page."""
        request = collection_service_pb2.ListCollectionsRequest(page_size=page_size)
        while True:
            page = await self._call(self._collections.ListCollections, request, timeout)
            for one in page.collections:
                yield one
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def update_collection(
        self, collection: str, *, description: str | None = None, timeout: float | None = None
    ) -> collection_pb2.Collection:
        """Changes what is not None, and returns the collection as it is then."""
        request = collection_service_pb2.UpdateCollectionRequest(collection=collection, description=description)
        return (await self._call(self._collections.UpdateCollection, request, timeout)).collection

    async def collection_stats(self, collection: str, *, timeout: float | None = None) -> collection_pb2.CollectionStats:
        """Counts what a collection holds."""
        request = collection_service_pb2.GetCollectionStatsRequest(collection=collection)
        return (await self._call(self._collections.GetCollectionStats, request, timeout)).stats

    async def delete_collection(self, collection: str, *, timeout: float | None = None) -> None:
        """Deletes a collection with all its documents, for good."""
        request = collection_service_pb2.DeleteCollectionRequest(collection=collection)
        await self._call(self._collections.DeleteCollection, request, timeout)

    async def add_documents(
        self, collection: str, documents: Iterable[DocumentLike], *, timeout: float | None = None
    ) -> list[document_pb2.Document]:
        """Adds up to 250 documents, all of them or none.

        Each is a text, a DocumentInput, or a dictionary of its fields: `document`, `title`, `text` or `data`, `media_type`,
        `metadata`.
        """
        request = requests.add_documents(collection, documents)
        return list((await self._call(self._documents.AddDocuments, request, timeout)).documents)

    async def get_document(self, collection: str, document: str, *, timeout: float | None = None) -> document_pb2.Document:
        """Returns one document with its text."""
        request = document_service_pb2.GetDocumentRequest(collection=collection, document=document)
        return (await self._call(self._documents.GetDocument, request, timeout)).document

    async def delete_document(self, collection: str, document: str, *, timeout: float | None = None) -> None:
        """Deletes one document; from then on no search finds it."""
        request = document_service_pb2.DeleteDocumentRequest(collection=collection, document=document)
        await self._call(self._documents.DeleteDocument, request, timeout)

    async def expire_documents(self, collection: str, older_than_days: float, *, timeout: float | None = None) -> int:
        """Deletes the documents that were added or changed more than so many days ago, and returns how many."""
        request = document_service_pb2.ExpireDocumentsRequest(collection=collection, older_than_days=older_than_days)
        return (await self._call(self._documents.ExpireDocuments, request, timeout)).deleted_count

    async def ingest(
        self, collection: str, documents: Iterable[DocumentLike], *, request_id: str = "", timeout: float | None = None
    ) -> ingestion_pb2.Ingestion:
        """Begins to bring in up to 250 documents in the background; those that cannot be read fail alone."""
        request = requests.create_ingestion(collection, request_id, documents=documents)
        return (await self._call(self._ingestions.CreateIngestion, request, timeout)).ingestion

    async def ingest_url(
        self, collection: str, url: str, *, request_id: str = "", timeout: float | None = None
    ) -> ingestion_pb2.Ingestion:
        """Begins to bring in what an address holds, if the server may fetch it."""
        request = requests.create_ingestion(collection, request_id, url=url)
        return (await self._call(self._ingestions.CreateIngestion, request, timeout)).ingestion

    async def upload(
        self,
        collection: str,
        file: BinaryIO,
        *,
        name: str = "",
        media_type: str = "",
        timeout: float | None = None,
    ) -> ingestion_pb2.Ingestion:
        """Uploads a file piece by piece and begins to bring in what it holds, many documents if it is an archive."""
        pieces = requests.upload_ingestion(collection, file, name, media_type)
        method: Any = self._ingestions.UploadIngestion  # a stream is called like a single message
        made: ingestion_service_pb2.UploadIngestionResponse = await self._call(method, pieces, timeout)
        return made.ingestion

    async def get_ingestion(self, ingestion: str, *, timeout: float | None = None) -> ingestion_pb2.Ingestion:
        """Returns one ingestion as it stands."""
        request = ingestion_service_pb2.GetIngestionRequest(ingestion=ingestion)
        return (await self._call(self._ingestions.GetIngestion, request, timeout)).ingestion

    def watch_ingestion(
        self, ingestion: str, *, timeout: float | None = None
    ) -> AsyncEventStream[ingestion_service_pb2.WatchIngestionResponse]:
        """Tells how an ingestion goes on, as a stream of `progress` and one `finished`."""
        request = ingestion_service_pb2.WatchIngestionRequest(ingestion=ingestion)
        return self._stream(self._ingestions.WatchIngestion, request, timeout)

    async def cancel_ingestion(self, ingestion: str, *, timeout: float | None = None) -> ingestion_pb2.Ingestion:
        """Stops an ingestion; what is searchable stays so."""
        request = ingestion_service_pb2.CancelIngestionRequest(ingestion=ingestion)
        return (await self._call(self._ingestions.CancelIngestion, request, timeout)).ingestion

    async def retry_ingestion(
        self, ingestion: str, *, stage: int | str = "unspecified", timeout: float | None = None
    ) -> ingestion_pb2.Ingestion:
        """Does again what failed in a stage ("read", "chunk", "embed", "index"), or in any, or was cancelled."""
        request = requests.retry_ingestion(ingestion, stage)
        return (await self._call(self._ingestions.RetryIngestion, request, timeout)).ingestion

    async def search(
        self,
        query: str,
        collections: str | Iterable[str],
        *,
        top_k: int | None = None,
        mode: int | str = "unspecified",
        timeout: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> search_service_pb2.SearchResponse:
        """Finds the passages that fit best. `mode` is a SearchMode or its name: "hybrid", "dense", "sparse"."""
        return await self._call(self._search.Search, requests.search(query, collections, top_k, mode, options), timeout)

    async def answer(
        self,
        query: str,
        collections: str | Iterable[str],
        *,
        timeout: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> answer_service_pb2.AnswerResponse:
        """Answers a question from documents. Never begun twice."""
        return await self._call(self._answers.Answer, requests.answer(query, collections, options), timeout)

    def stream_answer(
        self,
        query: str,
        collections: str | Iterable[str],
        *,
        timeout: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> AsyncEventStream[answer_service_pb2.StreamAnswerResponse]:
        """Answers a question as a stream of events."""
        return self._stream(self._answers.StreamAnswer, requests.stream_answer(query, collections, options), timeout)

    async def conversation(
        self, conversation: str, *, user: str = "", timeout: float | None = None
    ) -> conversation_pb2.Conversation:
        """Returns a conversation with its latest 250 turns; with `user`, only if it is that user's."""
        request = conversation_service_pb2.GetConversationRequest(conversation=conversation, user=user)
        return (await self._call(self._conversations.GetConversation, request, timeout)).conversation

    async def delete_conversation(self, conversation: str, *, user: str = "", timeout: float | None = None) -> None:
        """Deletes a conversation for good; with `user`, only if it is that user's."""
        request = conversation_service_pb2.DeleteConversationRequest(conversation=conversation, user=user)
        await self._call(self._conversations.DeleteConversation, request, timeout)

    async def create_experiment(
        self,
        experiment: str,
        *,
        variants: Iterable[VariantLike],
        unit: int | str = "user",
        metrics: Iterable[MetricLike] = (),
        hypothesis: str = "",
        request_types: Iterable[int | str] = (),
        analysis: experiment_pb2.AnalysisPlan | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> experiment_pb2.Experiment:
        """Creates an experiment in DRAFT.

        Variants are Variant messages or dictionaries: `variant`, `weight`, `model`, `prompt`, `temperature`, `top_p`,
        `max_tokens`, `top_k`. Metrics are names, Metric messages, or dictionaries with `metric` and `direction`. `unit` is
        "user", "conversation" or "request"; request types are "generate" and "answer", none for both.
        """
        request = requests.create_experiment(
            experiment,
            unit=unit,
            variants=variants,
            metrics=metrics,
            hypothesis=hypothesis,
            request_types=request_types,
            analysis=analysis,
            request_id=request_id,
        )
        return (await self._call(self._experiments.CreateExperiment, request, timeout)).experiment

    async def start_experiment(self, experiment: str, *, timeout: float | None = None) -> experiment_pb2.Experiment:
        """Lets an experiment assign."""
        request = experiment_service_pb2.StartExperimentRequest(experiment=experiment)
        return (await self._call(self._experiments.StartExperiment, request, timeout)).experiment

    async def stop_experiment(self, experiment: str, *, timeout: float | None = None) -> experiment_pb2.Experiment:
        """Ends an experiment's assigning for good."""
        request = experiment_service_pb2.StopExperimentRequest(experiment=experiment)
        return (await self._call(self._experiments.StopExperiment, request, timeout)).experiment

    async def get_experiment(self, experiment: str, *, timeout: float | None = None) -> experiment_pb2.Experiment:
        """Returns one experiment."""
        request = experiment_service_pb2.GetExperimentRequest(experiment=experiment)
        return (await self._call(self._experiments.GetExperiment, request, timeout)).experiment

    async def list_experiments(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[experiment_pb2.Experiment]:
        """All experiments, newest first, fetched page by page; `timeout` is that of one page."""
        request = experiment_service_pb2.ListExperimentsRequest(page_size=page_size)
        while True:
            page = await self._call(self._experiments.ListExperiments, request, timeout)
            for one in page.experiments:
                yield one
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def create_optimization(
        self, optimization: optimization_pb2.Optimization, *, request_id: str = "", timeout: float | None = None
    ) -> optimization_pb2.Optimization:
        """Begins a search for better settings; its winner leaves as an experiment in DRAFT."""
        request = optimization_service_pb2.CreateOptimizationRequest(optimization=optimization, request_id=request_id)
        return (await self._call(self._optimizations.CreateOptimization, request, timeout)).optimization

    async def get_optimization(self, optimization: str, *, timeout: float | None = None) -> optimization_pb2.Optimization:
        """Returns one optimization as it is now."""
        request = optimization_service_pb2.GetOptimizationRequest(optimization=optimization)
        return (await self._call(self._optimizations.GetOptimization, request, timeout)).optimization

    async def list_optimizations(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[optimization_pb2.Optimization]:
        """All optimizations, newest first, without questions and trials; `timeout` is that of one page."""
        request = optimization_service_pb2.ListOptimizationsRequest(page_size=page_size)
        while True:
            page = await self._call(self._optimizations.ListOptimizations, request, timeout)
            for one in page.optimizations:
                yield one
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch_optimization(
        self, optimization: str, *, timeout: float | None = None
    ) -> AsyncEventStream[optimization_service_pb2.WatchOptimizationResponse]:
        """Tells how an optimization goes on, as a stream of `progress` and one `finished`."""
        request = optimization_service_pb2.WatchOptimizationRequest(optimization=optimization)
        return self._stream(self._optimizations.WatchOptimization, request, timeout)

    async def cancel_optimization(self, optimization: str, *, timeout: float | None = None) -> optimization_pb2.Optimization:
        """Stops an optimization; what was measured stays."""
        request = optimization_service_pb2.CancelOptimizationRequest(optimization=optimization)
        return (await self._call(self._optimizations.CancelOptimization, request, timeout)).optimization

    async def assign(
        self,
        experiment: str,
        unit_id: str,
        attributes: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
    ) -> assignment_service_pb2.AssignResponse:
        """Assigns a unit and records the exposure: the caller is the one who executes the variant."""
        request = assignment_service_pb2.AssignRequest(experiment=experiment, unit_id=unit_id, attributes=attributes or {})
        return await self._call(self._assignments.Assign, request, timeout)

    async def record_outcomes(
        self, outcomes: Iterable[OutcomeLike], *, timeout: float | None = None
    ) -> outcome_service_pb2.RecordOutcomesResponse:
        """Records up to 1000 outcomes, all of them or none; returns once they are durable.

        Each is an Outcome or a dictionary: `assignment`, `metric`, `value`, and where known `outcome` (its idempotency key,
        made up otherwise) and `event_time` (an aware datetime).
        """
        return await self._call(self._outcomes.RecordOutcomes, requests.record_outcomes(outcomes), timeout)

    async def results(self, experiment: str, *, timeout: float | None = None) -> result_service_pb2.GetResultsResponse:
        """Counts and means per variant so far, and what their comparison with the control shows."""
        request = result_service_pb2.GetResultsRequest(experiment=experiment)
        return await self._call(self._results.GetResults, request, timeout)

    async def assess_quality(
        self,
        text: str,
        *,
        question: str = "",
        contexts: Iterable[str] = (),
        reference: str = "",
        language: str = "",
        keywords: Iterable[str] = (),
        timeout: float | None = None,
    ) -> quality_pb2.QualityAssessment:
        """Judges a text by criteria, each scored, abstained or failed by itself."""
        request = quality_service_pb2.AssessQualityRequest(
            text=text, question=question, contexts=contexts, reference=reference, language=language, keywords=keywords
        )
        return (await self._call(self._quality.AssessQuality, request, timeout)).assessment

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request, timeout: float | None
    ) -> Response:
        request_id, metadata = self._connection.metadata()
        try:
            return await method(request, timeout=self._connection.seconds(timeout), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, request_id) from error

    def _stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[Request, Response], request: Request, timeout: float | None
    ) -> AsyncEventStream[Response]:
        request_id, metadata = self._connection.metadata()
        call: Any = method(request, timeout=self._connection.seconds(timeout), metadata=metadata)
        return AsyncEventStream(call, request_id)
