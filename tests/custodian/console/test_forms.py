"""What the forms do is what the API does: the same acts, entries, proposals and refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leasehold.core.encoding import to_json
from leasehold.core.messages import ExtensionAsk, ExtensionState, StopOrder
from leasehold.core.units import DAY, MINUTE, Units
from leasehold.custodian.console.forms import StopForm, WhyForm, read_form
from leasehold.custodian.ledger import audit, extensions, grants, stops
from leasehold.custodian.ledger.operators import Role
from leasehold.errors import BadRequest

from ..house import LOAN, Guest, House, Office, key_hash
from .browser import FORM, Page, see, send
from .test_app import replace_hands

FORM_TYPE = "application/x-www-form-urlencoded"
STOP = {"scope": "loan", "target": LOAN, "reason": "enough"}


async def last(office: Office) -> audit.Entry:
    """The newest entry of the log."""
    size = (await office.custodian.look(audit.head))[0]
    (entry,) = await office.custodian.look(lambda tx: audit.entries(tx, start=size - 1, count=1))
    return entry


async def asked(office: Office, units: int = 300) -> Guest:
    """A consumer asks for more, through an enclave that listens."""
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    ask = ExtensionAsk(1, key_hash("lh-alice"), Units(units), "night shift")
    await office.custodian.handle(guest.id, ask)
    return guest


async def test_a_stop_is_ordered_told_and_shown(either: Office) -> None:
    office = either
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    pushes = await office.custodian.subscribe(guest.id)
    answer = await send(office, "/console/stop", STOP)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/stops/1")
    assert isinstance(await pushes.next(), StopOrder)
    entry = await last(office)
    assert (entry.actor, entry.kind, entry.detail["reason"]) == ("admin", "stop.order", "enough")
    assert "Stop 1 of loan clinic in force" in (await see(office, "/console/stops/1")).text
    method = {"operator": "admin", "method": "POST", "path": "/console/stop"}
    assert ("operator", method) in office.log.said


@pytest.mark.parametrize(
    ("fields", "phase", "notice", "drain"),
    [
        ({}, "full", 0, 0),
        ({"begins": "now", "notice": "10", "notice_unit": "days"}, "full", 0, 0),
        ({"begins": "notice", "notice": "2", "notice_unit": "days"}, "notice", 2 * DAY, 0),
        ({"running": "drain", "drain": "90", "drain_unit": "seconds"}, "drain", 0, 90_000),
        (
            {"begins": "notice", "notice": "5", "running": "drain", "drain": "3"},
            "notice",
            5 * MINUTE,
            3 * MINUTE,
        ),
    ],
)
async def test_how_a_stop_comes(
    office: Office, fields: dict[str, str], phase: str, notice: int, drain: int
) -> None:
    assert (await send(office, "/console/stop", STOP | fields)).status_code == 303
    stop = await office.custodian.look(lambda tx: stops.show_stop(tx, 1))
    assert (stop.phase, stop.begins - stop.at) == (phase, notice)
    assert stop.ends - stop.begins == drain


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reason": ""}, "Expected why: it goes into the audit log"),
        ({"reason": "  "}, "Expected why: it goes into the audit log"),
        ({"reason": "x" * 501}, "length <= 500"),
        ({"scope": "planet"}, "Invalid enum value 'planet'"),
        ({"target": "nothing"}, "loan nothing"),
        ({"begins": "notice", "notice": "91", "notice_unit": "days"}, "`int` <= 7776000000"),
        ({"running": "drain", "drain": "2", "drain_unit": "hours"}, "`int` <= 3600000"),
        ({"begins": "notice", "notice": "0"}, "`int` >= 1"),
        ({"begins": "notice", "notice": "soon"}, "got `str`"),
        ({"begins": "later"}, "Invalid enum value 'later'"),
        ({"more": "x"}, "unknown field `more`"),
    ],
)
async def test_a_form_that_is_wrong_says_how(
    office: Office, fields: dict[str, str], said: str
) -> None:
    answer = await send(office, "/console/stop", STOP | fields)
    assert 400 <= answer.status_code < 500
    assert said in Page(answer.text).text
    assert await office.custodian.look(stops.list_stops) == ()


async def test_a_drain_of_a_consumer_is_refused_by_name(office: Office) -> None:
    fields = STOP | {"scope": "consumer", "target": "alice", "running": "drain"}
    answer = await send(office, "/console/stop", fields)
    assert "Got a stop of a consumer" in Page(answer.text).text
    page = await see(office, "/console/stop?scope=consumer&target=alice")
    assert "may finish within" not in page.text


def test_what_is_no_form() -> None:
    for body, kind, said in (
        (b"reason=x", "text/plain", "text/plain"),
        (b"reason=x", "multipart/form-data; boundary=x", "multipart/form-data"),
        (b"reason=x", "", FORM_TYPE),
        (b"reason=x&reason=y", FORM_TYPE, "a field twice"),
        (b"reason=%FF", FORM_TYPE, "form"),
        (b"reason=\xff", FORM_TYPE, "form"),
        (b"reason", FORM_TYPE, "form"),
        (b"&".join(b"a%d=1" % n for n in range(30)), FORM_TYPE, "form"),
        (b"", FORM_TYPE, "missing required field `reason`"),
    ):
        with pytest.raises(BadRequest) as refusal:
            read_form(body, kind, WhyForm)
        assert said in refusal.value.message
    assert read_form(b"reason=a+%3Cb%3E", f"{FORM_TYPE}; charset=UTF-8", WhyForm).reason == "a <b>"
    assert read_form(b"scope=all&target=&reason=x", FORM_TYPE, StopForm).notice == 10


async def test_a_body_that_is_too_large_is_refused(office: Office) -> None:
    async with office.client(office.operator()) as client:
        headers = FORM | {"content-type": FORM_TYPE}
        answer = await client.post("/console/stop", content=b"a" * 600_000, headers=headers)
    assert (answer.status_code, "body_too_large" in answer.text) == (413, True)


async def test_a_request_is_approved_in_part_and_the_enclave_hears_it(either: Office) -> None:
    office = either
    guest = await asked(office)
    pushes = await office.custodian.subscribe(guest.id)
    page = await see(office, "/console/requests/1")
    assert {field.get("value") for field in page.all("input") if field["name"] == "units"} == {
        "300"
    }
    answer = await send(office, "/console/requests/1/approve", {"units": "120"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/requests/1")
    told = await pushes.next()
    assert isinstance(told, ExtensionState)
    assert (told.status, told.approved) == ("approved", 120)
    grant = await office.custodian.look(
        lambda tx: grants.show_grant(tx, loan=LOAN, consumer="alice")
    )
    assert grant.budget.granted == 1120
    assert "approved, 120 units, by admin" in (await see(office, "/console/requests/1")).text
    again = await send(office, "/console/requests/1/approve", {"units": "1"})
    assert (again.status_code, "Got approved" in Page(again.text).text) == (409, True)


async def test_a_request_is_denied_with_a_reason(either: Office) -> None:
    office = either
    await asked(office)
    empty = await send(office, "/console/requests/1/deny", {"reason": ""})
    assert (empty.status_code, "invalid_request" in empty.text) == (400, True)
    answer = await send(office, "/console/requests/1/deny", {"reason": "ask on Monday"})
    assert answer.status_code == 303
    one = await office.custodian.look(lambda tx: extensions.show_request(tx, 1))
    assert (one.status, one.decision, one.decided_by) == ("denied", "ask on Monday", "admin")
    assert "denied" in (await see(office, f"/console/loans/{LOAN}")).text


async def test_what_takes_two_hands_becomes_a_proposal_and_the_second_does_it(
    house: House,
) -> None:
    for name in ("eve", "bea"):
        house.hire(name, Role.ADMIN)
    hands = replace_hands(house.settings.hands, resume=2, grant=2)
    house.settings = replace(house.settings, hands=hands)
    office = Office.open(house)
    await office.lend()
    await asked(office)
    await send(office, "/console/stop", STOP)
    lift = await send(office, "/console/stops/1/lift", {"reason": "mended"})
    more = await send(office, "/console/requests/1/approve", {"units": "50"})
    assert lift.headers["location"] == "/console/proposals/1"
    assert more.headers["location"] == "/console/proposals/2"
    assert (await office.custodian.look(lambda tx: stops.show_stop(tx, 1))).lifted is None

    listed = await see(office, "/console/proposals", "eve")
    assert "1 of 2 admin" in listed.text
    mine = await see(office, "/console/proposals/1")
    assert "You have agreed; 1 more must." in mine.text
    theirs = await see(office, "/console/proposals/1", "eve")
    assert 'reason "mended"' in theirs.text
    assert "Act POST /operator/stops/1/lift" in theirs.text
    (digest,) = (f["value"] for f in theirs.all("input") if f["name"] == "digest")
    assert digest is not None

    twice = await send(office, "/console/proposals/1/approve", {"digest": digest})
    assert "already_approved" in twice.text
    other = await send(office, "/console/proposals/1/approve", {"digest": "00" * 32}, "eve")
    assert (other.status_code, "wrong_proposal" in other.text) == (409, True)
    done = await send(office, "/console/proposals/1/approve", {"digest": digest}, "eve")
    assert done.headers["location"] == "/console/proposals/1"
    assert (await office.custodian.look(lambda tx: stops.show_stop(tx, 1))).lifted is not None
    assert (await last(office)).actor == "eve"

    empty = await send(office, "/console/proposals/2/reject", {"reason": " "}, "bea")
    assert "Expected why: it goes into the audit log" in Page(empty.text).text
    await send(office, "/console/proposals/2/reject", {"reason": "too much"}, "bea")
    closed = await see(office, "/console/proposals/2")
    assert "by bea: too much" in closed.text
    assert not closed.all("form")


async def test_a_stop_is_called_off_before_it_begins(office: Office) -> None:
    await send(office, "/console/stop", STOP | {"begins": "notice"})
    page = await see(office, "/console/stops/1/lift")
    assert "those who were told hear that it does not come" in page.text
    await send(office, "/console/stops/1/lift", {"reason": "not needed"})
    assert (
        "Stop 1 of loan clinic was called off before it began."
        in (await see(office, "/console/stops/1")).text
    )


async def test_an_enclave_is_stopped_by_its_whole_name(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    page = await see(office, f"/console/stop?scope=enclave&target={guest.id}")
    assert f"Stop enclave {guest.id[:16]}…" in page.text
    assert f"Enclave {guest.id}" in page.text
    fields = {f["name"]: f.get("value") or "x" for f in page.all("input") if f["type"] == "hidden"}
    await send(office, "/console/stop", {**fields, "reason": "suspect"})
    page = await see(office, "/console/stops/1")
    assert f"Stop 1 of enclave {guest.id[:16]}… in force" in page.text
    assert f"Enclave {guest.id}" in page.text


async def test_a_scope_that_is_none_is_refused(office: Office) -> None:
    async with office.client(office.operator()) as client:
        answer = await client.get("/console/stop?scope=planet")
    assert "Expected consumer, enclave, loan or all" in Page(answer.text).text


async def test_an_act_of_the_console_is_an_act_of_the_api(office: Office) -> None:
    """O-26: the same order over both ways leaves the same entry."""
    await send(office, "/console/stop", STOP)
    by_form = (await last(office)).detail
    async with office.client(office.operator()) as client:
        answer = await client.post("/operator/stops", content=to_json(STOP))
    assert answer.status_code == 200
    by_api = (await last(office)).detail
    assert {**by_api, "again": False} == by_form
