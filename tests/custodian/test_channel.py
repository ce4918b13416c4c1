"""N-4, O-10 to O-13: one channel of one instance, over memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import (
    MESSAGE_BYTES_MAX,
    STOP_PROOF_KIND,
    AttestAgain,
    Heartbeat,
    HeartbeatAck,
    LeaseAsk,
    LeaseGranted,
    Problem,
    StopNoted,
    StopOrder,
    StopProof,
    StopReport,
)
from leasehold.core.statements import sign
from leasehold.core.units import MINUTE, Units
from leasehold.custodian.channel import Bucket, attend
from leasehold.custodian.settings import Rules
from leasehold.errors import ChannelClosed

from .house import ADMIN, LOAN, WAIT_SECONDS, Guest, House, Line, Office, Watch, key_hash


@asynccontextmanager
async def channel(office: Office, guest: Guest) -> AsyncIterator[Line]:
    """The enclave's end of an attended channel; the block ends when the custodian's end does."""
    ours, theirs = Line.pair()
    attending = asyncio.create_task(attend(office.custodian, guest.id, theirs))
    try:
        yield ours
    finally:
        await ours.close()
        await asyncio.wait_for(attending, WAIT_SECONDS)


@pytest.fixture
async def guest(office: Office) -> Guest:
    """An attested instance."""
    guest = Guest(office.house)
    await guest.attested(office.custodian)
    return guest


async def test_a_channel_is_closed_where_the_ledger_cannot_be_read(
    office: Office, guest: Guest
) -> None:
    """O-10: the enclave comes back, to another replica where there is one."""
    await office.custodian.ports.store.close()
    ours, theirs = Line.pair()
    await asyncio.wait_for(attend(office.custodian, guest.id, theirs), WAIT_SECONDS)
    with pytest.raises(ChannelClosed):
        await ours.receive()
    assert office.custodian.listeners.names() == ()


async def test_every_message_is_answered(office: Office, guest: Guest) -> None:
    async with channel(office, guest) as line:
        await line.say(Heartbeat(1, ()))
        assert await line.hear() == HeartbeatAck(1, office.clock.now())
        await line.say(LeaseAsk(2, key_hash("lh-alice"), Units(10), Units(50), 0, Units(0)))
        granted = await line.hear()
        assert isinstance(granted, LeaseGranted)
        assert (granted.sequence, granted.consumer) == (2, "alice")
        assert granted.granted >= 50


async def test_many_messages_at_once_are_all_answered(office: Office, guest: Guest) -> None:
    async with channel(office, guest) as line:
        for sequence in range(1, 301):
            await line.say(Heartbeat(sequence, ()))
        heard = [(await line.hear()).sequence for _ in range(300)]
        assert sorted(heard) == list(range(1, 301))


async def test_evidence_that_ends_while_the_channel_is_open_ends_the_right_to_ask(
    office: Office, guest: Guest
) -> None:
    async with channel(office, guest) as line:
        await line.say(Heartbeat(1, ()))
        await line.hear()
        office.clock.passed += 11 * MINUTE
        await line.say(LeaseAsk(1, key_hash("lh-alice"), Units(1), Units(1), 0, Units(0)))
        assert isinstance(await line.hear(), AttestAgain)
        # Attesting again revives the same channel.
        await guest.attested(office.custodian)
        await line.say(LeaseAsk(2, key_hash("lh-alice"), Units(1), Units(1), 0, Units(0)))
        assert isinstance(await line.hear(), LeaseGranted)


async def test_an_instance_with_old_evidence_is_told_so_at_once(
    office: Office, guest: Guest
) -> None:
    office.clock.passed += 11 * MINUTE
    async with channel(office, guest) as line:
        assert isinstance(await line.hear(), AttestAgain)


async def test_an_instance_that_the_ledger_lost_is_told_and_let_go(office: Office) -> None:
    async with channel(office, Guest(office.house)) as line:
        told = await line.hear()
        assert isinstance(told, AttestAgain)
        with pytest.raises(ChannelClosed):
            await line.hear()


async def test_a_second_channel_closes_the_first(office: Office, guest: Guest) -> None:
    async with channel(office, guest) as first:
        await first.say(Heartbeat(1, ()))
        await first.hear()
        async with channel(office, guest) as second:
            with pytest.raises(ChannelClosed):
                await first.hear()
            await second.say(Heartbeat(2, ()))
            assert isinstance(await second.hear(), HeartbeatAck)


async def test_a_stop_arrives_and_its_proof_is_noted(office: Office, guest: Guest) -> None:
    async with channel(office, guest) as line:
        await line.say(Heartbeat(1, ()))
        await line.hear()
        stop = await office.custodian.stop(ADMIN, "loan", LOAN, "enough")
        assert isinstance(await line.hear(), StopOrder)
        report = StopReport(guest.id, LOAN, stop.id, (), 5000, office.clock.now())
        await line.say(StopProof(sign(guest.statement, STOP_PROOF_KIND, to_json(report))))
        assert await line.hear() == StopNoted(stop.id)


@pytest.mark.parametrize(
    "nonsense",
    [b"", b"{}", b"\xff", b'{"type":"heartbeat"}', b'{"type":"stop-order"}', b"[" * 10_000],
    ids=["empty", "untyped", "bytes", "fields", "wrong-way", "deep"],
)
async def test_nonsense_is_told_so_and_the_channel_closes(
    office: Office, guest: Guest, nonsense: bytes
) -> None:
    async with channel(office, guest) as line:
        await line.send(nonsense)
        assert from_json(await line.receive(), Problem).code == "bad_message"
        with pytest.raises(ChannelClosed):
            await line.receive()


async def test_a_message_that_is_too_large_closes_the_channel(office: Office, guest: Guest) -> None:
    async with channel(office, guest) as line:
        await line.send(b" " * (MESSAGE_BYTES_MAX + 1))
        assert from_json(await line.receive(), Problem).code == "bad_message"


async def test_a_proof_under_another_key_closes_the_channel(office: Office, guest: Guest) -> None:
    async with channel(office, guest) as line:
        report = StopReport(guest.id, LOAN, 1, (), 5000, office.clock.now())
        forged = sign(Guest(office.house).statement, STOP_PROOF_KIND, to_json(report))
        await line.say(StopProof(forged))
        assert from_json(await line.receive(), Problem).code == "bad_signature"


async def test_a_ledger_that_cannot_write_leaves_the_message_unanswered(
    office: Office, guest: Guest
) -> None:
    async with channel(office, guest) as line:
        await line.say(Heartbeat(1, ()))
        await line.hear()
        await office.custodian.ports.store.close()
        await line.say(Heartbeat(2, ()))
        await line.close()
        with pytest.raises(ChannelClosed):
            await line.receive()


async def test_an_instance_that_talks_too_fast_is_read_more_slowly(house: House) -> None:
    office = Office.open(house, rules=Rules(messages_rate=1000, messages_burst=2))
    await office.lend()
    guest = Guest(house)
    await guest.attested(office.custodian)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with channel(office, guest) as line:
        for sequence in range(1, 7):
            await line.say(Heartbeat(sequence, ()))
        for _ in range(6):
            await line.hear()
    # Four above the burst at 1,000 a second, on a clock that stands still: 1 + 2 + 3 + 4 ms.
    assert loop.time() - began >= 0.009


def test_a_bucket_allows_its_burst_and_then_its_rate() -> None:
    clock = Watch()
    bucket = Bucket(clock, rate=10, burst=2)
    assert [bucket.take() for _ in range(4)] == [0, 0, pytest.approx(0.1), pytest.approx(0.2)]
    bucket.give_back()
    clock.passed += 300
    assert bucket.take() == 0
