"""What an engine is: the one protocol that every adapter keeps and one contract suite holds them to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from services.inference.form import Form, Image, TokenLogprob, ToolCall, ToolCallDelta
from services.inference.prompts.use import PromptReference  # noqa: TC001 - `workers.frames` reads the types of the fields

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(StrEnum):
    """Why generation ended well."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    TOOL_CALLS = "tool_calls"


class UsageSource(StrEnum):
    """Where a token count comes from."""

    REPORTED = "reported"
    COUNTED = "counted"
    ESTIMATED = "estimated"


class Capability(StrEnum):
    """What a model can do."""

    GENERATION = "generation"
    EMBEDDING = "embedding"
    EXTRACTION = "extraction"
    TOOLS = "tools"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    LOGPROBS = "logprobs"
    ALTERNATIVES = "alternatives"
    IMAGES = "images"
    DIMENSIONS = "dimensions"


class ModelState(StrEnum):
    """Whether a model can be used right now."""

    UNLOADED = "unloaded"
    READY = "ready"
    UNREACHABLE = "unreachable"
    LOADING = "loading"
    FAILED = "failed"


class Device(StrEnum):
    """Where a model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; the text parts of the contract's message are joined.

    Attributes:
        role: Who speaks.
        text: What is said; for TOOL what the tool gave back.
        tool_calls: Of an ASSISTANT: the calls it asked for.
        tool_call: Of a TOOL: the id of the call that `text` answers.
        images: Of a USER: what is to be read before the text.
    """

    role: Role
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call: str = ""
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage to answer from; its place in the request, from 1, is the number that `[1]` cites."""

    text: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; None leaves the engine's default, zero is a value."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """What to generate from.

    Attributes:
        model: The engine's own name of the model.
        messages: Oldest first, at least one.
        passages: What to answer from. Engines that write text get them rendered into the prompt (`prompting.grounded`);
            `extractive` chooses sentences out of them.
        sampling: How tokens are chosen.
        max_tokens: Most tokens to generate; None leaves the engine's limit.
        stop: Sequences that end the text and are left out of it.
        form: What form the answer is to take.
        prompt: The version of a prompt that the messages come from; of no interest to engines.
    """

    model: str
    messages: tuple[Message, ...]
    passages: tuple[Passage, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    form: Form = field(default_factory=Form)
    prompt: PromptReference | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Cumulative counts; None while unknown."""

    input_tokens: int | None
    output_tokens: int | None
    source: UsageSource


@dataclass(frozen=True, slots=True)
class Delta:
    """More of the answer: all text that the engine had ready, never empty but beside `tool_calls`.

    Attributes:
        text: To append.
        tokens: How many it holds, as far as the engine tells.
        alternative: Which of the answers side by side it belongs to, from 0.
        tool_calls: More of the tool calls.
        logprobs: Of the tokens of `text`, where they were asked for.
    """

    text: str
    tokens: int = 1
    alternative: int = 0
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """The last event of a generation that ended well; sent exactly once.

    Attributes:
        finish_reason: Why it ended; of the first answer where there are several.
        usage: What was used up, by all answers together.
        finish_reasons: Why each of several answers ended, in their order; empty where there is one.
    """

    finish_reason: FinishReason
    usage: Usage
    finish_reasons: tuple[FinishReason, ...] = ()


Event: TypeAlias = Delta | End


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors, one per input in their order.

    Attributes:
        vectors: Of one length each.
        input_tokens: None where the engine does not tell.
        source: Where `input_tokens` comes from.
    """

    vectors: Sequence[Sequence[float]]
    input_tokens: int | None
    source: UsageSource


@dataclass(frozen=True, slots=True)
class Residence:
    """How a loaded model lies in memory; what its engine does not tell is None or 0. Times are seconds since the epoch."""

    device: Device | None = None
    memory_bytes: int = 0
    running_requests: int = 0
    loaded: float | None = None
    last_used: float | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """Where a model's weights come from.

    Attributes:
        quantization: Such as `Q4_K_M` or `F16`; empty where unknown.
        format: `gguf` or `safetensors`; empty where unknown.
        path: Relative to MODELS_DIR; empty where they do not lie there.
        created: Seconds since the epoch; None where unknown.
        updated: As `created`.
    """

    quantization: str = ""
    format: str = ""
    path: str = ""
    created: float | None = None
    updated: float | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model of one engine, as listed. `context_tokens`, `dimensions`, `size_bytes` are 0 where unknown."""

    name: str
    engine: str
    capabilities: tuple[Capability, ...]
    state: ModelState = ModelState.READY
    context_tokens: int = 0
    dimensions: int = 0
    languages: tuple[str, ...] = ()
    size_bytes: int = 0
    description: str = ""
    fingerprint: str = ""
    residence: Residence | None = None
    files: Files | None = None


class Engine(Protocol):
    """A technology that runs models.

    All methods raise `Failure`: ENGINE_UNAVAILABLE when the engine does not answer or goes away, ENGINE_OVERLOADED (with
    `retry_after` where it says so), MODEL_NOT_FOUND, CONTEXT_TOO_LONG, ENGINE_REFUSED_CREDENTIALS, and GENERATION_FAILED when a
    stream is cut, malformed or ends without its end: a truncated text never looks complete.
    """

    @property
    def name(self) -> str:
        """The technology: `vllm`, `openai`, `ollama`, `anthropic`, `llamacpp`, `minilm`, `extractive`."""

    async def models(self) -> Sequence[Model]:
        """The models it can serve now. Cheap enough to be called every few seconds; raises ENGINE_UNAVAILABLE when gone."""

    def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """Streams deltas and then exactly one End. Closing the generator, or cancelling its task, stops the engine at once."""

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """Embeds the inputs. Raises MODEL_CAPABILITY_MISSING where the engine has no embedding models."""

    async def close(self) -> None:
        """Lets go of connections, memory and threads; unfinished generations are stopped."""
