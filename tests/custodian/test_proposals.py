"""Several hands over HTTP: no endpoint lets one operator do what takes two, and the second does it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import httpx2
import pytest

from leasehold.core.encoding import b64, from_json, to_json
from leasehold.core.messages import AttestAgain, ExtensionAsk, ExtensionState, LeaseAsk, Problem
from leasehold.core.tariff import PER_TOKEN
from leasehold.core.units import DAY, Units
from leasehold.custodian import desk, proposals, records, tree, watch
from leasehold.custodian.ledger import audit, books, grants, loans, stops
from leasehold.custodian.ledger.hands import Hands, Order
from leasehold.custodian.ledger.operators import Gate, Role
from leasehold.custodian.proposed import ProposalView
from leasehold.errors import LeaseholdError

from .house import ADMIN, LOAN, MODEL, Guest, House, Office, key_hash

ALL_TWO: Final = Hands(2, 2, 2, 2, 2)
GATED_KINDS: Final = {
    "loan.create",
    "loan.manifest",
    "stop.lift",
    "grant.create",
    "extension.approved",
    "lease.refund",
}


@pytest.fixture
async def office(house: House) -> Office:
    """A custodian that lends, with three admins and a stopper, where all that can takes two hands."""
    for name, role in (("eve", Role.ADMIN), ("bea", Role.ADMIN), ("sam", Role.STOPPER)):
        house.hire(name, role)
    house.settings = replace(house.settings, hands=ALL_TWO)
    office = Office.open(house)
    await office.lend()
    return office


async def send(
    office: Office, who: str, method: str, path: str, body: object = None
) -> httpx2.Response:
    async with office.client(office.operator(who)) as client:
        content = b"" if body is None else to_json(body)
        return await client.request(method, path, content=content)


async def propose(office: Office, path: str, body: object, *, method: str = "POST") -> ProposalView:
    answer = await send(office, "admin", method, path, body)
    assert answer.status_code == 202, answer.text
    return from_json(answer.content, ProposalView)


async def approve(
    office: Office, one: ProposalView, who: str = "eve", digest: str | None = None
) -> httpx2.Response:
    body = {"digest": one.digest if digest is None else digest}
    return await send(office, who, "POST", f"/operator/proposals/{one.id}/approve", body)


def code_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, from_json(answer.content, Problem).code


async def kinds(office: Office) -> list[str]:
    entries = await office.custodian.look(lambda tx: audit.entries(tx, start=0, count=1000))
    return [entry.kind for entry in entries]


async def furnish(office: Office) -> tuple[Guest, str]:
    """A stop to lift, a request to approve, a lease to refund: something for every gated act."""
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    ask = LeaseAsk(1, key_hash("lh-alice"), Units(10), Units(10), 0, Units(0), "")
    (granted,) = await office.custodian.handle(guest.id, ask)
    spent = LeaseAsk(2, key_hash("lh-alice"), Units(10), Units(10), 0, Units(5), granted.lease)
    await office.custodian.handle(guest.id, spent)
    more = ExtensionAsk(1, key_hash("lh-alice"), Units(300), "night shift")
    await office.custodian.handle(guest.id, more)
    await office.custodian.stop(ADMIN, "consumer", "alice", "enough")
    await office.custodian.change(
        lambda tx, now: loans.create_loan(
            tx,
            now=now,
            operator=ADMIN,
            name="second",
            model=MODEL,
            manifest=office.house.manifest,
            tariff=PER_TOKEN,
            policy=office.house.new_loan().policy,
            cap=Units(10),
            instances_max=1,
            dead_man=office.house.new_loan().dead_man,
        )
    )
    return guest, granted.lease


def bodies(house: House, lease: str) -> dict[str, tuple[str, object]]:
    """For every endpoint that changes something: a call that would do it."""
    manifest = house.make_manifest(name="another")
    grant = {"loan": LOAN, "consumer": "alice", "units": 50}
    return {
        "PUT /operator/models/{name}": (MODEL, {}),
        "POST /operator/loans": (
            "",
            records.LoanOrder("third", MODEL, house.manifest, Units(5), PER_TOKEN),
        ),
        "POST /operator/loans/{name}/cap": (LOAN, {"units": 50}),
        "PUT /operator/loans/{name}/manifest": (LOAN, {"manifest": b64(manifest)}),
        "POST /operator/loans/{name}/end": ("second", {}),
        "POST /operator/consumers": ("", {"name": "bob"}),
        "POST /operator/keys": (
            "",
            {"consumer": "alice", "key_hash": b64(key_hash("lh-alice-2"))},
        ),
        "POST /operator/keys/{name}/revoke": (key_hash("lh-alice").hex()[:16], {}),
        "POST /operator/grants": ("", grant | {"loan": "second"}),
        "POST /operator/grants/change": ("", grant),
        "POST /operator/refunds": ("", grant | {"lease": lease, "units": 5, "reason": "why"}),
        "POST /operator/key-caps": (
            "",
            {"loan": LOAN, "key": key_hash("lh-alice").hex()[:16], "units": 500},
        ),
        "POST /operator/requests/{id}/approve": ("1", {"units": 300}),
        "POST /operator/requests/{id}/deny": ("1", {"reason": "no"}),
        "POST /operator/stops": ("", {"scope": "loan", "target": LOAN, "reason": "x"}),
        "POST /operator/stops/{id}/lift": ("1", {"reason": "over"}),
        "POST /operator/proposals/{id}/approve": ("1", {"digest": "00" * 32}),
        "POST /operator/proposals/{id}/reject": ("1", {"reason": "no"}),
        "POST /log/cosignature": (
            "",
            {"name": "w", "key": "A" * 43 + "=", "size": 1, "line": "none"},
        ),
    }


ENDPOINTS: Final = [
    f"{method} {path}"
    for method, path, _ in (
        *desk.ENDPOINTS,
        *watch.ENDPOINTS,
        *tree.ENDPOINTS,
        *proposals.ENDPOINTS,
    )
    if method != "GET"
]


def where(endpoint: str, value: str) -> tuple[str, str]:
    method, _, path = endpoint.partition(" ")
    return method, path.replace("{name}", value).replace("{id}", value)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_no_endpoint_does_with_one_hand_what_takes_two(office: Office, endpoint: str) -> None:
    """Every endpoint there is, with a call that one hand would have been enough for before."""
    _, lease = await furnish(office)
    before = await kinds(office)
    caps = await amounts(office)
    value, body = bodies(office.house, lease)[endpoint]
    method, path = where(endpoint, value)
    first = await send(office, "admin", method, path, body)
    assert (first.status_code == 202) == (endpoint in proposals.GATED), first.text
    for number in range(1, 4):  # nor by approving it, whatever number it has
        listed = (await send(office, "admin", "GET", f"/operator/proposals/{number}")).json()
        await send(
            office,
            "admin",
            "POST",
            f"/operator/proposals/{number}/approve",
            {"digest": listed.get("digest", "00" * 32)},
        )
    await send(office, "admin", method, path, body)
    new = (await kinds(office))[len(before) :]
    assert not GATED_KINDS & set(new)
    assert not {"loan.cap", "grant.change"} & set(new)
    assert (await amounts(office))[: len(caps)] == caps
    assert "hands.approve" not in new
    await office.custodian.look(books.check_replay)


async def amounts(office: Office) -> list[int]:
    """How large every budget of loans and grants is."""

    def look(tx: Any) -> list[int]:
        return [
            *(one.budget.granted for one in loans.list_loans(tx)),
            *(one.budget.granted for one in grants.list_grants(tx)),
        ]

    return await office.custodian.look(look)


@pytest.mark.parametrize("endpoint", proposals.GATED)
async def test_the_second_hand_does_it(office: Office, endpoint: str) -> None:
    _, lease = await furnish(office)
    value, body = bodies(office.house, lease)[endpoint]
    method, path = where(endpoint, value)
    one = await propose(office, path, body, method=method)
    assert (one.proposer, one.hands, one.missing) == ("admin", ("admin",), 1)
    assert code_of(await approve(office, one, "admin")) == (409, "already_approved")
    answer = await approve(office, one)
    assert answer.status_code == 200, answer.text
    done = from_json(answer.content, ProposalView)
    assert (done.state, done.closed_by, set(done.hands)) == ("done", "eve", {"admin", "eve"})
    *_, approved, act = await kinds(office)
    assert approved == "hands.approve"
    assert act in GATED_KINDS | {"loan.cap", "grant.change"}
    assert code_of(await approve(office, one, "bea")) == (409, "proposal_closed")
    await office.custodian.look(books.check_books)
    await office.custodian.look(books.check_replay)


@pytest.mark.parametrize("endpoint", proposals.GATED)
async def test_with_one_hand_all_is_as_it_was(office: Office, endpoint: str) -> None:
    _, lease = await furnish(office)
    office.house.settings = replace(office.house.settings, hands=Hands())
    again = Office.over(office.house, office.clock, office.custodian.ports.store)
    value, body = bodies(office.house, lease)[endpoint]
    method, path = where(endpoint, value)
    assert (await send(again, "admin", method, path, body)).status_code == 200
    assert "hands.propose" not in await kinds(again)


@pytest.mark.parametrize("gate", Gate)
async def test_each_kind_has_its_own_number(office: Office, gate: Gate) -> None:
    """Only the acts of this kind become proposals where only it takes two."""
    _, lease = await furnish(office)
    found = set()
    for endpoint in proposals.GATED:
        office.house.settings = replace(office.house.settings, hands=Hands(**{gate.value: 2}))
        again = Office.over(office.house, office.clock, office.custodian.ports.store)
        value, body = bodies(office.house, lease)[endpoint]
        answer = await send(again, "admin", *where(endpoint, value), body)
        if answer.status_code == 202:
            found.add(from_json(answer.content, ProposalView).kind)
        else:
            assert answer.status_code == 200, answer.text
    assert found == {gate}


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (f"loans/{LOAN}/cap", {"units": -50}, "loan.cap"),
        ("grants/change", {"loan": LOAN, "consumer": "alice", "units": -50}, "grant.change"),
        ("stops", {"scope": "all", "target": "", "reason": "fire"}, "stop.order"),
    ],
)
async def test_to_take_back_and_to_stop_takes_one_hand(
    office: Office, path: str, body: object, kind: str
) -> None:
    assert (await send(office, "admin", "POST", f"/operator/{path}", body)).status_code == 200
    assert (await kinds(office))[-1] == kind


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("loans/none/cap", {"units": 1}, (404, "not_found")),
        (f"loans/{LOAN}/cap", {"units": "1"}, (400, "bad_message")),
        ("grants", {"loan": LOAN, "consumer": "none", "units": 1}, (404, "not_found")),
        ("grants/change", {"loan": "none", "consumer": "alice", "units": 1}, (404, "not_found")),
        ("stops/9/lift", {"reason": "x"}, (404, "not_found")),
        ("requests/1/approve", {}, (400, "invalid_request")),  # "all" may grow until the last hand
    ],
)
async def test_what_cannot_be_is_refused_before_anybody_is_asked(
    office: Office, path: str, body: object, expected: tuple[int, str]
) -> None:
    if path.startswith("requests"):
        await furnish(office)
    assert code_of(await send(office, "admin", "POST", f"/operator/{path}", body)) == expected
    assert "hands.propose" not in await kinds(office)


async def test_a_model_that_is_not_registered_cannot_be_proposed(office: Office) -> None:
    """Else one hand could register another model under the name that two approved."""
    order = records.LoanOrder("third", "later", office.house.manifest, Units(5), PER_TOKEN)
    assert code_of(await send(office, "admin", "POST", "/operator/loans", order)) == (
        404,
        "not_found",
    )


async def test_who_has_no_right_can_neither_propose_nor_approve_nor_reject(office: Office) -> None:
    path = f"/operator/loans/{LOAN}/cap"
    assert code_of(await send(office, "sam", "POST", path, {"units": 5})) == (403, "not_permitted")
    one = await propose(office, path, {"units": 5})
    assert code_of(await approve(office, one, "sam")) == (403, "not_permitted")
    no = await send(office, "sam", "POST", f"/operator/proposals/{one.id}/reject", {"reason": "x"})
    assert code_of(no) == (403, "not_permitted")
    listed = await send(office, "sam", "GET", "/operator/proposals")
    assert [each["id"] for each in listed.json()] == [one.id]


async def test_a_dismissed_operators_hand_does_not_count(office: Office) -> None:
    one = await propose(office, f"/operator/loans/{LOAN}/cap", {"units": 5})
    roles = {
        name: role for name, role in office.house.settings.operators.items() if name != "admin"
    }
    office.house.settings = replace(office.house.settings, operators=roles)
    later = Office.over(office.house, office.clock, office.custodian.ports.store)
    half = from_json((await approve(later, one, "eve")).content, ProposalView)
    assert (half.state, half.hands, half.missing) == ("pending", ("eve",), 1)
    done = from_json((await approve(later, one, "bea")).content, ProposalView)
    assert done.state == "done"


async def test_a_digest_of_something_else_is_refused(office: Office) -> None:
    one = await propose(office, f"/operator/loans/{LOAN}/cap", {"units": 5})
    other = await propose(office, f"/operator/loans/{LOAN}/cap", {"units": 5000})
    wrong = await approve(office, one, digest=other.digest)
    assert code_of(wrong) == (409, "wrong_proposal")
    assert code_of(await approve(office, one, digest="zz")) == (400, "bad_message")
    missing = await send(
        office, "eve", "POST", "/operator/proposals/99/approve", {"digest": one.digest}
    )
    assert code_of(missing) == (404, "not_found")


async def test_what_is_shown_is_what_is_hashed_and_has_no_hidden_default(office: Office) -> None:
    order = {
        "name": "third",
        "model": MODEL,
        "manifest": b64(office.house.manifest),
        "cap": 5,
        "tariff": {"request": 1},
    }
    one = await propose(office, "/operator/loans", order)
    shown = from_json(
        (await send(office, "eve", "GET", f"/operator/proposals/{one.id}")).content, ProposalView
    )
    asked = from_json(shown.request, Order)
    assert asked.act == "POST /operator/loans"
    body = from_json(asked.body, records.LoanOrder)
    assert (body.cap, body.instances_max) == (5, 16)
    assert b'"dead_man":600000' in asked.body


async def test_an_act_that_is_refused_at_the_end_leaves_the_proposal_as_it_was(
    office: Office,
) -> None:
    grant = {"loan": LOAN, "consumer": "bob", "units": 5}
    await send(office, "admin", "POST", "/operator/consumers", {"name": "bob"})
    one = await propose(office, "/operator/grants", grant)
    two = await propose(office, "/operator/grants", grant)
    assert (await approve(office, two)).status_code == 200
    before = await kinds(office)
    assert code_of(await approve(office, one)) == (409, "already_exists")
    assert await kinds(office) == before
    (left,) = (await send(office, "eve", "GET", "/operator/proposals")).json()
    assert (left["id"], left["hands"], left["request"]) == (one.id, ["admin"], "")


async def test_a_manifest_that_ran_out_meanwhile_is_refused(office: Office) -> None:
    manifest = office.house.make_manifest(name="another")
    one = await propose(
        office, f"/operator/loans/{LOAN}/manifest", {"manifest": b64(manifest)}, method="PUT"
    )
    office.clock.passed += DAY
    assert code_of(await approve(office, one)) == (409, "proposal_closed")
    listed = await send(office, "eve", "GET", "/operator/proposals?closed=true")
    assert [each["state"] for each in listed.json()] == ["expired"]
    assert (await send(office, "eve", "GET", "/operator/proposals")).json() == []


async def test_enclaves_hear_of_what_the_last_hand_did(office: Office) -> None:
    guest, _ = await furnish(office)
    pushes = await office.custodian.subscribe(guest.id)
    one = await propose(office, "/operator/requests/1/approve", {"units": 300})
    assert (await approve(office, one)).status_code == 200
    manifest = office.house.make_manifest(name="another")
    two = await propose(
        office, f"/operator/loans/{LOAN}/manifest", {"manifest": b64(manifest)}, method="PUT"
    )
    assert (await approve(office, two)).status_code == 200
    heard = [await pushes.next() for _ in range(3)]
    assert [type(each) for each in heard[1:]] == [ExtensionState, AttestAgain]
    assert heard[1].approved == 300  # type: ignore[union-attr]


async def test_one_hand_says_no(office: Office) -> None:
    one = await propose(office, f"/operator/loans/{LOAN}/cap", {"units": 5})
    path = f"/operator/proposals/{one.id}/reject"
    answer = await send(office, "bea", "POST", path, {"reason": "not this week"})
    closed = from_json(answer.content, ProposalView)
    assert (closed.state, closed.closed_by, closed.reason) == ("rejected", "bea", "not this week")
    assert code_of(await approve(office, one)) == (409, "proposal_closed")


async def test_a_way_past_the_table_is_closed_by_the_ledger(office: Office) -> None:
    """The operator that a certificate makes cannot do a gated act through the service either."""
    alone = office.house.settings.operator("admin")
    custodian = office.custodian
    await furnish(office)
    tries = (
        lambda: custodian.create_loan(alone, office.house.new_loan()),
        lambda: custodian.replace_manifest(alone, LOAN, office.house.manifest),
        lambda: custodian.approve(alone, 1, Units(5)),
        lambda: custodian.change(
            lambda tx, now: stops.lift(tx, now=now, operator=alone, stop=1, reason="")
        ),
    )
    for one in tries:
        with pytest.raises(LeaseholdError) as refusal:
            await one()
        assert refusal.value.code == "hands_needed"


def test_gated_acts_have_their_one_place() -> None:
    endpoints = [f"{method} {path}" for method, path, _ in proposals.ENDPOINTS]
    assert set(proposals.GATED) <= set(endpoints)
    others = (*desk.ENDPOINTS, *watch.ENDPOINTS, *tree.ENDPOINTS)
    assert not {f"{method} {path}" for method, path, _ in others} & set(proposals.GATED)
