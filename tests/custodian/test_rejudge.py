"""N-10: collateral turns bad or a manifest is replaced, and the next renewal is refused with the reason."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from leasehold.attest.reference import Machine as ListedMachine
from leasehold.attest.reference import Waiver
from leasehold.core.messages import (
    AttestAgain,
    Heartbeat,
    HeartbeatAck,
    LeaseAsk,
    LeaseGranted,
)
from leasehold.core.units import DAY, MINUTE, Units
from leasehold.custodian import keeping
from leasehold.custodian.collateral.folder import FolderCollateral
from leasehold.custodian.collateral.vendors import Vendors as Settings
from leasehold.custodian.keeping import Keeper
from leasehold.custodian.ledger import audit, instances
from leasehold.custodian.records import InstanceView
from leasehold.errors import (
    CertificateRevoked,
    CollateralNotCurrent,
    TcbNotCurrent,
    UnknownMachine,
)
from leasehold_simtee.hierarchy import Situation
from leasehold_simtee.vendors import NOT_FOUND

from .house import ADMIN, LOAN, Events, Guest, Office, key_hash, take_in
from .vendor_bench import Town, open_town


def say(office: Office, **said: object) -> None:
    """The vendor says something else, and an operator imports it."""
    now = office.clock.now()
    number = {"evaluation": now // 1000, "crl_number": now // 1000} | said
    told = office.house.machine.vendor.collateral(now, Situation(**number))  # type: ignore[arg-type]
    take_in(office.house.settings.collateral, told, now)


def ask(sequence: int = 1) -> LeaseAsk:
    return LeaseAsk(sequence, key_hash("lh-alice"), Units(1), Units(1), 0, Units(0))


async def entries(office: Office) -> list[audit.Entry]:
    return list(await office.custodian.look(lambda tx: audit.entries(tx, start=0, count=1000)))


async def shown(office: Office) -> list[InstanceView]:
    async with office.client(office.operator()) as client:
        answer = await client.get("/operator/instances")
    return [InstanceView(**one) for one in answer.json()]


async def test_good_news_change_nothing(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    office.clock.passed += MINUTE
    say(office)
    assert await office.custodian.rejudge() == ()
    (answer,) = await office.custodian.handle(guest.id, ask())
    assert isinstance(answer, LeaseGranted)


BAD = [
    ({"status": "OutOfDate", "advisories": ("INTEL-SA-1",)}, TcbNotCurrent),
    ({"svn": 255}, TcbNotCurrent),
    ({"revoked": "pck"}, CertificateRevoked),
    ({"revoked_authorities": "ca"}, CertificateRevoked),
]


@pytest.mark.parametrize(("news", "why"), BAD)
async def test_bad_news_refuse_the_next_renewal_with_the_reason(
    office: Office, news: dict[str, Any], why: type[Exception]
) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    pushes = await office.custodian.subscribe(guest.id)
    (answer,) = await office.custodian.handle(guest.id, ask(1))
    assert isinstance(answer, LeaseGranted)
    office.clock.passed += MINUTE
    machine = office.house.machine
    serials = {"pck": machine.pck.serial_number, "ca": machine.vendor.authority.serial_number}
    say(office, **{name: (serials[x],) if x in serials else x for name, x in news.items()})

    (fallen,) = await office.custodian.rejudge()
    assert (fallen.instance.id, type(fallen.why)) == (guest.id, why)
    code = fallen.why.code
    told = await pushes.next()  # the enclave hears why
    assert isinstance(told, AttestAgain)
    assert told.problem.code == code
    for message in (ask(2), Heartbeat(3, ())):  # no lease, and not even the old one goes on
        (answer,) = await office.custodian.handle(guest.id, message)
        assert isinstance(answer, AttestAgain)
        assert (answer.problem.code, answer.problem.message) == (code, fallen.why.message)
    with pytest.raises(why):  # attesting again does not help
        await guest.attested(office.custodian)
    again = await office.custodian.subscribe(guest.id)
    told = await again.next()
    assert isinstance(told, AttestAgain)
    assert told.problem.code == code
    (view,) = await shown(office)  # the operator sees why
    assert view.refusal == f"{code} {fallen.why.message}"
    condemned = [one for one in await entries(office) if one.kind == "instance.condemn"]
    assert [(one.detail["instance"], one.detail["code"]) for one in condemned] == [(guest.id, code)]


async def test_it_is_told_once(office: Office) -> None:
    await Guest(office.house).attested(office.custodian)
    office.clock.passed += MINUTE
    say(office, status="OutOfDate")
    assert len(await office.custodian.rejudge()) == 1
    assert await office.custodian.rejudge() == ()


async def test_when_the_vendor_is_content_again_so_is_the_custodian(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    office.clock.passed += MINUTE
    say(office, status="OutOfDate")
    await office.custodian.rejudge()
    office.clock.passed += MINUTE
    say(office)
    await guest.attested(office.custodian)
    (view,) = await shown(office)
    assert view.refusal == ""
    (answer,) = await office.custodian.handle(guest.id, ask(5))
    assert isinstance(answer, LeaseGranted)


async def test_a_waiver_still_counts(office: Office) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    waiver = Waiver("OutOfDate", ("INTEL-SA-1",), "lab machine", ends)
    file = office.house.make_manifest(waivers=(waiver,))
    await office.custodian.replace_manifest(ADMIN, LOAN, file)
    await Guest(office.house).attested(office.custodian)
    office.clock.passed += MINUTE
    say(office, status="OutOfDate", advisories=("INTEL-SA-1",))
    assert await office.custodian.rejudge() == ()
    office.clock.passed += MINUTE
    say(office, status="OutOfDate", advisories=("INTEL-SA-1", "INTEL-SA-2"))
    assert len(await office.custodian.rejudge()) == 1


async def test_a_machine_struck_off_the_manifest_is_refused_at_once(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    pushes = await office.custodian.subscribe(guest.id)
    others = office.house.make_manifest(machines=(ListedMachine("00" * 16, "another"),))
    await office.custodian.replace_manifest(ADMIN, LOAN, others)
    told = await pushes.next()
    assert isinstance(told, AttestAgain)
    assert told.problem.code == UnknownMachine.code
    (answer,) = await office.custodian.handle(guest.id, ask())
    assert isinstance(answer, AttestAgain)
    assert answer.problem.code == UnknownMachine.code


async def test_closing_reports_and_stops_are_heard_all_the_same(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    office.clock.passed += MINUTE
    say(office, status="OutOfDate")
    await office.custodian.rejudge()
    stop = await office.custodian.stop(ADMIN, "loan", LOAN, "enough")
    progress = await office.custodian.await_progress(stop.id, proved=-1)
    assert progress.pending == (guest.id,)


async def test_an_attestation_that_was_under_way_is_judged_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged by the old word, registered after the new one: it must not slip through."""
    guest, custodian = Guest(office.house), office.custodian
    judge = custodian._judge

    async def slow(*words: Any) -> Any:
        found = await judge(*words)
        office.clock.passed += MINUTE
        say(office, status="OutOfDate")
        await custodian.rejudge()
        return found

    monkeypatch.setattr(custodian, "_judge", slow)
    await guest.attested(custodian)
    (answer,) = await custodian.handle(guest.id, ask())
    assert isinstance(answer, AttestAgain)
    assert answer.problem.code == "tcb_not_current"


async def test_who_attested_anew_meanwhile_is_not_condemned_for_the_old(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    old = await office.custodian.look(lambda tx: instances.show_instance(tx, guest.id))
    await guest.attested(office.custodian)
    done = await office.custodian.change(
        lambda tx, now: instances.condemn(
            tx,
            now=now,
            instance=guest.id,
            evidence_digest=old.evidence_digest,
            code="tcb_not_current",
            message="old",
        )
    )
    assert done is False
    (answer,) = await office.custodian.handle(guest.id, Heartbeat(1, ()))
    assert isinstance(answer, HeartbeatAck)


async def test_what_the_custodian_cannot_read_condemns_nobody(office: Office) -> None:
    await Guest(office.house).attested(office.custodian)
    folder = office.house.settings.collateral
    (folder / "marks.json").unlink()
    (folder / "marks.json").mkdir()
    log = Events()
    keeper = Keeper(office.custodian, FolderCollateral(folder), Settings(), os.urandom, log)
    watching = asyncio.create_task(keeper.watch())
    await until(lambda: log.said)
    watching.cancel()
    assert log.said[0][0] == "rejudging_failed"
    assert "instance.condemn" not in [one.kind for one in await entries(office)]


# While it runs -----------------------------------------------------------------------------------


@pytest.fixture
async def town(office: Office) -> AsyncIterator[Town]:
    """Vendors of the house's machine, at the office's time."""
    with open_town(office.house.settings.collateral, machine=office.house.machine) as town:
        town.clock = office.clock  # type: ignore[assignment]
        town.vendors.clock = office.clock.now
        town.vendors.say()
        yield town


def keeper_of(office: Office, town: Town, log: Events) -> Keeper:
    return Keeper(office.custodian, town.folder, town.settings, os.urandom, log, town.web)


async def until(done: Callable[[], object]) -> None:
    ends = time.monotonic() + 10
    while not done():
        assert time.monotonic() < ends
        await asyncio.sleep(0)


async def test_from_the_vendors_word_to_the_refused_renewal(
    office: Office, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "WATCH_SECONDS", 0.0)
    guest, log = Guest(office.house), Events()
    await guest.attested(office.custodian)
    pushes = await office.custodian.subscribe(guest.id)
    keeper = keeper_of(office, town, log)
    watching = asyncio.create_task(keeper.watch())
    office.clock.passed += MINUTE
    town.vendors.say(status="OutOfDate", advisories=("INTEL-SA-1",))
    assert await keeper.refresh_once()
    told = await asyncio.wait_for(pushes.next(), 10)
    watching.cancel()
    assert isinstance(told, AttestAgain)
    assert told.problem.code == "tcb_not_current"
    await until(
        lambda: ("instance_refused", {"instance": guest.id, "code": "tcb_not_current"}) in log.said
    )
    assert ("collateral_fetched", {"items": 1}) in log.said
    kinds = [one.kind for one in await entries(office)]
    assert kinds.index("collateral.refresh") > 0
    assert "instance.condemn" in kinds


async def test_a_vendor_that_is_down_is_told_and_condemns_nobody(
    office: Office, town: Town
) -> None:
    guest, log = Guest(office.house), Events()
    await guest.attested(office.custodian)
    town.spoil = lambda _, __: NOT_FOUND
    assert not await keeper_of(office, town, log).refresh_once()
    ((name, fields),) = log.said
    assert (name, fields["code"]) == ("collateral_not_fetched", "vendor_unreachable")
    last = (await entries(office))[-1]
    assert (last.kind, last.detail["news"]) == ("collateral.refresh", [])
    noted = town.folder.last_refresh()
    assert noted is not None
    assert [one.code for one in noted.failed] == ["vendor_unreachable"]
    (answer,) = await office.custodian.handle(guest.id, ask())
    assert isinstance(answer, LeaseGranted)


async def test_after_a_day_without_news_nothing_passes(office: Office, town: Town) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    office.clock.passed += DAY
    with pytest.raises(CollateralNotCurrent):
        await guest.attested(office.custodian)
    assert await keeper_of(office, town, Events()).refresh_once()
    await guest.attested(office.custodian)


async def test_a_refresh_that_says_nothing_new_leaves_no_entry(office: Office, town: Town) -> None:
    keeper = keeper_of(office, town, Events())
    assert await keeper.refresh_once()
    before = len(await entries(office))
    assert await keeper.refresh_once()
    assert len(await entries(office)) == before


async def test_refreshing_repeats_and_is_off_where_it_is_off(
    office: Office, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            enough.set()
            await asyncio.Event().wait()

    off = Keeper(office.custodian, town.folder, Settings(), os.urandom, Events())
    monkeypatch.setattr(keeping.asyncio, "sleep", sleep)
    await off.refresh()
    assert pauses == []
    settings = msgspec.structs.replace(town.settings, refresh_minutes=60)
    keeper = Keeper(office.custodian, town.folder, settings, os.urandom, Events(), town.web)
    refreshing = asyncio.create_task(keeper.refresh())
    await asyncio.wait_for(enough.wait(), 30)
    refreshing.cancel()
    assert 30 <= pauses[0] < 60
    assert all(2700 <= pause < 5400 for pause in pauses[1:])
