"""A key that is good for inference alone reads no documents by way of a model's name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from google.api.httpbody_pb2 import HttpBody
from penstock.inference.v1 import openai_service_pb2

from services.chassis.call import Call, enter_call
from services.chassis.errors import Failure, Reason
from services.inference.engine import Delta, FinishReason, Usage, UsageSource
from services.inference.generation import Finished, Started
from services.inference.openai.handlers import OpenAIService
from services.inference.progress import Timings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.openai.collections import AnswerEvent, Question


class Answers:
    """Answers everything with one word."""

    async def answer(self, question: Question) -> AsyncGenerator[AnswerEvent, None]:
        yield Started(question.request.model, "retrieval", None, "r1")
        yield Delta("word")
        yield Finished(FinishReason.STOP, Usage(1, 1, UsageSource.COUNTED), Timings(0.1, 0.2))

    async def names(self) -> Sequence[str]:
        return ["c"]


@pytest.mark.parametrize(("scopes", "answers"), [("", True), ("inference", False), ("inference retrieval:read", True)])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_collection_asks_for_the_scope_of_reading(scopes: str, answers: bool, stream: bool) -> None:
    enter_call(Call("/m", "r1", None, scopes=scopes))
    none: Any = None  # a collection's answer comes from no model
    service = OpenAIService(none, none, Answers())
    body = {"model": "penstock/c", "messages": [{"role": "user", "content": "q"}], "stream": stream}
    request = openai_service_pb2.CreateChatCompletionRequest(body=HttpBody(data=json.dumps(body).encode()))
    if answers:
        assert b"word" in b"".join([one.body.data async for one in service.CreateChatCompletion(request, none)])
        return
    with pytest.raises(Failure) as caught:
        [one async for one in service.CreateChatCompletion(request, none)]
    assert caught.value.reason is Reason.PERMISSION_DENIED
    assert json.loads(caught.value.trailers["x-openai-error"])["error"]["code"] == "permission_denied"
