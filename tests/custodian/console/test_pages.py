"""Loans, requests and the audit log: the numbers of the API, in the reader's order."""

from __future__ import annotations

from leasehold.core.crypto import SigningKey
from leasehold.core.encoding import from_json
from leasehold.core.messages import Budget, LeaseAsk
from leasehold.core.units import SECOND, Units
from leasehold.custodian import proposals
from leasehold.custodian.console.bars import WIDTH, Bar
from leasehold.custodian.console.ledgers import ACTS, act_in_words
from leasehold.custodian.leak import units_a_day
from leasehold.custodian.ledger import audit, consumers
from leasehold.custodian.ledger.cosignatures import Cosignature, keep
from leasehold.custodian.ledger.notes import find_cosignature
from leasehold.custodian.records import LoanView
from leasehold.custodian.witness import cosign

from ..house import ADMIN, LOAN, Guest, Office, key_hash
from .browser import Page, get, see


def budget(granted: int, outstanding: int, settled: int, written_off: int) -> Budget:
    left = granted - outstanding - settled - written_off
    return Budget(*(Units(n) for n in (granted, left, outstanding, settled, written_off)))


async def spend(office: Office) -> Guest:
    """A lease of which something is settled."""
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    ask = LeaseAsk(1, key_hash("lh-alice"), Units(400), Units(400), 1, Units(0))
    (granted,) = await office.custodian.handle(guest.id, ask)
    more = LeaseAsk(2, key_hash("lh-alice"), Units(1), Units(400), 1, Units(250), granted.lease)
    await office.custodian.handle(guest.id, more)
    return guest


async def test_a_loans_numbers_are_the_apis(either: Office) -> None:
    office = either
    guest = await spend(office)
    office.clock.passed += 5 * SECOND
    async with office.client(office.operator()) as client:
        view = from_json((await client.get(f"/operator/loans/{LOAN}")).content, LoanView)
    pace = units_a_day(view.budget.settled, since=view.created, now=office.clock.now())
    assert view.budget.settled == 250
    for path in ("/console/loans", f"/console/loans/{LOAN}"):
        page = await see(office, path)
        for said in (
            f"Granted {view.budget.granted:,} units",
            f"Settled {view.budget.settled:,}",
            f"Outstanding {view.budget.outstanding:,}",
            f"Written off {view.budget.written_off:,}",
            f"Available {view.budget.available:,}",
            f"Pace so far {pace:,} a day",
            "Live enclaves 1 of 4",
            "Last heard 5 s ago",
        ):
            assert said in page.text, path
        labels = [svg.get("aria-label") for svg in page.all("svg")]
        assert Bar.of(view.budget).words in labels
    page = await see(office, f"/console/loans/{LOAN}")
    (row,) = (row for row in page.rows if f"[{guest.id}]" in row)
    assert " live 5 s ago " in row
    assert f" 1 {view.budget.outstanding:,} 250 0 " in row
    assert "Prices in units input_token=1, output_token=1" in page.text


def test_a_bar_is_whole_and_shows_what_is_not_nothing() -> None:
    for one in (
        budget(1000, 100, 200, 300),
        budget(1_000_000, 1, 1, 1),
        budget(3, 1, 1, 1),
        budget(0, 0, 0, 0),
        budget(7, 7, 0, 0),
    ):
        bar = Bar.of(one)
        assert [part.units for part in bar.parts] == [
            one.settled,
            one.outstanding,
            one.written_off,
            one.available,
        ]
        place = 0
        for part in bar.parts:
            assert part.start == place
            assert bool(part.width) == bool(part.units)
            place += part.width
        assert place == (WIDTH if one.granted else 0)


async def test_no_loan_says_how_to_lend(house: object) -> None:
    office = Office.open(house)  # type: ignore[arg-type]
    assert "Nothing is lent." in (await see(office, "/console/loans")).text
    assert "Nobody asks for more." in (await see(office, "/console/requests")).text
    assert "Nothing waits for other hands." in (await see(office, "/console/proposals")).text


async def test_the_audit_page_has_checkpoint_witnesses_and_entries(either: Office) -> None:
    office = either
    settings = office.house.settings
    key = SigningKey.load(bytes(32))
    async with office.client(office.operator()) as client:
        note = (await client.get("/log/checkpoint")).text
    size = (await office.custodian.look(audit.head))[0]
    line = find_cosignature(
        cosign(note, name="reg.example/w", key=key, now=office.clock.now()),
        name="reg.example/w",
        public=key.public,
    )
    one = Cosignature(
        "reg.example/w",
        size,
        "witness",
        key.public,
        line.seconds,
        line.signature,
        office.clock.now(),
    )
    await office.custodian.change(lambda tx, now: keep(tx, settings.origin, one))  # noqa: ARG005
    page = await see(office, "/console/audit")
    for part in (note + one.line).split("\n"):
        assert part in page.text
    (row,) = (row for row in page.rows if row.startswith("reg.example/w"))
    assert f"witness {size} 0 " in row
    await office.custodian.change(
        lambda tx, now: consumers.add_consumer(tx, now=now, operator=ADMIN, name="zoe")
    )
    page = await see(office, "/console/audit")
    entries = [row for row in page.rows if '{"' in row]
    assert len(entries) == size + 1
    assert 'admin consumer.add {"consumer": "zoe"}' in entries[0]
    assert entries[0].startswith(f"{size} ")
    assert entries[-1].startswith("0 ")


async def test_older_entries_are_a_page_away(office: Office) -> None:
    def add(tx: object, now: object) -> None:
        for number in range(150):
            consumers.add_consumer(tx, now=now, operator=ADMIN, name=f"c{number}")  # type: ignore[arg-type]

    await office.custodian.change(add)
    size = (await office.custodian.look(audit.head))[0]
    page = await see(office, "/console/audit")
    assert f"{size} entries, shown are 100 of them, {size - 1} to {size - 100}." in page.text
    older = await see(office, f"/console/audit?before={size - 100}")
    assert f"{size - 101} to 0." in older.text
    assert "Newer" in older.text
    assert "Older" not in older.text
    for wrong in ("x", "-1", "9" * 30):
        answer = await get(office, f"/console/audit?before={wrong}")
        assert answer.status_code == 400
        assert "invalid_request" in Page(answer.text).text


def test_every_act_that_may_be_proposed_has_words() -> None:
    assert set(ACTS) == set(proposals.GATED)
    act, path = "POST /operator/stops/{id}/lift", {"id": "3"}
    assert act_in_words(act, path) == ("lift stop 3", "POST /operator/stops/3/lift")


async def test_a_loan_that_is_stopped_offers_no_stop(office: Office) -> None:
    assert "Stop this loan…" in (await see(office, f"/console/loans/{LOAN}")).text
    await office.custodian.stop(ADMIN, "loan", LOAN, "enough")
    page = await see(office, f"/console/loans/{LOAN}")
    assert "Stop this loan…" not in page.text
    assert "stopped by 1" in page.text
