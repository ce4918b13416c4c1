"""Bad luck and bad hosts in the simulated world: lost contact, killed processes, turned clocks."""

from __future__ import annotations

import asyncio

import pytest

from leasehold.core.encoding import from_json
from leasehold.core.lease import LeasePolicy
from leasehold.core.receipts import Receipt
from leasehold.core.session import State
from leasehold.core.tariff import PER_REQUEST
from leasehold.core.units import Duration, Units
from leasehold.custodian.ledger import stops
from leasehold.custodian.service import is_complete
from leasehold.errors import (
    LeaseholdError,
    UnknownMachine,
    WrongConfiguration,
    WrongMeasurement,
)
from leasehold.testing.asgi import exchange
from leasehold.testing.time import START, run_simulated
from leasehold.testing.wires import Weather
from leasehold.testing.world import LOAN, MODEL, OPERATOR, Box, Consumer, World
from leasehold_simtee.machine import Machine

SHORT = LeasePolicy(ttl=Duration(4000), span=Duration(10_000), outstanding_max=Units(500))


async def units_served(box: Box, consumer: Consumer, prompt: str, tokens: int) -> int:
    """What one request was charged, 0 where it was refused."""
    answer = await consumer.ask(box, prompt, max_tokens=tokens)
    return int(answer.json()["usage"]["total_tokens"]) if answer.status == 200 else 0


def units_receipted(box: Box) -> int:
    """The units of all receipts of this instance; every spent unit is in one."""
    kept = box.enclave.receipts._kept.values()
    return sum(from_json(payload, Receipt).units for row in kept for _, payload, _ in row)


def test_the_dead_mans_switch_ends_service_and_wipes() -> None:
    async def story() -> None:
        world = await World.make(policy=SHORT, dead_man=8)
        alice = await world.consumer("alice", 5000)
        box = await world.enclave().serving()
        assert await units_served(box, alice, "one", 5) == 6
        await world.kill_custodian()
        await asyncio.sleep(4.5)
        answer = await alice.ask(box, "still there?")
        assert answer.status in (403, 503)
        await asyncio.sleep(12)
        assert box.enclave.state is State.STOPPED
        assert box.loader.sink.files == {}
        answer = await alice.ask(box, "still there?")
        assert (answer.status, answer.code) == (403, "lease_lapsed")
        await world.end()

    run_simulated(story)


def test_a_frozen_clock_serves_what_the_lease_holds_and_not_one_unit_more() -> None:
    """T29, T33: the amount is the bound, whatever the clock says."""

    async def story() -> None:
        world = await World.make(policy=SHORT)
        alice = await world.consumer("alice", 5000)
        box = await world.enclave().serving()
        await units_served(box, alice, "one", 5)
        box.clock.run_at(0)
        box.wire.weather.cut = True
        held = int((await world.budget("alice")).budget.outstanding)
        served = 0
        for _ in range(200):
            served += await units_served(box, alice, "x", 5)
        assert 0 < served <= held
        grant = await world.budget("alice")
        assert grant.budget.granted == 5000
        await world.check_books()
        await world.end()

    run_simulated(story)


def test_a_killed_enclave_burns_what_it_held() -> None:
    async def story() -> None:
        world = await World.make(policy=SHORT)
        alice = await world.consumer("alice", 5000)
        box = await world.enclave().serving()
        await units_served(box, alice, "one", 5)
        await asyncio.sleep(6)  # a heartbeat reports what was used
        held = (await world.budget("alice")).budget.outstanding
        await box.kill()
        again = await world.enclave().serving()
        assert again.enclave.instance != box.enclave.instance
        assert await units_served(again, alice, "two", 5) == 6
        await asyncio.sleep(200)
        budget = (await world.budget("alice")).budget
        assert budget.outstanding == 0
        assert 0 < budget.written_off <= held
        assert budget.available + budget.settled + budget.written_off == 5000
        await world.check_books()
        await world.end()

    run_simulated(story)


def test_a_killed_custodian_comes_back_and_service_goes_on() -> None:
    async def story() -> None:
        world = await World.make(policy=SHORT, dead_man=60)
        alice = await world.consumer("alice", 5000)
        box = await world.enclave().serving()
        served = await units_served(box, alice, "one", 5)
        await world.kill_custodian()
        await asyncio.sleep(2)
        world.start_custodian()
        await asyncio.sleep(8)
        served += await units_served(box, alice, "two", 5)
        assert served == 12
        await asyncio.sleep(120)
        budget = (await world.budget("alice")).budget
        assert budget.settled >= served
        await world.check_books()
        await world.end()

    run_simulated(story)


@pytest.mark.parametrize("seed", range(8))
def test_on_wires_that_lose_double_and_reorder_the_books_still_balance(seed: int) -> None:
    """Invariants 1, 2 and 11: units served are units settled, to the unit."""

    async def story() -> None:
        world = await World.make(seed, policy=SHORT, dead_man=300)
        alice, bob = await world.consumer("alice", 900), await world.consumer("bob", 100_000)
        boxes = [await world.enclave().serving() for _ in range(2)]
        for box in boxes:
            box.wire.weather = Weather(lose=0.2, double=0.2, delay=(0.001, 0.8))
        served = 0
        for turn in range(20):
            both = [
                units_served(box, who, f"turn {turn}", 10) for box in boxes for who in (alice, bob)
            ]
            served += sum(await asyncio.gather(*both))
            await world.check_books()
        for box in boxes:
            box.wire.weather = Weather()
        await asyncio.sleep(240)  # idle leases are closed, signed reports return what was not spent
        await world.check_books()
        budgets = [(await world.budget(name)).budget for name in ("alice", "bob")]
        settled = sum(budget.settled for budget in budgets)
        assert settled == sum(units_receipted(box) for box in boxes)
        assert settled >= served > 0
        assert all(budget.outstanding == 0 for budget in budgets)
        assert all(budget.written_off == 0 for budget in budgets)
        await world.end()

    run_simulated(story)


def test_a_stop_cuts_an_answer_in_mid_stream() -> None:
    async def story() -> None:
        world = await World.make()
        alice = await world.consumer("alice", 50_000)
        box = await world.enclave().serving()
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "a b c"}],
            "stream": True,
            "max_tokens": 500,
        }
        async with exchange(
            box.application, "POST", "/v1/chat/completions", body, headers=alice.headers
        ) as (answer, task):
            await asyncio.sleep(1)
            assert 10 < len(answer.parts) < 100
            await world.custodian.stop(OPERATOR, "consumer", "alice", "wrong patient")
            await asyncio.sleep(0.01)
            count = len(answer.parts)
            await task
            assert len(answer.parts) <= count + 1
            assert answer.code == "loan_stopped"
        assert box.enclave.state is State.SERVING
        refused = await alice.ask(box, "hello")
        assert (refused.status, refused.code) == (403, "loan_stopped")
        bob = await world.consumer("bob", 100)
        assert (await bob.ask(box, "hello <end>")).status == 200
        await world.check_books()
        await world.end()

    run_simulated(story)


def test_a_consumer_that_hangs_up_pays_for_what_was_made() -> None:
    async def story() -> None:
        world = await World.make(policy=SHORT)
        alice = await world.consumer("alice", 50_000)
        box = await world.enclave().serving()
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "a b c"}],
            "stream": True,
            "max_tokens": 500,
        }
        async with exchange(
            box.application, "POST", "/v1/chat/completions", body, headers=alice.headers
        ):
            await asyncio.sleep(1)
        assert box.host.generating == 0
        await asyncio.sleep(240)
        settled = (await world.budget("alice")).budget.settled
        assert 30 <= settled <= 60
        await world.end()

    run_simulated(story)


def test_a_resumed_consumer_is_served_again() -> None:
    async def story() -> None:
        world = await World.make()
        alice = await world.consumer("alice", 500)
        box = await world.enclave().serving()
        stop = await world.custodian.stop(OPERATOR, "consumer", "alice", "a mistake")
        assert (await alice.ask(box, "hi <end>")).status == 403
        await world.custodian.change(
            lambda tx, now: stops.lift(tx, now=now, operator=OPERATOR, stop=stop.id, reason="sorry")
        )
        await asyncio.sleep(2)
        assert (await alice.ask(box, "hi <end>")).status == 200
        await world.end()

    run_simulated(story)


def test_with_exact_leases_a_stop_is_exact() -> None:
    async def story() -> None:
        policy = LeasePolicy(exact=True)
        world = await World.make(tariff=PER_REQUEST, policy=policy)
        alice = await world.consumer("alice", 3)
        box = await world.enclave().serving()
        for _ in range(3):
            assert (await alice.ask(box, "hi <end>")).status == 200
        assert (await alice.ask(box, "hi <end>")).code == "insufficient_quota"
        bob = await world.consumer("bob", 3)
        assert (await bob.ask(box, "hi <end>")).status == 200
        await asyncio.sleep(1.5)  # counters are reported within a second
        stop = await world.custodian.stop(OPERATOR, "all", "", "drill")
        progress = await world.custodian.look(lambda tx: stops.progress(tx, stop=stop.id))
        assert progress.units == 0
        await world.end()

    run_simulated(story)


def test_a_crashed_engine_is_loaded_again_under_the_same_lease() -> None:
    async def story() -> None:
        world = await World.make()
        alice = await world.consumer("alice", 500)
        box = await world.enclave().serving()
        assert (await alice.ask(box, "hi <end>")).status == 200
        box.host.crash()
        assert (await alice.ask(box, "hi <end>")).status == 503
        await box.serving()
        assert (await alice.ask(box, "hi <end>")).status == 200
        assert box.log.names().count("attested") == 1
        await world.end()

    run_simulated(story)


def refused_with(error: type[LeaseholdError], make: str) -> None:
    async def story() -> None:
        world = await World.make()
        match make:
            case "measurement":
                box = world.enclave(attester=world.machine.attester(b"\x01" * 32))
            case "configuration":
                box = world.enclave(configuration=world.configure(slots=9))
            case _:
                other = Machine.create(world.entropy, START, vendor=world.machine.vendor)
                box = world.enclave(attester=other.attester(world.measurement))
        with pytest.raises(error):
            await box.serving()
        assert box.enclave.link.lent is None
        await world.end()

    run_simulated(story)


def test_wrong_code_gets_no_model() -> None:
    refused_with(WrongMeasurement, "measurement")


def test_a_configuration_that_is_not_listed_gets_no_model() -> None:
    refused_with(WrongConfiguration, "configuration")


def test_right_code_on_an_unknown_machine_gets_no_model() -> None:
    refused_with(UnknownMachine, "machine")


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_sealed_file_is_never_served(damage: str) -> None:
    async def story() -> None:
        world = await World.make()
        sealed = bytearray(world.sealed)
        if damage == "cut":
            del sealed[-7:]
        else:
            sealed[-100] ^= 1
        box = world.enclave(sealed=bytes(sealed))
        with pytest.raises(LeaseholdError) as refusal:
            await box.serving()
        assert refusal.value.code == "bad_sealed_model"
        alice = await world.consumer("alice", 10)
        assert (await alice.ask(box, "hi")).code == "bad_sealed_model"
        assert box.loader.sink.files == {}
        await world.end()

    run_simulated(story)


def test_a_stopped_loan_gives_no_model_to_a_new_enclave() -> None:
    async def story() -> None:
        world = await World.make()
        await world.custodian.stop(OPERATOR, "loan", LOAN, "over")
        with pytest.raises(LeaseholdError) as refusal:
            await world.enclave().serving()
        assert refusal.value.code == "loan_stopped"
        await world.end()

    run_simulated(story)


def test_a_stop_is_not_complete_while_unproved_write_offs_could_still_be_served() -> None:
    """T29: the clock wrote the lease off before the stop, the host holds its enclave's clock still."""

    async def story() -> None:
        world = await World.make(policy=SHORT, dead_man=300)
        alice = await world.consumer("alice", 5000)
        box = await world.enclave().serving()
        await units_served(box, alice, "one", 5)
        box.clock.run_at(0)
        box.wire.weather.cut = True
        await asyncio.sleep(200)
        budget = (await world.budget("alice")).budget
        assert budget.outstanding == 0
        assert budget.written_off > 0
        stop = await world.custodian.stop(OPERATOR, "all", "", "drill")
        progress = await world.custodian.look(lambda tx: stops.progress(tx, stop=stop.id))
        assert progress.units_in_doubt == budget.written_off
        assert not is_complete(progress)
        await world.end()

    run_simulated(story)
