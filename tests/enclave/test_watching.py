"""J-5, J-6: an instance cosigns what extends what it saw, and nothing once it was shown another log."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from leasehold.core.checkpoint import checkpoint_text, cosigned_text
from leasehold.core.crypto import SigningKey, check_signature
from leasehold.core.merkle import leaf_hash
from leasehold.core.messages import LogHead
from leasehold.core.trees import consistency_proof, root
from leasehold.core.units import SECOND
from leasehold.enclave.watching import LogWatch
from leasehold.testing.machinery import Events
from leasehold.testing.time import SimulatedClock, run_simulated

ORIGIN, LOG_KEY, KEY = "log.example/a", SigningKey.load(b"l" * 32), SigningKey.load(b"i" * 32)


def head(old: int, size: int, what: str = "a", *, key: SigningKey = LOG_KEY) -> LogHead:
    """A log of `size` leaves as a custodian would show it to who has seen `old` of them."""
    leaves = [leaf_hash(f"{what}{index}".encode()) for index in range(size)]
    proof = consistency_proof(leaves, old) if 0 < old <= size else ()
    signature = key.sign(checkpoint_text(ORIGIN, size, root(leaves)).encode())
    return LogHead(old, size, root(leaves), signature, proof)


def watch() -> tuple[LogWatch, Events]:
    log = Events()
    return LogWatch(ORIGIN, LOG_KEY.public, KEY, SimulatedClock(), log), log


def simulated(test: Callable[[], None]) -> None:
    async def story() -> None:
        test()

    run_simulated(story)


def test_what_extends_is_cosigned_over_the_exact_text() -> None:
    def story() -> None:
        watching, log = watch()
        for old, size in ((0, 3), (3, 8), (8, 8)):
            shown = head(old, size)
            watching.hear(shown)
            assert watching.size == size
            packed = watching.cosignature
            seconds = int.from_bytes(packed[:8], "big")
            assert seconds == watching.clock.now() // SECOND
            said = cosigned_text(checkpoint_text(ORIGIN, size, shown.root), seconds)
            check_signature(KEY.public, said, packed[8:])
        assert log.names() == []

    simulated(story)


@pytest.mark.parametrize(
    "shown",
    [head(5, 9, "b"), head(5, 5, "b"), head(5, 3), replace(head(5, 9), proof=())],
    ids=["fork", "same size", "shrunk", "no proof"],
)
def test_a_signed_log_that_does_not_extend_is_a_fork_for_ever(shown: LogHead) -> None:
    """T58. What was seen stays, and both heads are in the event."""

    def story() -> None:
        watching, log = watch()
        watching.hear(head(0, 5))
        seen, cosignature = watching.seen, watching.cosignature
        watching.hear(shown)
        assert log.said == [("log_fork", {"code": "unproven", "seen": seen, "shown": shown})]
        watching.hear(head(5, 9))
        assert (watching.forked, watching.size) == (True, None)
        assert (watching.seen, watching.cosignature) == (seen, cosignature)

    simulated(story)


def test_what_the_log_did_not_sign_is_no_fork_and_not_cosigned() -> None:
    def story() -> None:
        watching, log = watch()
        watching.hear(head(0, 5, key=KEY))
        assert log.said == [("log_not_signed", {"code": "bad_signature"})]
        assert (watching.size, watching.cosignature) == (0, b"")

    simulated(story)


def test_a_head_about_something_older_is_passed_over() -> None:
    """Two answers crossed on their way: no fork, and nothing to sign."""

    def story() -> None:
        watching, log = watch()
        watching.hear(head(0, 5))
        watching.hear(head(0, 7, "b"))
        watching.hear(None)
        assert (watching.size, log.names()) == (5, [])

    simulated(story)


def test_without_a_key_nothing_is_watched() -> None:
    def story() -> None:
        watching = LogWatch("", b"", KEY, SimulatedClock(), Events())
        watching.hear(head(0, 5))
        assert (watching.size, watching.cosignature) == (None, b"")

    simulated(story)
