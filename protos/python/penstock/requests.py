"""Builds request messages out of plain Python values: strings, numbers, dictionaries.

Whatever a message type does not know raises ValueError or TypeError here; limits are the server's to check.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from google.api import httpbody_pb2
from google.protobuf import json_format, struct_pb2, timestamp_pb2

from penstock.experiments.v1 import experiment_pb2, experiment_service_pb2, outcome_pb2, outcome_service_pb2
from penstock.inference.v1 import (
    generation_pb2,
    generation_service_pb2,
    model_pb2,
    model_service_pb2,
    prompt_pb2,
    prompt_service_pb2,
    routing_service_pb2,
)
from penstock.retrieval.v1 import (
    answer_pb2,
    answer_service_pb2,
    document_pb2,
    document_service_pb2,
    ingestion_pb2,
    ingestion_service_pb2,
    search_pb2,
    search_service_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO, TypeAlias

    from penstock.experiments.v1 import assignment_pb2
    from penstock.inference.v1 import form_pb2

    MessageInput: TypeAlias = "generation_pb2.Message | Mapping[str, str]"
    DocumentLike: TypeAlias = "document_pb2.DocumentInput | Mapping[str, Any] | str"
    VariantLike: TypeAlias = "experiment_pb2.Variant | Mapping[str, Any]"
    MetricLike: TypeAlias = "experiment_pb2.Metric | Mapping[str, Any] | str"
    OutcomeLike: TypeAlias = "outcome_pb2.Outcome | Mapping[str, Any]"

_PIECE_BYTES = 256 * 1024
_SAMPLING = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")
_SAMPLING_OVERRIDE = ("temperature", "top_p", "max_tokens")


class GenerateOptions(TypedDict, total=False):
    """Options of `generate` and `stream_generate`; see GenerateRequest for what they mean and their limits.

    `messages` are Message messages, or dictionaries such as `{"role": "user", "content": "Hello"}`. `passages` are Passage
    messages or strings. `priority` is a Priority or its name: "system", "interactive", "default", "bulk". `cache` is a
    CacheMode or its name: "use", "bypass", "refresh", "exact". `prompt_template` is a PromptTemplate, or a dictionary such as
    `{"name": "support", "variables": {"question": "Why?"}}`.
    """

    messages: Iterable[MessageInput]
    model: str
    priority: int | str
    passages: Iterable[generation_pb2.Passage | str]
    max_tokens: int
    stop: Iterable[str]
    user: str
    conversation: str
    assignment: assignment_pb2.Assignment
    temperature: float
    top_p: float
    top_k: int
    seed: int
    presence_penalty: float
    frequency_penalty: float
    tools: Iterable[form_pb2.Tool]
    tool_choice: form_pb2.ToolChoice
    output: form_pb2.Output
    top_logprobs: int
    alternatives: int
    session: str
    cache: int | str
    prompt_template: prompt_pb2.PromptTemplate | Mapping[str, Any]


class PassageOptions(TypedDict, total=False):
    """Options of whatever finds passages; see SearchRequest for what they mean and their limits.

    `filter` and `fusion` are messages or dictionaries of the same shape as in JSON, such as
    `{"range": {"key": "year", "gte": 2020}}` and `{"weighted": {"dense": 0.7, "sparse": 0.3}}`.
    """

    filter: search_pb2.Filter | Mapping[str, Any]
    fusion: search_pb2.Fusion | Mapping[str, Any]
    mmr_lambda: float
    min_relevance: float
    neighbors: int


class SearchOptions(PassageOptions, total=False):
    """Options of `search`; see SearchRequest. `cache` is a CacheMode or its name: "use", "bypass", "refresh"."""

    explain: bool
    cache: int | str


class AnswerOptions(PassageOptions, total=False):
    """Options of `answer` and `stream_answer`; see AnswerRequest for what they mean and their limits.

    `mode` is a SearchMode or its name: "hybrid", "dense", "sparse". `sampling` says how tokens are chosen. `nothing_found` is a
    NothingFoundPolicy or its name: "refuse", "answer_without_context". `cache` is a CacheMode or its name: "use", "bypass",
    "refresh".
    """

    top_k: int
    mode: int | str
    nothing_found: int | str
    context_tokens: int
    cache: int | str
    attributes: Mapping[str, str]
    conversation: str
    user: str
    model: str
    sampling: generation_pb2.Sampling
    max_tokens: int


class LoadOptions(TypedDict, total=False):
    """Options of `load_model`; see LoadModelRequest for what they mean.

    `device` is a Device or its name: "auto", "cpu", "cuda". `keep_alive` is in seconds.
    """

    device: int | str
    keep_alive: float
    adapter_path: str


class CreateModelOptions(TypedDict, total=False):
    """Options of `create_model`; see CreateModelRequest for what they mean and their limits."""

    system_prompt: str
    template: str
    temperature: float
    top_p: float
    top_k: int
    seed: int
    presence_penalty: float
    frequency_penalty: float
    context_tokens: int
    max_tokens: int
    stop: Iterable[str]
    quantization: str


class PromptOptions(TypedDict, total=False):
    """Options of `create_prompt_version`; see CreatePromptVersionRequest for what they mean.

    `variables` are PromptVariable messages, or dictionaries such as `{"variable": "words", "type": "integer", "default": 20}`.
    """

    variables: Iterable[prompt_pb2.PromptVariable | Mapping[str, Any]]
    description: str
    set_default: bool
    request_id: str


def generate_fields(prompt: str | None, options: GenerateOptions) -> dict[str, Any]:
    """Fields of GenerateRequest and of StreamGenerateRequest, which are the same."""
    fields: dict[str, Any] = dict(options)
    sampling = {name: fields.pop(name) for name in _SAMPLING if name in fields}
    if sampling:
        fields["sampling"] = generation_pb2.Sampling(**sampling)
    if "priority" in fields:
        fields["priority"] = _enum(generation_pb2.Priority, "PRIORITY_", fields["priority"])
    if "cache" in fields:
        fields["cache"] = _enum(generation_pb2.CacheMode, "CACHE_MODE_", fields["cache"])
    template = fields.get("prompt_template")
    if isinstance(template, Mapping):
        fields["prompt_template"] = json_format.ParseDict(dict(template), prompt_pb2.PromptTemplate())
    fields["messages"] = [_message(message) for message in fields.get("messages", ())]
    fields["passages"] = [
        generation_pb2.Passage(text=passage) if isinstance(passage, str) else passage for passage in fields.get("passages", ())
    ]
    return {**fields, "prompt": prompt}


def generate(prompt: str | None, options: GenerateOptions) -> generation_service_pb2.GenerateRequest:
    """What to generate from."""
    return generation_service_pb2.GenerateRequest(**generate_fields(prompt, options))


def stream_generate(prompt: str | None, options: GenerateOptions) -> generation_service_pb2.StreamGenerateRequest:
    """What to generate from, as a stream."""
    return generation_service_pb2.StreamGenerateRequest(**generate_fields(prompt, options))


def answer(query: str, collections: str | Iterable[str], options: AnswerOptions) -> answer_service_pb2.AnswerRequest:
    """A question."""
    return answer_service_pb2.AnswerRequest(query=query, collections=names(collections), **_with_mode(options))


def stream_answer(
    query: str, collections: str | Iterable[str], options: AnswerOptions
) -> answer_service_pb2.StreamAnswerRequest:
    """A question, to be answered as a stream."""
    return answer_service_pb2.StreamAnswerRequest(query=query, collections=names(collections), **_with_mode(options))


def search(
    query: str, collections: str | Iterable[str], top_k: int | None, mode: int | str, options: SearchOptions
) -> search_service_pb2.SearchRequest:
    """What to find."""
    return search_service_pb2.SearchRequest(
        query=query,
        collections=names(collections),
        top_k=top_k,
        mode=_enum(search_pb2.SearchMode, "SEARCH_MODE_", mode),
        **_passage_fields(options),
    )


def create_ingestion(
    collection: str, request_id: str, *, documents: Iterable[DocumentLike] = (), url: str = ""
) -> ingestion_service_pb2.CreateIngestionRequest:
    """Documents to bring in, or an address; the request gets an id, so that it may be repeated."""
    request = ingestion_service_pb2.CreateIngestionRequest(collection=collection, request_id=request_id or str(uuid.uuid4()))
    if url:
        request.url.url = url
    else:
        request.documents.documents.extend(_document(document) for document in documents)
    return request


def upload_ingestion(
    collection: str, file: BinaryIO, name: str, media_type: str
) -> Iterator[ingestion_service_pb2.UploadIngestionRequest]:
    """A file in pieces."""
    first = httpbody_pb2.HttpBody(content_type=media_type)
    yield ingestion_service_pb2.UploadIngestionRequest(collection=collection, name=name, body=first)
    while data := file.read(_PIECE_BYTES):
        yield ingestion_service_pb2.UploadIngestionRequest(body=httpbody_pb2.HttpBody(data=data))


def retry_ingestion(ingestion: str, stage: int | str) -> ingestion_service_pb2.RetryIngestionRequest:
    """A stage to do again."""
    number = _enum(ingestion_pb2.IngestionStage, "INGESTION_STAGE_", stage)
    return ingestion_service_pb2.RetryIngestionRequest(ingestion=ingestion, stage=number)


def add_documents(collection: str, documents: Iterable[DocumentLike]) -> document_service_pb2.AddDocumentsRequest:
    """Documents to add."""
    return document_service_pb2.AddDocumentsRequest(
        collection=collection, documents=[_document(document) for document in documents]
    )


def create_experiment(
    experiment: str,
    *,
    unit: int | str,
    variants: Iterable[VariantLike],
    metrics: Iterable[MetricLike],
    hypothesis: str,
    request_types: Iterable[int | str],
    analysis: experiment_pb2.AnalysisPlan | None,
    request_id: str,
) -> experiment_service_pb2.CreateExperimentRequest:
    """A new experiment; without a request id it gets one, so that a second attempt does no harm."""
    message = experiment_pb2.Experiment(
        experiment=experiment,
        hypothesis=hypothesis,
        unit=_enum(experiment_pb2.Unit, "UNIT_", unit),
        variants=[_variant(variant) for variant in variants],
        metrics=[_metric(metric) for metric in metrics],
        request_types=[_enum(experiment_pb2.RequestType, "REQUEST_TYPE_", kind) for kind in request_types],
        analysis=analysis,
    )
    return experiment_service_pb2.CreateExperimentRequest(experiment=message, request_id=request_id or str(uuid.uuid4()))


def record_outcomes(outcomes: Iterable[OutcomeLike]) -> outcome_service_pb2.RecordOutcomesRequest:
    """A batch of outcomes; one without an id gets one, so that a second attempt does no harm."""
    return outcome_service_pb2.RecordOutcomesRequest(outcomes=[_outcome(outcome) for outcome in outcomes])


def create_model(model: str, base: str, options: CreateModelOptions) -> model_service_pb2.CreateModelRequest:
    """What to make a model of."""
    fields: dict[str, Any] = dict(options)
    sampling = {name: fields.pop(name) for name in _SAMPLING if name in fields}
    if sampling:
        fields["sampling"] = generation_pb2.Sampling(**sampling)
    return model_service_pb2.CreateModelRequest(model=model, base=base, **fields)


def optimize_memory(idle: float) -> model_service_pb2.OptimizeMemoryRequest:
    """Which models to unload: those idle for so many seconds."""
    request = model_service_pb2.OptimizeMemoryRequest()
    request.idle.FromTimedelta(timedelta(seconds=idle))
    return request


def create_prompt_version(
    prompt: str, messages: Iterable[prompt_pb2.PromptMessage | Mapping[str, str]], options: PromptOptions
) -> prompt_service_pb2.CreatePromptVersionRequest:
    """A version of a prompt."""
    return prompt_service_pb2.CreatePromptVersionRequest(
        prompt=prompt,
        messages=[
            prompt_pb2.PromptMessage(role=_enum(generation_pb2.Role, "ROLE_", one["role"]), template=one["template"])
            if isinstance(one, Mapping)
            else one
            for one in messages
        ],
        variables=[_variable(one) for one in options.get("variables", ())],
        description=options.get("description", ""),
        set_default=options.get("set_default", False),
        request_id=options.get("request_id") or str(uuid.uuid4()),
    )


def _variable(given: prompt_pb2.PromptVariable | Mapping[str, Any]) -> prompt_pb2.PromptVariable:
    if not isinstance(given, Mapping):
        return given
    fields = dict(given)
    fields["type"] = _enum(prompt_pb2.VariableType, "VARIABLE_TYPE_", fields.get("type", "string"))
    return json_format.ParseDict(fields, prompt_pb2.PromptVariable())


def render_prompt(prompt: str, variables: Mapping[str, Any] | None, version: int) -> prompt_service_pb2.RenderPromptRequest:
    """What to render."""
    request = prompt_service_pb2.RenderPromptRequest(prompt=prompt, version=version)
    request.variables.update(dict(variables or {}))
    return request


def load_model(model: str, options: LoadOptions) -> model_service_pb2.LoadModelRequest:
    """Which model to load, and how."""
    request = model_service_pb2.LoadModelRequest(
        model=model,
        device=_enum(model_pb2.Device, "DEVICE_", options.get("device", "unspecified")),
        adapter_path=options.get("adapter_path", ""),
    )
    if "keep_alive" in options:
        request.keep_alive.FromTimedelta(timedelta(seconds=options["keep_alive"]))
    return request


def record_feedback(request_id: str, reward: float, *, is_persons: bool) -> routing_service_pb2.RecordFeedbackRequest:
    """How good an answer was, by a person's word or a program's."""
    source = routing_service_pb2.FEEDBACK_SOURCE_USER if is_persons else routing_service_pb2.FEEDBACK_SOURCE_EVALUATOR
    return routing_service_pb2.RecordFeedbackRequest(request_id=request_id, reward=reward, source=source)


def names(given: str | Iterable[str]) -> list[str]:
    """One name or several, as a list."""
    return [given] if isinstance(given, str) else list(given)


def _message(given: MessageInput) -> generation_pb2.Message:
    if not isinstance(given, Mapping):
        return given
    unknown = given.keys() - {"role", "content"}
    if unknown or len(given) != len({"role", "content"}):
        raise ValueError(f"a message is {dict(given)!r}; it must have the keys 'role' and 'content'")
    role = _enum(generation_pb2.Role, "ROLE_", given["role"])
    return generation_pb2.Message(role=role, parts=[generation_pb2.Part(text=given["content"])])


def _document(given: DocumentLike) -> document_pb2.DocumentInput:
    if isinstance(given, str):
        return document_pb2.DocumentInput(text=given)
    if not isinstance(given, Mapping):
        return given
    fields = dict(given)
    metadata = fields.pop("metadata", None)
    document = document_pb2.DocumentInput(**fields)
    if isinstance(metadata, struct_pb2.Struct):
        document.metadata.CopyFrom(metadata)
    elif metadata is not None:
        document.metadata.update(metadata)
    return document


def _variant(given: VariantLike) -> experiment_pb2.Variant:
    if not isinstance(given, Mapping):
        return given
    fields = dict(given)
    sampling = {name: fields.pop(name) for name in _SAMPLING_OVERRIDE if name in fields}
    if sampling:
        fields["sampling"] = experiment_pb2.SamplingOverride(**sampling)
    return experiment_pb2.Variant(**fields)


def _metric(given: MetricLike) -> experiment_pb2.Metric:
    if isinstance(given, str):
        return experiment_pb2.Metric(metric=given)
    if not isinstance(given, Mapping):
        return given
    direction = _enum(experiment_pb2.Direction, "DIRECTION_", given.get("direction", "unspecified"))
    return experiment_pb2.Metric(**{**given, "direction": direction})


def _outcome(given: OutcomeLike) -> outcome_pb2.Outcome:
    if isinstance(given, Mapping):
        fields = dict(given)
        if isinstance(fields.get("event_time"), datetime):
            fields["event_time"] = _timestamp(fields["event_time"])
        given = outcome_pb2.Outcome(**fields)
    if not given.outcome:
        copy = outcome_pb2.Outcome()
        copy.CopyFrom(given)
        copy.outcome = str(uuid.uuid4())
        return copy
    return given


def _timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    if time.tzinfo is None:
        raise ValueError(f"event_time is {time!r}; it must have a time zone")
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message


def _with_mode(options: AnswerOptions) -> dict[str, Any]:
    fields = _passage_fields(options)
    if "mode" in fields:
        fields["mode"] = _enum(search_pb2.SearchMode, "SEARCH_MODE_", fields["mode"])
    if "nothing_found" in fields:
        fields["nothing_found"] = _enum(answer_pb2.NothingFoundPolicy, "NOTHING_FOUND_POLICY_", fields["nothing_found"])
    return fields


def _passage_fields(options: PassageOptions) -> dict[str, Any]:
    fields: dict[str, Any] = dict(options)
    for name, kind in (("filter", search_pb2.Filter), ("fusion", search_pb2.Fusion)):
        if isinstance(fields.get(name), Mapping):
            fields[name] = json_format.ParseDict(fields[name], kind())
    if "cache" in fields:
        fields["cache"] = _enum(generation_pb2.CacheMode, "CACHE_MODE_", fields["cache"])
    return fields


def _enum(kind: Any, prefix: str, value: int | str) -> Any:
    """The number of an enum's value, given as number, as name, or as name without its prefix in any case."""
    if isinstance(value, int):
        return value
    name = value.upper()
    return kind.Value(name if name.startswith(prefix) else prefix + name)
