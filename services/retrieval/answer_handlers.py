"""AnswerService and ConversationService: convert, call the domain, convert back."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from penstock.retrieval.v1 import (
    answer_service_pb2,
    answer_service_pb2_grpc,
    conversation_service_pb2,
    conversation_service_pb2_grpc,
)

from services.chassis.call import current_call
from services.retrieval.answer_convert import from_question, to_answer, to_conversation, to_event
from services.retrieval.answering.events import Finished, Sources
from services.retrieval.citations import Citation, Text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from services.chassis.interceptors import Context
    from services.retrieval.answers import Answers
    from services.retrieval.conversations import Conversations
    from services.retrieval.passages import Hit


class AnswerHandlers(answer_service_pb2_grpc.AnswerServiceServicer):
    """Serves penstock.retrieval.v1.AnswerService."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def Answer(self, request: answer_service_pb2.AnswerRequest, context: Context) -> answer_service_pb2.AnswerResponse:
        """Answers once all of it is there."""
        request_id = current_call().request_id
        sources, finished, text = None, None, ""
        citations: list[Citation] = []
        async with aclosing(self._answers.answer(from_question(request), request_id)) as events:
            async for event in events:
                match event:
                    case Text():
                        text += event.text
                    case Citation():
                        citations.append(event)
                    case Sources():
                        sources = event
                    case Finished():
                        finished = event
        if sources is None or finished is None:
            raise AssertionError("an answer without its first or last event")
        response: answer_service_pb2.AnswerResponse = to_answer(sources, text, citations, finished, request_id)
        return response

    async def StreamAnswer(
        self, request: answer_service_pb2.StreamAnswerRequest, context: Context
    ) -> AsyncIterator[answer_service_pb2.StreamAnswerResponse]:
        """Answers event by event."""
        request_id = current_call().request_id
        hits: Sequence[Hit] = ()
        async with aclosing(self._answers.answer(from_question(request), request_id)) as events:
            async for event in events:
                if isinstance(event, Sources):
                    hits = event.hits
                yield to_event(event, hits, request_id)


class ConversationHandlers(conversation_service_pb2_grpc.ConversationServiceServicer):
    """Serves penstock.retrieval.v1.ConversationService."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    async def GetConversation(
        self, request: conversation_service_pb2.GetConversationRequest, context: Context
    ) -> conversation_service_pb2.GetConversationResponse:
        """Returns a conversation with its latest turns."""
        conversation = await self._conversations.get(request.conversation, request.user)
        return conversation_service_pb2.GetConversationResponse(conversation=to_conversation(conversation))

    async def DeleteConversation(
        self, request: conversation_service_pb2.DeleteConversationRequest, context: Context
    ) -> conversation_service_pb2.DeleteConversationResponse:
        """Deletes a conversation for good."""
        await self._conversations.delete(request.conversation, request.user)
        return conversation_service_pb2.DeleteConversationResponse()
