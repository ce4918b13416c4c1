"""A world to test in: custodian, enclaves and consumers in one process, on simulated time.

Everything that decides is the real code: ledger, appraisal, verifier, link, meter, gate, HTTP
application. Replaced are clocks, entropy, wires, the engine, and the hardware, which is the simulated
platform. Wires break as their weather says; hosts may turn their clocks.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from leasehold.attest.collateral import Document, HeldCollateral, parse_collateral
from leasehold.attest.intel.reference import Sgx
from leasehold.attest.manifest import Manifest, sign_manifest
from leasehold.attest.reference import Machine as ListedMachine
from leasehold.attest.reference import Simulated
from leasehold.core.crypto import SigningKey, TlsKey, sha256
from leasehold.core.encoding import from_json, to_json
from leasehold.core.evidence import Attester, DeviceAttester
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import Attest, Challenge, Release
from leasehold.core.statements import sign_text
from leasehold.core.tariff import PER_TOKEN, Tariff
from leasehold.core.units import DAY, SECOND, Duration, Units, after
from leasehold.custodian.acts import NewLoan
from leasehold.custodian.channel import attend
from leasehold.custodian.ledger import books, consumers, grants, loans
from leasehold.custodian.ledger.operators import Operator, Role
from leasehold.custodian.ports import Ports
from leasehold.custodian.seal import seal_folder
from leasehold.custodian.service import Custodian
from leasehold.custodian.settings import Keys, Rules
from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.store.port import Store
from leasehold.enclave.boot import Enclave, Machine
from leasehold.enclave.prover import InstanceKeys
from leasehold.enclave.serve import Application
from leasehold.enclave.settings import KIND as CONFIGURATION_KIND
from leasehold.enclave.settings import parse_settings
from leasehold.errors import CustodianUnreachable, StoreFailed, UnknownThing
from leasehold.net.authority import (
    Authority,
    InstanceIdentity,
    Validity,
    make_authority,
    parse_identity,
)
from leasehold.net.certificates import enclave_certificate, identity_of, to_der
from leasehold.net.channel import Channel
from leasehold.testing.box import MODEL, Box, Consumer
from leasehold.testing.host import InProcessHost
from leasehold.testing.machinery import Events, MemorySource, WorldLoader
from leasehold.testing.time import START, SeededEntropy, SimulatedClock, in_place
from leasehold.testing.wires import Wire, channel_pair
from leasehold_simtee.machine import Machine as SimulatedMachine
from leasehold_simtee.measure import measure

__all__ = ["LOAN", "MODEL", "OPERATOR", "Box", "Consumer", "World"]

T = TypeVar("T")
OPERATOR: Final = Operator("admin", Role.ADMIN)
TOKEN_SECONDS: Final = 0.02
REQUEST_SECONDS_MAX: Final = 10.0
LOAN: Final = "clinic"


class WorldWire:
    """A CustodianWire over breakable memory: requests and channel messages cross it as bytes."""

    def __init__(self, world: World, wire: Wire) -> None:
        self._world, self.wire = world, wire

    async def challenge(self) -> Challenge:
        """See `link.CustodianWire`."""
        return await self._ask(self._world.custodian.challenge, Challenge)

    async def attest(self, message: Attest) -> Release:
        """See `link.CustodianWire`."""
        again = from_json(to_json(message), Attest)
        return await self._ask(lambda: self._world.custodian.attest(again), Release)

    async def open_channel(self, certificate: str) -> Channel:
        """See `link.CustodianWire`."""
        if not self._world.is_up or not (self.wire.copies(up=True) and self.wire.copies(up=False)):
            await asyncio.sleep(REQUEST_SECONDS_MAX)
            raise CustodianUnreachable(about="simulated wire")
        identity = parse_identity(identity_of(to_der(certificate)))
        if not isinstance(identity, InstanceIdentity):
            raise CustodianUnreachable(about="certificate", got=identity.uri)
        ours, theirs = channel_pair(self.wire)
        self._world.hold(attend(self._world.custodian, identity.instance, theirs), theirs)
        return ours

    async def _ask(self, act: Callable[[], Awaitable[T]], kind: type[T]) -> T:
        arrives = self.wire.copies(up=True)
        if not arrives or not self._world.is_up:
            await asyncio.sleep(REQUEST_SECONDS_MAX)
            raise CustodianUnreachable(about="simulated wire")
        await asyncio.sleep(arrives[0])
        life = self._world.lives
        try:
            answer = to_json(await act())
        except StoreFailed:
            if life == self._world.lives:
                raise
            answer = b""
        if life != self._world.lives or not self.wire.copies(up=False):
            await asyncio.sleep(REQUEST_SECONDS_MAX)
            raise CustodianUnreachable(about="simulated wire")
        return from_json(answer, kind)


@cache
def _measured() -> bytes:
    """The measurement of the code of this process, which reads all of it."""
    return measure()


class World:
    """See the module's docstring. Make one with `await World.make(...)` inside `run_simulated`."""

    def __init__(self, seed: int) -> None:
        self.luck = random.Random(seed)
        self.entropy = SeededEntropy(f"world {seed}")
        self.clock = SimulatedClock()
        self.root = SigningKey.make(self.entropy)
        self.machine = SimulatedMachine.create(self.entropy, START)
        self.store: Store = InlineStore.open()
        self.is_up = True
        self.lives = 0  # how often the custodian was killed
        self.custodian: Custodian
        self.configuration = b""
        self.manifest = b""
        self.sealed = b""
        self.model_key = b""
        self.measurement = _measured()
        self.documents: tuple[Document, ...] = ()
        self._keys: Keys
        self._channels: dict[asyncio.Task[None], Channel] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._boxes: list[Box] = []

    @classmethod
    async def make(
        cls,
        seed: int = 0,
        *,
        cap: int = 100_000,
        tariff: Tariff = PER_TOKEN,
        policy: LeasePolicy | None = None,
        dead_man: int = 20,
        instances_max: int = 8,
        store: Store | None = None,
        **configured: object,
    ) -> World:
        """A world with a custodian that lends one model under one loan.

        `dead_man` in seconds; `configured` replaces keys of the enclave's configuration.
        """
        world = cls(seed)
        if store is not None:
            await world.store.close()
            world.store = store
        tls = TlsKey.make(world.entropy)
        validity = Validity(START, after(START, 365 * DAY))
        authority = make_authority(tls, name="world", validity=validity, entropy=world.entropy)
        world._keys = Keys(
            world.root, Authority(tls, authority.certificate), SigningKey.make(world.entropy)
        )
        world._seal()
        world.configuration = world.configure(dead_man=dead_man, **configured)
        world.manifest = world.make_manifest()
        world.start_custodian()
        await world.custodian.change(
            lambda tx, now: loans.add_model(
                tx,
                now=now,
                operator=OPERATOR,
                name=MODEL,
                digest=world.digest,
                sealed_bytes=len(world.sealed),
                engine="fake",
            )
        )
        new = NewLoan(
            name=LOAN,
            model=MODEL,
            manifest=world.manifest,
            tariff=tariff,
            policy=policy or LeasePolicy(),
            cap=Units(cap),
            instances_max=instances_max,
            dead_man=Duration(dead_man * SECOND),
        )
        await world.custodian.create_loan(OPERATOR, new)
        return world

    # The custodian -------------------------------------------------------------------------------

    def start_custodian(self) -> None:
        """Start the custodian, also again after `kill_custodian`: the ledger is all it remembers."""
        held = HeldCollateral([parse_collateral(self.machine.collateral)], self.documents)
        ports = Ports(
            store=self.store,
            clock=self.clock,
            entropy=self.entropy,
            collateral=held,
            model_keys=_OneKey(self),
            run_blocking=in_place,
        )
        self.custodian = Custodian(self._keys, Rules(), ports)
        self.is_up = True
        self._sweeping = asyncio.create_task(self._sweep(self.custodian))

    async def kill_custodian(self) -> None:
        """kill -9: every connection breaks, nothing is said; what was committed stays."""
        self.is_up = False
        self.lives += 1
        if self._sweeping is not None:
            self._sweeping.cancel()
        for task, channel in list(self._channels.items()):
            task.cancel()
            await channel.close()
        self._channels.clear()
        await asyncio.sleep(0.01)

    async def _sweep(self, custodian: Custodian) -> None:
        while True:
            await asyncio.sleep(1)
            with suppress(StoreFailed):  # as `serve` does: the next one may find the disk well
                await custodian.sweep()

    def hold(self, serving: Any, channel: Channel) -> None:
        """Run a channel's server side until it ends or the custodian is killed."""
        task = asyncio.create_task(serving)
        self._channels[task] = channel
        task.add_done_callback(lambda done: self._channels.pop(done, None))

    async def check_books(self) -> None:
        """Invariant 1 and 8: every account adds up, at this very moment."""
        await self.custodian.look(books.check_books)

    async def budget(self, consumer: str) -> grants.Grant:
        """A consumer's grant as the ledger has it."""
        return await self.custodian.look(
            lambda tx: grants.show_grant(tx, loan=LOAN, consumer=consumer)
        )

    async def consumer(self, name: str, units: int) -> Consumer:
        """Enrol a consumer with one key and a grant."""
        key = f"lh-{self.entropy(32).hex()}"

        def act(tx: Any, now: Any) -> None:
            consumers.add_consumer(tx, now=now, operator=OPERATOR, name=name)
            consumers.add_key(
                tx, now=now, operator=OPERATOR, consumer=name, key_hash=sha256(key.encode())
            )
            grants.create_grant(
                tx, now=now, operator=OPERATOR, loan=LOAN, consumer=name, units=Units(units)
            )

        await self.custodian.change(act)
        return Consumer(name, key)

    # What the custodian signs ----------------------------------------------------------------------

    def configure(self, *, dead_man: int = 20, **changed: object) -> bytes:
        """A signed enclave configuration; `changed` replaces keys."""
        keys: dict[str, object] = {
            "version": 1,
            "loan": LOAN,
            "engine": "fake",
            "attester": "simulated",
            "custodian_root": self.root.public.hex(),
            "custodian_ca": self._keys.authority.certificate,
            "custodian_name": "custodian.test",
            "dead_man_seconds": dead_man,
            "context_tokens": 4096,
            "slots": 8,
            "threads": 1,
            "block_tokens": 64,
            "queue_max": 64,
            "concurrency_max": 16,
            "body_bytes_max": 65536,
            "log_origin": self._keys.origin,
            "log_key": self._keys.audit.public.hex(),
        } | changed
        lines = [f"{name} = {to_json(value).decode()}" for name, value in keys.items()]
        return sign_text(self.root, CONFIGURATION_KIND, "\n".join(lines).encode())

    def make_manifest(self, **changed: Any) -> bytes:
        """A signed manifest for this world's machine and measurement; `changed` replaces fields."""
        enclave = self.machine.attester(self.measurement).enclave
        sgx = Sgx(
            mr_enclave=(self.measurement.hex(),),
            mr_signer=enclave.mr_signer.hex(),
            isv_prod_id=enclave.isv_prod_id,
            isv_svn_min=enclave.isv_svn,
            attributes_flags_hex=enclave.flags.to_bytes(8, "big").hex(),
            attributes_mask_flags_hex="ff" * 8,
            attributes_xfrm_hex=enclave.xfrm.to_bytes(8, "big").hex(),
            attributes_mask_xfrm_hex="ff" * 8,
            misc_select_hex="00" * 4,
            misc_mask_hex="ff" * 4,
            config_id="00" * 64,
            config_svn=0,
            isv_family_id="00" * 16,
            isv_ext_prod_id="00" * 16,
            tcb_status=("UpToDate",),
        )
        fields: dict[str, Any] = {
            "version": 1,
            "name": "simulated world",
            "custodian_root": self.root.public.hex(),
            "not_after": datetime(2027, 1, 1, tzinfo=UTC),
            "configurations": (sha256(self.configuration).hex(),),
            "machines": (ListedMachine(self.machine.platform_id, "the world's machine"),),
            "sgx": sgx,
            "simulated": Simulated(self.machine.root_sha256),
        } | changed
        return sign_manifest(self.root, Manifest(**fields))

    def _seal(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            folder, target = Path(place) / "model", Path(place) / "model.sealed"
            folder.mkdir()
            (folder / "weights.bin").write_bytes(self.entropy(3000))
            (folder / "config.json").write_bytes(b"{}")
            sealed = seal_folder(
                folder,
                target,
                name=MODEL,
                version="1",
                engine="fake",
                licence="none",
                root_key=self.root,
                entropy=self.entropy,
            )
            self.sealed = target.read_bytes()
            self.model_key = sealed.model_key
            self.digest = sealed.digest.hex()

    # Enclaves ------------------------------------------------------------------------------------

    def enclave(
        self,
        *,
        configuration: bytes | None = None,
        attester: Attester | None = None,
        sealed: bytes | None = None,
        token_seconds: float = TOKEN_SECONDS,
        devices: DeviceAttester | None = None,
    ) -> Box:
        """Boot an enclave. By default the right code on the right machine with the right file."""
        settings = parse_settings(configuration or self.configuration)
        clock, wire, log = SimulatedClock(), Wire(self.luck), Events()
        host = InProcessHost(token_seconds=token_seconds, on_exit=lambda _: enclave.engine_lost())
        tls = TlsKey.make(self.entropy)
        certificate = enclave_certificate(tls, entropy=self.entropy)
        keys = InstanceKeys(tls, certificate, SigningKey.make(self.entropy))
        machine = Machine(
            attester or self.machine.attester(self.measurement),
            WorldWire(self, wire),
            host,
            clock,
            self.entropy,
            log,
            in_place,
            devices,
        )
        loader = WorldLoader(host, self.root.public, MemorySource(sealed or self.sealed))
        enclave = Enclave(settings, machine, keys, loader)
        life = asyncio.create_task(enclave.run())
        box = Box(enclave, Application(enclave), wire, clock, host, loader, log, life)
        self._boxes.append(box)
        return box

    async def end(self) -> None:
        """Switch everything off."""
        for box in self._boxes:
            await box.kill()
        await self.kill_custodian()
        await self.store.close()


@dataclass(frozen=True, slots=True)
class _OneKey:
    world: World

    def model_key(self, name: str) -> bytes:
        """See `release.KeyStore`."""
        if name != MODEL:
            raise UnknownThing(about="model", got=name)
        return self.world.model_key
