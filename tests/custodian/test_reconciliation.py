"""Receipts, ledger and log agree to the unit, and each way in which they do not has its name (R-5, R-6)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.custodian.ledger.stage import (
    ADMIN,
    DIGEST,
    START,
    Stage,
    ready,
    statement_key,
)

from leasehold.consumer.receipt import CheckedReceipt, keep
from leasehold.core.crypto import SigningKey, sha256
from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import CLOSE_KIND, CloseReport, ReceiptAnswer
from leasehold.core.receipts import Receipt, head, sign_receipt
from leasehold.core.statements import Signed, sign
from leasehold.core.units import MINUTE, Instant, Units
from leasehold.custodian.ledger import audit, refunds, reports, sweeps
from leasehold.custodian.reconciliation import (
    Facts,
    Fault,
    Reconciled,
    Row,
    parse_receipts,
    reconcile,
)
from leasehold.errors import BadMessage, FileTrouble
from leasehold.testing.box import Box, Consumer
from leasehold.testing.time import run_simulated
from leasehold.testing.world import World


def facts_of(stage: Stage) -> Facts:
    return Facts.read(stage.see(lambda tx: audit.entries(tx, start=0, count=10_000)))


def compare(stage: Stage, receipts: Sequence[Signed], *consumers: str) -> Reconciled:
    return reconcile(receipts, facts_of(stage), consumers=consumers)


def receipt(lease: str, units: int, previous: bytes = b"", **changed: Any) -> Signed:
    """A receipt of the instance `one`, or with other contents or of another key."""
    key = changed.pop("key", statement_key("one"))
    values: dict[str, Any] = {
        "id": f"receipt-{lease}-{units}-{previous.hex()[:4]}",
        "instance": "one",
        "loan": "loan-1",
        "model_digest": DIGEST,
        "evidence_digest": sha256(b"one"),
        "lease": lease,
        "previous": previous,
        "units": Units(units),
        "input_tokens": units,
        "output_tokens": 0,
        "request_mac": b"",
        "response_mac": b"",
        "time": START,
        "simulated": True,
        **changed,
    }
    return sign_receipt(key, Receipt(**values))


def chain(lease: str, *amounts: int) -> list[Signed]:
    """Receipts that follow each other."""
    made: list[Signed] = []
    for number, units in enumerate(amounts):
        before = head(made[-1]) if made else b""
        made.append(receipt(lease, units, before, id=f"receipt-{number}"))
    return made


def close(stage: Stage, lease: str, spent: int, last: bytes) -> None:
    """The closing report with the last receipt's name."""
    report = CloseReport("one", lease, Units(spent), last)
    signed = sign(statement_key("one"), CLOSE_KIND, to_json(report))
    stage.do(lambda tx: reports.close(tx, now=stage.now, instance="one", signed=signed))


def closed(*amounts: int, spent: int | None = None) -> tuple[Stage, str, list[Signed]]:
    """A lease of 100 units that was closed after these receipts."""
    stage = ready()
    lease = stage.lease().lease
    made = chain(lease, *amounts)
    close(stage, lease, sum(amounts) if spent is None else spent, head(made[-1]))
    return stage, lease, made


def faults(found: Reconciled) -> list[Fault]:
    return [one.fault for one in found.findings]


def only(found: Reconciled) -> Row:
    (row,) = found.rows
    return row


# In the simulated world --------------------------------------------------------------------------


async def receipt_of(box: Box, consumer: Consumer, answer: Any) -> Signed:
    name = answer.headers["leasehold-receipt-id"]
    told = await consumer.call(box, "GET", f"/leasehold/receipts/{name}")
    return from_json(told.body, ReceiptAnswer).receipt


async def log_of(world: World) -> Facts:
    return Facts.read(
        await world.custodian.look(lambda tx: audit.entries(tx, start=0, count=10_000))
    )


def test_what_real_enclaves_sign_agrees_to_the_unit() -> None:
    """Two enclaves, two consumers, streams and refusals, a stop: every unit has its receipt."""

    async def story() -> None:
        world = await World.make(cap=10_000)
        alice, bob = await world.consumer("alice", 500), await world.consumer("bob", 60)
        boxes = [await world.enclave().serving(), await world.enclave().serving()]
        kept: dict[str, list[Signed]] = {"alice": [], "bob": []}
        for number in range(12):
            who, box = (alice, bob)[number % 3 == 0], boxes[number % 2]
            answer = await who.ask(
                box, f"{'word ' * number} <end>", max_tokens=20, stream=number % 4 == 1
            )
            if answer.status == 200:
                kept[who.name].append(await receipt_of(box, who, answer))
            await asyncio.sleep(3)
        await asyncio.sleep(120)
        facts = await log_of(world)
        found = reconcile([*kept["alice"], *kept["bob"]], facts)
        assert found.findings == ()
        assert {one.consumer for one in found.rows} == {"alice", "bob"}
        for who in (alice, bob):
            budget = (await world.budget(who.name)).budget
            mine = [one for one in found.rows if one.consumer == who.name]
            assert sum(one.receipted for one in mine) == budget.settled > 0
            assert budget.outstanding == budget.written_off == 0
        assert {one.remark for one in found.rows} == {"to the unit"}

        # One receipt is lost: its units are missing, and the chain says so.
        lost = from_json(kept["alice"][1].payload, Receipt)
        found = reconcile([one for one in kept["alice"] if one != kept["alice"][1]], facts)
        assert set(faults(found)) <= {Fault.BROKEN}
        assert sum(one.missing for one in found.rows) == lost.units
        await world.end()

    run_simulated(story)


def test_an_enclave_that_dies_leaves_units_in_doubt() -> None:
    """What was served and never reported is written off; the receipts show how much of it was served."""

    async def story() -> None:
        world = await World.make(cap=10_000)
        alice = await world.consumer("alice", 500)
        box = await world.enclave().serving()
        answer = await alice.ask(box, "one two three <end>", max_tokens=20)
        signed = await receipt_of(box, alice, answer)
        await box.kill()
        await asyncio.sleep(200)
        found = reconcile([signed], await log_of(world))
        row = only(found)
        assert found.findings == ()
        assert row.state == "written off"
        assert row.receipted == 7
        assert row.settled + row.in_doubt == 7
        await world.end()

    run_simulated(story)


# Each fault --------------------------------------------------------------------------------------


def test_a_whole_chain_agrees_in_any_order_of_lines() -> None:
    stage, lease, made = closed(10, 0, 30)
    row = only(compare(stage, made[::-1]))
    assert (row.lease, row.receipts, row.receipted, row.settled) == (lease, 3, 40, 40)
    assert (row.missing, row.faults, row.remark) == (0, (), "to the unit")


def test_a_forged_signature() -> None:
    stage, lease, made = closed(10, 20)
    forged = receipt(lease, 5, head(made[1]), key=SigningKey.load(bytes(32)))
    changed = Signed(
        made[1].kind, made[1].payload.replace(b'"units":20', b'"units":19'), made[1].signature
    )
    other_kind = sign(statement_key("one"), CLOSE_KIND, made[0].payload)
    no_receipt = sign(statement_key("one"), CLOSE_KIND, b"{}")
    for bad in (forged, changed, other_kind, no_receipt):
        found = compare(stage, [*made, bad])
        assert faults(found) == [Fault.FORGED]
        assert only(found).receipted == 30


def test_an_instance_that_the_log_does_not_know() -> None:
    stage, lease, made = closed(10)
    stranger = receipt(lease, 5, instance="eve", key=statement_key("eve"))
    assert faults(compare(stage, [*made, stranger])) == [Fault.UNKNOWN_INSTANCE]


def test_a_lease_that_the_ledger_does_not_know() -> None:
    stage, _, made = closed(10)
    found = compare(stage, [*made, receipt("1-99", 5)])
    assert faults(found) == [Fault.UNKNOWN_LEASE]
    assert found.findings[0].lease == "1-99"


@pytest.mark.parametrize(
    "changed",
    [
        {"loan": "loan-2"},
        {"model_digest": "cd" * 32},
        {"evidence_digest": b"other"},
        {"units": Units(-5)},
        {"instance": "two", "key": statement_key("two")},
    ],
)
def test_contents_that_the_log_contradicts(changed: dict[str, Any]) -> None:
    stage = ready()
    stage.attest("two")
    lease = stage.lease().lease
    found = compare(stage, [receipt(lease, **{"units": 5, **changed})], "ann")
    assert faults(found) == [Fault.WRONG_CONTENT]


def test_a_gap_at_the_beginning_in_the_middle_and_at_the_end() -> None:
    stage, _, made = closed(10, 20, 30)
    for missing, units in enumerate((10, 20, 30)):
        found = compare(stage, [one for one in made if one is not made[missing]])
        assert faults(found) == [Fault.BROKEN]
        assert only(found).missing == units
        assert only(found).remark == f"receipts of {units} units are lost"


def test_a_receipt_after_the_closing_report() -> None:
    stage, lease, made = closed(10)
    late = receipt(lease, 0, head(made[0]))
    assert faults(compare(stage, [*made, late])) == [Fault.BROKEN]


def test_a_closing_report_that_names_no_receipt() -> None:
    stage = ready()
    lease = stage.lease().lease
    close(stage, lease, 10, b"")
    assert faults(compare(stage, chain(lease, 10))) == [Fault.BROKEN]


def test_a_fork() -> None:
    """An enclave that signs two receipts in one place shows one of them to somebody else."""
    stage, lease, made = closed(10, 20)
    for fork in (receipt(lease, 7, head(made[0]), id="x"), receipt(lease, 7, b"", id="x")):
        found = compare(stage, [*made, fork])
        assert Fault.FORKED in faults(found)
        assert set(faults(found)) == {Fault.FORKED, Fault.TOLD_LESS}


def test_a_duplicate_counts_once() -> None:
    stage, _, made = closed(10, 20)
    found = compare(stage, [*made, made[1]])
    assert faults(found) == [Fault.DUPLICATE]
    assert only(found).receipted == 30


def test_time_that_goes_back() -> None:
    stage = ready()
    lease = stage.lease().lease
    first = receipt(lease, 10, time=Instant(START + 1))
    made = [first, receipt(lease, 20, head(first))]
    assert faults(compare(stage, made)) == [Fault.REORDERED]


def test_a_ledger_that_was_told_less_than_was_served() -> None:
    """The closing report counts 25, the receipts 30."""
    stage, lease, made = closed(10, 20, spent=25)
    found = compare(stage, made)
    assert faults(found) == [Fault.TOLD_LESS]
    assert only(found).faults == (Fault.TOLD_LESS,)
    assert found.findings[0].lease == lease


def test_an_open_lease_may_be_behind_but_not_beyond_what_was_granted() -> None:
    stage = ready()
    lease = stage.lease().lease
    stage.report(lease, 10)
    found = compare(stage, chain(lease, 10, 20))
    assert found.findings == ()
    assert only(found).remark == "20 units not reported yet"
    assert faults(compare(stage, chain(lease, 10, 91))) == [Fault.TOLD_LESS]


def test_units_written_off_alarms_and_refunds_are_told() -> None:
    stage = ready()
    lease = stage.lease().lease
    stage.report(lease, 10)
    stage.report(lease, 101)  # above the grant: an alarm, and all of it settled
    assert stage.lease().lease == lease  # 100 more
    stage.now = Instant(stage.now + 5 * MINUTE)
    stage.do(lambda tx: sweeps.sweep(tx, now=stage.now))
    stage.do(
        lambda tx: refunds.refund(
            tx,
            now=stage.now,
            operator=ADMIN,
            loan="loan-1",
            consumer="ann",
            lease=lease,
            units=Units(40),
            reason="died",
        )
    )
    row = next(one for one in compare(stage, chain(lease, 10, 95)).rows if one.lease == lease)
    assert (row.settled, row.written_off, row.in_doubt) == (100, 100, 5)
    assert (row.alarms, row.refunded, row.faults) == (1, 40, ())
    assert row.remark == "5 of the units written off were served; alarms: 1"


def test_leases_of_other_keys_are_told_apart() -> None:
    stage = ready()
    stage.enrol("bob", "key-2", "key-3")
    leases = [stage.lease(key).lease for key in ("key-1", "key-2", "key-3")]
    for lease in leases:
        stage.report(lease, 10)
    found = compare(stage, chain(leases[1], 10))
    assert [(one.lease, one.missing, one.remark) for one in found.rows] == [
        (leases[1], 0, "to the unit"),
        (leases[2], 10, "no receipts: another key's"),
    ]
    assert [one.lease for one in compare(stage, [], "ann").rows] == leases[:1]


def test_a_log_that_lacks_what_its_kinds_have_is_refused() -> None:
    for kind, detail in (("lease.settle", {"settled": [["1-1", 5]]}), ("lease.grant", {})):
        with pytest.raises(BadMessage):
            Facts.read([audit.Entry(0, START, "x", kind, detail)])


# Files -------------------------------------------------------------------------------------------


def test_receipts_are_kept_without_their_salt(tmp_path: Path) -> None:
    """R-5: what is appended is what is read back, private, and tells no salt."""
    made, path = chain("1-1", 10, 20), tmp_path / "receipts"
    for one in made:
        keep(path, CheckedReceipt(from_json(one.payload, Receipt), one, b"s" * 32, True))
    assert parse_receipts(path.read_bytes()) == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"salt" not in path.read_bytes()
    with pytest.raises(FileTrouble):
        keep(tmp_path, CheckedReceipt(from_json(made[0].payload, Receipt), made[0], b"", True))


def test_every_form_in_which_receipts_are_kept_is_read() -> None:
    (one,) = chain("1-1", 10)
    answer = to_json(ReceiptAnswer(one, b"salt"))
    checked = json.dumps({"receipt": {"units": 1}, "signed": json.loads(to_json(one))}, indent=2)
    for data in (to_json(one), answer, checked.encode(), to_json(one) + b"\n\n"):
        assert parse_receipts(data) == [one]
    assert parse_receipts(b"") == []
    for bad in (b"nonsense", b"[]", b"{}", b'{"signed": 5}', to_json(one) + b"\n7"):
        with pytest.raises(BadMessage):
            parse_receipts(bad)


def test_the_log_records_the_statement_key_of_an_instance() -> None:
    assert facts_of(ready()).keys == {"one": statement_key("one").public}
