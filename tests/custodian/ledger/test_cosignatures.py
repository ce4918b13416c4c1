"""J-5, J-7: what is kept of cosignatures, what is refused, and what an instance is shown next."""

from __future__ import annotations

import msgspec
import pytest

from leasehold.core.checkpoint import checkpoint_text, cosigned_text
from leasehold.core.crypto import SigningKey, check_signature
from leasehold.core.merkle import check_consistency
from leasehold.core.messages import Heartbeat, LogHead
from leasehold.core.units import DAY, SECOND, Instant, after
from leasehold.custodian.ledger import audit, cosignatures
from leasehold.custodian.ledger.cosignatures import KEPT, SHOWN_EVERY, Cosignature
from leasehold.custodian.ledger.notes import check_note, find_cosignature
from leasehold.custodian.ledger.tiles import Tree
from leasehold.errors import BadSignature, Conflict, LeaseholdError, TooBusy, UnknownThing

from .stage import START, Stage, statement_key

ORIGIN, LOG_KEY, KEY = "log.example/a", SigningKey.load(b"l" * 32), SigningKey.load(b"w" * 32)
NAME = "regulator.example/w1"


def grown(count: int) -> Stage:
    stage = Stage()
    for _ in range(count):
        stage.do(lambda tx: audit.append(tx, now=START, actor="a", kind="k", detail={}))
    return stage


def cosigned(stage: Stage, size: int, *, name: str = NAME, key: SigningKey = KEY) -> Cosignature:
    root = stage.see(lambda tx: Tree(tx, size).root())
    seconds = START // SECOND
    signature = key.sign(cosigned_text(checkpoint_text(ORIGIN, size, root), seconds))
    return Cosignature(name, size, "witness", key.public, seconds, signature, START)


def keep(stage: Stage, one: Cosignature) -> None:
    stage.do(lambda tx: cosignatures.keep(tx, ORIGIN, one))


def test_a_checkpoint_is_served_with_the_lines_of_just_its_size() -> None:
    stage = grown(6)
    for size, name in ((3, "a"), (3, "b"), (5, "a")):
        keep(stage, cosigned(stage, size, name=name))
    note = stage.see(
        lambda tx: cosignatures.cosigned_checkpoint(
            tx, origin=ORIGIN, key=LOG_KEY, size=cosignatures.newest_size(tx, 2)
        )
    )
    assert check_note(note, name=ORIGIN, public=LOG_KEY.public).split("\n")[1] == "3"
    for name in ("a", "b"):
        assert find_cosignature(note, name=name, public=KEY.public).seconds == START // SECOND
    now = stage.see(lambda tx: cosignatures.cosigned_checkpoint(tx, origin=ORIGIN, key=LOG_KEY))
    with pytest.raises(BadSignature):
        find_cosignature(now, name="a", public=KEY.public)
    with pytest.raises(UnknownThing):
        stage.see(lambda tx: cosignatures.newest_size(tx, 3))
    newest = stage.see(cosignatures.list_newest)
    assert {one.name: one.size for one in newest} == {"a": 5, "b": 3}


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"size": 2}, BadSignature),
        ({"size": 0}, UnknownThing),
        ({"size": 9}, UnknownThing),
        ({"seconds": 7}, BadSignature),
        ({"seconds": 1 << 63}, BadSignature),
        ({"signature": bytes(64)}, BadSignature),
    ],
)
def test_what_does_not_fit_the_log_is_refused(
    changed: dict[str, object], refusal: type[LeaseholdError]
) -> None:
    stage = grown(4)
    one = msgspec.structs.replace(cosigned(stage, 3), **changed)
    with pytest.raises(refusal):
        keep(stage, one)
    assert stage.see(cosignatures.list_newest) == ()


def test_a_name_has_one_key_and_there_is_room_for_so_many_witnesses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = grown(4)
    keep(stage, cosigned(stage, 3))
    with pytest.raises(Conflict, match="key of"):
        keep(stage, cosigned(stage, 4, key=LOG_KEY))
    monkeypatch.setattr(cosignatures, "WITNESSES_MAX", 1)
    keep(stage, cosigned(stage, 4))
    with pytest.raises(TooBusy):
        keep(stage, cosigned(stage, 4, name="another"))


def test_only_the_newest_of_a_name_are_kept() -> None:
    stage = grown(KEPT + 5)
    for size in range(1, KEPT + 6):
        keep(stage, cosigned(stage, size))
    found = stage.see(lambda tx: tx.execute("SELECT MIN(size), COUNT(*) FROM cosignatures"))
    assert tuple(found[0]) == (6, KEPT)


# What an instance is shown -----------------------------------------------------------------------


def attend(
    stage: Stage, instance: str, seen: int | None, cosignature: bytes = b"", *, at: Instant = START
) -> LogHead | None:
    return stage.do(
        lambda tx: cosignatures.attend(
            tx,
            now=at,
            instance=instance,
            beat=Heartbeat(1, (), seen, cosignature),
            origin=ORIGIN,
            key=LOG_KEY,
        )
    )


def sign(head: LogHead, instance: str) -> bytes:
    text = checkpoint_text(ORIGIN, head.size, head.root)
    check_signature(LOG_KEY.public, text.encode(), head.signature)
    seconds = START // SECOND
    signature = statement_key(instance).sign(cosigned_text(text, seconds))
    return seconds.to_bytes(8, "big") + signature


def alarms(stage: Stage) -> list[object]:
    entries = stage.see(lambda tx: audit.entries(tx, start=0, count=1000))
    return [one.detail["about"] for one in entries if one.kind == "alarm"]


def lent() -> Stage:
    stage = Stage()
    stage.lend()
    stage.attest("one")
    stage.attest("two")
    return stage


def test_an_instance_is_shown_the_log_when_it_grew_and_it_is_time() -> None:
    stage = lent()
    assert attend(stage, "one", None) is None  # it watches nothing
    first = attend(stage, "one", 0)
    assert first is not None
    assert (first.old, first.size, first.proof) == (0, 4, ())
    signed = sign(first, "one")
    assert attend(stage, "one", 4, signed) is None
    (kept,) = stage.see(cosignatures.list_newest)
    assert (kept.name, kept.kind, kept.size) == (f"{ORIGIN}/instance/one", "enclave", 4)
    stage.enrol("alice")
    assert attend(stage, "one", 4, signed, at=after(START, SHOWN_EVERY - 1)) is None
    later = attend(stage, "one", 4, signed, at=after(START, SHOWN_EVERY))
    assert later is not None
    assert later.size > later.old == 4
    check_consistency(
        old_size=4, old_head=first.root, size=later.size, head=later.root, proof=later.proof
    )
    assert attend(stage, "one", later.size, sign(later, "one")) is None
    assert attend(stage, "one", later.size, sign(later, "one"), at=after(START, DAY)) is None


def test_a_clock_set_back_silences_no_witness() -> None:
    stage = lent()
    first = attend(stage, "one", 0)
    assert first is not None
    signed = sign(first, "one")
    assert attend(stage, "one", first.size, signed) is None
    stage.enrol("alice")
    back = attend(stage, "one", first.size, signed, at=Instant(START - 30 * DAY))
    assert back is not None
    assert back.size > back.old == first.size


def test_instances_are_shown_what_another_cosigned_just_now() -> None:
    """So that many lines stand below one checkpoint."""
    stage = lent()
    first = attend(stage, "one", 0)
    assert first is not None
    attend(stage, "one", first.size, sign(first, "one"))
    stage.enrol("alice")
    second = attend(stage, "two", 0)
    assert second == first
    attend(stage, "two", first.size, sign(first, "two"))
    assert stage.see(lambda tx: cosignatures.newest_size(tx, 2)) == first.size
    late = attend(stage, "two", 0, at=after(START, SHOWN_EVERY + 1))
    assert late is not None
    assert late.size > first.size


@pytest.mark.parametrize("seen", [4, 400])
def test_a_cosignature_of_another_log_is_an_alarm_and_shows_the_instance_this_one(
    seen: int,
) -> None:
    """T58: either it lies, or this custodian's log is not what the instance saw."""
    stage = lent()
    other = LogHead(
        0, seen, bytes(32), LOG_KEY.sign(checkpoint_text(ORIGIN, seen, bytes(32)).encode())
    )
    shown = attend(stage, "one", seen, sign(other, "one"))
    assert stage.see(cosignatures.list_newest) == ()
    assert alarms(stage) == ["another log"]
    assert shown is not None
    assert (shown.old, shown.size) == (seen, 5)


def test_a_cosignature_under_another_instances_key_is_not_kept() -> None:
    stage = lent()
    first = attend(stage, "one", 0)
    assert first is not None
    attend(stage, "one", first.size, sign(first, "two"))
    attend(stage, "one", first.size, b"short")
    assert stage.see(cosignatures.list_newest) == ()
    assert alarms(stage) == ["another log"] * 2
