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
from leasehold.core.messages import Heartbeat, LeaseAsk, LeaseClose, Scope, StopProof, Usage
from leasehold.core.statements import Signed
from leasehold.core.units import DAY, Duration, Units
from leasehold.custodian import acts
from leasehold.custodian.ledger import consumers, epoch, extensions, grants, loans, stops
from leasehold.errors import LeaseholdError
from leasehold.testing.simulation.disk import Moment, Seat
from leasehold.testing.simulation.news import told_soon
from leasehold.testing.world import LOAN, OPERATOR

if TYPE_CHECKING:
    from leasehold.testing.box import Box
    from leasehold.testing.simulation.day import Day

RUNNING_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that may begin at any moment, and how often it does in comparison."""

    weight: int
    happen: Callable[[Day], Awaitable[None]]


def _any_box(day: Day) -> Box:
    return day.luck.choice(day.boxes)


# Lines -------------------------------------------------------------------------------------------


async def _cut(day: Day) -> None:
    """A line is cut, in one direction or both, and whole again after a while."""
    weather, luck = _any_box(day).wire.weather, day.luck
    which = luck.choice(["cut", "deaf_up", "deaf_down"])
    setattr(weather, which, True)
    await asyncio.sleep(luck.choice([0.3, 3.0, 15.0, 50.0]))
    setattr(weather, which, False)


async def _storm(day: Day) -> None:
    """A line loses, doubles and delays for a while."""
    weather, luck = _any_box(day).wire.weather, day.luck
    before = weather.lose, weather.double, weather.delay
    weather.lose, weather.double = luck.uniform(0, 0.3), luck.uniform(0, 0.5)
    weather.delay = (0.0, luck.choice([0.05, 1.0, 8.0]))
    await asyncio.sleep(luck.uniform(1, 10))
    weather.lose, weather.double, weather.delay = before


# Hosts -------------------------------------------------------------------------------------------


async def _turn_clock(day: Day) -> None:
    """A host freezes, slows or speeds up its enclave's clock (T29)."""
    box = _any_box(day)
    day.sight(box).turned = True
    box.clock.run_at(day.luck.choice([0.0, 0.1, 0.9, 3.0, 50.0]))
    await asyncio.sleep(day.luck.uniform(2, 20))
    box.clock.run_at(1.0)


async def _jump_clock(day: Day) -> None:
    """A host sets its enclave's wall clock up to 30 days off."""
    box = _any_box(day)
    box.clock.jump_wall(day.luck.randint(-30 * DAY, 30 * DAY))


async def _pause(day: Day) -> None:
    """A host holds an enclave still, and lets it go on later (T30)."""
    box = _any_box(day)
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
    day.sight(_any_box(day)).deaf = True


async def _crash_worker(day: Day) -> None:
    """An engine dies."""
    box = _any_box(day)
    if box.host.alive:
        box.host.crash()


async def _kill_enclave(day: Day) -> None:
    """Power off, and another boot soon (T26)."""
    box = _any_box(day)
    await box.kill()
    await asyncio.sleep(day.luck.uniform(0, 3))
    await _boot(day)


async def _boot(day: Day) -> None:
    """One more enclave (T27)."""
    running = sum(not box.life.done() for box in day.boxes)
    if running < RUNNING_MAX:
        day.boot()


async def _go_rogue(day: Day) -> None:
    """An attested enclave that lies: about counters, leases, numbers and stops (T35, T46)."""
    box, luck = _any_box(day), day.luck
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
    await resume(day)
    await _boot(day)


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
    day.act(told_soon(day))


async def _move(day: Day) -> None:
    """A balancer ends a connection; the enclave comes back, to any replica."""
    instance = _any_box(day).enclave.instance
    for replica in day.world.replicas:
        if instance in replica.open:
            await replica.open[instance].close()


# Operators ---------------------------------------------------------------------------------------


async def _stop(day: Day) -> None:
    """Stop anything."""
    scopes: tuple[Scope, ...] = ("consumer", "enclave", "loan", "all")
    scope = day.luck.choices(scopes, [5, 2, 1, 1])[0]
    people = [person.name for person in day.people] or ["nobody"]
    targets = {
        "consumer": day.luck.choice(people),
        "enclave": _any_box(day).enclave.instance,
        "loan": LOAN,
        "all": "",
    }
    stop = await day.world.custodian.stop(OPERATOR, scope, targets[scope], "a drill")
    day.observer.tell("stopped", f"{stop.id} {scope}")
    day.act(told_soon(day))
    await asyncio.sleep(day.luck.uniform(0, 10))
    await _lift(day, stop.id)
    if scope != "consumer":
        await _boot(day)


async def _announce(day: Day) -> None:
    """Stop anything with notice, with a drain or both; perhaps once more; and resume, or call it off."""
    luck = day.luck
    scopes: tuple[Scope, ...] = ("consumer", "enclave", "loan", "all")
    scope = luck.choices(scopes, [2, 4, 3, 1])[0]
    people = [person.name for person in day.people] or ["nobody"]
    targets = {
        "consumer": luck.choice(people),
        "enclave": _any_box(day).enclave.instance,
        "loan": LOAN,
        "all": "",
    }
    longest = 0
    for _ in range(luck.choice([1, 1, 2, 3])):
        notice = luck.choice([0, 700, 3_000, 8_000])
        drain = 0 if scope == "consumer" else luck.choice([0, 300, 1_500, 5_000, 15_000])
        stop = await day.world.custodian.stop(
            OPERATOR,
            scope,
            targets[scope],
            "maintenance",
            notice=Duration(notice),
            drain=Duration(drain),
        )
        day.observer.tell("announced", f"{stop.id} {scope} {notice} {drain}")
        longest = max(longest, notice)
        await asyncio.sleep(luck.uniform(0, 3))
    await asyncio.sleep(luck.uniform(0, 10) + luck.choice([0, longest / 1000]))
    await _lift(day, stop.id)
    if scope != "consumer":
        await _boot(day)


async def _lift(day: Day, stop: int) -> None:
    custodian = day.world.custodian
    lifted = await custodian.change(lambda tx, now: acts.lift(tx, now, OPERATOR, stop, "over"))
    await custodian.tell_lifted(lifted)


async def _change_grant(day: Day) -> None:
    """Add to a budget, or take from it."""
    if day.people:
        who, units = day.luck.choice(day.people).name, day.luck.choice([-500, -3, 3, 100, 2_000])
        await _grant(day, who, units)


async def _grant(day: Day, who: str, units: int) -> None:
    await day.world.custodian.change(
        lambda tx, now: grants.change_grant(
            tx, now=now, operator=OPERATOR, loan=LOAN, consumer=who, units=Units(units)
        )
    )


async def _change_cap(day: Day) -> None:
    """Raise or lower the loan's cap."""
    await _cap(day, day.luck.choice([-1_000, -20, 20, 500, 5_000]))


async def _cap(day: Day, units: int) -> None:
    await day.world.custodian.change(
        lambda tx, now: loans.change_cap(
            tx, now=now, operator=OPERATOR, loan=LOAN, units=Units(units)
        )
    )


async def _decide(day: Day) -> None:
    """Approve all or part of what consumers ask for, or deny it."""
    custodian, luck = day.world.custodian, day.luck
    for request in await custodian.look(extensions.list_requests):
        if request.status == "open":
            if luck.random() < 0.3:
                await custodian.deny(OPERATOR, request.id, "not today")
            else:
                await custodian.approve(OPERATOR, request.id, Units(luck.choice([1, 60, 900])))


async def _change_keys(day: Day) -> None:
    """A new key for somebody; and an old one is revoked, or capped."""
    if not day.people:
        return
    person, luck = day.luck.choice(day.people), day.luck
    key, old = f"lh-{day.world.entropy(32).hex()}", luck.choice(person.keys)
    old_id = consumers.key_id(sha256(old.encode()))
    cap = Units(luck.choice([10, 400]))
    await day.world.custodian.change(
        lambda tx, now: consumers.add_key(
            tx, now=now, operator=OPERATOR, consumer=person.name, key_hash=sha256(key.encode())
        )
    )
    person.keys.append(key)
    if luck.random() < 0.5:
        await day.world.custodian.change(
            lambda tx, now: consumers.revoke_key(tx, now=now, operator=OPERATOR, key=old_id)
        )
    else:
        await day.world.custodian.change(
            lambda tx, now: grants.cap_key(
                tx, now=now, operator=OPERATOR, loan=LOAN, key=old_id, units=cap
            )
        )


async def _change_manifest(day: Day) -> None:
    """Judge by another manifest: every enclave has to attest again."""
    await day.world.custodian.replace_manifest(OPERATOR, LOAN, day.world.make_manifest())


async def resume(day: Day) -> None:
    """Lift every stop and grant anew."""
    custodian = day.world.custodian
    for stop in await custodian.look(lambda tx: stops.list_stops(tx, active=True)):
        await _lift(day, stop.id)
    await _cap(day, 2_000)
    for grant in await custodian.look(lambda tx: grants.list_grants(tx, loan=LOAN)):
        await _grant(day, grant.consumer, 200)


TROUBLES: Final[dict[str, Trouble]] = {
    "cut": Trouble(7, _cut),
    "storm": Trouble(6, _storm),
    "clock turned": Trouble(5, _turn_clock),
    "clock jumps": Trouble(2, _jump_clock),
    "pause": Trouble(4, _pause),
    "deaf host": Trouble(2, _deafen),
    "worker crash": Trouble(4, _crash_worker),
    "enclave killed": Trouble(4, _kill_enclave),
    "boot": Trouble(5, _boot),
    "rogue": Trouble(1, _go_rogue),
    "crash": Trouble(2, _crash),
    "crash in a write": Trouble(4, _crash_in_write),
    "disk full": Trouble(2, _fill_disk),
    "lying disk": Trouble(4, _lying_disk),
    "custodian's clock": Trouble(2, _custodian_clock),
    "backup": Trouble(4, _back_up),
    "restore": Trouble(1, _restore),
    "stop": Trouble(6, _stop),
    "notice": Trouble(5, _announce),
    "grant": Trouble(8, _change_grant),
    "cap": Trouble(4, _change_cap),
    "decide": Trouble(6, _decide),
    "keys": Trouble(3, _change_keys),
    "manifest": Trouble(1, _change_manifest),
}
REPLICA_TROUBLES: Final[dict[str, Trouble]] = {
    "replica parted": Trouble(4, _part),
    "news lost": Trouble(5, _lose_news),
    "moved": Trouble(5, _move),
}
