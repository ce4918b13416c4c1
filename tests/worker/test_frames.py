"""W-1 to W-4: the frames, and what a decoder refuses."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core import frames
from leasehold.core.frames import (
    FRAME_BYTES_MAX,
    Cancel,
    Chat,
    Count,
    Deframer,
    Done,
    Embed,
    Embedded,
    Failed,
    Fault,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Message,
    Reason,
    Role,
    Sampling,
    Text,
    Texts,
    Token,
    Tokens,
)
from leasehold.errors import BadMessage, codes

TO_WORKER = [
    Load((frames.FileInfo("m.gguf", 12),), frames.Settings()),
    Count(1, Texts(("a", "b"))),
    Generate(2, Chat((Message(Role.USER, "hé"),)), 5, Sampling(stop=("x",), seed=3)),
    Generate(3, Tokens((1, 2)), 1, Sampling()),
    Generate(5, Text("a"), 1, Sampling(), 7, True),
    Embed(4, Texts(("a",))),
    Cancel(2),
]
TO_GOVERNOR = [
    Loaded((frames.Capability.CHAT,), 512, 13, 0, ("seccomp",), ("landlock",)),
    LoadFailed(Fault.BAD_MODEL),
    frames.Counted(1, 12),
    Token(2, "é", 3),
    Done(2, Reason.LENGTH, 4, 5),
    Embedded(4, b"\0" * 8, 2, 3),
    Failed(3, Fault.TOO_LONG),
]


def raw(*fields: object) -> bytes:
    """A frame of any fields at all."""
    body = msgspec.msgpack.encode(fields)
    return len(body).to_bytes(4, "big") + body


@given(st.lists(st.sampled_from(TO_GOVERNOR), max_size=9), st.integers(1, 40))
def test_any_cut_of_the_stream_gives_the_same_frames(
    sent: list[frames.ToGovernor], cut: int
) -> None:
    stream = b"".join(frames.encode(frame) for frame in sent)
    deframer = Deframer(frames.TO_GOVERNOR)
    got = [f for at in range(0, len(stream), cut) for f in deframer.feed(stream[at : at + cut])]
    assert got == sent


def test_what_shares_a_frame_comes_out_in_order_and_single() -> None:
    said = (frames.Counted(1, 2), Token(1, "a"), Token(2, "b"), Done(1, Reason.STOP, 2, 1))
    stream = frames.encode(frames.Several(said)) + frames.encode(Token(2, "c"))
    assert Deframer(frames.TO_GOVERNOR).feed(stream) == [*said, Token(2, "c")]


def test_a_frame_shared_by_too_many_or_by_what_may_not_is_refused() -> None:
    crowd = frames.encode(frames.Several((Token(1, "a"),) * (frames.SEVERAL_MAX + 1)))
    with pytest.raises(BadMessage, match="length <= 64"):
        Deframer(frames.TO_GOVERNOR).feed(crowd)
    with pytest.raises(BadMessage, match="Invalid value 26"):
        Deframer(frames.TO_GOVERNOR).feed(raw(28, [[26, 3, "engine_failed"]]))


def test_every_frame_to_the_worker_survives() -> None:
    stream = b"".join(frames.encode(frame) for frame in TO_WORKER)
    assert Deframer(frames.TO_WORKER).feed(stream) == TO_WORKER


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
        raw(99, 1),
        raw("token", 1, "text"),
        raw(23),
        raw(23, 1, "text", 1, "more"),
        raw(23, -1, "text", 1),
        raw(23, 1, "text", 0),
        raw(23, 1, "text", frames.GROUP_TOKENS_MAX + 1),
        raw(24, 1, "whenever", 1, 1),
        raw(20, (), 512, 13),
        raw(20, ("chat",), 512, frames.LONGEST_TOKEN_BYTES_MAX + 1),
        raw(26, 1, "some prose"),
        b"\0\0\0\1\xc1",
        b"\0\0\0\0",
        frames.encode(TO_WORKER[-1]),
    ],
)
def test_the_governor_refuses_what_is_no_frame_of_a_worker(data: bytes) -> None:
    with pytest.raises(BadMessage):
        Deframer(frames.TO_GOVERNOR).feed(data)


def test_half_a_character_is_no_text() -> None:
    body = bytes([0x94, 23, 1, 0xA1, 0xC3, 1])  # array of 4: tag, id, str of one byte, count
    with pytest.raises(BadMessage):
        Deframer(frames.TO_GOVERNOR).feed(len(body).to_bytes(4, "big") + body)


def test_a_frame_over_the_limit_is_not_made() -> None:
    with pytest.raises(BadMessage):
        frames.encode(Count(1, Text("x" * FRAME_BYTES_MAX)))


def test_a_worker_may_use_five_codes_and_all_are_of_the_error_tree() -> None:
    assert {fault.value for fault in Fault} <= set(codes())
