"""Stops with notice and with a drain, from the order to the proof, with real enclaves (N-11, L-14)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Any

from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import HeartbeatAck, Scope, StopOrder
from leasehold.core.session import State
from leasehold.core.units import MINUTE, SECOND, Duration
from leasehold.custodian import acts
from leasehold.custodian.ledger import audit, stops
from leasehold.custodian.service import is_complete
from leasehold.testing.asgi import Answer, exchange
from leasehold.testing.time import run_simulated
from leasehold.testing.world import LOAN, MODEL, OPERATOR, Box, Consumer, World

LONG = LeasePolicy(ttl=Duration(30 * SECOND), span=Duration(20 * SECOND))
Story = Callable[[World, Box, Consumer], Awaitable[None]]


def played(story: Story, *, policy: LeasePolicy = LONG, token_seconds: float = 0.1) -> None:
    """Run a story with one serving enclave, which makes ten tokens a second, and a consumer."""

    async def run() -> None:
        world = await World.make(policy=policy)
        alice = await world.consumer("alice", 50_000)
        box = await world.enclave(token_seconds=token_seconds).serving()
        await story(world, box, alice)
        await world.check_books()
        await world.end()

    run_simulated(run)


async def order(
    world: World, *, notice: int = 0, drain: int = 0, scope: Scope = "loan", target: str = LOAN
) -> stops.Stop:
    """Order a stop; times in seconds."""
    return await world.custodian.stop(
        OPERATOR,
        scope,
        target,
        "maintenance",
        notice=Duration(notice * SECOND),
        drain=Duration(drain * SECOND),
    )


async def health(box: Box, alice: Consumer) -> Any:
    """What anybody may ask an enclave; its status is in it."""
    answer = await alice.call(box, "GET", "/leasehold/health")
    return {**answer.json(), "status": answer.status}


async def kinds(world: World) -> list[str]:
    """The stops in the log."""
    entries = await world.custodian.look(lambda tx: audit.entries(tx, start=0, count=1000))
    return [entry.kind for entry in entries if entry.kind.startswith("stop.")]


async def progress(world: World, stop: int) -> stops.Progress:
    """How far a stop has come."""
    return await world.custodian.look(lambda tx: stops.progress(tx, stop=stop))


def streaming(box: Box, alice: Consumer, tokens: int) -> Any:
    """A long answer that streams."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "one two"}],
        "stream": True,
        "max_tokens": tokens,
    }
    return exchange(box.application, "POST", "/v1/chat/completions", body, headers=alice.headers)


def ending(answer: Answer) -> tuple[str, str | None]:
    """How a stream that was not broken off says that it ended."""
    last = [event for event in answer.events() if event["choices"]][-1]
    return last["choices"][0]["finish_reason"], last.get("leasehold_code")


def test_a_notice_is_told_at_once_and_the_stop_comes_by_itself() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        stop = await order(world, notice=20)
        await asyncio.sleep(0.05)
        told = await health(box, alice)
        assert (told["status"], told["state"]) == (200, "serving")
        assert told["coming"]["mode"] == "notice"
        assert told["coming"]["reason"] == "maintenance"
        assert told["coming"]["begins"] == stop.begins
        answer = await alice.ask(box, "hi <end>")
        assert answer.status == 200
        sunset = parsedate_to_datetime(answer.headers["sunset"])
        assert int(sunset.timestamp()) == stop.begins // 1000
        budget = (await alice.call(box, "GET", "/leasehold/budget")).json()
        assert budget["coming"]["begins"] == stop.begins
        assert 0 < budget["coming"]["left"] <= 20 * SECOND
        await asyncio.sleep(18)
        assert (await alice.ask(box, "hi <end>")).status == 200
        await asyncio.sleep(3.5)
        assert box.enclave.state is State.STOPPED
        assert (await alice.ask(box, "hi <end>")).code == "loan_stopped"
        assert await kinds(world) == ["stop.order", "stop.begin", "stop.proof"]
        found = await progress(world, stop.id)
        assert found.proved == (box.enclave.instance,)
        assert is_complete(found)

    played(story)


def test_a_notice_that_is_called_off_is_gone_at_once_and_nothing_stops() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        stop = await order(world, notice=10)
        await asyncio.sleep(0.05)
        assert (await health(box, alice))["coming"]["stop"] == stop.id
        lifted = await world.custodian.change(
            lambda tx, now: acts.lift(tx, now, OPERATOR, stop.id, "not needed")
        )
        await world.custodian.tell_lifted(lifted)
        await asyncio.sleep(0.05)
        assert (await health(box, alice))["coming"] is None
        await asyncio.sleep(15)
        answer = await alice.ask(box, "hi <end>")
        assert answer.status == 200
        assert "sunset" not in answer.headers
        assert await kinds(world) == ["stop.order", "stop.lift"]

    played(story)


def test_a_notice_that_was_lost_on_the_way_comes_with_the_next_heartbeat() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        box.wire.weather.deaf_down = True
        await order(world, notice=60)
        await asyncio.sleep(0.1)
        assert (await health(box, alice))["coming"] is None
        box.wire.weather.deaf_down = False
        await asyncio.sleep(6)
        assert (await health(box, alice))["coming"]["mode"] == "notice"

    played(story)


def test_a_notice_holds_where_nobody_can_be_told() -> None:
    """No lease reaches past it: an enclave that was cut off before serves nothing after."""

    async def story(world: World, box: Box, alice: Consumer) -> None:
        await order(world, notice=10)
        assert (await alice.ask(box, "hi <end>")).status == 200
        box.wire.weather.cut = True
        await asyncio.sleep(9)
        assert (await alice.ask(box, "hi <end>")).status == 200
        await asyncio.sleep(1.5)
        assert (await alice.ask(box, "hi <end>", max_tokens=1)).code == "custodian_unreachable"

    played(story)


def test_a_consumer_hears_of_its_own_notice_and_nobody_else_does() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        bob = await world.consumer("bob", 100)
        await order(world, notice=5, scope="consumer", target="alice")
        await asyncio.sleep(0.05)
        assert (await health(box, alice))["coming"] is None
        hers = (await alice.call(box, "GET", "/leasehold/budget")).json()
        assert (hers["coming"]["scope"], hers["coming"]["mode"]) == ("consumer", "notice")
        assert "coming" not in (await bob.call(box, "GET", "/leasehold/budget")).json()
        assert (await alice.ask(box, "hi <end>")).status == 200
        await asyncio.sleep(6.5)
        assert (await alice.ask(box, "hi <end>")).code == "loan_stopped"
        assert (await bob.ask(box, "hi <end>")).status == 200

    played(story)


def test_a_drain_lets_a_running_answer_finish_and_admits_nobody() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        async with streaming(box, alice, tokens=50) as (answer, task):
            await asyncio.sleep(1)
            stop = await order(world, drain=20)
            bound = (await progress(world, stop.id)).units
            await asyncio.sleep(0.05)
            so_far = len(answer.events())
            refused = await alice.ask(box, "me too <end>")
            assert (refused.status, refused.code) == (403, "loan_stopped")
            assert "maintenance" in refused.json()["error"]["message"]
            told = await health(box, alice)
            assert (told["status"], told["coming"]["mode"]) == (503, "drain")
            await task
        assert ending(answer) == ("length", None)
        words = sum(
            len(e["choices"][0]["delta"].get("content", "").split()) for e in answer.events()
        )
        assert words == 50
        assert so_far < 20
        assert 50 - so_far <= bound
        await asyncio.sleep(0.6)  # it does not wait for the end of the drain
        assert box.enclave.state is State.STOPPED
        assert is_complete(await progress(world, stop.id))
        assert await kinds(world) == ["stop.order", "stop.proof"]

    played(story)


def test_an_answer_that_needs_more_than_is_leased_ends_with_a_reason() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        async with streaming(box, alice, tokens=2_000) as (answer, task):
            await asyncio.sleep(3)
            held = int((await world.budget("alice")).budget.outstanding)
            stop = await order(world, drain=600)
            bound = (await progress(world, stop.id)).units
            served = int((await world.budget("alice")).budget.settled)
            await task
            assert ending(answer) == ("length", "loan_stopped")
        await asyncio.sleep(2)
        budget = (await world.budget("alice")).budget
        assert held == bound
        assert budget.settled - served <= bound
        assert budget.outstanding == budget.written_off == 0

    played(story, policy=LeasePolicy(ttl=Duration(30 * SECOND), span=Duration(3 * SECOND)))


def test_at_the_end_of_a_drain_what_still_runs_is_cut() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        async with streaming(box, alice, tokens=2_000) as (answer, task):
            await asyncio.sleep(6)
            stop = await order(world, drain=2)
            await asyncio.sleep(1.9)
            assert box.enclave.state is State.SERVING
            before = len(answer.events())
            await asyncio.sleep(0.5)
            assert box.enclave.state is State.STOPPED
            await task
        assert answer.code == "loan_stopped"
        assert len(answer.events()) <= before + 3
        await asyncio.sleep(1)
        assert is_complete(await progress(world, stop.id))

    played(story)


def test_a_drain_that_is_ordered_again_ends_no_later_and_may_be_hastened() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        async with streaming(box, alice, tokens=2_000) as (_, task):
            await asyncio.sleep(6)
            first = await order(world, drain=4)
            await asyncio.sleep(1)
            again = await order(world, drain=60)
            assert again == first
            await asyncio.sleep(2)
            assert box.enclave.state is State.SERVING
            await order(world, drain=60)
            await asyncio.sleep(1.4)
            assert box.enclave.state is State.STOPPED
            await task

    played(story)


def test_a_drain_is_cut_short_by_a_stop() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        async with streaming(box, alice, tokens=2_000) as (answer, task):
            await asyncio.sleep(6)
            await order(world, drain=60)
            await asyncio.sleep(1)
            await order(world)
            await asyncio.sleep(0.01)
            assert box.enclave.state is State.STOPPED
            await task
        assert answer.code == "loan_stopped"

    played(story)


def test_a_drain_that_nothing_runs_in_is_over_at_once() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        await alice.ask(box, "hi <end>")
        stop = await order(world, drain=60)
        await asyncio.sleep(0.5)
        assert box.enclave.state is State.STOPPED
        assert is_complete(await progress(world, stop.id))

    played(story)


def test_a_drain_ends_by_the_enclaves_own_clock_where_it_hears_nothing_more() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        async with streaming(box, alice, tokens=2_000) as (answer, task):
            await asyncio.sleep(6)
            await order(world, drain=3)
            await asyncio.sleep(0.05)
            box.wire.weather.cut = True
            await asyncio.sleep(3.4)
            assert box.enclave.state is State.STOPPED
            await task
        assert answer.code == "loan_stopped"

    played(story)


def test_a_host_that_holds_the_clock_still_draws_a_drain_out_but_adds_no_unit() -> None:
    """N-11, T29: neither its own clock nor an order ends the drain; what is leased does."""

    async def story(world: World, box: Box, alice: Consumer) -> None:
        async with streaming(box, alice, tokens=2_000) as (answer, task):
            await asyncio.sleep(3)
            stop = await order(world, drain=2)
            bound = (await progress(world, stop.id)).units
            await asyncio.sleep(0.05)
            so_far = len(answer.events())
            box.clock.run_at(0.0)
            box.wire.weather.cut = True
            await asyncio.sleep(3)
            assert box.enclave.state is State.SERVING
            await task
        assert 0 < len(answer.events()) - so_far <= bound + 2
        assert (await alice.ask(box, "more <end>")).code == "loan_stopped"

    played(story)


def test_a_draining_instance_is_not_renewed_and_not_cut_for_that() -> None:
    """N-5: a refused renewal ends an instance, but not one that is draining."""

    async def story(world: World, box: Box, alice: Consumer) -> None:
        async with streaming(box, alice, tokens=2_000) as (_, task):
            await asyncio.sleep(6)
            await order(world, drain=5)
            await asyncio.sleep(0.05)
            box.enclave.link._again.set()
            await asyncio.sleep(3)
            assert box.enclave.state is State.SERVING
            await task

    played(story)


def test_a_notice_with_a_drain_does_both() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        stop = await order(world, notice=5, drain=10)
        async with streaming(box, alice, tokens=60) as (answer, task):
            await asyncio.sleep(6.2)
            told = await health(box, alice)
            assert (told["status"], told["coming"]["mode"]) == (503, "drain")
            assert (await alice.ask(box, "hi <end>")).code == "loan_stopped"
            await task
        assert ending(answer)[0] == "length"
        await asyncio.sleep(1)
        assert is_complete(await progress(world, stop.id))
        assert await kinds(world) == ["stop.order", "stop.begin", "stop.proof"]

    played(story)


def test_what_is_due_while_the_custodian_is_down_begins_when_it_is_back() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        stop = await order(world, notice=4)
        assert (await alice.ask(box, "hi <end>")).status == 200
        await world.kill_custodian()
        await asyncio.sleep(6)
        assert (await alice.ask(box, "hi <end>")).status != 200
        world.start_custodian()
        await asyncio.sleep(12)
        assert box.enclave.state is State.STOPPED
        assert is_complete(await progress(world, stop.id))

    played(story)


def test_an_announcement_stops_nobody_even_as_an_order() -> None:
    """N-11: what is signed says how; a notice in the place of an order is no order."""

    async def story(world: World, box: Box, alice: Consumer) -> None:
        stop = await order(world, notice=60)
        world.custodian.listeners.tell((box.enclave.instance,), world.custodian.stop_order(stop))
        await asyncio.sleep(0.5)
        assert box.enclave.state is State.SERVING
        assert box.enclave.draining is None

    played(story)


def test_an_announcement_that_the_root_did_not_sign_is_not_shown() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        stop = await order(world, notice=60)
        signed = world.custodian.stop_order(stop).statement
        forged = type(signed)(signed.kind, signed.payload, bytes(64))
        await asyncio.sleep(0.05)
        assert (await health(box, alice))["coming"]["stop"] == stop.id
        message = HeartbeatAck(0, world.clock.now(), None, forged)
        world.custodian.listeners.tell((box.enclave.instance,), message)
        await asyncio.sleep(0.05)
        assert (await health(box, alice))["coming"] is None
        world.custodian.listeners.tell((box.enclave.instance,), StopOrder(forged))
        await asyncio.sleep(0.5)
        assert box.enclave.state is State.SERVING

    played(story)


def test_never_is_more_left_of_a_drain_than_it_was_long() -> None:
    """A custodian's clock that was set back does not draw a drain out for those who hear of it then."""

    async def story(world: World, box: Box, alice: Consumer) -> None:
        async with streaming(box, alice, tokens=2_000) as (_, task):
            await asyncio.sleep(6)
            world.custodian.listeners.remove(world.custodian.listeners._open[box.enclave.instance])
            await order(world, drain=4)
            world.clock.jump_wall(-60 * MINUTE)
            await asyncio.sleep(3)
            assert box.enclave.state is State.SERVING
            assert box.enclave.draining is not None
            await asyncio.sleep(5)
            assert box.enclave.state is State.STOPPED
            await task

    played(story)
