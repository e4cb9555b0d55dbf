"""Collections as models, completions and responses, asked for by the official OpenAI client, unchanged."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai.types.chat import ChatCompletionMessageParam

    from tests.support.suite import Suite

DOCUMENTS: list[dict[str, Any]] = [
    {
        "document": "kirkwall",
        "title": "The plant of Kirkwall",
        "text": "The penstock of Kirkwall is 412 metres long. Its steel is 18 millimetres thick. It was built in 1936.",
        "metadata": {"url": "https://plants.example/kirkwall"},
    },
    {"document": "pumps", "text": "The pumps of Stromness are blue. They were painted in 2001."},
]
QUESTION = "How long is the penstock of Kirkwall?"
ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(suite: Suite) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{suite.url}/openai/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def model(suite: Suite) -> Iterator[str]:
    """A collection's name as a model's."""
    name = f"openai-{uuid.uuid4().hex[:12]}"
    with httpx.Client(base_url=suite.url, timeout=60) as http:
        http.post("/v1/collections", json={"collection": name}).raise_for_status()
        http.post(f"/v1/collections/{name}/documents", json={"documents": DOCUMENTS}).raise_for_status()
        yield f"penstock/{name}"
        http.delete(f"/v1/collections/{name}").raise_for_status()


def test_a_collection_answers_with_its_sources_as_annotations(client: openai.OpenAI, model: str) -> None:
    completion = client.chat.completions.create(model=model, messages=ASKED)
    message = completion.choices[0].message
    assert completion.model == model
    assert "412 metres" in (message.content or "")
    (annotation, *_) = message.annotations or []
    assert annotation.type == "url_citation"
    cited = annotation.url_citation
    assert (cited.url, cited.title) == ("https://plants.example/kirkwall", "The plant of Kirkwall")
    assert "412 metres" in (message.content or "")[cited.start_index : cited.end_index]
    sources: Any = (completion.model_extra or {})["penstock"]["sources"]
    assert sources[0]["document"] == "kirkwall"
    assert "412 metres" in sources[0]["text"]
    assert completion.usage is not None


def test_a_collection_streams_the_same(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.create(
        model=model, messages=ASKED, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "412 metres" in "".join(choice.delta.content or "" for choice in choices)
    annotations: list[Any] = [one for choice in choices for one in (choice.delta.model_extra or {}).get("annotations", ())]
    assert annotations[0]["url_citation"]["url"] == "https://plants.example/kirkwall"
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert (chunks[0].model_extra or {})["penstock"]["sources"][0]["document"] == "kirkwall"
    assert chunks[-1].usage is not None


def test_what_was_said_before_completes_the_question(client: openai.OpenAI, model: str) -> None:
    before: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "Answer in one sentence."},
        *ASKED,
        {"role": "assistant", "content": "The penstock of Kirkwall is 412 metres long."},
    ]
    completion = client.chat.completions.create(
        model=model, messages=[*before, {"role": "user", "content": "And how thick is its steel?"}]
    )
    assert "18 millimetres" in (completion.choices[0].message.content or "")


def test_a_document_without_an_address_is_cited_by_its_path(client: openai.OpenAI, model: str) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What colour are the pumps of Stromness?"}]
    message = client.chat.completions.create(model=model, messages=messages).choices[0].message
    collection = model.removeprefix("penstock/")
    assert (message.annotations or [])[0].url_citation.url == f"/v1/collections/{collection}/documents/pumps"


@pytest.mark.parametrize("stream", [True, False])
def test_a_body_that_is_too_large_is_413(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(
            model="extractive", messages=[{"role": "user", "content": "x" * (9 << 20)}], stream=stream
        )
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


def test_embeddings_of_other_dimensions_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="all-minilm-l6-v2", input="one text", dimensions=7)


def test_collections_are_listed_among_the_models(client: openai.OpenAI, model: str) -> None:
    listed = {one.id: one.owned_by for one in client.models.list()}
    assert listed[model] == "penstock"


@pytest.mark.parametrize("stream", [True, False])
def test_an_unknown_collection_is_404(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="penstock/nowhere", messages=ASKED, stream=stream)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "nowhere" in caught.value.message


def test_an_unknown_writer_is_told_by_the_status_of_a_stream_too(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(
            model=model, messages=ASKED, stream=True, extra_body={"penstock": {"model": "gpt-nowhere"}}
        )
    assert "gpt-nowhere" in caught.value.message


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("n", 2),
        ("stop", ["x"]),
        ("logprobs", True),
        ("response_format", {"type": "json_object"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("messages", [{"role": "assistant", "content": "hi"}]),
    ],
)
def test_what_a_collection_cannot_give_is_refused(client: openai.OpenAI, model: str, parameter: str, value: Any) -> None:
    asked: dict[str, Any] = {"model": model, "messages": ASKED, parameter: value}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.param == parameter


def test_a_completion(client: openai.OpenAI) -> None:
    prompt = f"{DOCUMENTS[0]['text']}\n\n{QUESTION}"
    completion = client.completions.create(model="extractive", prompt=prompt)
    assert completion.object == "text_completion"
    assert "412 metres" in completion.choices[0].text
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    stream = client.completions.create(model="extractive", prompt=[prompt], stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == completion.choices[0].text
    assert chunks[-1].usage is not None


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("echo", True),
        ("suffix", "s"),
        ("best_of", 3),
        ("prompt", ["a", "b"]),
        ("prompt", [1, 2]),
        ("prompt", ""),
        ("logprobs", 6),
    ],
)
def test_what_completions_do_not_have_is_refused(client: openai.OpenAI, parameter: str, value: Any) -> None:
    asked: dict[str, Any] = {"model": "extractive", "prompt": "p", parameter: value}
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**asked)
    assert caught.value.param == parameter


def test_a_response(client: openai.OpenAI) -> None:
    response = client.responses.create(model="extractive", instructions=DOCUMENTS[0]["text"], input=QUESTION)
    assert (response.object, response.status, response.error) == ("response", "completed", None)
    assert response.model == "extractive"
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_response_as_typed_events(client: openai.OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input=[{"role": "user", "content": QUESTION}]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "response.output_text.annotation.added" in kinds
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "412 metres" in final.output_text
    (item,) = final.output
    assert item.type == "message"
    (part,) = item.content
    assert part.type == "output_text"
    annotation = part.annotations[0]
    assert annotation.type == "url_citation"
    assert annotation.url == "https://plants.example/kirkwall"


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("background", True),
        ("tools", [{"type": "web_search"}]),
        ("input", [{"role": "user", "content": [{"type": "input_audio"}]}]),
    ],
)
def test_what_responses_do_not_have_is_refused(client: openai.OpenAI, parameter: str, value: Any) -> None:
    asked: dict[str, Any] = {"model": "extractive", "input": "hi", parameter: value}
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asked)
    assert (caught.value.param or "").startswith(parameter)
