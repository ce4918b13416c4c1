"""What operators do on a day: stop at once or later, resume, grant, take back, decide; and who boots anew.

Spec: docs/spec/simulation.md, Z-5. Each act may be refused or lost; whoever orders does not look back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from leasehold.core.crypto import sha256
from leasehold.core.messages import Scope
from leasehold.core.units import Duration, Units
from leasehold.custodian import acts
from leasehold.custodian.ledger import consumers, extensions, grants, loans, stops
from leasehold.testing.simulation.news import told_soon
from leasehold.testing.world import LOAN, OPERATOR

if TYPE_CHECKING:
    from leasehold.testing.box import Box
    from leasehold.testing.simulation.day import Day

RUNNING_MAX: Final = 8


def any_box(day: Day) -> Box:
    """Any enclave that was ever started."""
    return day.luck.choice(day.boxes)


async def boot(day: Day) -> None:
    """One more enclave (T27)."""
    running = sum(not box.life.done() for box in day.boxes)
    if running < RUNNING_MAX:
        day.boot()


async def stop(day: Day) -> None:
    """Stop anything."""
    scope, target = _scope(day, [5, 2, 1, 1])
    order = await day.world.custodian.stop(OPERATOR, scope, target, "a drill")
    day.observer.tell("stopped", f"{order.id} {scope}")
    day.act(told_soon(day, stop=order.id))
    await asyncio.sleep(day.luck.uniform(0, 10))
    await lift(day, order.id)
    if scope != "consumer":
        await boot(day)


async def announce(day: Day) -> None:
    """Stop anything with notice, with a drain or both; perhaps once more; and resume, or call it off."""
    luck = day.luck
    scope, target = _scope(day, [2, 4, 3, 1])
    number = longest = 0
    for _ in range(luck.choice([1, 1, 2, 3])):
        notice = luck.choice([0, 700, 3_000, 8_000])
        drain = 0 if scope == "consumer" else luck.choice([0, 300, 1_500, 5_000, 15_000])
        order = await day.world.custodian.stop(
            OPERATOR,
            scope,
            target,
            "maintenance",
            notice=Duration(notice),
            drain=Duration(drain),
        )
        day.observer.tell("announced", f"{order.id} {scope} {notice} {drain}")
        day.act(told_soon(day, stop=order.id))
        number, longest = order.id, max(longest, notice)
        await asyncio.sleep(luck.uniform(0, 3))
    await asyncio.sleep(luck.uniform(0, 10) + luck.choice([0, longest / 1000]))
    await lift(day, number)
    if scope != "consumer":
        await boot(day)


def _scope(day: Day, weights: list[int]) -> tuple[Scope, str]:
    """What to stop: a consumer, an enclave, the loan or all, by how often that is done."""
    scopes: tuple[Scope, ...] = ("consumer", "enclave", "loan", "all")
    scope = day.luck.choices(scopes, weights)[0]
    people = [person.name for person in day.people] or ["nobody"]
    targets = {
        "consumer": day.luck.choice(people),
        "enclave": any_box(day).enclave.instance,
        "loan": LOAN,
        "all": "",
    }
    return scope, targets[scope]


async def lift(day: Day, stop: int) -> None:
    """Resume, and tell who was told that it comes."""
    custodian = day.world.custodian
    lifted = await custodian.change(lambda tx, now: acts.lift(tx, now, OPERATOR, stop, "over"))
    await custodian.tell_lifted(lifted)


async def change_grant(day: Day) -> None:
    """Add to a budget, or take from it."""
    if day.people:
        who, units = day.luck.choice(day.people).name, day.luck.choice([-500, -3, 3, 100, 2_000])
        await add_grant(day, who, units)


async def add_grant(day: Day, who: str, units: int) -> None:
    """Add so much to a budget; negative takes back."""
    await day.world.custodian.change(
        lambda tx, now: grants.change_grant(
            tx, now=now, operator=OPERATOR, loan=LOAN, consumer=who, units=Units(units)
        )
    )


async def change_cap(day: Day) -> None:
    """Raise or lower the loan's cap."""
    await add_cap(day, day.luck.choice([-1_000, -20, 20, 500, 5_000]))


async def add_cap(day: Day, units: int) -> None:
    """Add so much to the loan's cap; negative takes back."""
    await day.world.custodian.change(
        lambda tx, now: loans.change_cap(
            tx, now=now, operator=OPERATOR, loan=LOAN, units=Units(units)
        )
    )


async def decide(day: Day) -> None:
    """Approve all or part of what consumers ask for, or deny it."""
    custodian, luck = day.world.custodian, day.luck
    for request in await custodian.look(extensions.list_requests):
        if request.status == "open":
            if luck.random() < 0.3:
                await custodian.deny(OPERATOR, request.id, "not today")
            else:
                await custodian.approve(OPERATOR, request.id, Units(luck.choice([1, 60, 900])))


async def change_keys(day: Day) -> None:
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


async def change_manifest(day: Day) -> None:
    """Judge by another manifest: every enclave has to attest again."""
    await day.world.custodian.replace_manifest(OPERATOR, LOAN, day.world.make_manifest())


async def resume(day: Day) -> None:
    """Lift every stop and grant anew."""
    custodian = day.world.custodian
    for stop in await custodian.look(lambda tx: stops.list_stops(tx, active=True)):
        await lift(day, stop.id)
    await add_cap(day, 2_000)
    for grant in await custodian.look(lambda tx: grants.list_grants(tx, loan=LOAN)):
        await add_grant(day, grant.consumer, 200)
