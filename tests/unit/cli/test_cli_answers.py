"""How the command line shows an answer."""

import io
from collections.abc import Iterator

import pytest
from google.protobuf.duration_pb2 import Duration
from penstock.cli.answers import show
from penstock.cli.session import plain
from penstock.inference.v1.generation_pb2 import FINISH_REASON_STOP
from penstock.retrieval.v1.answer_pb2 import AnswerTimings, Citation
from penstock.retrieval.v1.answer_service_pb2 import AnswerFinished, AnswerSources, AnswerToken, StreamAnswerResponse
from penstock.retrieval.v1.search_pb2 import Hit

SOURCES = StreamAnswerResponse(
    sources=AnswerSources(
        hits=[
            Hit(collection="docs", document="a.md", title="A", relevance=0.9),
            Hit(collection="docs", document="b.md", relevance=0.4),
        ]
    )
)
TOKENS = [StreamAnswerResponse(token=AnswerToken(text=text)) for text in ("It is ", "so [1].")]
CITATION = StreamAnswerResponse(citation=Citation(number=1))
FINISHED = StreamAnswerResponse(
    finished=AnswerFinished(
        finish_reason=FINISH_REASON_STOP,
        model="extractive",
        engine="extractive",
        variant="b",
        timings=AnswerTimings(total=Duration(seconds=1, nanos=500_000_000)),
    )
)


def test_tokens_come_first_then_sources_with_the_cited_marked() -> None:
    out = io.StringIO()
    show(iter([SOURCES, *TOKENS, CITATION, FINISHED]), out)
    assert out.getvalue() == (
        "It is so [1].\n"
        "\nSources, * cited:\n"
        " *[1] A · docs/a.md  relevance 0.90\n"
        "  [2] docs/b.md  relevance 0.40\n"
        "\nextractive by extractive · variant b · stop · 1.50 s\n"
    )


def test_each_token_is_written_before_the_next_is_asked_for() -> None:
    out = io.StringIO()

    def events() -> Iterator[StreamAnswerResponse]:
        yield TOKENS[0]
        assert out.getvalue() == "It is "
        yield FINISHED

    show(events(), out)


def test_what_came_before_a_failure_ends_its_line() -> None:
    out = io.StringIO()

    def events() -> Iterator[StreamAnswerResponse]:
        yield TOKENS[0]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        show(events(), out)
    assert out.getvalue() == "It is \n"


def test_nothing_that_is_shown_commands_the_terminal() -> None:
    assert plain("a\x1b[31mb\x07\x9b2J\r\n\tc\ud800") == "a[31mb2J\n\tc?"
