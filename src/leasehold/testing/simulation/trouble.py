"""What can go wrong in a day: nature, hosts, hostile enclaves, operators, and disks (T26 to T36).

Spec: docs/spec/simulation.md, Z-5. Each trouble begins one thing; what must end again ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from leasehold.core.crypto import sha256
from leasehold.core.messages import Heartbeat, LeaseAsk, LeaseClose, StopProof, Usage
from leasehold.core.statements import Signed
from leasehold.core.units import DAY, Units
from leasehold.custodian.ledger import epoch
from leasehold.errors import LeaseholdError
from leasehold.testing.simulation import operators
from leasehold.testing.simulation.disk import Moment, Seat
from leasehold.testing.simulation.news import told_soon
from leasehold.testing.world import OPERATOR

if TYPE_CHECKING:
    from leasehold.testing.simulation.day import Day


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that may begin at any moment, and how often it does in comparison."""

    weight: int
    happen: Callable[[Day], Awaitable[None]]


# Lines -------------------------------------------------------------------------------------------


async def _cut(day: Day) -> None:
    """A line is cut, in one direction or both, and whole again after a while."""
    weather, luck = operators.any_box(day).wire.weather, day.luck
    which = luck.choice(["cut", "deaf_up", "deaf_down"])
    setattr(weather, which, True)
    await asyncio.sleep(luck.choice([0.3, 3.0, 15.0, 50.0]))
    setattr(weather, which, False)


async def _storm(day: Day) -> None:
    """A line loses, doubles and delays for a while."""
    weather, luck = operators.any_box(day).wire.weather, day.luck
    before = weather.lose, weather.double, weather.delay
    weather.lose, weather.double = luck.uniform(0, 0.3), luck.uniform(0, 0.5)
    weather.delay = (0.0, luck.choice([0.05, 1.0, 8.0]))
    await asyncio.sleep(luck.uniform(1, 10))
    weather.lose, weather.double, weather.delay = before


# Hosts -------------------------------------------------------------------------------------------


async def _turn_clock(day: Day) -> None:
    """A host freezes, slows or speeds up its enclave's clock (T29)."""
    box = operators.any_box(day)
    day.sight(box).turned = True
    box.clock.run_at(day.luck.choice([0.0, 0.1, 0.9, 3.0, 50.0]))
    await asyncio.sleep(day.luck.uniform(2, 20))
    box.clock.run_at(1.0)


async def _jump_clock(day: Day) -> None:
    """A host sets its enclave's wall clock up to 30 days off."""
    box = operators.any_box(day)
    box.clock.jump_wall(day.luck.randint(-30 * DAY, 30 * DAY))


async def _pause(day: Day) -> None:
    """A host holds an enclave still, and lets it go on later (T30)."""
    box = operators.any_box(day)
    weather = box.wire.weather
    day.sight(box).turned = True
    box.clock.run_at(0.0)
    box.host.pause()
    weather.cut = True
    await asyncio.sleep(day.luck.choice([1.0, 10.0, 40.0]))
    weather.cut = False
    box.clock.run_at(1.0)
    box.host.resume()


async def _deafen(day: Day) -> None:
    """A host drops every order to stop, and nothing else (T36)."""
    day.sight(operators.any_box(day)).deaf = True


async def _crash_worker(day: Day) -> None:
    """An engine dies."""
    box = operators.any_box(day)
    if box.host.alive:
        box.host.crash()


async def _kill_enclave(day: Day) -> None:
    """Power off, and another boot soon (T26)."""
    box = operators.any_box(day)
    await box.kill()
    await asyncio.sleep(day.luck.uniform(0, 3))
    await operators.boot(day)


async def _go_rogue(day: Day) -> None:
    """An attested enclave that lies: about counters, leases, numbers and stops (T35, T46)."""
    box, luck = operators.any_box(day), day.luck
    day.sight(box).rogue = True
    instance, number = box.enclave.instance, 10_000
    names = [usage.lease for one in day.boxes for usage in one.enclave.meter.usage()] or ["1-1"]
    keys = [sha256(key.encode()) for person in day.people for key in person.keys] or [bytes(32)]
    for _ in range(luck.randint(3, 15)):
        number += luck.randint(0, 2)
        spent = Units(luck.choice([0, 1, 50, 10_000, 1 << 52]))
        lie: Any = luck.choice(
            [
                LeaseAsk(
                    number,
                    luck.choice(keys),
                    Units(luck.choice([0, 1, 40])),
                    Units(luck.choice([0, 64, 1 << 40])),
                    luck.choice([0, 5_000, 1 << 50]),
                    spent,
                    luck.choice(names),
                ),
                Heartbeat(number, (Usage(luck.choice(names), spent),)),
                LeaseClose(Signed("x", b"{}", bytes(64))),
                StopProof(Signed("x", b"{}", bytes(64))),
            ]
        )
        with suppress(LeaseholdError):
            await day.world.custodian.handle(instance, lie)
        await asyncio.sleep(luck.uniform(0, 0.5))


# The custodian -----------------------------------------------------------------------------------


async def _crash(day: Day) -> None:
    """kill -9 of the custodian, or of one replica."""
    await day.crash(_any_replica(day))


def _any_replica(day: Day) -> int:
    return day.luck.randrange(day.plan.replicas) if day.plan.replicas > 1 else 0


async def _crash_in_write(day: Day) -> None:
    """kill -9 before or after a commit, in one of the next writes."""
    day.disk.crash_in = day.luck.randint(0, 6)
    day.disk.crash = day.luck.choice([Moment.BEFORE, Moment.AFTER])


async def _fill_disk(day: Day) -> None:
    """No write succeeds for a while."""
    day.disk.full = True
    await asyncio.sleep(day.luck.choice([0.5, 5.0, 20.0]))
    day.disk.full = False


async def _lying_disk(day: Day) -> None:
    """Some commits are said to have failed although they have not."""
    day.disk.lie = 0.5
    await asyncio.sleep(day.luck.uniform(1, 10))
    day.disk.lie = 0.0


async def _custodian_clock(day: Day) -> None:
    """The custodian's own wall clock is set off, and set right later."""
    clock = day.world.clocks[_any_replica(day)]
    off = day.luck.choice([-30 * DAY, -60_000, 60_000, 30 * DAY])
    clock.jump_wall(off)
    await asyncio.sleep(day.luck.uniform(1, 8))
    clock.jump_wall(-off)


async def _back_up(day: Day) -> None:
    """Somebody takes a backup."""
    day.backups.append(day.disk.inside.snapshot())


async def _restore(day: Day) -> None:
    """An old backup is put back as the book says (T28); the operators resume some time later."""
    if not day.backups or not day.world.is_up:
        return
    snapshot = day.luck.choice(day.backups)
    day.disk.die()
    await day.world.kill_custodian()
    newest = await day.disk.inside.read(epoch.current)
    day.observer.restoring()
    day.disk.put_back(snapshot)
    now = day.world.clock.now()
    number = await day.disk.inside.write(
        lambda tx: epoch.restore(
            tx, now=now, operator=OPERATOR, reason="a backup was put back", least=newest + 1
        )
    )
    await day.disk.inside.read(day.observer.committed)
    await day.disk.inside.read(lambda tx: day.observer.restored(tx, epoch=number))
    day.revive_all()
    await day.check()
    await asyncio.sleep(day.luck.uniform(1, 15))
    await operators.resume(day)
    await operators.boot(day)


# Replicas ----------------------------------------------------------------------------------------


async def _part(day: Day) -> None:
    """A replica is cut off from the database for a while; what it was writing is in doubt."""
    seat = day.luck.choice(day.disk.seats)
    await _hear_nothing(day, seat, "parted", day.luck.choice([0.5, 4.0, 15.0]))


async def _lose_news(day: Day) -> None:
    """A replica's listening connection breaks; it can read and write all the same."""
    seat = day.luck.choice(day.disk.seats)
    await _hear_nothing(day, seat, "deaf", day.luck.choice([0.2, 1.0, 8.0]))


async def _hear_nothing(day: Day, seat: Seat, why: str, seconds: float) -> None:
    setattr(seat, why, True)
    seat.miss()
    await asyncio.sleep(seconds)
    setattr(seat, why, False)
    seat.listen_again()
    day.act(told_soon(day, at=seat))


async def _move(day: Day) -> None:
    """A balancer ends a connection; the enclave comes back, to any replica."""
    instance = operators.any_box(day).enclave.instance
    for replica in day.world.replicas:
        if instance in replica.open:
            await replica.open[instance].close()


TROUBLES: Final[dict[str, Trouble]] = {
    "cut": Trouble(7, _cut),
    "storm": Trouble(6, _storm),
    "clock turned": Trouble(5, _turn_clock),
    "clock jumps": Trouble(2, _jump_clock),
    "pause": Trouble(4, _pause),
    "deaf host": Trouble(2, _deafen),
    "worker crash": Trouble(4, _crash_worker),
    "enclave killed": Trouble(4, _kill_enclave),
    "boot": Trouble(5, operators.boot),
    "rogue": Trouble(1, _go_rogue),
    "crash": Trouble(2, _crash),
    "crash in a write": Trouble(4, _crash_in_write),
    "disk full": Trouble(2, _fill_disk),
    "lying disk": Trouble(4, _lying_disk),
    "custodian's clock": Trouble(2, _custodian_clock),
    "backup": Trouble(4, _back_up),
    "restore": Trouble(1, _restore),
    "stop": Trouble(6, operators.stop),
    "notice": Trouble(5, operators.announce),
    "grant": Trouble(8, operators.change_grant),
    "cap": Trouble(4, operators.change_cap),
    "decide": Trouble(6, operators.decide),
    "keys": Trouble(3, operators.change_keys),
    "manifest": Trouble(1, operators.change_manifest),
}
REPLICA_TROUBLES: Final[dict[str, Trouble]] = {
    "replica parted": Trouble(4, _part),
    "news lost": Trouble(5, _lose_news),
    "moved": Trouble(5, _move),
}
