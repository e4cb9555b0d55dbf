"""Answers that can be trusted, through the whole suite, in three languages, the same over gRPC and REST."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from penstock.inference.v1 import generation_pb2
from penstock.retrieval.v1 import (
    answer_pb2,
    answer_service_pb2,
    answer_service_pb2_grpc,
    collection_pb2,
    collection_service_pb2,
    conversation_service_pb2,
    document_pb2,
    document_service_pb2,
    search_service_pb2,
)
from valkey import Valkey

from tests.e2e.faces import Face, Grpc, Refused, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.suite import Suite

TEXTS = {
    "en": "The penstock of Kirkwall is 412 metres long. Its steel is 18 millimetres thick. It was built in 1936.",
    "ru": "Водовод станции Нурек имеет длину 550 метров. Толщина его стали 20 миллиметров. Его построили в 1972 году.",
    "zh": "三峡电站的压力管道长度为122米。管道的钢板厚度是60毫米。该管道于2003年建成。",
}
QUESTIONS = {
    "en": "How long is the penstock of Kirkwall?",
    "ru": "Какова длина водовода станции Нурек?",
    "zh": "三峡电站的压力管道长度是多少？",
}
FOLLOW_UPS = {"en": "And how thick is its steel?", "ru": "А какова толщина его стали?", "zh": "那它的钢板厚度是多少？"}
THANKS = {"en": "Thank you!", "ru": "Спасибо!", "zh": "谢谢！"}
REFUSALS = {
    "en": "The documents do not answer this question.",
    "ru": "В документах нет ответа на этот вопрос.",
    "zh": "文档中没有这个问题的答案。",
}


@pytest.fixture(params=[Grpc, Rest], ids=["grpc", "rest"])
def face(request: pytest.FixtureRequest, suite: Suite) -> Iterator[Face]:
    face = request.param(suite.grpc if request.param is Grpc else suite.url)
    yield face
    face.close()


@pytest.fixture
def collection(face: Face) -> Iterator[str]:
    name = f"grounded-{uuid.uuid4().hex[:12]}"
    face.call(
        "CreateCollection",
        collection_service_pb2.CreateCollectionRequest(collection=collection_pb2.Collection(collection=name)),
    )
    documents = [document_pb2.DocumentInput(document=language, text=text) for language, text in TEXTS.items()]
    face.call("AddDocuments", document_service_pb2.AddDocumentsRequest(collection=name, documents=documents))
    yield name
    face.call("DeleteCollection", collection_service_pb2.DeleteCollectionRequest(collection=name))


def answer(face: Face, collection: str, query: str, **fields: Any) -> answer_service_pb2.AnswerResponse:
    request = answer_service_pb2.AnswerRequest(collections=[collection], query=query, **fields)
    response: answer_service_pb2.AnswerResponse = face.call("Answer", request)
    return response


@pytest.mark.parametrize("language", TEXTS)
def test_every_sentence_is_held_against_the_sources(face: Face, collection: str, language: str) -> None:
    told = answer(face, collection, QUESTIONS[language])
    assert told.basis == answer_pb2.ANSWER_BASIS_PASSAGES
    assert told.groundedness.score > 0.9
    assert told.groundedness.sentences
    for sentence in told.groundedness.sentences:
        assert sentence.verdict == answer_pb2.VERDICT_SUPPORTED
        source = told.sources[sentence.number - 1]
        assert TEXTS[source.document][sentence.source_start : sentence.source_end]
    (first, *_) = told.citations
    assert first.support > 0.9
    assert TEXTS[first.document][first.source_start : first.source_end] in TEXTS[first.document]
    assert first.source_end > first.source_start


@pytest.mark.parametrize("language", TEXTS)
def test_nothing_relevant_is_refused_in_the_language_of_the_question(face: Face, collection: str, language: str) -> None:
    told = answer(face, collection, QUESTIONS[language], min_relevance=1.0)
    assert (told.text, told.basis) == (REFUSALS[language], answer_pb2.ANSWER_BASIS_REFUSAL)
    assert told.finish_reason == generation_pb2.FINISH_REASON_STOP
    assert not told.sources
    assert not told.HasField("groundedness")


def test_a_model_that_can_answers_without_context_and_says_so(face: Face, collection: str) -> None:
    policy = answer_pb2.NOTHING_FOUND_POLICY_ANSWER_WITHOUT_CONTEXT
    quoting = answer(face, collection, QUESTIONS["en"], min_relevance=1.0, nothing_found=policy)
    assert (quoting.text, quoting.basis) == (REFUSALS["en"], answer_pb2.ANSWER_BASIS_REFUSAL), "extractive has nothing to quote"
    told = answer(face, collection, QUESTIONS["en"], min_relevance=1.0, nothing_found=policy, model="gibberish", max_tokens=4)
    assert told.basis == answer_pb2.ANSWER_BASIS_MODEL_ALONE
    notice, _, rest = told.text.partition("\n\n")
    assert "do not answer" in notice
    assert rest


@pytest.mark.parametrize("language", TEXTS)
def test_a_conversation_is_followed(face: Face, collection: str, language: str) -> None:
    conversation = f"c-{uuid.uuid4()}"
    first = answer(face, collection, QUESTIONS[language], conversation=conversation)
    assert (first.intent, first.rewritten_query) == (answer_pb2.INTENT_NEW_TOPIC, "")
    second = answer(face, collection, FOLLOW_UPS[language], conversation=conversation)
    assert second.intent == answer_pb2.INTENT_FOLLOW_UP
    assert second.intent_confidence > 0.5
    assert second.rewritten_query.startswith(FOLLOW_UPS[language])
    assert second.rewritten_query != FOLLOW_UPS[language]
    assert any(figure in second.text for figure in ("18", "20", "60"))
    thanks = answer(face, collection, THANKS[language], conversation=conversation)
    assert (thanks.intent, thanks.basis) == (answer_pb2.INTENT_CHIT_CHAT, answer_pb2.ANSWER_BASIS_CONVERSATION)
    assert not thanks.sources
    assert thanks.text
    request = conversation_service_pb2.GetConversationRequest(conversation=conversation)
    kept = face.call("GetConversation", request).conversation
    assert [turn.intent for turn in kept.turns] == [first.intent, second.intent, thanks.intent]
    assert kept.turns[1].rewritten_query == second.rewritten_query
    assert kept.expire_time.ToSeconds() > kept.create_time.ToSeconds()
    face.call("DeleteConversation", conversation_service_pb2.DeleteConversationRequest(conversation=conversation))
    with pytest.raises(Refused):
        face.call("GetConversation", request)


def test_an_answer_comes_from_the_cache_until_its_documents_change(face: Face, collection: str) -> None:
    first, second = (answer(face, collection, QUESTIONS["en"]) for _ in range(2))
    assert (first.cached, second.cached) == (False, True)
    assert second.text == first.text
    assert list(second.citations) == list(first.citations)
    assert second.groundedness == first.groundedness
    request = answer_service_pb2.StreamAnswerRequest(collections=[collection], query=QUESTIONS["en"])
    events = list(face.stream("StreamAnswer", request))
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1]) == ("sources", "finished")
    assert "".join(event.token.text for event in events) == first.text
    assert events[-1].finished.groundedness == first.groundedness
    fresh = answer(face, collection, QUESTIONS["en"], cache=generation_pb2.CACHE_MODE_BYPASS)
    assert not fresh.cached
    face.call("DeleteDocument", document_service_pb2.DeleteDocumentRequest(collection=collection, document="en"))
    changed = answer(face, collection, QUESTIONS["en"])
    assert not changed.cached
    assert "412" not in changed.text


def test_a_search_says_that_it_was_kept(face: Face, collection: str) -> None:
    request = search_service_pb2.SearchRequest(collections=[collection], query="penstock steel")
    first, second = (face.call("Search", request) for _ in range(2))
    assert (first.cached, second.cached) == (False, True)
    assert list(second.hits) == list(first.hits)


def test_passages_are_packed_to_the_budget(face: Face, collection: str) -> None:
    text = "The penstock of Stenness is long and old, and nobody has measured it. " * 8
    document = document_pb2.DocumentInput(document="long", text=text)
    face.call("AddDocuments", document_service_pb2.AddDocumentsRequest(collection=collection, documents=[document]))
    whole = answer(face, collection, "penstock", top_k=3)
    little = answer(face, collection, "penstock", top_k=3, context_tokens=64)
    assert sum(len(source.text) for source in little.sources) < 64 * 8 < sum(len(source.text) for source in whole.sources)
    assert len(little.sources) == 1


def test_a_short_deadline_leaves_out_what_it_can_and_tells(suite: Suite, collection: str) -> None:
    request = answer_service_pb2.AnswerRequest(collections=[collection], query=QUESTIONS["en"], reranker="gibberish")
    with grpc.insecure_channel(suite.grpc) as channel:
        stub: Any = answer_service_pb2_grpc.AnswerServiceStub(channel)
        told = stub.Answer(request, timeout=2.9)
    assert list(told.degradations) == [answer_pb2.DEGRADATION_RERANK_SKIPPED]
    assert "412" in told.text


def test_a_deleted_conversation_is_in_no_cache(face: Face, collection: str, suite: Suite) -> None:
    if suite.data_dir is None:
        pytest.skip("the suite's Redis is not known")
    environment = json.loads((suite.data_dir / "run.json").read_text())["environment"]
    conversation, mark = f"c-{uuid.uuid4()}", f"mark{uuid.uuid4().hex}"
    for query in (f"How long is the penstock of Kirkwall, says {mark}?", f"And how thick is its steel, says {mark}?"):
        answer(face, collection, query, conversation=conversation)
    face.call("DeleteConversation", conversation_service_pb2.DeleteConversationRequest(conversation=conversation))
    with Valkey.from_url(environment["REDIS_URL"]) as client:
        keys = list(client.scan_iter(b"penstock:*", count=1000))
        assert keys, "the caches are in use"
        values = [client.get(key) or b"" for key in keys]
    assert not any(mark.encode() in kept for kept in (*keys, *values))
