"""The nine steps of the design as one story in the simulated world."""

from __future__ import annotations

import asyncio

from leasehold.core.session import State
from leasehold.core.units import Units
from leasehold.custodian.ledger import extensions, stops
from leasehold.testing.time import run_simulated
from leasehold.testing.world import LOAN, OPERATOR, World


def test_a_model_is_lent_used_extended_and_taken_back() -> None:
    async def story() -> None:
        world = await World.make(cap=10_000)
        alice = await world.consumer("alice", 50)
        box = await world.enclave().serving()

        # 5, 6: a query is answered and paid for.
        answer = await alice.ask(box, "one two three <end>", max_tokens=20)
        assert answer.status == 200, answer.body
        assert answer.json()["choices"][0]["message"]["content"] == "one two three"
        assert answer.json()["usage"] == {
            "prompt_tokens": 4,
            "completion_tokens": 3,
            "total_tokens": 7,
        }

        # The budget ends in the middle of an answer, and says so.
        answer = await alice.ask(box, "go on", max_tokens=200)
        assert answer.status == 200
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        assert answer.json()["leasehold_code"] == "insufficient_quota"
        assert answer.json()["usage"]["total_tokens"] == 43
        answer = await alice.ask(box, "and again")
        assert (answer.status, answer.code) == (429, "insufficient_quota")
        assert answer.headers["x-should-retry"] == "false"

        # 7, 8: exhaustion opened a request; the consumer completes it, the operator decides.
        asked = await alice.call(
            box, "POST", "/leasehold/extension", {"units": 100, "reason": "the night shift"}
        )
        assert asked.json()["status"] == "open"
        (waiting,) = await world.custodian.look(
            lambda tx: extensions.list_requests(tx, status="open")
        )
        assert (waiting.consumer, waiting.asked, waiting.reason) == (
            "alice",
            100,
            "the night shift",
        )

        await world.custodian.approve(OPERATOR, waiting.id, Units(30))
        state = await alice.call(box, "GET", "/leasehold/extension")
        assert (state.json()["status"], state.json()["approved"]) == ("approved", 30)
        answer = await alice.ask(box, "more <end>")
        assert answer.status == 200
        await world.check_books()

        # 9: the stop.
        stop = await world.custodian.stop(OPERATOR, "loan", LOAN, "the trial is over")
        await asyncio.sleep(0.01)
        assert box.enclave.state is State.STOPPED
        answer = await alice.ask(box, "hello?")
        assert (answer.status, answer.code) == (403, "loan_stopped")
        await box.life
        progress = await world.custodian.look(lambda tx: stops.progress(tx, stop=stop.id))
        assert progress.proved == (box.enclave.instance,)
        assert progress.units == 0
        assert box.loader.sink.files == {}
        assert box.enclave.link.lent is not None
        assert box.enclave.link.lent.model_key == b""
        await world.check_books()
        await world.end()

    run_simulated(story)
