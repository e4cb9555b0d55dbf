"""What each RPC asks of a key: the one table. What is not in it is open to no key."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Scope(StrEnum):
    """What a key may be good for. None includes another."""

    INFERENCE = "inference"
    RETRIEVAL_READ = "retrieval:read"
    RETRIEVAL_WRITE = "retrieval:write"
    EXPERIMENTS = "experiments"
    ADMIN = "admin"


ALL: Final = frozenset(Scope)

# An RPC stands under one scope; services by package and name, then their methods.
_TABLE: Final[Mapping[Scope, Mapping[str, str]]] = {
    Scope.INFERENCE: {
        "inference.v1.GenerationService": "Generate StreamGenerate",
        "inference.v1.EmbeddingService": "Embed",
        "inference.v1.TokenizationService": "Tokenize",
        "inference.v1.OpenAIService": "CreateChatCompletion CreateCompletion CreateEmbeddings CreateResponse ListOpenAIModels",
        "inference.v1.ModelService": "ListModels",
        "inference.v1.RoutingService": "GetRouting RecordFeedback",
        "inference.v1.PromptService": "ListPrompts GetPrompt ListPromptVersions RenderPrompt",
    },
    Scope.RETRIEVAL_READ: {
        "retrieval.v1.AnswerService": "Answer StreamAnswer",
        "retrieval.v1.SearchService": "Search",
        # Whoever may hold a conversation may have it forgotten.
        "retrieval.v1.ConversationService": "GetConversation DeleteConversation",
        "retrieval.v1.CollectionService": "ListCollections GetCollection GetCollectionStats",
        "retrieval.v1.DocumentService": "GetDocument",
        "retrieval.v1.IngestionService": "GetIngestion ListIngestions ListIngestionFailures WatchIngestion",
        "retrieval.v1.ReindexingService": "GetReindexing ListReindexings WatchReindexing",
        "retrieval.v1.EvaluationService": "GetJudgments EvaluateRetrieval",
    },
    Scope.RETRIEVAL_WRITE: {
        "retrieval.v1.CollectionService": "CreateCollection UpdateCollection DeleteCollection",
        "retrieval.v1.DocumentService": "AddDocuments DeleteDocument ExpireDocuments",
        "retrieval.v1.IngestionService": "CreateIngestion UploadIngestion CancelIngestion RetryIngestion",
        "retrieval.v1.ReindexingService": "Reindex CancelReindexing RollBackReindexing SwitchReindexing",
        "retrieval.v1.EvaluationService": "SetJudgments CalibrateCollection",
    },
    Scope.EXPERIMENTS: {
        "experiments.v1.AssignmentService": "Assign BatchAssign RecordExposures WatchConfiguration",
        "experiments.v1.OutcomeService": "RecordOutcomes StreamOutcomes",
        "experiments.v1.ResultService": "GetResults ComputePower",
        "experiments.v1.QualityService": "AssessQuality GetQualityStats",
        "experiments.v1.OptimizationService": (
            "CreateOptimization GetOptimization ListOptimizations WatchOptimization CancelOptimization"
        ),
        "experiments.v1.ExperimentService": (
            "ListExperiments CreateExperiment GetExperiment ListExperimentChanges ListChanges AdvanceExperiment "
            "ConcludeExperiment PauseExperiment PromoteExperiment StartExperiment StopExperiment GetHoldout SetHoldout "
            "ListPromotions RevertPromotion"
        ),
    },
    Scope.ADMIN: {
        "inference.v1.ModelService": "CreateModel DeleteModel LoadModel OptimizeMemory PullModel UnloadModel GetSystem",
        "inference.v1.PolicyService": "GetPolicy UpdatePolicy",
        "inference.v1.RoutingService": "CalibrateRouting",
        "inference.v1.PromptService": "CreatePromptVersion SetDefaultPromptVersion",
    },
}

SCOPES: Final[Mapping[str, Scope]] = {
    f"/penstock.{service}/{method}": scope
    for scope, services in _TABLE.items()
    for service, methods in services.items()
    for method in methods.split()
}
"""The scope that an RPC asks for, by its gRPC path."""

# Protocols beside the contract: the first for any valid key, the second in place of AssignmentService's Assign.
FOREIGN: Final[tuple[tuple[str, Scope | None], ...]] = (
    ("/grpc.reflection.", None),
    ("/grpc.health.v1.Health/", None),
    ("/flagd.evaluation.v1.Service/", Scope.EXPERIMENTS),
    ("/flagd.evaluation.v2.Service/", Scope.EXPERIMENTS),
)


def parse_scopes(text: str) -> frozenset[Scope]:
    """Scopes by their names, with commas or spaces between them; `all` for all.

    Raises:
        ValueError: A name is no scope, or there is none.
    """
    names = text.replace(",", " ").split()
    if names == ["all"]:
        return ALL
    known = ", ".join(Scope)
    if not names:
        raise ValueError(f"no scope is given; there are {known}")
    for name in names:
        if name not in ALL:
            raise ValueError(f"{name!r} is no scope; there are {known}")
    return frozenset(Scope(name) for name in names)
