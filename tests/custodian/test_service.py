"""N-1 to N-3, N-7: challenge, appraisal, release and pushes, each refusal by its code."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from leasehold.attest.collateral import open_bundle
from leasehold.core.crypto import SigningKey
from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import (
    STOP_ORDER_KIND,
    STOP_PROOF_KIND,
    AttestAgain,
    ExtensionAsk,
    ExtensionQuery,
    ExtensionState,
    Heartbeat,
    HeartbeatAck,
    LeaseAsk,
    LeaseGranted,
    LeaseRefused,
    Problem,
    StopOrder,
    StopProof,
    StopReason,
    StopReport,
)
from leasehold.core.statements import check_signed, sign, sign_text
from leasehold.core.units import MINUTE, Units
from leasehold.custodian.appraise import CONFIGURATION_KIND
from leasehold.custodian.ledger import audit, instances, loans, stops
from leasehold.custodian.ledger.operators import Operator, Role
from leasehold.custodian.release import FolderKeys
from leasehold.errors import (
    BadMessage,
    BadSignature,
    ChannelClosed,
    Conflict,
    FileTrouble,
    LoanStopped,
    ManifestExpired,
    NotPermitted,
    UnknownThing,
    WrongBinding,
    WrongConfiguration,
    WrongCustodian,
    WrongNonce,
)
from leasehold.net.certificates import identity_of
from leasehold.net.shown import expiry_of, spki_of, to_der

from .house import ADMIN, LOAN, MODEL, Guest, Office, key_hash


async def kinds(office: Office) -> list[str]:
    """What the audit log has, by kind."""
    entries = await office.custodian.look(lambda tx: audit.entries(tx, start=0, count=1000))
    return [entry.kind for entry in entries]


async def last_refusal(office: Office) -> tuple[str, str, str]:
    """Instance, loan and code of the latest appraisal."""
    found = await office.custodian.look(instances.list_appraisals)
    return found[0].instance, found[0].loan, found[0].code


async def test_good_evidence_earns_a_certificate_and_the_model_key(office: Office) -> None:
    guest = Guest(office.house)
    challenge = await office.custodian.challenge()
    attest = guest.answer(challenge.nonce)
    release = await office.custodian.attest(attest)

    assert guest.open(release, attest) == FolderKeys(office.house.settings.models).model_key(MODEL)
    certificate = to_der(release.certificate)
    assert identity_of(certificate) == f"leasehold://{LOAN}/instance/{guest.id}"
    assert spki_of(certificate) == guest.tls.spki
    assert release.certificate_expires == office.clock.now() + 10 * MINUTE
    assert expiry_of(certificate) == release.certificate_expires // 1000 * 1000
    bundle = open_bundle(
        release.collateral, office.house.settings.keys.root.public, now=office.clock.now()
    )
    assert bundle.issued == office.clock.now()
    assert (release.terms.loan, release.terms.model.name) == (LOAN, MODEL)
    assert (await kinds(office))[-1] == "instance.accept"


async def test_a_nonce_is_good_once(office: Office) -> None:
    guest = Guest(office.house)
    attest = guest.answer((await office.custodian.challenge()).nonce)
    await office.custodian.attest(attest)
    with pytest.raises(WrongNonce):
        await office.custodian.attest(attest)
    assert await last_refusal(office) == (guest.id, "", "wrong_nonce")


async def test_a_nonce_is_used_up_by_a_refusal_too(office: Office) -> None:
    guest, nonce = Guest(office.house), (await office.custodian.challenge()).nonce
    with pytest.raises(WrongBinding):
        await office.custodian.attest(
            replace(guest.answer(nonce), kem_key=guest.answer(nonce).kem_key[::-1])
        )
    with pytest.raises(WrongNonce):
        await office.custodian.attest(guest.answer(nonce))


async def test_a_nonce_is_good_for_a_minute(office: Office) -> None:
    attest = Guest(office.house).answer((await office.custodian.challenge()).nonce)
    office.clock.passed += MINUTE
    with pytest.raises(WrongNonce):
        await office.custodian.attest(attest)


async def test_a_nonce_that_was_never_given_is_refused(office: Office) -> None:
    with pytest.raises(WrongNonce):
        await office.custodian.attest(Guest(office.house).answer(bytes(32)))


async def test_a_configuration_signed_by_another_is_refused(office: Office) -> None:
    other = SigningKey.load(bytes(32))
    file = sign_text(other, CONFIGURATION_KIND, b'loan = "clinic"\n')
    nonce = (await office.custodian.challenge()).nonce
    guest = Guest(office.house)
    with pytest.raises(BadSignature):
        await office.custodian.attest(guest.answer(nonce, configuration=file))
    assert await last_refusal(office) == (guest.id, "", "bad_signature")


async def test_a_signed_configuration_that_the_manifest_does_not_list_is_refused(
    office: Office,
) -> None:
    file = office.house.configure(engine="another")
    nonce = (await office.custodian.challenge()).nonce
    guest = Guest(office.house)
    with pytest.raises(WrongConfiguration):
        await office.custodian.attest(guest.answer(nonce, configuration=file))
    assert await last_refusal(office) == (guest.id, LOAN, "wrong_configuration")


async def test_a_configuration_for_an_unknown_loan_is_refused(office: Office) -> None:
    file = office.house.configure(loan="nothing")
    nonce = (await office.custodian.challenge()).nonce
    with pytest.raises(UnknownThing):
        await office.custodian.attest(Guest(office.house).answer(nonce, configuration=file))


@pytest.mark.parametrize("field", ["statement_key", "kem_key"])
async def test_keys_of_the_wrong_size_are_refused(office: Office, field: str) -> None:
    attest = Guest(office.house).answer((await office.custodian.challenge()).nonce)
    with pytest.raises(BadMessage, match=field):
        await office.custodian.attest(replace(attest, **{field: b"short"}))


@pytest.mark.parametrize("field", ["statement_key", "tls_spki"])
async def test_evidence_for_other_keys_is_refused(office: Office, field: str) -> None:
    thief, nonce = Guest(office.house), (await office.custodian.challenge()).nonce
    attest = Guest(office.house).answer(nonce)
    with pytest.raises(WrongBinding):
        await office.custodian.attest(
            replace(attest, **{field: getattr(thief.answer(nonce), field)})
        )


async def test_a_stopped_loan_admits_nobody(office: Office) -> None:
    await office.custodian.stop(ADMIN, "loan", LOAN, "enough")
    attest = Guest(office.house).answer((await office.custodian.challenge()).nonce)
    with pytest.raises(LoanStopped):
        await office.custodian.attest(attest)
    assert (await last_refusal(office))[2] == "loan_stopped"


async def test_a_manifest_that_ran_out_since_admits_nobody(office: Office) -> None:
    short = office.house.make_manifest(
        not_after=datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
    )
    await office.custodian.replace_manifest(ADMIN, LOAN, short)
    office.clock.passed += 2 * MINUTE
    attest = Guest(office.house).answer((await office.custodian.challenge()).nonce)
    with pytest.raises(ManifestExpired):
        await office.custodian.attest(attest)


async def test_a_manifest_of_another_custodian_is_not_taken(office: Office) -> None:
    file = office.house.manifest.replace(
        office.house.settings.keys.root.public.hex().encode(), b"00" * 32
    )
    with pytest.raises(WrongCustodian):
        await office.custodian.replace_manifest(ADMIN, LOAN, file)


async def test_without_its_model_key_a_custodian_is_unavailable_and_blames_nobody(
    office: Office,
) -> None:
    (office.house.settings.models / f"{MODEL}.key").unlink()
    attest = Guest(office.house).answer((await office.custodian.challenge()).nonce)
    with pytest.raises(FileTrouble):
        await office.custodian.attest(attest)
    assert "instance.refuse" not in await kinds(office)


async def test_attesting_again_renews_the_instance(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    office.clock.passed += 5 * MINUTE
    release = await guest.attested(office.custodian)
    assert release.certificate_expires == office.clock.now() + 10 * MINUTE
    assert (await kinds(office))[-1] == "instance.renew"
    office.clock.passed += 6 * MINUTE
    (answer,) = await office.custodian.handle(guest.id, Heartbeat(1, ()))
    assert isinstance(answer, HeartbeatAck)


async def test_the_same_tls_key_with_another_statement_key_is_refused(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    twin = Guest(office.house, tls=guest.tls)
    with pytest.raises(Conflict):
        await twin.attested(office.custodian)


async def test_an_instance_whose_evidence_ran_out_is_told_to_attest_again(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    office.clock.passed += 10 * MINUTE
    ask = LeaseAsk(1, key_hash("lh-alice"), Units(1), Units(1), 0, Units(0))
    (answer,) = await office.custodian.handle(guest.id, ask)
    assert isinstance(answer, AttestAgain)
    assert answer.problem.code == "evidence_expired"


async def test_an_unknown_instance_is_told_to_attest(office: Office) -> None:
    (answer,) = await office.custodian.handle("ab" * 32, Heartbeat(1, ()))
    assert isinstance(answer, AttestAgain)
    assert answer.problem.code == "not_found"


async def test_an_extension_for_an_unknown_key_is_refused_with_its_sequence(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    (answer,) = await office.custodian.handle(guest.id, ExtensionQuery(7, bytes(32)))
    assert isinstance(answer, LeaseRefused)
    assert (answer.sequence, answer.problem.code) == (7, "invalid_api_key")


async def test_a_decision_reaches_every_instance_of_the_loan(office: Office) -> None:
    one, two = Guest(office.house), Guest(office.house)
    pushes = []
    for guest in (one, two):
        await guest.attested(office.custodian)
        pushes.append(await office.custodian.subscribe(guest.id))
    ask = ExtensionAsk(1, key_hash("lh-alice"), Units(500), "more")
    (state,) = await office.custodian.handle(one.id, ask)
    assert isinstance(state, ExtensionState)
    decision = await office.custodian.approve(ADMIN, state.request, Units(200))
    assert decision.budget.granted == 1200
    for pushed in pushes:
        told = await pushed.next()
        assert isinstance(told, ExtensionState)
        assert (told.sequence, told.status, told.approved) == (0, "approved", 200)


async def test_a_stop_is_durable_before_it_is_pushed_and_says_why(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    pushes = await office.custodian.subscribe(guest.id)
    stop = await office.custodian.stop(ADMIN, "loan", LOAN, "enough")
    order = await pushes.next()
    assert isinstance(order, StopOrder)
    root = office.house.settings.keys.root.public
    payload = check_signed(order.statement, kind=STOP_ORDER_KIND, public=root)
    reason = from_json(payload, StopReason)
    assert (reason.stop, reason.scope, reason.target, reason.reason) == (
        stop.id,
        "loan",
        LOAN,
        "enough",
    )
    ask = LeaseAsk(1, key_hash("lh-alice"), Units(1), Units(1), 0, Units(0))
    (answer,) = await office.custodian.handle(guest.id, ask)
    assert isinstance(answer, LeaseRefused)
    assert answer.problem.code == "loan_stopped"


async def test_a_stop_concerns_only_its_scope(office: Office) -> None:
    one, two = Guest(office.house), Guest(office.house)
    for guest in (one, two):
        await guest.attested(office.custodian)
    spared = await office.custodian.subscribe(two.id)
    await office.custodian.stop(ADMIN, "enclave", one.id, "suspect")
    spared.close()
    with pytest.raises(ChannelClosed):
        await spared.next()
    ask = LeaseAsk(1, key_hash("lh-alice"), Units(1), Units(1), 0, Units(0))
    (answer,) = await office.custodian.handle(two.id, ask)
    assert isinstance(answer, LeaseGranted)


async def test_a_stop_is_pushed_again_when_the_instance_comes_back(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    stop = await office.custodian.stop(ADMIN, "all", "", "drill")
    pushes = await office.custodian.subscribe(guest.id)
    assert isinstance(await pushes.next(), StopOrder)
    # N-7: lifting the stop does not revive what it found running.
    await office.custodian.change(
        lambda tx, now: stops.lift(tx, now=now, operator=ADMIN, stop=stop.id, reason="over")
    )
    again = await office.custodian.subscribe(guest.id)
    assert isinstance(await again.next(), StopOrder)


async def test_a_later_channel_closes_the_earlier(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    first = await office.custodian.subscribe(guest.id)
    second = await office.custodian.subscribe(guest.id)
    with pytest.raises(ChannelClosed):
        await first.next()
    office.custodian.unsubscribe(first)
    assert office.custodian.listeners.names() == (guest.id,)
    office.custodian.unsubscribe(second)
    assert office.custodian.listeners.names() == ()


async def test_an_unknown_instance_cannot_listen(office: Office) -> None:
    with pytest.raises(UnknownThing):
        await office.custodian.subscribe("ab" * 32)
    assert office.custodian.listeners.names() == ()


async def test_a_lagging_instance_is_cut_off_and_nobody_waits(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    pushes = await office.custodian.subscribe(guest.id)
    message = AttestAgain(Problem("evidence_expired", "again"))
    for _ in range(1025):
        pushes.put(message)
    for _ in range(1024):
        await pushes.next()
    with pytest.raises(ChannelClosed):
        await pushes.next()


async def test_progress_is_told_as_soon_as_there_is_any(office: Office) -> None:
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    stop = await office.custodian.stop(ADMIN, "loan", LOAN, "drill")
    waiting = asyncio.create_task(office.custodian.await_progress(stop.id, proved=0))
    await asyncio.sleep(0)
    assert not waiting.done()
    report = StopReport(guest.id, LOAN, stop.id, (), 5000, office.clock.now())
    await office.custodian.handle(
        guest.id, StopProof(sign(guest.statement, STOP_PROOF_KIND, to_json(report)))
    )
    progress = await asyncio.wait_for(waiting, 10)
    assert progress.proved == (guest.id,)


async def test_who_may_only_stop_cannot_lend(office: Office) -> None:
    stopper = Operator("sam", Role.STOPPER)
    with pytest.raises(NotPermitted):
        await office.custodian.create_loan(stopper, office.house.new_loan())
    await office.custodian.stop(stopper, "loan", LOAN, "enough")
    assert len(await office.custodian.look(loans.list_loans)) == 1
