"""What a custodian costs for each enclave that it serves, from 10 to 1,000, beside a bare echo server.

The custodian is a process of its own with its ledger on this machine's disk. The enclaves are light: they
attest with simulated evidence and speak over real channels as busy ones do (N-6), but serve nobody. The floor
is `websockets` alone behind the same TLS, which sends the same messages back at the same cadence.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from bench.harness import Row, cpu_seconds
from bench.lending import Lending, Server, attester, in_thread, lending, make_keys, office
from leasehold.core.crypto import KemKey, sha256
from leasehold.core.encoding import to_json
from leasehold.core.evidence import Attester
from leasehold.core.messages import Attest, FromEnclave, Heartbeat, LeaseAsk, Usage
from leasehold.core.units import SECOND, Units
from leasehold.enclave.link import REPORT
from leasehold.enclave.prover import InstanceKeys, Prover
from leasehold.enclave.settings import Settings
from leasehold.enclave.wire import HttpsWire
from leasehold.errors import ChannelClosed
from leasehold.net.channel import Channel

CROWDS: Final = (10, 100, 1000)
CONSUMERS: Final = 100
WINDOWS: Final = 3
WINDOW_SECONDS: Final = 10.0
BEAT_SECONDS: Final = REPORT / SECOND  # an enclave that serves reports as often
BEATS_PER_ASK: Final = 5  # a lease lasts about five seconds (M-4)
UNITS_PER_BEAT: Final = 20
AT_ONCE: Final = 8
DRAIN_SECONDS: Final = 2.0
GROWTH_BAR: Final = 1.2
CORE_BAR: Final = 1.0
HEARD_BAR: Final = 0.99


class Heard(msgspec.Struct, frozen=True):
    """What the light enclave reads of an answer, or of its own message when it comes back."""

    type: str
    sequence: int = 0
    lease: str = ""
    granted: int = 0


@dataclass(slots=True)
class Member:
    """One light enclave's line to one server."""

    number: int
    key_hash: bytes
    channel: Channel
    lease: str = "1-1"
    granted: int = 0
    spent: int = 0
    beats: int = 0
    latencies: list[float] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    _sequence: int = 0
    _sent: dict[int, float] = field(default_factory=dict)

    async def live(self, seconds: float) -> None:
        """Beat and ask at the real cadence, begun at this member's own part of a second."""
        loop = asyncio.get_running_loop()
        first = loop.time() + BEAT_SECONDS * (self.number * 0.618 % 1)
        for step in range(round(seconds / BEAT_SECONDS)):
            await asyncio.sleep(first + step * BEAT_SECONDS - loop.time())
            if (self.number + step) % BEATS_PER_ASK == 0 or not self.granted:
                await self._send(self._ask())
            self.spent = min(self.granted, self.spent + UNITS_PER_BEAT)
            beat = Heartbeat(self._next(), (Usage(self.lease, Units(self.spent)),))
            self._sent[beat.sequence] = time.perf_counter()
            self.beats += 1
            await self._send(beat)

    async def listen(self) -> None:
        """Take answers until the line closes."""
        decode = msgspec.json.Decoder(Heard).decode
        with suppress(ChannelClosed):
            while True:
                heard = decode(await self.channel.receive())
                if sent := self._sent.pop(heard.sequence, None):
                    self.latencies.append(time.perf_counter() - sent)
                elif heard.type == "lease-granted":
                    self.lease, self.granted = heard.lease, heard.granted
                elif heard.type == "lease-ask":  # come back from the floor
                    self.granted += BEATS_PER_ASK * UNITS_PER_BEAT
                else:
                    self.refusals.append(heard.type)

    def _ask(self) -> LeaseAsk:
        """The first for one span, the later ones by the rate, as the link does."""
        need, rate = BEATS_PER_ASK * UNITS_PER_BEAT, round(1000 * UNITS_PER_BEAT / BEAT_SECONDS)
        known = bool(self.granted)
        return LeaseAsk(
            self._next(),
            self.key_hash,
            least=Units(0 if known else 1),
            need=Units(0 if known else need),
            rate=rate,
            spent=Units(self.spent),
            lease=self.lease if known else "",
        )

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    async def _send(self, message: FromEnclave) -> None:
        await self.channel.send(to_json(message))


@dataclass(frozen=True, slots=True)
class Attested:
    """An instance that may open channels."""

    keys: InstanceKeys
    certificate: str


async def attest(settings: Settings, machine: Attester, port: int) -> Attested:
    """N-1 to N-3 as the link does it."""
    keys = make_keys()
    wire = HttpsWire("127.0.0.1", port, settings, keys.tls)
    prover = Prover(machine, settings, keys, in_thread)
    challenge, kem = await wire.challenge(), KemKey.make(os.urandom)
    evidence = await prover.for_custodian(challenge.nonce, kem.public)
    ask = Attest(
        challenge.nonce,
        evidence,
        keys.tls.spki,
        keys.statement.public,
        kem.public,
        settings.file,
    )
    return Attested(keys, (await wire.attest(ask)).certificate)


async def join(lent: Lending, instances: Sequence[Attested], port: int) -> list[Member]:
    """A channel for each."""
    settings, room = lent.settings, asyncio.Semaphore(AT_ONCE)
    hashes = [sha256(key.encode()) for key in lent.keys]

    async def one(number: int, instance: Attested) -> Member:
        async with room:
            wire = HttpsWire("127.0.0.1", port, settings, instance.keys.tls)
            channel = await wire.open_channel(instance.certificate)
        return Member(number, hashes[number % len(hashes)], channel)

    return await asyncio.gather(*(one(*pair) for pair in enumerate(instances)))


@dataclass(slots=True)
class Side:
    """One server with its crowd, and what was seen of it: one number for each window."""

    server: Server
    members: list[Member]
    cpu: list[float] = field(default_factory=list)
    mebibytes: float = 0.0

    @property
    def pid(self) -> int:
        """The server's process."""
        return self.server.process.pid

    async def window(self, seconds: float) -> None:
        """Let the crowd live for a while; CPU seconds of the server for each enclave and second."""
        before = cpu_seconds(self.pid)
        await asyncio.gather(*(member.live(seconds) for member in self.members))
        for _ in range(round(DRAIN_SECONDS / 0.05)):
            if self.heard == self.beats:
                break
            await asyncio.sleep(0.05)
        self.cpu.append((cpu_seconds(self.pid) - before) / len(self.members) / seconds)
        self.mebibytes = resident(self.pid)

    @property
    def beats(self) -> int:
        """How many heartbeats were sent."""
        return sum(member.beats for member in self.members)

    @property
    def heard(self) -> int:
        """How many were answered."""
        return sum(len(member.latencies) for member in self.members)

    def latency(self, share: float) -> float:
        """Milliseconds from a heartbeat to its answer: a quantile over all members."""
        every = sorted(value for member in self.members for value in member.latencies)
        return 1e3 * every[min(len(every) - 1, int(len(every) * share))]

    def check(self) -> None:
        """Raises RuntimeError where the server answered anything but what was asked for."""
        refusals = {kind for member in self.members for kind in member.refusals}
        if refusals:
            raise RuntimeError(f"answers: {sorted(refusals)}")


@dataclass(frozen=True, slots=True)
class Seen:
    """One size of crowd before both servers, and what an attestation cost."""

    count: int
    ours: Side
    floor: Side
    attestation: float


def resident(pid: int) -> float:
    """MiB of a process in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def see(lent: Lending, count: int, *, windows: int, seconds: float) -> Seen:
    """Fresh servers, a fresh crowd, and windows of both in turn."""
    machine, room = attester(lent.house.machine), asyncio.Semaphore(AT_ONCE)
    with office("custodian", lent.office) as custodian, office("bare", lent.office) as bare:

        async def one() -> Attested:
            async with room:
                return await attest(lent.settings, machine, custodian.port)

        before = cpu_seconds(custodian.process.pid)
        instances = await asyncio.gather(*(one() for _ in range(count)))
        attestation = (cpu_seconds(custodian.process.pid) - before) / count
        ours = Side(custodian, await join(lent, instances, custodian.port))
        floor = Side(bare, await join(lent, instances, bare.port))
        sides = (ours, floor)
        everybody = [member for side in sides for member in side.members]
        listening = [asyncio.create_task(member.listen()) for member in everybody]
        for side in sides:
            await asyncio.gather(*(member.live(2 * BEAT_SECONDS) for member in side.members))
            side.cpu.clear()
        for _ in range(windows):
            for side in sides:
                await side.window(seconds)
        for side in sides:
            side.check()
        await asyncio.gather(*(member.channel.close() for member in everybody))
        await asyncio.gather(*listening)
    return Seen(count, ours, floor, attestation)


def rows_of(seen: Seen) -> list[Row]:
    """What one size of crowd costs."""
    ours, floor, name = seen.ours, seen.floor, f"{seen.count:,} enclaves"
    cpu = [1e3 * value for value in ours.cpu]
    bare = 1e3 * statistics.median(floor.cpu)
    rows = [
        Row(
            "crowd",
            f"{name}: CPU of the custodian for each, in a second",
            statistics.median(cpu),
            "ms",
            spread=(min(cpu), max(cpu)),
            beside=f"a bare echo server, {bare:.2g} ms",
        ),
        Row("crowd", f"{name}: memory", ours.mebibytes, "MiB", beside=f"{floor.mebibytes:.0f} MiB"),
    ]
    for quantile, share in (("p50", 0.5), ("p99", 0.99)):
        beside = f"a bare echo server, {floor.latency(share):.2g} ms"
        what = f"{name}: heartbeat to its answer, {quantile}"
        rows.append(Row("crowd", what, ours.latency(share), "ms", beside=beside))
    return rows


def growth_of(few: Seen, many: Seen) -> list[Row]:
    """How both grow, and whether one core is enough."""
    grown = [statistics.median(side.cpu) for side in (few.ours, many.ours, few.floor, many.floor)]
    core = many.count * grown[1]
    more = many.count - few.count
    each = (many.ours.mebibytes - few.ours.mebibytes) / more
    bare = (many.floor.mebibytes - few.floor.mebibytes) / more
    sizes = f"{few.count:,} to {many.count:,}"
    return [
        Row(
            "crowd",
            f"CPU for each enclave, at {many.count:,} over at {few.count:,}",
            grown[1] / grown[0],
            "times",
            GROWTH_BAR,
            beside=f"a bare echo server, {grown[3] / grown[2]:.2f}",
        ),
        Row(
            "crowd",
            f"memory for each enclave, from {sizes}",
            each,
            "MiB",
            beside=f"a bare echo server, {bare:.2g} MiB",
        ),
        Row("crowd", f"{many.count:,} enclaves: cores of the custodian", core, "", CORE_BAR),
        Row(
            "crowd",
            f"{many.count:,} enclaves: heartbeats answered, of those sent",
            many.ours.heard / many.ours.beats,
            "",
            HEARD_BAR,
            ">=",
        ),
        Row("crowd", "CPU of the custodian for one attestation", 1e3 * many.attestation, "ms"),
    ]


def measure(
    crowds: Sequence[int] = CROWDS,
    *,
    consumers: int = CONSUMERS,
    windows: int = WINDOWS,
    seconds: float = WINDOW_SECONDS,
) -> list[Row]:
    """All sizes, and how they grow."""
    with lending(instances=2 * sum(crowds), consumers=consumers) as lent:
        seen = [asyncio.run(see(lent, count, windows=windows, seconds=seconds)) for count in crowds]
    return [row for one in seen for row in rows_of(one)] + growth_of(seen[0], seen[-1])
