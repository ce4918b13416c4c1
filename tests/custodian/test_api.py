"""The HTTP side, without sockets: who may do what, what comes back, and what is never told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from leasehold.core import merkle, trees
from leasehold.core.crypto import SigningKey, sha256
from leasehold.core.encoding import b64, from_json, to_json
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import (
    MESSAGE_BYTES_MAX,
    STOP_ORDER_KIND,
    Attest,
    HeartbeatAck,
    Problem,
    Release,
    StopReason,
)
from leasehold.core.statements import check_signed
from leasehold.core.tariff import PER_TOKEN
from leasehold.core.units import DAY, MINUTE, Units
from leasehold.custodian import desk, proposals, tree, watch
from leasehold.custodian.ledger import audit, consumers
from leasehold.custodian.ledger.notes import check_note, parse_checkpoint
from leasehold.custodian.ledger.operators import Role
from leasehold.custodian.records import (
    AuditPage,
    GrantView,
    Hello,
    InstanceView,
    LoanOrder,
    LoanView,
    ProgressView,
)
from leasehold.custodian.release import read_header
from leasehold.custodian.settings import Rules
from leasehold.custodian.tree_records import (
    CheckpointView,
    ConsistencyView,
    CosignatureOrder,
    InclusionView,
    WitnessView,
)
from leasehold.custodian.witness import cosign

from .house import ADMIN, LOAN, MODEL, Guest, House, Office, challenge_over, peer_of_release

STOP = {"scope": "loan", "target": LOAN, "reason": "maintenance"}

ENDPOINTS = [
    (method, path)
    for method, path, _ in (
        *desk.ENDPOINTS,
        *watch.ENDPOINTS,
        *tree.ENDPOINTS,
        *proposals.ENDPOINTS,
    )
]


def code_of(answer: httpx2.Response) -> tuple[int, str]:
    """Status and code of a refusal; fails where it is not exactly a Problem."""
    problem = from_json(answer.content, Problem)
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, problem.code


def filled(path: str) -> str:
    """A path with something in its placeholders."""
    return path.replace("{name}", LOAN).replace("{id}", "1")


def ids() -> Iterator[str]:
    """Names of the endpoints for the report."""
    return (f"{method} {path}" for method, path in ENDPOINTS)


# Enclaves ----------------------------------------------------------------------------------------


async def test_an_enclave_attests_over_http(office: Office) -> None:
    guest = Guest(office.house)
    async with office.client() as client:
        attest = guest.answer((await challenge_over(client)).nonce)
        answer = await client.post("/enclave/attest", content=to_json(attest))
    assert answer.status_code == 200
    release = from_json(answer.content, Release)
    key = (office.house.settings.models / f"{MODEL}.key").read_text().strip()
    assert guest.open(release, attest).hex() == key
    assert release.instance == guest.id
    assert answer.headers["cache-control"] == "no-store"
    assert ("attested", {"instance": guest.id, "loan": LOAN}) in office.log.said


async def test_a_refusal_is_a_problem_with_its_status(office: Office) -> None:
    async with office.client() as client:
        attest = Guest(office.house).answer(bytes(32))
        answer = await client.post("/enclave/attest", content=to_json(attest))
    assert code_of(answer) == (403, "wrong_nonce")
    assert ("attestation_refused", {"code": "wrong_nonce"}) in office.log.said


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff\xfe", b'{"nonce":1}'])
async def test_a_body_of_another_form_is_refused(office: Office, body: bytes) -> None:
    async with office.client() as client:
        assert code_of(await client.post("/enclave/attest", content=body)) == (400, "bad_message")


async def test_an_unknown_field_is_refused(office: Office) -> None:
    async with office.client() as client:
        attest = Guest(office.house).answer((await challenge_over(client)).nonce)
        body = to_json(attest)[:-1] + b',"extra":1}'
        assert from_json(to_json(attest), Attest) == attest
        assert code_of(await client.post("/enclave/attest", content=body)) == (400, "bad_message")


async def test_a_body_that_is_too_large_is_refused(office: Office) -> None:
    async with office.client() as client:
        answer = await client.post("/enclave/attest", content=b" " * (MESSAGE_BYTES_MAX + 1))
    assert code_of(answer) == (413, "body_too_large")


async def test_strangers_are_slowed_down(house: House) -> None:
    office = Office.open(house, rules=Rules(attests_rate=1, attests_burst=3))
    async with office.client() as client:
        for _ in range(3):
            await challenge_over(client)
        answer = await client.post("/enclave/challenge")
        assert code_of(answer) == (429, "rate_limit_exceeded")
        assert answer.headers["retry-after"] == "1"
        office.clock.passed += 1000
        await challenge_over(client)


# Who is there ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ENDPOINTS, ids=list(ids()))
async def test_no_endpoint_of_operators_answers_without_a_certificate(
    office: Office, method: str, path: str
) -> None:
    async with office.client() as client:
        answer = await client.request(method, filled(path))
    assert code_of(answer) == (401, "certificate_required")


@pytest.mark.parametrize(("method", "path"), ENDPOINTS, ids=list(ids()))
async def test_no_endpoint_of_operators_answers_an_enclave(
    office: Office, method: str, path: str
) -> None:
    peer = peer_of_release(await Guest(office.house).attested(office.custodian))
    async with office.client(peer) as client:
        answer = await client.request(method, filled(path))
    assert code_of(answer) == (403, "not_permitted")


async def test_a_good_certificate_of_nobody_named_is_refused(office: Office) -> None:
    async with office.client(office.stranger("eve")) as client:
        assert code_of(await client.get("/operator/loans")) == (403, "not_permitted")


async def test_a_certificate_that_ran_out_on_an_open_connection_is_refused(office: Office) -> None:
    async with office.client(office.operator()) as client:
        assert (await client.get("/operator/hello")).status_code == 200
        office.clock.passed += 366 * DAY
        assert code_of(await client.get("/operator/hello")) == (403, "evidence_expired")


async def test_the_custodian_says_who_is_there(office: Office) -> None:
    async with office.client(office.operator()) as client:
        hello = from_json((await client.get("/operator/hello")).content, Hello)
    assert (hello.operator, hello.role) == ("admin", "admin")
    assert hello.root == office.house.settings.keys.root.public.hex()


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", (404, "unknown_endpoint")),
        ("GET", "/operator", (404, "unknown_endpoint")),
        ("GET", "/enclave/attest", (405, "unknown_endpoint")),
        ("DELETE", "/operator/loans", (405, "unknown_endpoint")),
    ],
)
async def test_what_is_not_there_is_said(
    office: Office, method: str, path: str, expected: tuple[int, str]
) -> None:
    async with office.client(office.operator()) as client:
        assert code_of(await client.request(method, path)) == expected


async def test_an_unforeseen_failure_tells_nothing(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise RuntimeError("the secret is swordfish")

    monkeypatch.setattr(office.custodian, "challenge", fail)
    async with office.client() as client:
        answer = await client.post("/enclave/challenge")
    assert code_of(answer) == (500, "internal")
    assert "swordfish" not in answer.text
    ((name, fields),) = office.log.said
    assert (name, fields["error"]) == ("internal_error", "RuntimeError")
    assert "swordfish" not in str(fields)
    assert str(fields["where"]).startswith("test_api.py:")


async def test_a_ledger_that_cannot_write_is_unavailable(office: Office) -> None:
    await office.custodian.ports.store.close()
    async with office.client(office.operator()) as client:
        answer = await client.post("/operator/consumers", content=b'{"name":"bob"}')
    assert code_of(answer) == (503, "store_failed")


# What operators do -------------------------------------------------------------------------------


async def test_lending_from_nothing(house: House) -> None:
    office = Office.open(house)
    async with office.client(office.operator()) as client:

        async def send(method: str, path: str, body: object) -> Any:
            answer = await client.request(method, f"/operator/{path}", content=to_json(body))
            assert answer.status_code == 200, answer.text
            return answer.content

        await send("PUT", f"models/{MODEL}", {})
        await send("PUT", f"models/{MODEL}", {})  # again is harmless
        order = LoanOrder(LOAN, MODEL, house.manifest, Units(500), PER_TOKEN, LeasePolicy())
        loan = from_json(await send("POST", "loans", order), LoanView)
        assert (loan.budget.granted, loan.budget.available) == (500, 500)
        await send("POST", "consumers", {"name": "bob"})
        key_hash = b64(sha256(b"lh-bob"))
        await send("POST", "keys", {"consumer": "bob", "key_hash": key_hash})
        grant = {"loan": LOAN, "consumer": "bob", "units": 300}
        await send("POST", "grants", grant)
        changed = await send("POST", "grants/change", grant | {"units": -100})
        assert from_json(changed, GrantView).budget.available == 200
        loan = from_json(await send("POST", f"loans/{LOAN}/cap", {"units": 250}), LoanView)
        assert loan.budget.granted == 750
        (key,) = (await client.get("/operator/keys?consumer=bob")).json()
        cap = {"loan": LOAN, "key": key["id"], "units": 50}
        await send("POST", "key-caps", cap)
        (capped,) = (await client.get(f"/operator/key-caps?loan={LOAN}")).json()
        assert capped["budget"]["available"] == 50
        await send("POST", f"keys/{key['id']}/revoke", {})
        await send("POST", f"loans/{LOAN}/end", {})
        assert (await client.get(f"/operator/loans/{LOAN}")).json()["state"] == "ended"

    entries = await office.custodian.look(lambda tx: audit.entries(tx, start=0, count=100))
    assert {entry.actor for entry in entries} == {"admin"}
    assert len(entries) == 10


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "loans/none", None, (404, "not_found")),
        ("POST", "loans/none/cap", {"units": 1}, (404, "not_found")),
        ("POST", f"loans/{LOAN}/cap", {"units": -10_001}, (429, "insufficient_quota")),
        ("POST", f"loans/{LOAN}/cap", {"units": 1.5}, (400, "bad_message")),
        ("POST", f"loans/{LOAN}/cap", {"units": 1, "why": ""}, (400, "bad_message")),
        ("POST", "consumers", {"name": "alice"}, (409, "already_exists")),
        ("POST", "consumers", {"name": "A/B"}, (400, "invalid_request")),
        ("POST", "keys", {"consumer": "alice", "key_hash": "AA=="}, (400, "bad_message")),
        ("POST", "grants", {"loan": LOAN, "consumer": "x", "units": 1}, (404, "not_found")),
        ("POST", "requests/1/approve", {}, (404, "not_found")),
        ("POST", "requests/x/approve", {}, (404, "not_found")),
        ("POST", "requests/1/deny", {}, (400, "bad_message")),
        ("POST", "stops", {"scope": "world", "target": "", "reason": ""}, (400, "bad_message")),
        ("POST", "stops", {"scope": "all", "target": "x", "reason": ""}, (400, "invalid_request")),
        ("POST", "stops", {**STOP, "notice": -1}, (400, "bad_message")),
        ("POST", "stops", {**STOP, "notice": 90 * DAY + 1}, (400, "bad_message")),
        ("POST", "stops", {**STOP, "notice": "10m"}, (400, "bad_message")),
        ("POST", "stops", {**STOP, "drain": 60 * MINUTE + 1}, (400, "bad_message")),
        ("POST", "stops", {**STOP, "drain": 1.5}, (400, "bad_message")),
        (
            "POST",
            "stops",
            {"scope": "consumer", "target": "alice", "reason": "", "drain": 1},
            (400, "invalid_request"),
        ),
        ("POST", "stops", {"scope": "loan", "target": "x", "reason": ""}, (404, "not_found")),
        ("POST", "stops/9/lift", {"reason": "x"}, (404, "not_found")),
        ("GET", "stops/9", None, (404, "not_found")),
        ("GET", "key-caps", None, (400, "invalid_request")),
        ("GET", "usage?by=moon", None, (400, "invalid_request")),
        ("GET", "usage?moon=1", None, (400, "invalid_request")),
        ("GET", "audit?count=1001", None, (400, "invalid_request")),
        ("PUT", "models/none", {}, (503, "file_trouble")),
        ("PUT", "models/..", {}, (404, "unknown_endpoint")),
        ("PUT", "models/%2e%2e%5cx", {}, (400, "bad_sealed_model")),
        ("PUT", f"loans/{LOAN}/manifest", {"manifest": "AAAA"}, (400, "bad_manifest")),
    ],
)
async def test_each_refusal_has_its_code(
    office: Office, method: str, path: str, body: object, expected: tuple[int, str]
) -> None:
    async with office.client(office.operator()) as client:
        content = b"" if body is None else to_json(body)
        answer = await client.request(method, f"/operator/{path}", content=content)
    assert code_of(answer) == expected


async def test_a_model_that_was_sealed_anew_is_not_taken_for_the_registered_one(
    office: Office,
) -> None:
    models = office.house.settings.models
    (models / f"{MODEL}.sealed").rename(models / "old")
    (models / f"{MODEL}.key").unlink()
    office.house._seal(models / "again")
    async with office.client(office.operator()) as client:
        answer = await client.put(f"/operator/models/{MODEL}", content=b"{}")
    assert code_of(answer) == (409, "conflict")


async def test_instances_and_appraisals_are_shown(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    pushes = await office.custodian.subscribe(guest.id)
    async with office.client(office.operator()) as client:
        answer = await client.get(f"/operator/instances?loan={LOAN}&state=live")
        (shown,) = from_json(answer.content, list[InstanceView])
        assert (shown.id, shown.connected, shown.simulated) == (guest.id, True, True)
        office.custodian.unsubscribe(pushes)
        answer = await client.get("/operator/instances")
        assert not from_json(answer.content, list[InstanceView])[0].connected
        (appraisal,) = (await client.get("/operator/appraisals?count=5")).json()
        assert (appraisal["instance"], appraisal["code"]) == (guest.id, "")


async def test_a_stop_shows_how_far_it_has_come(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    async with office.client(office.operator()) as client:
        body = to_json({"scope": "loan", "target": LOAN, "reason": "enough"})
        progress = from_json(
            (await client.post("/operator/stops", content=body)).content, ProgressView
        )
        assert (progress.pending, progress.complete) == ((guest.id,), False)
        again = await client.get(f"/operator/stops/{progress.stop.id}?proved=0")
        assert from_json(again.content, ProgressView).pending == (guest.id,)
        (listed,) = (await client.get("/operator/stops?active=true")).json()
        assert (listed["actor"], listed["reason"]) == ("admin", "enough")
        await client.post(
            f"/operator/stops/{progress.stop.id}/lift", content=to_json({"reason": "over"})
        )
        assert (await client.get("/operator/stops?active=true")).json() == []


async def test_a_stop_with_notice_says_how_it_comes_and_is_told_at_once(office: Office) -> None:
    """O-23, N-11."""
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    pushes = await office.custodian.subscribe(guest.id)
    async with office.client(office.operator()) as client:
        body = to_json({**STOP, "notice": 10 * MINUTE, "drain": MINUTE})
        answer = await client.post("/operator/stops", content=body)
        progress = from_json(answer.content, ProgressView)
        stop = progress.stop
        assert (stop.phase, progress.pending, progress.complete) == ("notice", (guest.id,), False)
        assert (stop.begins - stop.at, stop.ends - stop.begins) == (10 * MINUTE, MINUTE)
        told = await asyncio.wait_for(pushes.next(), 10)
        assert isinstance(told, HeartbeatAck)
        assert told.sequence == 0
        assert told.coming is not None
        root = office.house.settings.keys.root.public
        reason = from_json(check_signed(told.coming, kind=STOP_ORDER_KIND, public=root), StopReason)
        assert (reason.mode, reason.begins, reason.ends) == ("notice", stop.begins, stop.ends)
        assert reason.left == 10 * MINUTE
        await client.post(f"/operator/stops/{stop.id}/lift", content=to_json({"reason": "off"}))
        told = await asyncio.wait_for(pushes.next(), 10)
        assert isinstance(told, HeartbeatAck)
        assert told.coming is None


async def test_the_audit_log_can_be_verified_from_outside(office: Office) -> None:
    async with office.client(office.operator()) as client:
        hello = from_json((await client.get("/operator/hello")).content, Hello)
        text = from_json(
            (await client.get("/operator/audit/checkpoint")).content, CheckpointView
        ).checkpoint
        page = from_json(
            (await client.get("/operator/audit?start=0&count=1000")).content, AuditPage
        )
    public = bytes.fromhex(hello.audit_key)
    assert audit.verify(page.leaves, text, origin=hello.origin, public=public) == page.size
    assert [entry.index for entry in page.entries] == list(range(page.size))


async def test_a_witness_sees_hashes_and_nothing_else(office: Office) -> None:
    """O-17."""
    office.house.settings.operators["reg"] = Role.WITNESS  # type: ignore[index]
    await office.custodian.change(
        lambda tx, now: consumers.add_consumer(tx, now=now, operator=ADMIN, name="zoe")
    )
    async with office.client(office.stranger("reg")) as client:
        note = (await client.get("/log/checkpoint")).text
        signed = parse_checkpoint(
            check_note(
                note,
                name=office.house.settings.origin,
                public=office.house.settings.audit.public,
            )
        )
        tile = (await client.get(f"/log/tile/0/000.p/{signed.size}")).content
        view = from_json((await client.get("/log/consistency?old=2")).content, ConsistencyView)
        entry = from_json((await client.get("/log/inclusion?index=1")).content, InclusionView)
        for path, expected in (
            (f"/log/tile/entries/000.p/{signed.size}", (403, "not_permitted")),
            ("/operator/audit", (403, "not_permitted")),
            ("/operator/loans", (403, "not_permitted")),
            (f"/log/tile/0/000.p/{signed.size + 1}", (404, "not_found")),
            ("/log/tile/0/0", (404, "not_found")),
            ("/log/inclusion?index=99", (404, "not_found")),
            ("/log/inclusion?index=x", (400, "invalid_request")),
            ("/log/consistency?old=0", (404, "not_found")),
            ("/log/consistency?old=1&size=99", (404, "not_found")),
        ):
            assert code_of(await client.get(path)) == expected, path
    hashes = [tile[at : at + 32] for at in range(0, len(tile), 32)]
    assert trees.root(hashes) == signed.root
    assert entry.checkpoint == view.checkpoint == note
    merkle.check_consistency(
        old_size=2,
        old_head=trees.root(hashes[:2]),
        size=view.size,
        head=signed.root,
        proof=view.proof,
    )
    trees.check_inclusion(hashes[1], index=1, size=entry.size, proof=entry.proof, head=signed.root)


async def test_a_witness_leaves_its_cosignature_with_the_custodian(office: Office) -> None:
    """O-22, J-7."""
    settings = office.house.settings
    settings.operators["reg"] = Role.WITNESS  # type: ignore[index]
    key = SigningKey.load(b"w" * 32)
    async with office.client(office.stranger("reg")) as client:
        note = (await client.get("/log/checkpoint")).text
        size = int(note.split("\n")[1])
        line = cosign(note, name="reg.example/w", key=key, now=office.clock.now())
        order = CosignatureOrder("reg.example/w", key.public, size, line)

        async def post(**changed: object) -> httpx2.Response:
            body = to_json(msgspec.structs.replace(order, **changed))
            return await client.post("/log/cosignature", content=body)

        own, instance = settings.audit, f"{settings.origin}/instance/{'0' * 64}"
        for changed, expected in (
            ({"size": size + 1}, (404, "not_found")),
            ({"size": size - 1}, (400, "bad_signature")),
            ({"key": own.public}, (400, "bad_signature")),
            ({"name": "two words"}, (400, "invalid_request")),
            ({"name": instance}, (400, "invalid_request")),
            ({"key": b"short"}, (400, "bad_signature")),
        ):
            assert code_of(await post(**changed)) == expected, changed
        assert (await client.get("/log/witnesses")).content == b"[]"
        assert code_of(await client.get("/log/checkpoint?cosigned=1")) == (404, "not_found")
        left = from_json((await post()).content, WitnessView)
        await office.custodian.change(
            lambda tx, now: consumers.add_consumer(tx, now=now, operator=ADMIN, name="zoe")
        )
        (view,) = from_json((await client.get("/log/witnesses")).content, list[WitnessView])
        cosigned = (await client.get("/log/checkpoint?cosigned=1")).text
    assert (left.name, left.kind, left.size, left.behind) == ("reg.example/w", "witness", size, 0)
    assert (view.size, view.behind, view.key) == (size, 1, key.public.hex())
    assert cosigned == note + line


# Other people's pages (O-25) ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {
            "sec-fetch-site": "cross-site",
            "sec-fetch-mode": "navigate",
            "sec-fetch-dest": "document",
        },
    ],
    ids=str,
)
async def test_another_sites_page_gets_nothing_by_an_operators_browser(
    office: Office, headers: dict[str, str]
) -> None:
    """A browser adds the certificate for any page, and needs no leave for a form or text."""
    size = (await office.custodian.look(audit.head))[0]
    async with office.client(office.operator()) as client:
        for method, path in ENDPOINTS:
            answer = await client.request(
                method, filled(path), content=to_json(STOP), headers=headers
            )
            assert code_of(answer) == (403, "foreign_page"), path
    assert (await office.custodian.look(audit.head))[0] == size


async def test_what_no_page_sent_is_served_as_ever(office: Office) -> None:
    """The command line is no browser; what was typed into a browser's address reads."""
    async with office.client(office.operator()) as client:
        assert (await client.get("/operator/loans")).status_code == 200
        typed = {"sec-fetch-site": "none"}
        assert (await client.get("/operator/loans", headers=typed)).status_code == 200
        answer = await client.post("/operator/stops", content=to_json(STOP), headers=typed)
        assert code_of(answer) == (403, "foreign_page")
        assert (await client.post("/operator/stops", content=to_json(STOP))).status_code == 200


# Sealed models -----------------------------------------------------------------------------------


@pytest.fixture
def digest(office: Office) -> str:
    """The model's digest."""
    root = office.house.settings.keys.root.public
    return read_header(office.house.settings.models, MODEL, root=root).digest.hex()


async def test_anybody_may_have_the_ciphertext(office: Office, digest: str) -> None:
    async with office.client() as client:
        answer = await client.get(f"/models/{digest}")
        assert answer.status_code == 200
        assert answer.content == office.house.sealed
        assert answer.headers["etag"] == f'"{digest}"'
        head = await client.head(f"/models/{digest}")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(office.house.sealed))
        same = await client.get(f"/models/{digest}", headers={"if-none-match": f'"{digest}"'})
        assert same.status_code == 304


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, None),
        ("bytes=-7", -7, None),
        ("bytes=10-99999999999", 10, None),
        ("bytes=-99999999999", 0, None),
    ],
)
async def test_one_range_of_it(
    office: Office, digest: str, wanted: str, start: int, end: int | None
) -> None:
    sealed = office.house.sealed
    async with office.client() as client:
        answer = await client.get(f"/models/{digest}", headers={"range": wanted})
    assert answer.status_code == 206
    assert answer.content == sealed[start:end]
    first, last, _ = slice(start, end).indices(len(sealed))
    assert answer.headers["content-range"] == f"bytes {first}-{last - 1}/{len(sealed)}"


@pytest.mark.parametrize(
    "wanted", ["bytes=99999999-", "bytes=5-4", "bytes=-0", "bytes=-", "bytes=0-1,3-4", "rows=1-2"]
)
async def test_any_other_range_is_refused(office: Office, digest: str, wanted: str) -> None:
    async with office.client() as client:
        answer = await client.get(f"/models/{digest}", headers={"range": wanted})
    assert code_of(answer) == (416, "range_not_satisfiable")


async def test_a_range_of_another_file_becomes_the_whole_file(office: Office, digest: str) -> None:
    async with office.client() as client:
        headers = {"range": "bytes=0-9", "if-range": '"another"'}
        answer = await client.get(f"/models/{digest}", headers=headers)
    assert (answer.status_code, answer.content) == (200, office.house.sealed)


@pytest.mark.parametrize("name", ["00" * 32, MODEL, "..%2froot.key"])
async def test_only_registered_models_are_on_the_shelf(office: Office, name: str) -> None:
    async with office.client() as client:
        answer = await client.get(f"/models/{name}")
    assert answer.status_code == 404


async def test_a_model_whose_file_is_gone_is_said(office: Office, digest: str) -> None:
    (office.house.settings.models / f"{MODEL}.sealed").unlink()
    async with office.client() as client:
        assert code_of(await client.get(f"/models/{digest}")) == (503, "file_trouble")


def test_the_specification_lists_every_endpoint() -> None:
    page = (Path(__file__).parents[2] / "docs" / "spec" / "custodian-api.md").read_text()
    listed = re.findall(r"^\| ([A-Z]+) \| `(/(?:operator|log)/[^`]*)` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(ENDPOINTS)


async def test_a_number_beyond_the_store_is_the_callers_fault(office: Office) -> None:
    async with office.client(office.operator()) as client:
        for query in ("cosigned=9223372036854775808", "size=9223372036854775808"):
            answer = await client.get(f"/log/checkpoint?{query}")
            assert answer.status_code in (400, 404)
        grant = {"loan": LOAN, "consumer": "nobody", "units": 1 << 70}
        answer = await client.post("/operator/grants", content=to_json(grant))
        assert 400 <= answer.status_code < 500
