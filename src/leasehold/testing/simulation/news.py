"""Whether replicas pass on what they hear: who is connected to one obeys a stop that was ordered at another.

Spec: docs/spec/simulation.md, Z-9. A heartbeat tells an order again within seconds, so that one that was not
passed on is soon forgotten; this looks before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from leasehold.custodian.decide import orders_for
from leasehold.custodian.ledger import stops
from leasehold.custodian.store.port import Tx
from leasehold.testing.world import LOAN

if TYPE_CHECKING:
    from leasehold.testing.simulation.day import Day
    from leasehold.testing.simulation.disk import Seat

TOLD_SECONDS: Final = 0.5  # news take 0.05 at most, and a read as much


async def told_soon(day: Day, *, stop: int | None = None, at: Seat | None = None) -> None:
    """Z-9: half a second from now every enclave whose replica missed nothing was told its orders.

    Of the `stop` that was ordered just now, or `at` one replica all, because it has looked after a gap.
    News are heard one by one: one whose reading hangs, since it began in a gap, holds up the next. Others
    may wait for a heartbeat: nobody was told of an order whose commit was said to have failed.
    """
    seats, replicas = day.disk.seats, day.world.replicas
    if len(replicas) == 1:
        return
    listening = {
        instance: (replica, channel, seat, seat.gaps, replica.lives)
        for replica, seat in zip(replicas, seats, strict=True)
        if replica.is_up and seat.hears and not seat.hanging and at in (None, seat)
        for instance, channel in replica.open.items()
        if instance in replica.custodian.listeners.names_of(LOAN)
    }

    def orders(tx: Tx) -> dict[str, set[int]]:
        # Not a consumer's who has no lease there: nothing is to be obeyed, so no heartbeat tells it again
        # where the replica that ordered it does not know that it is durable.
        if at is not None:
            return {name: {one.id for one in orders_for(tx, name)} for name in listening}
        found = {name: {one.id for one in stops.unheard(tx, instance=name)} for name in listening}
        return found if stop is None else {name: found[name] & {stop} for name in found}

    before = day.disk.inside.peek(orders)
    await asyncio.sleep(TOLD_SECONDS)
    still = day.disk.inside.peek(orders)
    for instance, (replica, channel, seat, gaps, lives) in listening.items():
        missed = gaps != seat.gaps or not seat.hears or lives != replica.lives
        if missed or replica.open.get(instance) is not channel:
            continue
        sight = day.observer.seen[instance]
        untold = (before[instance] & still[instance]) - sight.told
        if untold:
            day.observer.fail(
                4, f"stop {min(untold)} was not passed on by a replica that heard of it"
            )
