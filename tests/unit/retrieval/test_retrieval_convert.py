import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st
from penstock.retrieval.v1 import document_pb2, search_pb2

from services.chassis.errors import Failure, Reason
from services.retrieval.convert import from_mode, of_document, of_page_token, to_mode, to_page_token
from services.retrieval.passages import SearchMode


@given(st.text())
def test_page_tokens_come_back(after: str) -> None:
    assert of_page_token(to_page_token(after)) == after


@pytest.mark.parametrize("token", ["***", "a", "_w", "ж"])
def test_made_up_page_tokens_are_refused(token: str) -> None:
    with pytest.raises(Failure) as caught:
        of_page_token(token)
    assert (caught.value.reason, caught.value.metadata) == (Reason.INVALID_FIELD, {"field": "page_token"})


def test_modes() -> None:
    assert all(from_mode(to_mode(mode)) == mode for mode in SearchMode)
    assert from_mode(search_pb2.SEARCH_MODE_UNSPECIFIED) == SearchMode.HYBRID


@pytest.mark.parametrize("value", [None, {"a": 1}, [[1]], [None], "a\x00b", float("nan")])
def test_metadata_that_cannot_be_kept_is_refused(value: object) -> None:
    message = document_pb2.DocumentInput(text="x")
    if isinstance(value, float):
        message.metadata.fields["fact"].CopyFrom(struct_pb2.Value(number_value=value))
    else:
        message.metadata.update({"fact": value})  # type: ignore[dict-item]  # wrong values are the point
    with pytest.raises(Failure) as caught:
        of_document(message, 3)
    assert caught.value.reason == Reason.INVALID_FIELD
    assert caught.value.metadata["field"].startswith("documents[3].metadata")
