"""What the simulation has found, each as a test of its own."""

from __future__ import annotations

import asyncio
import gc
import random

import pytest

from leasehold.core.encoding import from_json
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import FromCustodian, Scope, StopReason
from leasehold.core.session import State
from leasehold.core.units import DAY, SECOND, Duration
from leasehold.custodian.ledger import epoch, stops
from leasehold.errors import StoreFailed
from leasehold.testing.simulation.disk import Disk
from leasehold.testing.time import START, run_simulated
from leasehold.testing.world import LOAN, OPERATOR, World


def test_a_whole_answer_does_not_leave_after_its_lease_has_ended() -> None:
    """T30: all of it was paid in time; while it waited for more, the lease ran out."""

    async def story() -> None:
        world = await World.make(
            policy=LeasePolicy(ttl=Duration(3 * SECOND), span=Duration(SECOND)), dead_man=60
        )
        alice = await world.consumer("alice", 5_000)
        box = await world.enclave().serving()
        asking = asyncio.create_task(alice.ask(box, "one two", max_tokens=2_000))
        await asyncio.sleep(0.5)
        box.wire.weather.cut = True
        answer = await asking
        assert (answer.status, answer.code) == (403, "lease_lapsed")
        await world.end()

    run_simulated(story)


def test_a_stop_whose_commit_was_reported_as_failed_is_obeyed_all_the_same() -> None:
    """M-7, N-6: it is durable, nobody pushed it, and every channel stays open."""

    async def story() -> None:
        disk = Disk(random.Random(1))  # noqa: S311  (must repeat)
        world = await World.make(stores=[disk.seat()])
        alice = await world.consumer("alice", 5_000)
        box = await world.enclave().serving()
        assert (await alice.ask(box, "hi <end>")).status == 200
        disk.lie = 1.0
        with pytest.raises(StoreFailed):
            await world.custodian.stop(OPERATOR, "loan", LOAN, "enough")
        disk.lie = 0.0
        await asyncio.sleep(10)
        assert box.enclave.state is State.STOPPED
        progress = await world.custodian.look(lambda tx: stops.progress(tx, stop=1))
        assert progress.proved == (box.enclave.instance,)
        await world.end()

    run_simulated(story)


def test_a_stopped_consumer_is_told_again_where_the_push_was_lost() -> None:
    async def story() -> None:
        world = await World.make()
        alice = await world.consumer("alice", 50_000)
        box = await world.enclave().serving()
        assert (await alice.ask(box, "hi <end>")).status == 200
        box.wire.weather.deaf_down = True
        await world.custodian.stop(OPERATOR, "consumer", "alice", "enough")
        await asyncio.sleep(0.1)
        box.wire.weather.deaf_down = False
        await asyncio.sleep(6)
        assert box.enclave.meter.usage() == ()
        await world.end()

    run_simulated(story)


def test_a_restore_under_a_wrong_clock_is_still_a_newer_epoch() -> None:
    """Invariant 7: restored once with a clock 30 days ahead, and once more with it set right."""

    async def story() -> None:
        disk = Disk(random.Random(2))  # noqa: S311  (must repeat)
        world = await World.make(stores=[disk.seat()])
        backup = disk.inside.snapshot()
        newest = 0
        for now in (START + 30 * DAY, START):
            newest_before = await disk.inside.read(epoch.current)
            disk.put_back(backup)
            number = await disk.inside.write(
                lambda tx, now=now, least=newest_before + 1: epoch.restore(
                    tx, now=now, operator=OPERATOR, reason="a drill", least=least
                )
            )
            assert number > newest
            newest = number
        await world.end()

    run_simulated(story)


def test_a_channel_that_opens_while_the_database_is_away_is_closed_and_comes_back() -> None:
    """Z-9: its replica could not look up what it should be told, and said so to nobody."""

    async def story() -> None:
        mistakes: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, told: mistakes.append(told["message"]))
        disk = Disk(random.Random(3))  # noqa: S311  (must repeat)
        world = await World.make(stores=[disk.seat(), disk.seat()], dead_man=60)
        alice = await world.consumer("alice", 5_000)
        box = await world.enclave().serving()
        for seat in disk.seats:
            seat.parted = True
        for replica in world.replicas:
            for channel in replica.open.values():
                await channel.close()
        await asyncio.sleep(20)
        for seat in disk.seats:
            seat.parted = False
        await asyncio.sleep(20)
        assert (await alice.ask(box, "hi <end>")).status == 200
        await world.end()
        del box
        gc.collect()
        assert mistakes == []

    run_simulated(story)


def test_a_stop_at_one_replica_is_obeyed_by_the_enclaves_of_all() -> None:
    async def story() -> None:
        disk = Disk(random.Random(4))  # noqa: S311  (must repeat)
        world = await World.make(stores=[disk.seat() for _ in range(3)])
        boxes = [await world.enclave().serving() for _ in range(6)]
        assert [bool(replica.open) for replica in world.replicas] == [True] * 3
        await world.custodian.stop(OPERATOR, "loan", LOAN, "enough")
        await asyncio.sleep(0.5)
        assert [box.enclave.state for box in boxes] == [State.STOPPED] * 6
        await world.end()

    run_simulated(story)


def test_a_whole_answer_that_was_nearly_made_counts_among_what_can_still_be_served() -> None:
    """M-7: the custodian had been told that its units were spent; it left after a stop."""

    async def story() -> None:
        world = await World.make()
        alice = await world.consumer("alice", 5_000)
        box = await world.enclave(token_seconds=0.02).serving()
        assert (await alice.ask(box, "hi <end>")).status == 200
        asking = asyncio.create_task(alice.ask(box, "one two", max_tokens=300))
        await asyncio.sleep(5.0)
        box.wire.weather.deaf_down = True
        stop = await world.custodian.stop(OPERATOR, "loan", LOAN, "enough")
        progress = await world.custodian.look(lambda tx: stops.progress(tx, stop=stop.id))
        before = (await world.budget("alice")).budget.settled
        answer = await asking
        assert answer.status == 200
        served = answer.json()["usage"]["total_tokens"]
        assert before < 300 < served <= progress.units
        await world.end()

    run_simulated(story)


@pytest.mark.parametrize("scope", ["consumer", "loan"])
def test_who_has_not_stopped_yet_is_told_of_every_stop(
    scope: Scope,
) -> None:
    """Z-9: the first order was dropped by its host; until it has proved anything it may still serve."""

    async def story() -> None:
        disk = Disk(random.Random(5))  # noqa: S311  (must repeat)
        world = await World.make(stores=[disk.seat(), disk.seat()])
        alice = await world.consumer("alice", 5_000)
        box = await world.enclave().serving()
        assert (await alice.ask(box, "hi <end>")).status == 200
        told: list[int] = []

        def spy(message: bytes, *, up: bool) -> None:
            if not up and b'"stop-order"' in message:
                order = from_json(message, FromCustodian)
                told.append(from_json(order.statement.payload, StopReason).stop)

        box.wire.spy = spy
        box.wire.weather.deaf_down = True
        first = await world.custodian.stop(OPERATOR, "enclave", box.enclave.instance, "enough")
        await asyncio.sleep(0.2)
        target = "alice" if scope == "consumer" else LOAN
        second = await world.custodian.stop(OPERATOR, scope, target, "of her as well")
        await asyncio.sleep(0.2)
        assert told == [first.id, second.id]
        await world.end()

    run_simulated(story)


def test_what_was_missed_in_a_gap_is_passed_on_as_soon_as_it_is_over() -> None:
    """Z-9, L-10: before the next heartbeat would have told it."""

    async def story() -> None:
        disk = Disk(random.Random(6))  # noqa: S311  (must repeat)
        world = await World.make(stores=[disk.seat(), disk.seat()])
        box = await world.enclave().serving()
        at = [bool(replica.open) for replica in world.replicas].index(True)
        there, here = disk.seats[at], world.replicas[1 - at].custodian
        there.deaf = True
        there.miss()
        await here.stop(OPERATOR, "loan", LOAN, "enough")
        await asyncio.sleep(0.2)
        assert box.enclave.state is State.SERVING
        there.deaf = False
        there.listen_again()
        await asyncio.sleep(0.2)
        assert box.enclave.state is State.STOPPED
        await world.end()

    run_simulated(story)
