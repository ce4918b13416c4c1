"""One simulated day: what a seed decides, the troubles that come, and the evening at which all must be well.

Spec: docs/spec/simulation.md, Z-1, Z-6 and Z-7; Z-8 changes the code that it runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from leasehold.core.lease import LeasePolicy
from leasehold.core.session import State
from leasehold.core.tariff import PER_REQUEST, PER_TOKEN, Tariff
from leasehold.core.units import SECOND, Duration, Instant, Units
from leasehold.custodian.ledger import notices, stops
from leasehold.errors import LeaseholdError
from leasehold.testing.box import Box
from leasehold.testing.simulation.disk import Disk
from leasehold.testing.simulation.observer import Observer, Sight, Violation
from leasehold.testing.simulation.operators import resume
from leasehold.testing.simulation.people import Crowd, Person
from leasehold.testing.simulation.trouble import REPLICA_TROUBLES, TROUBLES, Trouble
from leasehold.testing.time import run_simulated
from leasehold.testing.world import LOAN, World

ENCLAVES_MAX: Final = 8
PEOPLE_MAX: Final = 50
REPLICATED: Final = 0.35  # of all days
EVENING_SECONDS: Final = 60.0  # I11: without any fault
HABITS: Final = ("steady", "whole", "greedy", "hang-up", "crowd", "embed", "extension")
HOSTILE: Final = ("stranger", "junk")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed decides before anything happens."""

    seed: int
    policy: LeasePolicy
    tariff: Tariff
    cap: int
    dead_man: int  # seconds
    people: int
    enclaves: int
    minutes: float
    trouble_every: float  # seconds, on average
    lose: float
    double: float
    delay: float  # seconds, the longest
    disk_seconds: float
    replicas: int  # of the custodian, all on one ledger


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a day. `digest` is the same whenever the same code runs the same seed."""

    seed: int
    violation: Violation | None
    served: int
    events: Counter[str]
    digest: str
    story: tuple[tuple[float, str, str], ...] = field(repr=False, default=())


def plan(seed: int) -> Plan:
    """The plan of a seed."""
    luck = random.Random(f"plan {seed}")
    ttl = luck.choice([2, 4, 8, 30])
    policy = LeasePolicy(
        ttl=Duration(ttl * SECOND),
        span=Duration(luck.choice([2, 10, 30]) * SECOND),
        outstanding_max=Units(luck.choice([50, 500, 5_000, 1_000_000])),
        exact=luck.random() < 0.15,
    )
    calm = luck.random() < 0.4
    return Plan(
        seed,
        policy,
        luck.choice([PER_TOKEN, PER_TOKEN, PER_REQUEST, Tariff(request=3, output_token=2)]),
        cap=luck.choice([300, 3_000, 30_000, 100_000]),
        dead_man=luck.choice([8, 20, 40]),
        people=PEOPLE_MAX if luck.random() < 0.02 else luck.randint(1, 6),
        enclaves=ENCLAVES_MAX if luck.random() < 0.05 else luck.randint(1, 3),
        minutes=luck.uniform(0.3, 0.9),
        trouble_every=luck.choice([0.7, 2.0, 5.0]),
        lose=0.0 if calm else luck.choice([0.02, 0.1, 0.3]),
        double=0.0 if calm else luck.uniform(0, 0.3),
        delay=0.002 if calm else luck.choice([0.01, 0.1, 1.0]),
        disk_seconds=luck.choice([0.0, 0.001, 0.02]),
        replicas=luck.choice([2, 3]) if luck.random() < REPLICATED else 1,
    )


class Day:
    """Everything of one day, for the troubles to get at."""

    def __init__(self, planned: Plan, world: World, disk: Disk, observer: Observer) -> None:
        self.plan, self.world, self.disk, self.observer = planned, world, disk, observer
        self.luck = random.Random(f"day {planned.seed}")
        self.people: list[Person] = []
        self.backups: list[bytes] = []
        self.boxes: list[Box] = []
        self.crowd = Crowd(observer, planned.tariff, self.answering)
        self._acts: set[asyncio.Task[None]] = set()
        disk.on_crash = lambda seat: self.act(self.crash(disk.seats.index(seat)))

    def answering(self) -> list[Box]:
        """Enclaves to which a consumer connects: those that serve, and now and then any."""
        serving = [box for box in self.boxes if box.enclave.state is State.SERVING]
        if serving and self.luck.random() < 0.9:
            return serving
        return [box for box in self.boxes if not box.life.done() or box.enclave.ended is not None]

    def sight(self, box: Box) -> Sight:
        """What the observer knows of it."""
        return self.observer.seen[box.enclave.instance]

    def act(self, doing: Awaitable[Any]) -> None:
        """Something that an operator or host does beside everything else; refusals are lawful."""

        async def run() -> None:
            with suppress(LeaseholdError):
                await doing

        task = asyncio.create_task(run())
        self._acts.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._acts.discard(task)
        if not task.cancelled() and (mistake := task.exception()) is not None:
            self.observer.fail(10, f"an act raised {type(mistake).__name__}: {mistake}")

    def due(self) -> Instant:
        """The custodian has begun by now what begins until then, if it is well."""
        return Instant(self.world.clock.now() - 5 * SECOND)

    async def settle(self) -> None:
        """Wait for all acts that are under way."""
        while self._acts:
            await asyncio.gather(*self._acts, return_exceptions=True)

    def boot(self) -> Box:
        """Start one more enclave on the borrower's machine."""
        plan, luck = self.plan, self.luck
        box = self.world.enclave(token_seconds=luck.choice([0.005, 0.02]))
        weather = box.wire.weather
        weather.lose, weather.double = plan.lose, plan.double
        weather.delay = (0.0005, max(0.001, plan.delay))
        self.observer.met(box)
        self.boxes.append(box)
        box.life.add_done_callback(_retrieve)
        return box

    @property
    def troubles(self) -> dict[str, Trouble]:
        """What may happen in this day."""
        return TROUBLES | (REPLICA_TROUBLES if self.plan.replicas > 1 else {})

    async def crash(self, number: int = 0) -> None:
        """kill -9 of one replica, and its start some seconds later."""
        replica, seat = self.world.replicas[number], self.disk.seats[number]
        if not replica.is_up:
            return
        seat.die()
        await replica.kill()
        await asyncio.sleep(0.01)
        self.observer.tell("custodian killed")
        await asyncio.sleep(self.luck.choice([0.05, 1.0, 6.0]))
        self.revive(number)

    def revive(self, number: int) -> None:
        """Start a replica again unless somebody else did."""
        if not self.world.replicas[number].is_up:
            self.world.start_custodian(number)
            self.observer.tell("custodian started")

    def revive_all(self) -> None:
        """Start all that are down."""
        for number in range(self.plan.replicas):
            self.revive(number)

    async def join(self, name: str) -> None:
        """Enrol a consumer with a budget, which begins to ask."""
        luck = self.luck
        budget = luck.choice([7, 100, 400, 2_000, 10_000, 10_000])
        consumer = await self.world.consumer(name, budget)
        count = luck.randint(2, 5)
        habits = luck.choices(HABITS, k=count) + luck.choices(HOSTILE, k=luck.randint(0, 1))
        person = Person(name, [consumer.key], random.Random(f"{name} {self.plan.seed}"), habits)
        self.people.append(person)
        self.crowd.join(person)

    async def check(self) -> None:
        """All invariants on the whole ledger, at this very moment."""
        await self.disk.inside.read(self.observer.check_books)


async def live(planned: Plan) -> Report:
    """Run a day in the loop that is running, which must be a simulated one."""
    observer, luck = Observer(planned.policy), random.Random(f"disk {planned.seed}")
    disk = Disk(luck, watch=observer.committed)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, told: _mistake(observer, told))
    world = await World.make(
        planned.seed,
        cap=planned.cap,
        tariff=planned.tariff,
        policy=planned.policy,
        dead_man=planned.dead_man,
        instances_max=ENCLAVES_MAX,
        stores=[disk.seat() for _ in range(planned.replicas)],
    )
    day = Day(planned, world, disk, observer)
    disk.seconds, troubles = planned.disk_seconds, day.troubles
    for number in range(planned.enclaves):
        day.boot()
        if number == 0:
            with suppress(LeaseholdError, TimeoutError):
                async with asyncio.timeout(30):
                    await day.boxes[0].serving()
    for number in range(planned.people):
        with suppress(LeaseholdError):
            await day.join(f"p{number}")
    end = loop.time() + 60 * planned.minutes
    while loop.time() < end and observer.violation is None:
        await asyncio.sleep(day.luck.expovariate(1 / planned.trouble_every))
        name = day.luck.choices([*troubles], weights=[t.weight for t in troubles.values()])[0]
        observer.tell(name)
        day.act(troubles[name].happen(day))
        await day.check()
    if observer.violation is None:
        await _evening(day)
    observer.finish()
    story = tuple(observer.story)
    digest = hashlib.sha256(repr((story, observer.events, observer.served)).encode()).hexdigest()
    await world.end()
    return Report(
        planned.seed,
        observer.violation,
        observer.by_consumer.total(),
        observer.events,
        digest,
        story,
    )


async def _evening(day: Day) -> None:
    """I11: without faults everything that was admitted ends, and whoever has a budget is served."""
    world, observer, disk = day.world, day.observer, day.disk
    observer.tell("evening")
    disk.full, disk.lie, disk.crash = False, 0.0, None
    for box in day.boxes:
        weather = box.wire.weather
        weather.cut = weather.deaf_up = weather.deaf_down = False
        weather.lose, weather.double, weather.delay = min(weather.lose, 0.1), 0.0, (0.001, 0.01)
        box.clock.run_at(1.0)
        day.sight(box).deaf = False
        box.host.resume()
    for seat in disk.seats:
        seat.parted = seat.deaf = False
        seat.listen_again()
    day.revive_all()
    try:
        async with asyncio.timeout(EVENING_SECONDS):
            await day.crowd.end()
            await day.settle()
    except TimeoutError:
        observer.fail(11, f"{day.crowd.under_way} requests did not end")
        return
    day.revive_all()
    await asyncio.sleep(30)  # longer than the longest pause before an enclave connects again
    await _all_stopped(day)
    await resume(day)
    for box in day.boxes:
        await box.kill()
    # Whoever is dead holds a place until he is presumed so.
    await asyncio.sleep(2 * day.plan.dead_man + 120)
    late = await world.consumer("late", 500)
    box = day.boot()
    box.wire.weather.lose = box.wire.weather.double = 0.0
    try:
        async with asyncio.timeout(EVENING_SECONDS):
            await box.serving()
            before = observer.by_consumer["late"]
            person = Person("late", [late.key], day.luck, ("steady",))
            await day.crowd.ask_once(person, box)
            if observer.by_consumer["late"] == before:
                observer.fail(11, "somebody with a budget was not served in the evening")
    except (TimeoutError, LeaseholdError) as failure:
        observer.fail(11, f"no enclave serves in the evening: {failure!r}")
    await day.check()


async def _all_stopped(day: Day) -> None:
    """Who can hear of a stop has obeyed it, whatever became of the first word of it (M-7, N-4).

    What was due has begun, and who listens knows what comes (L-14, N-11).
    """
    look = day.world.custodian.look
    orders = await look(lambda tx: stops.list_stops(tx, active=True))
    late = [stop for stop in orders if stop.phase == "notice" and stop.begins <= day.due()]
    if late:
        day.observer.fail(4, f"never begun: {late}")
    for box in day.boxes:
        coming = await look(partial(notices.coming, instance=box.enclave.instance))
        told = box.enclave.link.coming
        listens = box.enclave.ready and not box.life.done()
        if listens and (told and told.stop) != (coming and coming.id):
            day.observer.fail(4, f"an enclave says that {told} comes, and {coming} does")
        mine = {"all": "", "loan": LOAN, "enclave": box.enclave.instance}
        for stop in orders:
            if stop.phase == "notice":
                continue
            is_mine = stop.target == mine.get(stop.scope)
            has_model = box.enclave.link.lent is not None and not box.life.done()
            if is_mine and has_model and box.enclave.ended is None:
                day.observer.fail(4, f"stop {stop.id} was never heard by an enclave that listens")


def _mistake(observer: Observer, told: dict[str, Any]) -> None:
    mistake = told.get("exception")
    observer.fail(10, f"{told['message']}: {type(mistake).__name__}: {mistake}")


def _retrieve(task: asyncio.Task[None]) -> None:
    """An enclave may end by a refusal; that is no mistake."""
    if not task.cancelled():
        task.exception()


def run(seed: int) -> Report:
    """Live one day from its beginning. Never raises a Violation: the report has it."""
    return run_simulated(lambda: live(plan(seed)))
