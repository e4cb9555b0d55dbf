"""What an answer is asked with, and the events it is told in."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from services.retrieval.citations import Citation, Text
from services.retrieval.generation import Sampling
from services.retrieval.passages import DEFAULTS, SearchMode

if TYPE_CHECKING:
    from penstock.assignment import Treatment

    from services.chassis.errors import Failure
    from services.retrieval.generation import FinishReason, Usage
    from services.retrieval.grounding.groundedness import Groundedness
    from services.retrieval.intent.kinds import Intent
    from services.retrieval.passages import Hit, Options


class NothingFound(StrEnum):
    """What to do when no passage is relevant enough."""

    REFUSE = "refuse"
    WITHOUT_CONTEXT = "without_context"


class Basis(StrEnum):
    """What an answer is made from; see AnswerBasis in the protos."""

    PASSAGES = "passages"
    REFUSAL = "refusal"
    MODEL_ALONE = "model_alone"
    CONVERSATION = "conversation"


class Degradation(StrEnum):
    """What was left out because the time allowed was short."""

    RERANK_SKIPPED = "rerank_skipped"
    FEWER_PASSAGES = "fewer_passages"
    NEIGHBORS_SKIPPED = "neighbors_skipped"
    GROUNDEDNESS_BY_WORDS = "groundedness_by_words"


class CacheMode(StrEnum):
    """Whether kept results will do."""

    USE = "use"
    BYPASS = "bypass"
    REFRESH = "refresh"


@dataclass(frozen=True, slots=True)
class Question:
    """What to answer, and from what. An empty conversation keeps nothing; an empty model means `auto`.

    Attributes:
        context_tokens: Most tokens of passages in the prompt; None means the default.
        attributes: What experiments may choose by, as names and values.
        earlier: What was said before, oldest first, as questions and answers, where the caller keeps the conversation himself.
        instructions: What the model is told of its task in place of the collections' prompts; empty leaves theirs.
    """

    collections: tuple[str, ...]
    query: str
    top_k: int | None = None
    mode: SearchMode = SearchMode.HYBRID
    conversation: str = ""
    user: str = ""
    model: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    options: Options = DEFAULTS
    nothing_found: NothingFound = NothingFound.REFUSE
    context_tokens: int | None = None
    cache: CacheMode = CacheMode.USE
    attributes: tuple[tuple[str, str], ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a question in a conversation is after; `rewritten` is empty where the question was complete."""

    intent: Intent | None = None
    confidence: float = 0.0
    rewritten: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """The first event: what the answer is made from, and what was decided."""

    hits: tuple[Hit, ...]
    treatment: Treatment | None
    mode: SearchMode
    mode_note: str
    basis: Basis = Basis.PASSAGES
    degradations: tuple[Degradation, ...] = ()
    understanding: Understanding = field(default_factory=Understanding)
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event. Times are in seconds from the arrival of the question; `failure` is set when the answer was cut."""

    reason: FinishReason
    usage: Usage | None
    model: str
    engine: str
    treatment: Treatment | None
    retrieval_seconds: float
    first_token_seconds: float | None
    total_seconds: float
    conversation: str
    failure: Failure | None = None
    groundedness: Groundedness | None = None
    basis: Basis = Basis.PASSAGES
    degradations: tuple[Degradation, ...] = ()


AnswerEvent: TypeAlias = Sources | Text | Citation | Finished
