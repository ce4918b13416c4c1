"""The real thing on the loopback: mutual TLS, a WebSocket, the ledger on a disk."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NoReturn

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from leasehold.core.crypto import TlsKey
from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import (
    Challenge,
    FromCustodian,
    Heartbeat,
    HeartbeatAck,
    LeaseAsk,
    LeaseGranted,
    Problem,
    Release,
    StopOrder,
)
from leasehold.core.units import DAY, Units, after
from leasehold.custodian.ledger import audit, loans
from leasehold.custodian.serve import Running, SystemClock, running, serve
from leasehold.custodian.service import Custodian
from leasehold.custodian.settings import Place, read_credentials
from leasehold.enclave.settings import parse_settings
from leasehold.enclave.wire import HttpsWire
from leasehold.errors import FileTrouble, LoanStopped, PortInUse, StoreFailed, WrongNonce
from leasehold.net.authority import OperatorIdentity, Validity, issue_client, make_authority
from leasehold.net.fetch import RangeReader
from leasehold.net.tls import TlsContext, client_context

from .house import (
    ADMIN,
    LOAN,
    WAIT_SECONDS,
    Events,
    Guest,
    House,
    Office,
    key_hash,
    listen_anywhere,
)


@asynccontextmanager
async def custodian(house: House) -> AsyncIterator[Running]:
    """A custodian on a free port that lends."""
    async with running(listen_anywhere(house.settings), log=Events()) as found:
        office = Office.open(house)
        await Office(house, found.custodian, office.clock, office.log, office.app).lend()
        yield found


@asynccontextmanager
async def client(found: Running, context: TlsContext) -> AsyncIterator[httpx2.AsyncClient]:
    """An HTTP client under a TLS context."""
    url = f"https://127.0.0.1:{found.address.port}"
    async with httpx2.AsyncClient(base_url=url, verify=context, trust_env=False) as made:
        yield made


def admin_context(house: House) -> TlsContext:
    """The first operator's."""
    found = read_credentials(house.settings.folder, "admin")
    return client_context(found.ca, certificate=found.certificate, key=found.key)


def context_of(house: House, guest: Guest, release: Release) -> TlsContext:
    """An accepted instance's."""
    ca = house.settings.keys.authority.certificate
    return client_context(ca, certificate=release.certificate, key=guest.tls)


async def attest(house: House, found: Running, guest: Guest) -> Release:
    """N-1 to N-3 over TLS, without a client certificate."""
    context = client_context(house.settings.keys.authority.certificate)
    async with client(found, context) as http:
        challenge = from_json((await http.post("/enclave/challenge")).content, Challenge)
        answer = await http.post("/enclave/attest", content=to_json(guest.answer(challenge.nonce)))
        assert answer.status_code == 200, answer.text
        return from_json(answer.content, Release)


def channel(found: Running, context: TlsContext) -> connect:
    """The instance's WebSocket."""
    url = f"wss://127.0.0.1:{found.address.port}/enclave/channel"
    return connect(url, ssl=context, compression=None, proxy=None)


async def hear(line: ClientConnection) -> object:
    """The next message of the custodian."""
    async with asyncio.timeout(WAIT_SECONDS):
        data = await line.recv()
    return from_json(data.encode() if isinstance(data, str) else data, FromCustodian)


async def say(line: ClientConnection, message: object) -> None:
    """Send as an enclave does."""
    await line.send(to_json(message).decode())


async def test_attest_lease_stop_over_real_tls(house: House) -> None:
    guest = Guest(house)
    async with custodian(house) as found:
        release = await attest(house, found, guest)
        async with channel(found, context_of(house, guest, release)) as line:
            await say(line, Heartbeat(1, ()))
            assert isinstance(await hear(line), HeartbeatAck)
            await say(line, LeaseAsk(2, key_hash("lh-alice"), Units(5), Units(5), 0, Units(0)))
            assert isinstance(await hear(line), LeaseGranted)
            await found.custodian.stop(ADMIN, "loan", LOAN, "enough")
            assert isinstance(await hear(line), StopOrder)

    # What was acknowledged is on the disk.
    async with running(listen_anywhere(house.settings), log=Events()) as again:
        entries = await again.custodian.look(lambda tx: audit.entries(tx, start=0, count=100))
    assert [entry.kind for entry in entries][-2:] == ["lease.grant", "stop.order"]


async def test_a_second_channel_closes_the_first(house: House) -> None:
    guest = Guest(house)
    async with custodian(house) as found:
        context = context_of(house, guest, await attest(house, found, guest))
        async with channel(found, context) as first:
            await say(first, Heartbeat(1, ()))
            await hear(first)
            async with channel(found, context) as second:
                with pytest.raises(ConnectionClosed):
                    await hear(first)
                await say(second, Heartbeat(2, ()))
                assert isinstance(await hear(second), HeartbeatAck)


async def test_nonsense_closes_the_socket_with_a_problem(house: House) -> None:
    guest = Guest(house)
    async with custodian(house) as found:
        context = context_of(house, guest, await attest(house, found, guest))
        async with channel(found, context) as line:
            await line.send("nonsense")
            assert from_json(str(await line.recv()).encode(), Problem).code == "bad_message"
            with pytest.raises(ConnectionClosed):
                await line.recv()


async def test_the_channel_is_for_instances_only(house: House) -> None:
    nobody = client_context(house.settings.keys.authority.certificate)
    async with custodian(house) as found:
        for context, status, code in (
            (nobody, 401, "certificate_required"),
            (admin_context(house), 403, "not_permitted"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                async with channel(found, context):
                    pass
            response = refused.value.response
            assert response.status_code == status
            assert from_json(bytes(response.body), Problem).code == code


async def test_operators_work_and_others_do_not(house: House) -> None:
    guest = Guest(house)
    nobody = client_context(house.settings.keys.authority.certificate)
    async with custodian(house) as found:
        release = await attest(house, found, guest)
        for context, status in (
            (admin_context(house), 200),
            (nobody, 401),
            (context_of(house, guest, release), 403),
        ):
            async with client(found, context) as http:
                assert (await http.get("/operator/loans")).status_code == status


async def test_a_certificate_of_a_foreign_authority_ends_the_handshake(house: House) -> None:
    now, tls, key = SystemClock().now(), TlsKey.make(os.urandom), TlsKey.make(os.urandom)
    validity = Validity(after(now, -DAY), after(now, DAY))
    foreign = make_authority(tls, name="Leasehold custodian", validity=validity, entropy=os.urandom)
    pem = issue_client(
        foreign,
        key.spki,
        identity=OperatorIdentity("admin"),
        validity=validity,
        entropy=os.urandom,
    )
    ca = house.settings.keys.authority.certificate
    async with custodian(house) as found:
        async with client(found, client_context(ca, certificate=pem, key=key)) as http:
            with pytest.raises((httpx2.TransportError, ssl.SSLError)):
                await http.get("/operator/loans")
        # And a client that trusts another authority does not talk to this one.
        async with client(found, client_context(foreign.certificate)) as http:
            with pytest.raises(httpx2.ConnectError):
                await http.post("/enclave/challenge")


async def test_a_taken_port_is_said(house: House) -> None:
    async with custodian(house) as found:
        taken = Place("127.0.0.1", found.address.port)
        with pytest.raises(PortInUse):
            async with running(replace(house.settings, listen=taken), log=Events()):
                pass


async def test_a_ledger_that_cannot_be_opened_is_said(house: House) -> None:
    house.settings.ledger.mkdir()
    with pytest.raises((StoreFailed, FileTrouble)):
        async with running(listen_anywhere(house.settings), log=Events()):
            pass


async def test_sigterm_ends_it_in_good_order(house: House) -> None:
    log = Events()

    def on_ready(place: Place) -> None:
        assert place.port
        os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.timeout(WAIT_SECONDS):
        await serve(listen_anywhere(house.settings), log=log, on_ready=on_ready)
    assert [name for name, _ in log.said] == ["serving", "stopping"]


async def test_what_breaks_one_of_its_loops_ends_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(_custodian: Custodian) -> NoReturn:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(Custodian, "sweep", breaks)
    log = Events()
    async with asyncio.timeout(WAIT_SECONDS):
        with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
            await serve(listen_anywhere(house.settings), log=log)
    assert [name for name, _ in log.said] == ["serving"]


async def test_the_enclave_s_own_wire_talks_to_it(house: House) -> None:
    guest = Guest(house)
    async with custodian(house) as found:
        settings = parse_settings(house.configuration)
        wire = HttpsWire("127.0.0.1", found.address.port, settings, guest.tls)
        challenge = await wire.challenge()
        release = await wire.attest(guest.answer(challenge.nonce))
        line = await wire.open_channel(release.certificate)
        await line.send(to_json(Heartbeat(1, ())))
        assert isinstance(from_json(await line.receive(), FromCustodian), HeartbeatAck)
        await found.custodian.stop(ADMIN, "all", "", "drill")
        assert isinstance(from_json(await line.receive(), FromCustodian), StopOrder)
        await line.close()
        with pytest.raises(WrongNonce):
            await wire.attest(guest.answer(challenge.nonce))
        with pytest.raises(LoanStopped):
            await wire.attest(guest.answer((await wire.challenge()).nonce))


async def test_a_sealed_model_is_fetched_by_ranges(house: House) -> None:
    async with custodian(house) as found:
        (model,) = await found.custodian.look(loans.list_models)
        url = f"https://127.0.0.1:{found.address.port}/models/{model.digest}"
        context = client_context(house.settings.keys.authority.certificate)
        out = bytearray(1000)

        def fetch() -> int:
            reader = RangeReader(url, context=context)
            try:
                return reader.read_into(200, memoryview(out))
            finally:
                reader.close()

        assert await asyncio.to_thread(fetch) == model.sealed_bytes == len(house.sealed)
        assert bytes(out) == house.sealed[200:1200]
