"""W-4: what the worker says leaves at once, or together."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from leasehold.core import frames
from leasehold.core.frames import Counted, Done, Reason, Sampling, Text, Token
from leasehold.worker.outbox import PENDING_MAX, Outbox, Telling

NEVER = 1e9  # seconds since the last write, which no machine has been up for
DONE = Done(1, Reason.STOP, 2, 3)


class Ends:
    """An outbox, and the governor's end of its wire."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair()
        self.lost: list[str] = []
        self.outbox = Outbox(theirs, lambda: self.lost.append("lost"))
        self._deframer = frames.Deframer(frames.TO_GOVERNOR)
        self._theirs = theirs

    def came(self) -> list[frames.ToGovernor]:
        """All that has left and was not read."""
        try:
            return self._deframer.feed(self.ours.recv(1 << 20, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return []

    def next(self) -> list[frames.ToGovernor]:
        """The next write, however long it takes."""
        self.ours.settimeout(60)
        return self._deframer.feed(self.ours.recv(1 << 20))


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Both ends, and the outbox's thread, go away with the test."""
    made = Ends()
    yield made
    made.outbox.close()
    made.ours.close()
    made._theirs.close()


def test_a_lone_frame_leaves_at_once(ends: Ends) -> None:
    ends.outbox.put(Token(1, "a"), 1e-9)
    assert ends.came() == [Token(1, "a")]


def test_what_may_wait_leaves_with_what_may_not_and_in_order(ends: Ends) -> None:
    said = [Counted(1, 2), Token(1, "a"), Token(2, "b"), Token(1, "c")]
    for frame in said:
        ends.outbox.put(frame, NEVER)
    assert ends.came() == []
    ends.outbox.put(DONE)
    assert ends.came() == [*said, DONE]


def test_what_waits_leaves_by_itself(ends: Ends) -> None:
    ends.outbox.put(DONE)
    assert ends.came() == [DONE]
    ends.outbox.put(Token(1, "a"), 0.02)
    assert ends.next() == [Token(1, "a")]


def test_a_sooner_frame_takes_the_others_along(ends: Ends) -> None:
    ends.outbox.put(DONE)
    assert ends.came() == [DONE]
    ends.outbox.put(Token(1, "a"), NEVER)
    ends.outbox.put(Token(2, "b"), 0.02)
    assert ends.next() == [Token(1, "a"), Token(2, "b")]


def test_not_more_waits_than_the_governor_keeps(ends: Ends) -> None:
    for _ in range(PENDING_MAX - 1):
        ends.outbox.put(Token(1, "a"), NEVER)
    assert ends.came() == []
    ends.outbox.put(Token(1, "a"), NEVER)
    assert len(ends.came()) == PENDING_MAX


@pytest.mark.parametrize("whole", [False, True])
def test_a_generation_tells_in_frames_of_16_at_most(ends: Ends, whole: bool) -> None:
    asked = frames.Generate(7, Text("a"), 99, Sampling(), 0, whole)
    going = [True, True, False]
    telling = Telling(asked, ends.outbox, lambda: going.pop(0))
    assert telling("", 0)
    assert telling("all of it", 35)
    assert not telling("more", 1)
    ends.outbox.put(DONE)
    came = ends.came()
    while came[-1] != DONE:
        came += ends.next()
    assert [(one.count, one.text) for one in came if isinstance(one, Token)] == [
        *((16, ""), (16, "")),
        *((3, "all of it"), (1, "more")),
    ]


def test_where_the_governor_went_away_somebody_is_told(ends: Ends) -> None:
    ends.ours.close()
    ends.outbox.put(DONE)
    assert ends.lost == ["lost"]
