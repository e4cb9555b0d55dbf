"""The official OpenAI client, unchanged, against the gateway."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING

import httpx
import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai.types.chat import ChatCompletionMessageParam

    from tests.support.suite import Suite

TEXT = (
    "A penstock is a pipe that brings water from a reservoir to a turbine. The gate at its head is closed for inspection. "
    "In the plant of Kirkwall the penstock is 412 metres long. Its steel is 18 millimetres thick, and it was laid in 1957."
)
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Answer from the text."},
    {"role": "user", "content": f"{TEXT}\n\nHow long is the penstock of Kirkwall?"},
]


@pytest.fixture
def client(suite: Suite) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{suite.url}/openai/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat_completion(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="auto", messages=MESSAGES)
    assert completion.object == "chat.completion"
    assert completion.choices[0].finish_reason == "stop"
    assert "412 metres" in (completion.choices[0].message.content or "")
    assert completion.model == "extractive"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens > 0


def test_streamed_chat_completion_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="auto", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "412 metres" in text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_is_server_sent_events_and_ends_with_done(suite: Suite) -> None:
    body = {"model": "auto", "messages": MESSAGES, "stream": True}
    answer = httpx.post(f"{suite.url}/openai/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


def test_embeddings_as_floats_and_base64(client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model="all-minilm-l6-v2", input=["one text", "another"], encoding_format="float")
    packed = client.embeddings.create(model="all-minilm-l6-v2", input="one text", encoding_format="base64")
    assert [len(item.embedding) for item in floats.data] == [384, 384]
    raw: object = packed.data[0].embedding
    values = struct.unpack("<384f", base64.b64decode(raw)) if isinstance(raw, str) else packed.data[0].embedding
    assert values == pytest.approx(floats.data[0].embedding, abs=0.02)


def test_models(client: openai.OpenAI) -> None:
    assert {"extractive", "all-minilm-l6-v2"} <= {model.id for model in client.models.list()}


def test_unknown_model_is_404_with_openais_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-nowhere", messages=MESSAGES)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "model_not_found"
    assert "gpt-nowhere" in caught.value.body["message"]
    assert caught.value.response.headers["x-request-id"]


def test_unknown_model_in_a_stream_is_404_too(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-nowhere", messages=MESSAGES, stream=True)


def test_wrong_parameter_is_400_and_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="auto", messages=MESSAGES, temperature=9)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["param"] == "temperature"
    assert caught.value.body["type"] == "invalid_request_error"


def test_no_messages_is_400(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="auto", messages=[])


def test_broken_json_is_400_with_openais_error(suite: Suite) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{suite.url}/openai/v1/chat/completions", content=b'{"model": ', headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_unknown_path_has_openais_error(suite: Suite) -> None:
    answer = httpx.get(f"{suite.url}/openai/v1/nowhere")
    assert answer.status_code == 404
    assert "error" in answer.json()
