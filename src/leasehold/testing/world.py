"""A world to test in: custodian, enclaves and consumers in one process, on simulated time.

Everything that decides is the real code: ledger, appraisal, verifier, link, meter, gate, HTTP
application. Replaced are clocks, entropy, wires, the engine, and the hardware, which is the simulated
platform. Wires break as their weather says; hosts may turn their clocks.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
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
from leasehold.core.encoding import to_json
from leasehold.core.evidence import Attester, DeviceAttester
from leasehold.core.lease import LeasePolicy
from leasehold.core.statements import sign_text
from leasehold.core.tariff import PER_TOKEN, Tariff
from leasehold.core.units import DAY, SECOND, Duration, Units, after
from leasehold.custodian.acts import NewLoan
from leasehold.custodian.ledger import books, consumers, grants, loans
from leasehold.custodian.ledger.operators import Operator, Role
from leasehold.custodian.ports import Ports
from leasehold.custodian.seal import seal_folder
from leasehold.custodian.service import Custodian
from leasehold.custodian.settings import Keys
from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.store.port import Store
from leasehold.enclave.boot import Enclave, Machine
from leasehold.enclave.prover import InstanceKeys
from leasehold.enclave.serve import Application
from leasehold.enclave.settings import KIND as CONFIGURATION_KIND
from leasehold.enclave.settings import parse_settings
from leasehold.errors import UnknownThing
from leasehold.net.authority import (
    Authority,
    Validity,
    make_authority,
)
from leasehold.net.certificates import enclave_certificate
from leasehold.testing.box import MODEL, Box, Consumer
from leasehold.testing.host import InProcessHost
from leasehold.testing.machinery import ENGINE, Events, MemorySource, WorldLoader
from leasehold.testing.replica import Replica, WorldWire
from leasehold.testing.time import START, SeededEntropy, SimulatedClock, in_place
from leasehold.testing.wires import Wire
from leasehold_simtee.machine import Machine as SimulatedMachine
from leasehold_simtee.measure import measure

__all__ = ["LOAN", "MODEL", "OPERATOR", "Box", "Consumer", "World"]

T = TypeVar("T")
OPERATOR: Final = Operator("admin", Role.ADMIN)
TOKEN_SECONDS: Final = 0.02
LOAN: Final = "clinic"


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
        self.stores: list[Store] = [InlineStore.open()]  # one for each replica
        self.clocks = [self.clock]  # likewise
        self.replicas = [Replica()]
        self._balancing = random.Random(f"balancer {seed}")
        self.configuration = b""
        self.manifest = b""
        self.sealed = b""
        self.model_key = b""
        self.measurement = _measured()
        self.documents: tuple[Document, ...] = ()
        self._keys: Keys
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
        stores: Sequence[Store] = (),
        **configured: object,
    ) -> World:
        """A world with a custodian that lends one model under one loan.

        `dead_man` in seconds; `stores` has one for each replica of the custodian, all over one ledger;
        `configured` replaces keys of the enclave's configuration.
        """
        world = cls(seed)
        if stores:
            await world.store.close()
            world.stores = [*stores]
            world.clocks += [SimulatedClock() for _ in stores[1:]]
            world.replicas = [Replica() for _ in stores]
        tls = TlsKey.make(world.entropy)
        validity = Validity(START, after(START, 365 * DAY))
        authority = make_authority(tls, name="world", validity=validity, entropy=world.entropy)
        world._keys = Keys(
            world.root, Authority(tls, authority.certificate), SigningKey.make(world.entropy)
        )
        world._seal()
        world.configuration = world.configure(dead_man=dead_man, **configured)
        world.manifest = world.make_manifest()
        for number in range(len(world.replicas)):
            world.start_custodian(number)
        await world.custodian.change(
            lambda tx, now: loans.add_model(
                tx,
                now=now,
                operator=OPERATOR,
                name=MODEL,
                digest=world.digest,
                sealed_bytes=len(world.sealed),
                engine=ENGINE,
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

    @property
    def store(self) -> Store:
        """The ledger, as the first replica has it."""
        return self.stores[0]

    @store.setter
    def store(self, store: Store) -> None:
        self.stores[0] = store

    @property
    def custodian(self) -> Custodian:
        """Where an operator comes to: any replica that is up."""
        up = [replica for replica in self.replicas if replica.is_up] or self.replicas
        return (up[0] if len(up) == 1 else self._balancing.choice(up)).custodian

    @property
    def is_up(self) -> bool:
        """Whether any replica is."""
        return any(replica.is_up for replica in self.replicas)

    def route(self) -> Replica:
        """Where a balancer leads a new connection: mostly to a replica that is up."""
        up = [replica for replica in self.replicas if replica.is_up]
        if len(self.replicas) == 1 or not up:
            return self.replicas[0]
        return self._balancing.choice(up if self._balancing.random() < 0.9 else self.replicas)

    def start_custodian(self, number: int = 0) -> None:
        """Start a replica, also again after it was killed: the ledger is all it remembers."""
        ports = Ports(
            store=self.stores[number],
            clock=self.clocks[number],
            entropy=self.entropy,
            collateral=HeldCollateral([parse_collateral(self.machine.collateral)], self.documents),
            model_keys=_OneKey(self),
            run_blocking=in_place,
        )
        self.replicas[number].start(self._keys, ports)

    async def kill_custodian(self) -> None:
        """kill -9 of every replica."""
        for replica in self.replicas:
            await replica.kill()
        await asyncio.sleep(0.01)

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
                engine=ENGINE,
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
            WorldWire(self.route, wire),
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
