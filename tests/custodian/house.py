"""A custodian's folder with a sealed model, a manifest and a simulated machine; and its guests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx2

from leasehold.attest.collateral import parse_collateral
from leasehold.attest.intel.reference import Sgx
from leasehold.attest.manifest import Manifest, sign_manifest
from leasehold.attest.reference import Machine as ListedMachine
from leasehold.attest.reference import Simulated
from leasehold.core.binding import Binding, Purpose, release_info
from leasehold.core.crypto import KemKey, SigningKey, TlsKey, instance_id, sha256
from leasehold.core.encoding import from_json, to_json
from leasehold.core.evidence import Evidence
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import Attest, Challenge, FromCustodian, FromEnclave, Release
from leasehold.core.statements import sign_text
from leasehold.core.tariff import PER_TOKEN
from leasehold.core.units import DAY, MINUTE, Duration, Instant, Units, after
from leasehold.custodian import settings as settings_module
from leasehold.custodian.acts import NewLoan
from leasehold.custodian.api import build
from leasehold.custodian.appraise import CONFIGURATION_KIND
from leasehold.custodian.collateral.folder import FolderCollateral
from leasehold.custodian.collateral.intake import Intake
from leasehold.custodian.desk import Desk
from leasehold.custodian.ledger import consumers, grants, loans
from leasehold.custodian.ledger.operators import Operator, Role
from leasehold.custodian.log import FIELDS
from leasehold.custodian.ports import Ports
from leasehold.custodian.release import FolderKeys, read_header
from leasehold.custodian.seal import seal_folder
from leasehold.custodian.service import Custodian
from leasehold.custodian.settings import Place, Rules, Settings
from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.store.port import Store
from leasehold.errors import ChannelClosed
from leasehold.net.authority import OperatorIdentity, Validity, issue_client
from leasehold.net.certificates import identity_of
from leasehold.net.servers import PEER, Peer
from leasehold.net.shown import to_der
from leasehold.testing.time import in_place
from leasehold_simtee.machine import Machine
from leasehold_simtee.measure import measure

LOAN: Final = "clinic"
MODEL: Final = "echo"
ADMIN: Final = Operator("admin", Role.ADMIN)
WAIT_SECONDS: Final = 10.0  # a test that needs it has failed


class Watch:
    """A clock that stands at the real time until a test turns it on."""

    def __init__(self) -> None:
        self.passed = 0
        self.start = Instant(int(datetime.now(UTC).timestamp() * 1000))

    def now(self) -> Instant:
        """See `units.Clock`."""
        return after(self.start, self.passed)

    def monotonic(self) -> Instant:
        """See `units.Clock`."""
        return Instant(self.passed)


@dataclass(slots=True)
class Events:
    """A log that keeps what is said, and is as strict as the real one."""

    said: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def event(self, name: str, **fields: object) -> None:
        """Keep an event."""
        assert not fields.keys() - FIELDS
        self.said.append((name, fields))


class Line:
    """One end of an in-memory channel without delay."""

    def __init__(self) -> None:
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.closed = False
        self.other: Line

    @classmethod
    def pair(cls) -> tuple[Line, Line]:
        """Both ends."""
        one, two = cls(), cls()
        one.other, two.other = two, one
        return one, two

    async def send(self, message: bytes) -> None:
        """See `channel.Channel`."""
        if self.closed:
            raise ChannelClosed
        self.other._inbox.put_nowait(message)

    async def receive(self) -> bytes:
        """See `channel.Channel`."""
        message = await self._inbox.get()
        if message is None:
            raise ChannelClosed
        return message

    async def close(self) -> None:
        """See `channel.Channel`."""
        if not self.closed:
            self.closed = self.other.closed = True
            self._inbox.put_nowait(None)
            self.other._inbox.put_nowait(None)

    async def say(self, message: FromEnclave) -> None:
        """Send a message as an enclave does."""
        await self.send(to_json(message))

    async def hear(self) -> Any:
        """The next message of the custodian. Raises ChannelClosed."""
        async with asyncio.timeout(WAIT_SECONDS):
            return from_json(await self.receive(), FromCustodian)


@dataclass(slots=True)
class Guest:
    """An enclave instance as the custodian sees it: three keys and a machine that vouches for them."""

    house: House
    tls: TlsKey = field(default_factory=lambda: TlsKey.make(os.urandom))
    statement: SigningKey = field(default_factory=lambda: SigningKey.make(os.urandom))
    kem: KemKey = field(default_factory=lambda: KemKey.make(os.urandom))

    @property
    def id(self) -> str:
        """The instance id."""
        return instance_id(self.tls.spki)

    def answer(self, nonce: bytes, *, configuration: bytes | None = None) -> Attest:
        """The honest answer to a challenge."""
        file = configuration or self.house.configuration
        root = self.house.settings.keys.root.public
        binding = Binding(
            Purpose.CUSTODIAN,
            nonce,
            self.tls.spki,
            self.statement.public,
            self.kem.public,
            root,
            file,
        )
        evidence = self.house.quote(binding.report_data())
        return Attest(nonce, evidence, self.tls.spki, self.statement.public, self.kem.public, file)

    def open(self, release: Release, attest: Attest) -> bytes:
        """The model key in a release."""
        info = release_info(
            evidence_digest=attest.evidence.digest(),
            loan=LOAN,
            instance=self.id,
            model_digest=bytes.fromhex(release.terms.model.digest),
            epoch=release.epoch,
        )
        return self.kem.open(release.sealed_key, info=info)

    async def attested(self, custodian: Custodian) -> Release:
        """Challenge and answer, without HTTP."""
        challenge = await custodian.challenge()
        return await custodian.attest(self.answer(challenge.nonce))


@cache
def _measured() -> bytes:
    """The measurement of the code of this process, which reads all of it."""
    return measure()


@dataclass(slots=True)
class House:
    """A custodian's folder as an operator would have made it."""

    settings: Settings
    machine: Machine
    configuration: bytes
    manifest: bytes

    @classmethod
    def build(cls, folder: Path, *, address: Place | None = None) -> House:
        """Make everything, at the real time: OpenSSL looks at it."""
        now = Instant(int(datetime.now(UTC).timestamp() * 1000))
        place = address or Place("127.0.0.1", 8443)
        settings = settings_module.init(
            folder, address=place, names=["localhost"], now=now, entropy=os.urandom
        )
        machine = Machine.create(os.urandom, now)
        take_in(settings.collateral, machine.collateral, now)
        house = cls(settings, machine, b"", b"")
        house.configuration = house.configure()
        house.manifest = house.make_manifest()
        house._seal(folder.parent / "plain")
        return house

    def hire(self, name: str, role: Role) -> None:
        """One more operator of the folder."""
        settings = self.settings
        settings_module.add_operator(
            settings.folder,
            name,
            role,
            authority=settings.keys.authority,
            now=Watch().now(),
            entropy=os.urandom,
        )
        self.settings = replace(settings, operators={**settings.operators, name: role})

    def configure(self, **changed: object) -> bytes:
        """A signed configuration of an enclave; `changed` replaces keys."""
        keys: dict[str, object] = {
            "version": 1,
            "loan": LOAN,
            "engine": "fake",
            "attester": "simulated",
            "custodian_root": self.settings.keys.root.public.hex(),
            "custodian_ca": self.settings.keys.authority.certificate,
            "custodian_name": "localhost",
            "dead_man_seconds": 60,
            "context_tokens": 4096,
            "slots": 1,
            "threads": 1,
            "block_tokens": 64,
            "queue_max": 8,
            "concurrency_max": 8,
            "body_bytes_max": 65536,
        } | changed
        text = "\n".join(f"{name} = {to_json(value).decode()}" for name, value in keys.items())
        return sign_text(self.settings.keys.root, CONFIGURATION_KIND, text.encode())

    def make_manifest(self, **changed: Any) -> bytes:
        """A signed manifest for the house's machine."""
        values = self.machine.attester(_measured()).enclave.reference_values()
        fields: dict[str, Any] = {
            "version": 1,
            "name": "test",
            "custodian_root": self.settings.keys.root.public.hex(),
            "not_after": datetime.now(UTC).replace(microsecond=0) + timedelta(days=30),
            "configurations": (sha256(self.configuration).hex(),),
            "machines": (ListedMachine(self.machine.platform_id, "the test's machine"),),
            "sgx": Sgx(**_tuples(values)),
            "simulated": Simulated(self.machine.root_sha256),
        } | changed
        return sign_manifest(self.settings.keys.root, Manifest(**fields))

    def quote(self, report_data: bytes) -> Evidence:
        """Evidence of the machine."""
        return self.machine.attester(_measured()).attest(report_data)

    @property
    def sealed(self) -> bytes:
        """The sealed model."""
        return (self.settings.models / f"{MODEL}.sealed").read_bytes()

    def new_loan(self) -> NewLoan:
        """What an operator would decide."""
        return NewLoan(
            name=LOAN,
            model=MODEL,
            manifest=self.manifest,
            tariff=PER_TOKEN,
            policy=LeasePolicy(),
            cap=Units(10_000),
            instances_max=4,
            dead_man=Duration(10 * MINUTE),
        )

    def _seal(self, plain: Path) -> None:
        plain.mkdir()
        (plain / "weights.bin").write_bytes(os.urandom(5000))
        sealed = seal_folder(
            plain,
            self.settings.models / f"{MODEL}.sealed",
            name=MODEL,
            version="1",
            engine="fake",
            licence="none",
            root_key=self.settings.keys.root,
            entropy=os.urandom,
        )
        FolderKeys(self.settings.models).keep(MODEL, sealed.model_key)


@dataclass(slots=True)
class Office:
    """A custodian in process, its API without sockets, and a clock to turn."""

    house: House
    custodian: Custodian
    clock: Watch
    log: Events
    app: Any

    @classmethod
    def open(cls, house: House, *, rules: Rules | None = None) -> Office:
        """On an empty ledger."""
        return cls.over(house, Watch(), InlineStore.open(), rules=rules)

    @classmethod
    def over(
        cls, house: House, clock: Watch, store: Store, *, rules: Rules | None = None
    ) -> Office:
        """On a ledger that may have others who work on it."""
        log = Events()
        collateral = FolderCollateral(house.settings.collateral)
        ports = Ports(
            store=store,
            clock=clock,
            entropy=os.urandom,
            collateral=collateral,
            model_keys=FolderKeys(house.settings.models),
            run_blocking=in_place,
        )
        custodian = Custodian(house.settings.keys, rules or Rules(), ports)
        return cls(house, custodian, clock, log, build(Desk(custodian, house.settings), log))

    async def lend(self) -> None:
        """A loan with a consumer `alice`, whose key is `lh-alice`, and 1,000 units."""
        sealed = read_header(
            self.house.settings.models, MODEL, root=self.house.settings.keys.root.public
        )

        def act(tx: Any, now: Instant) -> None:
            loans.add_model(
                tx,
                now=now,
                operator=ADMIN,
                name=MODEL,
                digest=sealed.digest.hex(),
                sealed_bytes=sealed.sealed_bytes,
                engine="fake",
            )

        def enrol(tx: Any, now: Instant) -> None:
            consumers.add_consumer(tx, now=now, operator=ADMIN, name="alice")
            consumers.add_key(
                tx, now=now, operator=ADMIN, consumer="alice", key_hash=key_hash("lh-alice")
            )
            grants.create_grant(
                tx, now=now, operator=ADMIN, loan=LOAN, consumer="alice", units=Units(1000)
            )

        await self.custodian.change(act)
        await self.custodian.create_loan(ADMIN, self.house.new_loan())
        await self.custodian.change(enrol)

    @asynccontextmanager
    async def client(self, peer: Peer | None = None) -> AsyncIterator[httpx2.AsyncClient]:
        """An HTTP client that the application takes for `peer`."""

        async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
            await self.app({**scope, "extensions": {PEER: peer}}, receive, send)

        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="https://custodian") as client:
            yield client

    def operator(self, name: str = "admin") -> Peer:
        """The peer that the folder's operator is."""
        folder = self.house.settings.folder
        der = to_der((folder / "operators" / f"{name}.pem").read_text())
        return Peer(identity_of(der), der)

    def stranger(self, name: str) -> Peer:
        """A peer with a good certificate in an operator's name that the settings do not list."""
        now, tls = self.clock.now(), TlsKey.make(os.urandom)
        pem = issue_client(
            self.house.settings.keys.authority,
            tls.spki,
            identity=OperatorIdentity(name),
            validity=Validity(now, after(now, DAY)),
            entropy=os.urandom,
        )
        return Peer(identity_of(to_der(pem)), to_der(pem))


def peer_of_release(release: Release) -> Peer:
    """The peer that an accepted instance is."""
    der = to_der(release.certificate)
    return Peer(identity_of(der), der)


def key_hash(key: str) -> bytes:
    """How a key is known to the custodian."""
    return sha256(key.encode())


async def challenge_over(client: httpx2.AsyncClient) -> Challenge:
    """N-1 over HTTP."""
    answer = await client.post("/enclave/challenge")
    assert answer.status_code == 200, answer.text
    return from_json(answer.content, Challenge)


def take_in(folder: Path, collateral: bytes, now: Instant) -> None:
    """Keep a set as an operator does who fetched it himself."""
    intake = Intake(FolderCollateral(folder), by_hand=True)
    intake.set(parse_collateral(collateral), source="test", now=now)


def listen_anywhere(settings: Settings) -> Settings:
    """The same custodian on a free port."""
    return replace(settings, listen=Place("127.0.0.1", 0))


def _tuples(values: dict[str, object]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
