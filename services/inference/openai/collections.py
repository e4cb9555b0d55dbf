"""Models named `penstock/<collection>`: the retrieval service answers in their place, from that collection.

Clients send the whole conversation each time, so nothing of it need be kept: the last message is the question, those before it
are what was said before, and system messages stand in place of the collection's own prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Protocol, TypeAlias

import msgspec

from services.inference.engine import Role
from services.inference.openai.parts import wrong_parameter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.generation import Event, Request

PREFIX: Final = "penstock/"
_MOST: Final = 16
_QUESTION: Final = 32768
_EARLIER: Final = 64


class Retrieving(msgspec.Struct):
    """The member `penstock` of a request: how to answer from a collection. What is absent is as in AnswerRequest.

    Attributes:
        model: The model that writes the answer.
        top_k: Most passages to answer from.
        min_relevance: Leaves out passages of less relevance.
        conversation: Keeps the conversation under this id; only the last message is read then.
    """

    model: Annotated[str, msgspec.Meta(max_length=256)] = ""
    top_k: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    min_relevance: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    conversation: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._-]{0,128}$")] = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What to answer, and from what.

    Attributes:
        collections: Their ids, at least one.
        query: The question.
        earlier: What was said before, oldest first, as questions and answers.
        instructions: The system messages, or empty.
        request: All else that was asked for.
        wanted: How to retrieve.
    """

    collections: tuple[str, ...]
    query: str
    earlier: tuple[tuple[str, str], ...]
    instructions: str
    request: Request
    wanted: Retrieving


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that an answer is made from; `url` is empty where its document has none. Places are in characters."""

    number: int
    collection: str
    document: str
    chunk: str
    title: str
    text: str
    url: str
    start: int
    end: int
    relevance: float


@dataclass(frozen=True, slots=True)
class Sources:
    """All of them; told before `Started`."""

    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Cited:
    """That the answer's text from `start` to `end`, in characters, rests on a source."""

    source: Source
    start: int
    end: int


AnswerEvent: TypeAlias = "Event | Sources | Cited"


class AnswersFromCollections(Protocol):
    """Answers questions from collections; `retrieval.Retrieval` does."""

    def answer(self, question: Question) -> AsyncGenerator[AnswerEvent, None]:
        """Streams Sources, Started, deltas and what they cite, and exactly one Finished. Closing it gives everything up.

        Raises:
            Failure: Whatever retrieval told before the first content.
        """

    async def names(self) -> Sequence[str]:
        """The ids of the collections that the caller may see. Raises Failure where retrieval does not answer."""


def is_collection(model: str) -> bool:
    """Whether the model's name stands for collections."""
    return model.startswith(PREFIX)


def question_of(request: Request, wanted: Retrieving | None) -> Question:
    """Reads what is asked of collections. Raises INVALID_OPENAI_REQUEST for what cannot be had of them."""
    names = tuple(name.strip() for name in request.model.removeprefix(PREFIX).split(","))
    if not all(names) or len(names) > _MOST or len(set(names)) < len(names):
        raise wrong_parameter("model", f"it must be {PREFIX}<collection>, or 1 to {_MOST} of them separated by commas")
    _refuse(request)
    wanted = wanted or Retrieving()
    instructions = "\n\n".join(one.text for one in request.messages if one.role is Role.SYSTEM)
    turns: list[tuple[str, str]] = []
    for message in request.messages:
        if message.role is Role.USER:
            if turns and not turns[-1][1]:
                # Several messages in a row are one question.
                turns[-1] = (f"{turns[-1][0]}\n\n{message.text}", "")
            else:
                turns.append((message.text, ""))
        elif message.role is Role.ASSISTANT and turns:
            turns[-1] = (turns[-1][0], f"{turns[-1][1]}{message.text}")
    if not turns or turns[-1][1]:
        raise wrong_parameter("messages", "the last of them must be the user's question")
    *earlier, (query, _) = turns
    for text, what in ((query, "the question"), (instructions, "the system messages")):
        if len(text.encode()) > _QUESTION:
            raise wrong_parameter("messages", f"{what} may have at most {_QUESTION} bytes in UTF-8 with {PREFIX} models")
    said = () if wanted.conversation else tuple(earlier[-_EARLIER:])
    return Question(names, query, said, instructions, request, wanted)


def _refuse(request: Request) -> None:
    form = request.form
    for parameter, given in (
        ("tools", form.tools),
        ("response_format", form.output),
        ("logprobs", form.top_logprobs is not None),
        ("n", form.alternatives > 1),
        ("stop", request.stop),
        ("messages", any(one.images or one.tool_calls or one.role is Role.TOOL for one in request.messages)),
    ):
        if given:
            problem = "only texts" if parameter == "messages" else "not"
            raise wrong_parameter(parameter, f"{problem} supported with {PREFIX} models; ask a model itself for it")
