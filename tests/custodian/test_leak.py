"""M-10: what a lying worker could carry out, by tariff; and that nothing it may send carries more."""

from __future__ import annotations

import pytest

from leasehold.core import frames
from leasehold.core.frames import Done, Embedded, Inferred, Prob, Reason, Token
from leasehold.core.tariff import PER_REQUEST, PER_TOKEN, Tariff
from leasehold.core.tensors import ROW_BYTES, DataType, Port, Tensor
from leasehold.core.units import DAY, Instant, Units
from leasehold.custodian.leak import Leak, leak, units_a_day
from leasehold.enclave.claims import Claims
from leasehold.errors import BadMessage

LONGEST = frames.LONGEST_TOKEN_BYTES_MAX


@pytest.mark.parametrize(
    ("tariff", "expected"),
    [
        (PER_TOKEN, Leak(4096, 0, 524_288, 0)),
        (PER_REQUEST, Leak(None, 0, 67_108_864, 67_108_864)),
        (Tariff(output_token=1000, logprob=100), Leak(5, 42, 0, 0)),
        (Tariff(request=10, row=4), Leak(None, 0, 131_072, 131_072)),
    ],
)
def test_bits_a_unit_follow_from_the_tariff(tariff: Tariff, expected: Leak) -> None:
    assert leak(tariff) == expected


def test_a_person_reads_bits_and_bytes() -> None:
    assert leak(PER_TOKEN).in_words(Units(1_000_000)) == (
        "text 4,096 bits a unit (512.0 MB), vectors 524,288 bits a unit (65,536.0 MB)"
    )
    assert leak(PER_REQUEST).in_words(Units(0)).startswith("text without bound")


def test_a_day_is_bounded_by_what_is_left_and_by_nothing_else() -> None:
    assert leak(PER_TOKEN).in_a_day(1_000) == "text 4,096,000 bits, vectors 524,288,000 bits"
    assert leak(PER_REQUEST).in_a_day(0) == ("text without bound, vectors 0 bits, tensors 0 bits")


@pytest.mark.parametrize(
    ("used", "days", "expected"), [(0, 9, 0), (700, 7, 100), (701, 7, 101), (700, 0.01, 700)]
)
def test_the_pace_is_of_whole_days(used: int, days: float, expected: int) -> None:
    since = Instant(1_800_000_000_000)
    assert units_a_day(used, since=since, now=Instant(since + int(days * DAY))) == expected


def test_a_token_carries_no_more_than_that() -> None:
    claims = Claims(Done, LONGEST, tokens_max=10)
    claims.check(Token(1, "x" * LONGEST))
    with pytest.raises(BadMessage, match="bytes of text"):
        claims.check(Token(1, "x" * (LONGEST + 1)))


def test_calls_count_as_text() -> None:
    claims = Claims(Done, 8, tokens_max=10)
    claims.check(Token(1, "", 1, (frames.CallPart(0, "four", "four"),)))
    with pytest.raises(BadMessage, match="bytes of text"):
        claims.check(Token(1, "", 1, (frames.CallPart(0, "four", "five!"),)))


def test_probabilities_are_those_that_were_asked_for() -> None:
    row = (Prob(b"a", -1.0), Prob(b"b", -2.0))
    Claims(Done, 8, tokens_max=10, probs_max=2).check(Token(1, "a", 1, (), (row,)))
    for asked, rows in ((1, (row,)), (0, (row,)), (2, (row, row))):
        with pytest.raises(BadMessage, match="probabilities"):
            Claims(Done, 8, tokens_max=10, probs_max=asked).check(Token(1, "a", 1, (), rows))
    with pytest.raises(BadMessage, match="length"):
        frames.Deframer(frames.TO_GOVERNOR).feed(
            frames.encode(Token(1, "a", 1, (), ((Prob(b"x" * (LONGEST + 1), 0.0),),)))
        )


def test_a_vector_and_a_row_carry_no_more_than_that() -> None:
    assert frames.EMBEDDING_DIMS_MAX * 4 == ROW_BYTES
    with pytest.raises(BadMessage):
        frames.Deframer(frames.TO_GOVERNOR).feed(
            frames.encode(Embedded(1, b"", frames.EMBEDDING_DIMS_MAX + 1, 1))
        )
    port = Port("y", DataType.UINT8, (-1,))
    claims = Claims(Inferred, 1, outputs=(port,), bytes_max=4)
    good = Tensor("y", DataType.UINT8, (4,), b"abcd")
    claims.check(Inferred(1, (good,)))
    for outputs, said in (
        ((Tensor("y", DataType.UINT8, (5,), b"abcde"),), "bytes of outputs"),
        ((), "outputs"),
        ((good, good), "outputs"),
        ((Tensor("z", DataType.UINT8, (4,), b"abcd"),), "outputs"),
        ((Tensor("y", DataType.INT8, (4,), b"abcd"),), "datatype"),
        ((Tensor("y", DataType.UINT8, (3,), b"abcd"),), "elements"),
        ((Tensor("y", DataType.UINT8, (2, 2), b"abcd"),), "shape"),
    ):
        fresh = Claims(Inferred, 1, outputs=(port,), bytes_max=4)
        with pytest.raises(BadMessage, match=said):
            fresh.check(Inferred(1, outputs))


def test_an_answer_of_another_kind_is_a_lie() -> None:
    port = Port("y", DataType.UINT8, (-1,))
    for answer in (Done(1, Reason.STOP, 1, 0), Embedded(1, b"", 1, 1), Token(1, "a")):
        with pytest.raises(BadMessage):
            Claims(Inferred, 1, outputs=(port,), bytes_max=4).check(answer)
