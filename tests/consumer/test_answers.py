"""Reading streams and answers, in whatever portions the bytes arrive."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.consumer.answers import (
    EVENT_BYTES_MAX,
    Exchange,
    StreamReader,
    read_answer,
    read_vectors,
)
from leasehold.errors import BadMessage, LoanStopped, Refused

STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b": a comment\n\n"
    b'data: {"choices":[{"delta":{"content":"Twelve"}}]}\r\n\r\n'
    b'data: {"choices":[{"delta":{"content":" \xc3\xa9ggs"}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_portions_do_not_matter(cuts: list[int]) -> None:
    reader = StreamReader("receipt-1", b"asked")
    places = [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[start:end] for start, end in pairwise(places)]
    pieces = [piece for part in parts for piece in reader.feed(part)]
    assert pieces == ["Twelve", " éggs"]
    answer = reader.finish()
    assert (answer.text, answer.finish_reason, answer.code) == ("Twelve éggs", "stop", None)
    assert (answer.input_tokens, answer.output_tokens) == (3, 2)
    assert answer.exchange == Exchange("receipt-1", b"asked", STREAM)


def test_a_refusal_in_the_middle_is_raised() -> None:
    reader = StreamReader("receipt-1", b"asked")
    event = (
        b'data: {"error":{"message":"Stopped.","type":"permission_error","code":"loan_stopped"}}\n'
    )
    with pytest.raises(LoanStopped) as caught:
        list(reader.feed(event))
    assert caught.value.message == "Stopped."


def test_a_refusal_of_an_unknown_code_is_still_one() -> None:
    reader = StreamReader("receipt-1", b"asked")
    with pytest.raises(Refused):
        list(reader.feed(b'data: {"error":{"message":"m","type":"t","code":"of_tomorrow"}}\n'))


def test_an_endless_event_is_not_collected() -> None:
    reader = StreamReader("receipt-1", b"asked")
    with pytest.raises(BadMessage):
        list(reader.feed(b"data: " + b"x" * EVENT_BYTES_MAX))


@pytest.mark.parametrize("body", [b"", b"{}", b'{"choices":[]}', b'{"choices":1}', b"\xff"])
def test_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(BadMessage):
        read_answer(Exchange("receipt-1", b"", body))


@pytest.mark.parametrize("rows", ["", '{"index":0,"embedding":[1]}', '{"index":1,"embedding":[1]}'])
def test_every_text_has_its_vector(rows: str) -> None:
    with pytest.raises(BadMessage):
        read_vectors(Exchange("receipt-1", b"", f'{{"data":[{rows}]}}'.encode()), count=2)
