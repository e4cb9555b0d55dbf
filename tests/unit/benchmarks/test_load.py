"""The load client knows where an answer ends, however it arrives."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load import Answer, percentile

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
cuts = st.lists(st.integers(0, 10_000), max_size=8)


def pieces(whole: bytes, places: list[int]) -> list[bytes]:
    ordered = [0, *sorted({place % len(whole) for place in places} - {0}), len(whole)]
    return [whole[begin:end] for begin, end in pairwise(ordered)]


def ends(whole: bytes, places: list[int]) -> list[bool]:
    answer = Answer(0.0)
    return [answer.take(piece, 1.0, b"~") for piece in pieces(whole, places)]


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6), cuts)
def test_chunked_answer_ends_with_its_last_byte(chunks: list[bytes], places: list[int]) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    whole = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"
    *before, last = ends(whole, places)
    assert last
    assert not any(before)


@given(st.binary(max_size=1000), cuts)
def test_answer_with_a_length_ends_with_its_last_byte(body: bytes, places: list[int]) -> None:
    *before, last = ends(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body, places)
    assert last
    assert not any(before)


def test_first_token_is_the_first_piece_with_one() -> None:
    answer = Answer(0.0)
    answer.take(HEAD + b"Content-Length: 3\r\n\r\n", 1.0, b"~")
    answer.take(b"a", 2.0, b"~")
    assert answer.take(b"~b", 3.0, b"~")
    assert (answer.first_byte, answer.first_token) == (1.0, 3.0)


def test_percentiles() -> None:
    ordered = [float(value) for value in range(101)]
    assert [percentile(ordered, percent) for percent in (0, 50, 99, 100)] == [0, 50, 99, 100]
    assert percentile([], 50) == 0
