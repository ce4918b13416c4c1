"""The console without its contents: who gets in, whose page it was, how it is sent, what it is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leasehold.core.messages import ExtensionAsk
from leasehold.core.units import DAY, Units
from leasehold.custodian import settings as settings_module
from leasehold.custodian.console import app, render
from leasehold.custodian.ledger import audit
from leasehold.custodian.ledger.operators import Role

from ..house import ADMIN, LOAN, Guest, House, Office, key_hash, peer_of_release
from .browser import FORM, OWN, Page, get, see, send

PATHS = [
    "/console/loans",
    f"/console/loans/{LOAN}",
    "/console/requests",
    "/console/requests/1",
    "/console/stops",
    "/console/stops/1",
    "/console/stops/1/lift",
    "/console/stop?scope=all",
    f"/console/stop?scope=loan&target={LOAN}",
    "/console/stop?scope=consumer&target=alice",
    "/console/proposals",
    "/console/proposals/1",
    "/console/audit",
]
EVIL = "<script>alert(1)</script>"


@pytest.fixture
async def full(house: House) -> Office:
    """A custodian with something on every page: hands, a request, a stop, a proposal, words that are markup."""
    for name, role in (
        ("eve", Role.ADMIN),
        ("sam", Role.STOPPER),
        ("vic", Role.VIEWER),
        ("wit", Role.WITNESS),
    ):
        house.hire(name, role)
    house.settings = replace(
        house.settings, hands=replace_hands(house.settings.hands, resume=2, grant=2)
    )
    office = Office.open(house)
    await office.lend()
    guest = Guest(house)
    await guest.attested(office.custodian)
    ask = ExtensionAsk(1, key_hash("lh-alice"), Units(300), EVIL)
    await office.custodian.handle(guest.id, ask)
    await office.custodian.stop(ADMIN, "loan", LOAN, EVIL)
    answer = await send(office, "/console/stops/1/lift", {"reason": EVIL})
    assert answer.headers["location"] == "/console/proposals/1", answer.text
    return office


def replace_hands(hands: settings_module.Hands, **changed: int) -> settings_module.Hands:
    """The hands that acts take, some of them changed."""
    return settings_module.Hands(**{name: changed.get(name, 1) for name in hands.__struct_fields__})


async def size(office: Office) -> int:
    """Entries of the log."""
    return (await office.custodian.look(audit.head))[0]


# Who is there (O-24) -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/console", "/console/", *PATHS])
async def test_without_a_certificate_every_page_says_how_to_bring_one(
    full: Office, path: str
) -> None:
    async with full.client() as client:
        answer = await client.get(path, headers=OWN)
    page = Page(answer.text)
    assert answer.status_code == 401
    assert "certificate_required" in page.text
    assert "leasehold operator browser NAME" in page.text
    assert LOAN not in page.text.replace(path, "")


async def test_no_form_does_anything_without_a_certificate(full: Office) -> None:
    before = await size(full)
    async with full.client() as client:
        for path, _, _ in app.DEEDS:
            path = render.PREFIX + path.replace("{number}", "1")
            answer = await client.post(path, data={"reason": "x"}, headers=FORM)
            assert (answer.status_code, "certificate_required" in answer.text) == (401, True)
    assert await size(full) == before


async def test_an_enclave_is_no_operator(office: Office) -> None:
    peer = peer_of_release(await Guest(office.house).attested(office.custodian))
    async with office.client(peer) as client:
        answer = await client.get("/console/loans", headers=OWN)
    assert answer.status_code == 403
    assert "Expected an operator's certificate" in Page(answer.text).text


async def test_an_expired_certificate_is_told_so(office: Office) -> None:
    office.clock.passed += 366 * DAY
    answer = await get(office, "/console/loans")
    assert (answer.status_code, "evidence_expired" in answer.text) == (403, True)


@pytest.mark.parametrize("path", PATHS)
async def test_a_witness_sees_no_page(full: Office, path: str) -> None:
    answer = await get(full, path, "wit")
    page = Page(answer.text)
    assert answer.status_code == 403
    assert "Expected a role that may read" in page.text
    assert "alice" not in page.text


async def test_a_viewer_reads_all_and_is_offered_nothing(full: Office) -> None:
    for path in PATHS:
        if "/stop?" in path or path.endswith("/lift"):
            continue
        page = await see(full, path, "vic")
        assert not page.all("form"), path
        assert "Stop…" not in page.text, path


async def test_roles_are_those_of_the_api(full: Office) -> None:
    before = await size(full)
    stop = {"scope": "all", "target": "", "reason": "enough"}
    for who, path, fields in (
        ("vic", "/console/stop", stop),
        ("sam", "/console/stops/1/lift", {"reason": "x"}),
        ("sam", "/console/requests/1/approve", {"units": "5"}),
        ("sam", "/console/requests/1/deny", {"reason": "x"}),
        ("sam", "/console/proposals/1/reject", {"reason": "x"}),
        ("sam", "/console/proposals/1/approve", {"digest": "00" * 32}),
    ):
        answer = await send(full, path, fields, who)
        assert (answer.status_code, "not_permitted" in answer.text) == (403, True), path
    assert await size(full) == before
    assert (await send(full, "/console/stop", stop, "sam")).status_code == 303


# Other people's pages (O-25) ---------------------------------------------------------------------

FOREIGN = [
    ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, "Got cross-site"),
    ({"sec-fetch-site": "same-site"}, "Got same-site"),
    ({"sec-fetch-site": "none"}, "Got none"),
    ({"origin": "https://evil.example"}, "Got https://evil.example"),
    ({"origin": "http://custodian"}, "Got http://custodian"),
    ({"origin": "https://custodian:8443"}, "Got https://custodian:8443"),
    ({"origin": "null"}, "Got null"),
    ({"sec-fetch-site": "same-origin", "origin": "https://evil.example"}, "Got https://evil"),
    ({}, "Got neither Origin nor Sec-Fetch-Site"),
]


@pytest.mark.parametrize(("headers", "said"), FOREIGN, ids=[said for _, said in FOREIGN])
async def test_another_sites_form_does_nothing(
    full: Office, headers: dict[str, str], said: str
) -> None:
    before = await size(full)
    navigation = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    for path, fields in (
        ("/console/stop", {"scope": "all", "target": "", "reason": "x"}),
        ("/console/stops/1/lift", {"reason": "x"}),
        ("/console/requests/1/approve", {"units": "5"}),
        ("/console/requests/1/deny", {"reason": "x"}),
        ("/console/proposals/1/approve", {"digest": "00" * 32}),
        ("/console/proposals/1/reject", {"reason": "x"}),
    ):
        answer = await send(full, path, fields, headers=headers | navigation)
        page = Page(answer.text)
        assert (answer.status_code, "foreign_page" in page.text) == (403, True), path
        assert said in page.text
    assert await size(full) == before


async def test_a_link_may_be_followed_and_nothing_else_of_another_site_reads(full: Office) -> None:
    link = {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    }
    assert (await get(full, "/console/stops", headers=link)).status_code == 200
    for changed in ({"sec-fetch-dest": "iframe"}, {"sec-fetch-mode": "no-cors"}):
        answer = await get(full, "/console/stops", headers=link | changed)
        assert (answer.status_code, "foreign_page" in answer.text) == (403, True)
    typed = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert (await get(full, "/console/stops", headers=typed)).status_code == 200
    assert (await get(full, "/console/stops", headers={})).status_code == 200


# How it is sent (O-27, O-28) ---------------------------------------------------------------------


async def test_every_answer_has_the_headers(full: Office) -> None:
    answers = [await get(full, path) for path in PATHS]
    answers += [await get(full, f"/console/{name}") for name in render.STATIC]
    answers += [await get(full, path) for path in ("/console", "/console/nothing")]
    answers.append(await send(full, "/console/requests/1/approve", {"units": "0"}))
    async with full.client() as client:
        answers.append(await client.get("/console/loans"))
    assert {answer.status_code for answer in answers} == {200, 303, 400, 401, 404}
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        for part in ("default-src 'none'", "style-src 'self'", "frame-ancestors 'none'"):
            assert part in policy
        assert "script" not in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in answer.headers
        # `no-referrer` makes browsers say `Origin: null` of our own forms, which O-25 refuses.
        assert answer.headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_has_no_script_no_style_and_nothing_from_elsewhere(
    full: Office, path: str
) -> None:
    page = await see(full, path)
    for tag, attributes in page.tags:
        assert tag not in ("script", "style", "iframe", "object", "embed", "base"), tag
        for name, value in attributes.items():
            assert name != "style"
            assert not name.startswith("on")
            if name in ("src", "href", "action"):
                assert value is not None
                assert value.startswith(("/console/", "#", "?"))


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_can_be_used_without_eyes(full: Office, path: str) -> None:
    page = await see(full, path)
    (html,) = page.all("html")
    assert html["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert len(page.all("main")) == 1
    labelled = {label["for"] for label in page.all("label")}
    for tag in ("input", "select", "textarea"):
        for field in page.all(tag):
            is_named = field.get("id") in labelled or "aria-label" in field
            assert field.get("type") == "hidden" or is_named, field
    for head in page.all("th"):
        assert head["scope"] in ("col", "row")
    assert len(page.all("table")) == len(page.all("caption"))
    for drawing in page.all("svg"):
        assert "aria-label" in drawing or drawing.get("aria-hidden") == "true"


async def test_words_that_are_markup_stay_words(full: Office) -> None:
    """O-28: reasons are free text; names are not, and would be escaped as well."""
    for path in ("/console/requests/1", "/console/stops/1", "/console/proposals/1"):
        answer = await get(full, path)
        assert EVIL in Page(answer.text).text
        assert EVIL not in answer.text
    named = '"><img src=x onerror=alert(1)>'

    def rename(tx: object, now: object) -> None:
        tx.execute("PRAGMA defer_foreign_keys = ON")  # type: ignore[attr-defined]
        for table, column in (
            *(("consumers", "name"), ("keys", "consumer"), ("grants", "consumer")),
            *(("grants", "loan"), ("extensions", "consumer"), ("extensions", "loan")),
            *(("loans", "name"), ("instances", "loan"), ("instances", "machine")),
            ("stops", "target"),
        ):
            tx.execute(f"UPDATE {table} SET {column} = ?", (named,))  # type: ignore[attr-defined]  # noqa: S608

    await full.custodian.change(rename)
    for path in ("/console/loans", "/console/requests", "/console/requests/1", "/console/stops/1"):
        answer = await get(full, path)
        page = Page(answer.text)
        assert answer.status_code == 200
        assert named in page.text
        assert not page.all("img")


async def test_a_page_says_simulated(full: Office, house: House) -> None:
    for path in PATHS:
        assert "SIMULATED There is no secure hardware" in (await see(full, path)).text, path
    bare = Office.open(house)
    assert "SIMULATED" not in (await see(bare, "/console/loans")).text


# Refusals (O-29) ---------------------------------------------------------------------------------


async def test_what_is_not_there_is_a_page_too(full: Office) -> None:
    for path in ("/console/nothing", "/console/loans/nothing", "/console/requests/7"):
        answer = await get(full, path)
        page = Page(answer.text)
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")
        assert "What to do" in page.text


async def test_a_get_of_a_form_is_no_deed(full: Office) -> None:
    answer = await get(full, "/console/requests/1/deny")
    assert answer.status_code == 405
    assert "unknown_endpoint" in answer.text


async def test_what_nobody_foresaw_is_internal_and_says_no_more(
    full: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a secret")

    monkeypatch.setattr(render, "_TEMPLATES", render._environment())
    monkeypatch.setitem(render._TEMPLATES.filters, "units", broken)
    answer = await get(full, "/console/loans")
    assert (answer.status_code, "internal" in answer.text) == (500, True)
    assert "a secret" not in answer.text
    assert ("internal_error" in dict(full.log.said)) is True
