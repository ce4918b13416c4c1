"""J-10: two signed checkpoints of one size and two roots prove a fork, and nothing less does."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from leasehold.core.encoding import to_json, unb64
from leasehold.core.messages import LogHead
from leasehold.custodian.forks import Fork, check_fork, parse_fork
from leasehold.custodian.ledger.notes import check_note, parse_checkpoint
from leasehold.errors import BadMessage, BadSignature, LeaseholdError, Unproven

from .test_witness import KEY, LOG_KEY, ORIGIN, show, stage_of

SEEN, SHOWN = show(stage_of(5), 0)[0], show(stage_of(5, "other"), 0)[0]
FORK = Fork(ORIGIN, SEEN, SHOWN)


def check(fork: Fork, *, origin: str = ORIGIN, public: bytes = LOG_KEY.public) -> tuple[int, int]:
    seen, shown = check_fork(fork, origin=origin, public=public)
    return seen.size, shown.size


def test_two_roots_of_one_size_are_a_proof_from_a_file() -> None:
    read = parse_fork(to_json(FORK), origin=ORIGIN, public=LOG_KEY.public)
    assert read == FORK
    assert check(read) == (5, 5)


@pytest.mark.parametrize(
    ("fork", "refusal", "words"),
    [
        (replace(FORK, shown=SEEN), Unproven, "the same root"),
        (replace(FORK, shown=show(stage_of(6), 0)[0]), Unproven, "of one size"),
        (replace(FORK, shown=show(stage_of(5, "other"), 0, KEY)[0]), BadSignature, "signature"),
        (replace(FORK, seen=SEEN.replace("\n5\n", "\n6\n")), BadSignature, "signature"),
        (replace(FORK, seen="no note"), BadMessage, "signed note"),
    ],
)
def test_what_is_no_contradiction_is_refused(
    fork: Fork, refusal: type[LeaseholdError], words: str
) -> None:
    with pytest.raises(refusal, match=words):
        check(fork)


def test_the_log_is_the_one_that_was_asked_about() -> None:
    with pytest.raises(BadSignature):
        check(FORK, public=KEY.public)
    with pytest.raises(BadSignature):
        check(FORK, origin="another.example/log")


def head_of(note: str) -> LogHead:
    signed = parse_checkpoint(check_note(note, name=ORIGIN, public=LOG_KEY.public))
    line = note.split("\n\n")[1].split("\n")[0]
    return LogHead(0, signed.size, signed.root, unb64(line.split(" ")[2], about="line")[4:])


def test_the_event_of_an_enclave_is_a_proof_as_well() -> None:
    """J-6: its line in the log, as the host has it."""
    line = to_json(
        {"time": 1, "event": "log_fork", "role": "enclave", "code": "unproven"}
        | {"seen": head_of(SEEN), "shown": head_of(SHOWN)}
    )
    assert check(parse_fork(line, origin=ORIGIN, public=LOG_KEY.public)) == (5, 5)
    forged = to_json(
        {"event": "log_fork", "seen": head_of(SEEN)}
        | {"shown": replace(head_of(SHOWN), signature=bytes(64))}
    )
    with pytest.raises(BadSignature):
        check(parse_fork(forged, origin=ORIGIN, public=LOG_KEY.public))
    with pytest.raises(BadMessage):
        parse_fork(b'{"event":"other"}', origin=ORIGIN, public=LOG_KEY.public)
