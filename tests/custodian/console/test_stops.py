"""The stops' pages say what the API and the command line say: numbers, names and times."""

from __future__ import annotations

from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import STOP_PROOF_KIND, LeaseAsk, StopProof, StopReport, Usage
from leasehold.core.moments import utc
from leasehold.core.statements import sign
from leasehold.core.units import MINUTE, SECOND, Duration, Instant, Units
from leasehold.custodian.console.stopping import card
from leasehold.custodian.ledger import instances
from leasehold.custodian.ledger.stops import Stop
from leasehold.custodian.records import MemberView, ProgressView
from leasehold.custodian.words import explain, sentences

from ..house import ADMIN, LOAN, Guest, Office, key_hash
from .browser import Page, get, see


async def guests(office: Office, count: int, *, units: int = 100) -> list[Guest]:
    """Attested enclaves, each with a lease of so many units."""
    found = []
    for _ in range(count):
        guest = Guest(office.house)
        await guest.attested(office.custodian)
        ask = LeaseAsk(1, key_hash("lh-alice"), Units(units), Units(units), 1, Units(0))
        await office.custodian.handle(guest.id, ask)
        found.append(guest)
    return found


async def prove(office: Office, guest: Guest, stop: int, *usage: Usage) -> None:
    """The guest's proof of stop."""
    report = StopReport(guest.id, LOAN, stop, usage, 5000, office.clock.now())
    proof = StopProof(sign(guest.statement, STOP_PROOF_KIND, to_json(report)))
    await office.custodian.handle(guest.id, proof)


async def api(office: Office, stop: int) -> ProgressView:
    """What the API says of a stop."""
    async with office.client(office.operator()) as client:
        answer = await client.get(f"/operator/stops/{stop}")
    return from_json(answer.content, ProgressView)


def row_of(page: Page, guest: Guest) -> str:
    """The words of an instance's row."""
    (row,) = (row for row in page.rows if f"[{guest.id}]" in row)
    return row


async def test_one_proved_one_told_one_silent_one_presumed_dead(either: Office) -> None:
    """O-32: the page, the API and the command line agree, to the unit and to the second."""
    office = either
    (dead,) = await guests(office, 1, units=90)
    office.clock.passed += (
        12 * MINUTE
    )  # its certificate lives ten minutes, and one more is its grace
    await office.custodian.sweep()
    proved, told, silent = await guests(office, 3, units=120)
    pushes = await office.custodian.subscribe(told.id)
    stop = await office.custodian.stop(ADMIN, "loan", LOAN, "new weights tonight")
    office.clock.passed += 4 * SECOND
    at = office.clock.now()
    await prove(office, proved, stop.id)
    office.clock.passed += 9 * SECOND
    view = await api(office, stop.id)
    page = await see(office, f"/console/stops/{stop.id}")

    assert (view.proved, view.presumed_dead) == ((proved.id,), (dead.id,))
    assert set(view.pending) == {told.id, silent.id}
    assert sum(one.units for one in view.instances) == view.units > 0
    assert view.lapses is not None
    assert f"Could still be served, at most {view.units:,} units" in page.text
    assert f"By honest clocks, zero from {utc(view.lapses)}" in page.text
    assert "Proved 1 of 4" in page.text
    assert "Not proved 2" in page.text
    assert "Presumed dead 1" in page.text
    assert f"Written off, in doubt {view.units_in_doubt:,} units" in page.text
    for sentence in sentences(view):
        assert sentence in explain(view)
        assert sentence in page.text
    assert f"Proved {utc(at)} 9 s ago 4.000 s after the order" in (row_of(page, proved))
    for guest, label in ((told, "Told, no proof yet"), (silent, "Not connected, no proof")):
        said = f"{label} if it stays silent, presumed dead from {utc(view.dead_from[guest.id])}"
        assert said in row_of(page, guest)
        assert f"{guest.id} (if silent, dead from {utc(view.dead_from[guest.id])})" in explain(view)
    assert "UTC connected here" in row_of(page, told)
    assert "UTC not connected here" in row_of(page, silent)
    said = f"Presumed dead since {utc(view.dead_from[dead.id])}"
    assert said in row_of(page, dead)
    for one in view.instances:
        guest = next(g for g in (proved, told, silent, dead) if g.id == one.id)
        assert f"here {one.units:,}" in row_of(page, guest)
    assert "here 0 90 in doubt" in row_of(page, dead)
    assert view.units_in_doubt == sum(one.units_in_doubt for one in view.instances) == 90
    assert "new weights tonight" in page.text
    office.custodian.unsubscribe(pushes)


async def test_a_stop_in_progress_loads_itself_anew_and_a_complete_one_does_not(
    either: Office,
) -> None:
    office = either
    (guest,) = await guests(office, 1, units=50)
    stop = await office.custodian.stop(ADMIN, "loan", LOAN, "enough")
    for path, seconds in ((f"/console/stops/{stop.id}", "2"), ("/console/stops", "5")):
        (meta,) = (m for m in (await see(office, path)).all("meta") if "http-equiv" in m)
        assert (meta["http-equiv"], meta["content"]) == ("refresh", seconds)
        still = await see(office, f"{path}?live=no")
        assert not [m for m in still.all("meta") if "http-equiv" in m]
        assert "holds still" in still.text
    view = await api(office, stop.id)
    lease = await office.custodian.look(
        lambda tx: tx.execute("SELECT epoch, number FROM leases")[0]
    )
    await prove(office, guest, stop.id, Usage(f"{lease[0]}-{lease[1]}", Units(7)))
    view = await api(office, stop.id)
    assert view.complete
    page = await see(office, f"/console/stops/{stop.id}")
    assert "It is complete: nothing can be served any more, and that is proved." in page.text
    assert "Could still be served, at most 0 units By honest clocks, zero from now" in page.text
    assert not [m for m in page.all("meta") if "http-equiv" in m]


async def test_a_stop_announced_says_when_it_begins_and_who_serves_until_then(
    either: Office,
) -> None:
    office = either
    (guest,) = await guests(office, 1)
    stop = await office.custodian.stop(
        ADMIN, "loan", LOAN, "upgrade", notice=Duration(10 * MINUTE), drain=Duration(MINUTE)
    )
    page = await see(office, "/console/stops")
    assert "Stop 1 of loan clinic announced" in page.text
    assert f"Begins {utc(stop.begins)} in 10 min" in page.text
    assert f"Drains until {utc(stop.ends)}" in page.text
    assert "Leased now, served as before 100 units" in page.text
    assert "Enclaves that it would find 1" in page.text
    assert "Serving until then" in row_of(page, guest)
    loans = await see(office, "/console/loans")
    assert "stop 1 begins in 10 min" in loans.text


async def test_lifted_stops_are_listed_apart(either: Office) -> None:
    office = either
    await office.custodian.stop(ADMIN, "consumer", "alice", "who is it")
    async with office.client(office.operator()) as client:
        await client.post("/operator/stops/1/lift", content=to_json({"reason": "known"}))
    page = await see(office, "/console/stops")
    assert "No stop is in force and none is announced." in page.text
    assert "consumer alice who is it" in page.text
    one = await see(office, "/console/stops/1")
    assert "Stop 1 of consumer alice was lifted" in one.text


async def test_the_order_is_shown_as_the_root_signs_it(office: Office) -> None:
    await guests(office, 1)
    await office.custodian.stop(ADMIN, "loan", LOAN, "enough")
    page = await see(office, "/console/stops/1")
    assert office.house.settings.keys.root.public.hex() in page.text
    assert '"target":"clinic","reason":"enough"' in page.text


async def test_a_proof_of_an_older_release_has_no_time(either: Office) -> None:
    office = either
    (guest,) = await guests(office, 1)
    stop = await office.custodian.stop(ADMIN, "loan", LOAN, "enough")
    await prove(office, guest, stop.id)
    await office.custodian.change(
        lambda tx, now: tx.execute("UPDATE instances SET proved = NULL")  # noqa: ARG005
    )
    shown = await office.custodian.look(lambda tx: instances.show_instance(tx, guest.id))
    assert shown.state == "stopped"
    page = await see(office, f"/console/stops/{stop.id}")
    assert "proof stored by an older release" in row_of(page, guest)


async def test_a_stop_that_is_not_there(office: Office) -> None:
    for number in ("9", "x"):
        answer = await get(office, f"/console/stops/{number}")
        page = Page(answer.text)
        assert answer.status_code == 404
        assert "There is nothing of that name." in page.text
        assert "not_found" in page.text


def test_of_a_crowd_the_worst_are_shown_and_the_rest_counted() -> None:
    stop = Stop(1, "loan", LOAN, "enough", "ada", 1, Instant(0), None)

    def member(number: int, proved: Instant | None) -> MemberView:
        known = (f"{number:064x}", LOAN, "", "stopped" if proved else "stopping", Instant(0))
        left = (Units(0), None, Units(0))
        return MemberView(*known, False, False, proved, None if proved else Instant(9), *left)

    found = [member(number, Instant(5) if number < 290 else None) for number in range(300)]
    proved = tuple(one.id for one in found if one.proved)
    pending = tuple(one.id for one in found if not one.proved)
    view = ProgressView(
        stop, Units(0), Units(0), proved, pending, (), None, {}, False, Instant(9), tuple(found)
    )
    shown = card(view)
    assert (len(shown.rows), shown.more) == (200, 100)
    assert tuple(row.member.id for row in shown.rows[:10]) == pending
    assert card(view, rows_max=300).more == 0
