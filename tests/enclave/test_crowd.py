"""G-6: bounded queues, fair shares, and places that are free again when their callers leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from leasehold.core.crypto import sha256
from leasehold.core.tariff import PER_TOKEN, Tariff
from leasehold.custodian.ledger import consumers
from leasehold.testing.asgi import Answer, exchange
from leasehold.testing.time import run_simulated
from leasehold.testing.world import MODEL, OPERATOR, Box, Consumer, World

LONG: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "one two three"}],
    "max_tokens": 200,
    "stream": True,
}
SHORT = LONG | {"stream": False, "max_tokens": 1}
CHAT = "/v1/chat/completions"
INFER = f"/v2/models/{MODEL}/infer"
TENSORS = {
    "inputs": [
        {"name": "numbers", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
        {"name": "words", "shape": [1], "datatype": "BYTES", "data": ["a"]},
    ]
}
Story = Callable[[World, Box], Awaitable[None]]


def played(story: Story, *, tariff: Tariff = PER_TOKEN, **configured: object) -> None:
    """Run a story with one serving enclave, whose tokens take a while."""

    async def run() -> None:
        world = await World.make(tariff=tariff, **configured)  # type: ignore[arg-type]
        box = await world.enclave().serving()
        await story(world, box)
        await world.check_books()
        await world.end()

    run_simulated(run)


async def begun(stack: AsyncExitStack, box: Box, who: Consumer, body: object = LONG) -> Answer:
    """A request that is being answered; it hangs up when the stack unwinds."""
    answer, _ = await stack.enter_async_context(
        exchange(box.application, "POST", CHAT, body, headers=who.headers)
    )
    await asyncio.sleep(0.5)
    return answer


def at_rest(box: Box, who: Consumer) -> bool:
    """Is nothing of this consumer under way or held?"""
    purse = box.enclave.meter.purse(sha256(who.key.encode()))
    gate = box.enclave.gate
    held = purse is not None and (purse.held or purse.tickets)
    return not (held or gate._running or gate._per_caller or box.host.generating)


def test_one_key_gets_its_share_and_others_theirs() -> None:
    async def story(world: World, box: Box) -> None:
        alice, bob = await world.consumer("alice", 10_000), await world.consumer("bob", 10_000)
        async with AsyncExitStack() as stack:
            for _ in range(2):
                assert (await begun(stack, box, alice)).status == 200
            refused = await alice.call(box, "POST", CHAT, SHORT)
            assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
            assert refused.headers["retry-after"] == "2"
            assert "your requests" in refused.json()["error"]["message"]
            assert (await bob.call(box, "POST", CHAT, SHORT)).status == 200
        assert (await alice.call(box, "POST", CHAT, SHORT)).status == 200

    played(story, concurrency_max=2)


def test_another_key_is_no_other_share() -> None:
    async def story(world: World, box: Box) -> None:
        alice = await world.consumer("alice", 10_000)
        again = Consumer("alice", "lh-another")
        await world.custodian.change(
            lambda tx, now: consumers.add_key(
                tx,
                now=now,
                operator=OPERATOR,
                consumer="alice",
                key_hash=sha256(again.key.encode()),
            )
        )
        for who in (alice, again):  # from now on it is known whose keys they are
            assert (await who.call(box, "POST", CHAT, SHORT)).status == 200
        async with AsyncExitStack() as stack:
            for who in (alice, again):
                assert (await begun(stack, box, who)).status == 200
            for who in (alice, again):
                refused = await who.call(box, "POST", CHAT, SHORT)
                assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
        await asyncio.sleep(0.1)
        assert at_rest(box, alice)

    played(story, concurrency_max=2)


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    async def story(world: World, box: Box) -> None:
        people = [await world.consumer(f"c{number}", 10_000) for number in range(4)]
        async with AsyncExitStack() as stack:
            for who in people[:3]:
                assert (await begun(stack, box, who)).status == 200
            refused = await people[3].call(box, "POST", CHAT, SHORT)
            assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
            assert refused.headers["retry-after"] == "2"
            assert "queue" in refused.json()["error"]["message"]
        assert (await people[3].call(box, "POST", CHAT, SHORT)).status == 200

    played(story, queue_max=3)


def test_a_refusal_is_in_the_words_of_the_api_that_was_asked() -> None:
    async def story(world: World, box: Box) -> None:
        alice = await world.consumer("alice", 10_000)
        async with AsyncExitStack() as stack:
            await begun(stack, box, alice)
            refused = await alice.call(box, "POST", INFER, TENSORS)
            assert (refused.status, refused.json()["leasehold_code"]) == (
                429,
                "rate_limit_exceeded",
            )
            assert refused.headers["retry-after"] == "2"

    played(story, tariff=Tariff(output_token=1, request=1), concurrency_max=1)


def test_keys_that_nobody_knows_leave_half_of_the_queue() -> None:
    async def story(world: World, box: Box) -> None:
        alice = await world.consumer("alice", 10_000)
        assert (await alice.call(box, "POST", CHAT, SHORT)).status == 200
        box.wire.weather.cut = True  # nobody answers for leases, so strangers wait
        async with AsyncExitStack() as stack:
            for number in range(2):
                await begun(stack, box, Consumer("x", f"lh-{number}"))
            refused = await Consumer("x", "lh-more").call(box, "POST", CHAT, SHORT)
            assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
            assert "without a lease" in refused.json()["error"]["message"]
            assert (await alice.call(box, "POST", CHAT, SHORT)).status == 200
        box.wire.weather.cut = False

    played(story, queue_max=4)


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_the_place_and_has_paid_for_what_was_made(stream: bool) -> None:
    async def story(world: World, box: Box) -> None:
        alice = await world.consumer("alice", 10_000)
        async with AsyncExitStack() as stack:
            answer = await begun(stack, box, alice, LONG | {"stream": stream})
            assert not answer.done
            assert box.host.generating == 1
        await asyncio.sleep(0.1)
        assert at_rest(box, alice)
        spent = box.enclave.meter.spent(sha256(alice.key.encode()))
        assert 3 < spent < 60  # the prompt and half a second of tokens, not two hundred
        if stream:
            receipt = answer.headers["leasehold-receipt-id"]
            kept = await alice.call(box, "GET", f"/leasehold/receipts/{receipt}")
            assert kept.status == 200
        assert (await alice.call(box, "POST", CHAT, SHORT)).status == 200

    played(story, concurrency_max=1)


def test_who_hangs_up_while_units_are_asked_for_owes_nothing() -> None:
    async def story(world: World, box: Box) -> None:
        alice = await world.consumer("alice", 10_000)
        box.wire.weather.cut = True
        async with AsyncExitStack() as stack:
            await begun(stack, box, alice)
        await asyncio.sleep(0.1)
        assert at_rest(box, alice)
        box.wire.weather.cut = False
        await asyncio.sleep(20)
        assert (await alice.call(box, "POST", CHAT, SHORT)).status == 200

    played(story, concurrency_max=1, dead_man=60)


def test_a_call_that_its_caller_left_was_paid_whole() -> None:
    async def story(world: World, box: Box) -> None:
        alice = await world.consumer("alice", 100)
        async with exchange(box.application, "POST", INFER, TENSORS, headers=alice.headers):
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.1)
        assert at_rest(box, alice)
        assert box.enclave.meter.spent(sha256(alice.key.encode())) == 8

    played(story, tariff=Tariff(request=7, row=1))
