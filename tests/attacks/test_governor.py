"""The borrower, a hostile consumer and bad luck against the governor. Each test is one attack."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from leasehold.core.encoding import from_json
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import (
    Attest,
    Budget,
    Challenge,
    ExtensionQuery,
    LeaseAsk,
    LeaseGranted,
    ReceiptAnswer,
    Release,
)
from leasehold.core.meter import Credit, Meter
from leasehold.core.receipt_checks import check_content, check_receipt
from leasehold.core.session import State
from leasehold.core.tariff import Tariff
from leasehold.core.units import Duration, Instant, Units
from leasehold.custodian.ledger import stops
from leasehold.enclave import exchange as exchanges
from leasehold.enclave import host as hosts
from leasehold.enclave import work
from leasehold.enclave.gate import Gate
from leasehold.enclave.lent import Lent
from leasehold.enclave.link import Link
from leasehold.enclave.settings import parse_settings
from leasehold.errors import BadSetting, Internal, LeaseholdError, TooBusy
from leasehold.net.channel import Channel
from leasehold.testing.asgi import Answer, exchange, request
from leasehold.testing.time import SimulatedClock, run_simulated
from leasehold.testing.wires import Weather
from leasehold.testing.world import LOAN, MODEL, OPERATOR, Box, Consumer, World

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "a b c"}]}
STREAM = {**CHAT, "stream": True, "max_tokens": 500}
EXACT = LeasePolicy(exact=True)
Story = Callable[[World, Box, Consumer], Awaitable[None]]


def played(story: Story, *, units: int = 50_000, **made: Any) -> None:
    """Run a story with one serving enclave and one consumer; the books must balance after it."""

    async def run() -> None:
        world = await World.make(**made)
        box = await world.enclave().serving()
        await story(world, box, await world.consumer("alice", units))
        await world.check_books()
        await world.end()

    run_simulated(run)


def asks_of(box: Box, kind: type = LeaseAsk) -> list[Any]:
    """What the enclave sends from now on, of one kind, in a list that grows."""
    sent: list[Any] = []
    real = Link._send

    async def spy(self: Link, message: Any) -> None:
        if self is box.enclave.link and isinstance(message, kind):
            sent.append(message)
        await real(self, message)

    Link._send = spy  # type: ignore[method-assign]
    return sent


@pytest.fixture(autouse=True)
def _real_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots can't be patched on an object, so `asks_of` patches the class; this puts it back."""
    monkeypatch.setattr(Link, "_send", Link._send)


async def receipt_of(box: Box, who: Consumer, receipt: str) -> ReceiptAnswer:
    """The receipt as the consumer gets it."""
    return from_json(
        (await who.call(box, "GET", f"/leasehold/receipts/{receipt}")).body, ReceiptAnswer
    )


def check(box: Box, got: ReceiptAnswer, sent: bytes, answer: Answer) -> int:
    """Check the receipt against the very bytes of both directions; tells its units."""
    receipt = check_receipt(got.receipt, statement_key=box.enclave.keys.statement.public)
    check_content(receipt, salt=got.salt, request=sent, response=answer.body)
    return int(receipt.units)


# A hostile consumer ------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [1 << 54, 10**30])
def test_a_huge_number_in_an_extension_does_not_cut_the_line_to_the_custodian(units: int) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = {"units": units, "reason": "all of it"}
        answer = await alice.call(box, "POST", "/leasehold/extension", body)
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert "custodian_talks_nonsense" not in box.log.names()
        assert "link_down" not in box.log.names()

    played(story)


def test_two_requests_at_once_on_a_lapsed_lease_are_both_served() -> None:
    """Both want zero more units, only time: neither may trip over the other's bookkeeping."""

    async def story() -> None:
        clock, meter = SimulatedClock(), Meter()
        key = b"k" * 32

        async def grant(_key: bytes, **_amounts: object) -> None:
            await asyncio.sleep(0.01)
            meter.credit(granted(100, key=key), asked_at=clock.monotonic(), now=clock.monotonic())

        gate = Gate(meter, clock, grant, 8, 8)
        await grant(key)
        await asyncio.sleep(2)

        async def one() -> int:
            ticket = await gate.admit(key, least=Units(1), want=Units(5))
            try:
                return int(ticket.held)
            finally:
                gate.leave(ticket)

        assert await asyncio.gather(one(), one(), one()) == [5, 5, 5]

    run_simulated(story)


def granted(
    units: int, *, lease: str = "1-1", key: bytes = b"k" * 32, sequence: int = 1
) -> LeaseGranted:
    """A grant with one second to live."""
    zero = Units(0)
    return LeaseGranted(
        sequence,
        lease,
        1,
        "alice",
        key,
        Units(units),
        Duration(1000),
        Budget(zero, zero, zero, zero, zero),
    )


def test_a_client_that_reads_nothing_loses_its_place() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        async def never(message: dict[str, Any]) -> None:
            await asyncio.Event().wait()

        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        body = b'{"model":"echo","prompt":"a b","stream":true}'
        inbox.put_nowait({"type": "http.request", "body": body})
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/completions",
            "headers": [(k.encode(), v.encode()) for k, v in alice.headers.items()],
        }
        stuck = asyncio.create_task(box.application(scope, inbox.get, never))
        await asyncio.sleep(exchanges.CLIENT_SECONDS_MAX + 1)
        assert box.enclave.gate._running == 0
        assert box.host.generating == 0
        await stuck

    played(story)


def test_a_body_without_end_is_refused() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = Answer()

        async def drip() -> dict[str, Any]:
            await asyncio.sleep(5)
            return {"type": "http.request", "body": b" ", "more_body": True}

        async def send(message: dict[str, Any]) -> None:
            answer.status = message.get("status", answer.status)
            answer.parts.append(message.get("body", b""))

        headers = [(k.encode(), v.encode()) for k, v in alice.headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
        async with asyncio.timeout(exchanges.CLIENT_SECONDS_MAX + 10):
            await box.application(scope, drip, send)
        assert (answer.status, answer.code) == (400, "invalid_request")

    played(story)


def test_invented_keys_leave_half_of_the_queue_to_others() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        assert (await alice.ask(box, "hi <end>")).status == 200
        crowd = [Consumer(f"nobody {n}", f"invented-{n}") for n in range(64)]
        asking = [asyncio.create_task(one.ask(box, "hi <end>")) for one in crowd]
        await asyncio.sleep(0)
        assert (await alice.ask(box, "hi <end>")).status == 200
        codes = [(await one).code for one in asking]
        assert codes.count("rate_limit_exceeded") == 32
        assert codes.count("invalid_api_key") == 32

    played(story)


def test_questions_about_budgets_do_not_crowd_out_leases() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        sent = asks_of(box, ExtensionQuery)
        crowd = [Consumer(f"nobody {n}", f"invented-{n}") for n in range(500)]
        asking = [asyncio.create_task(one.call(box, "GET", "/leasehold/budget")) for one in crowd]
        await asyncio.sleep(0)
        assert len(sent) <= 32
        assert (await alice.ask(box, "hi <end>")).status == 200
        assert {(await one).code for one in asking} == {"invalid_api_key", "rate_limit_exceeded"}

    played(story)


def test_looking_at_a_budget_does_not_forget_the_refusals_of_others() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        nobody = Consumer("nobody", "invented")
        sent = asks_of(box)
        for _ in range(10):
            assert (await nobody.ask(box, "hi")).code == "invalid_api_key"
            assert (await alice.call(box, "GET", "/leasehold/budget")).status == 200
        assert len(sent) == 1

    played(story)


def test_refusals_do_not_keep_the_requests_that_they_refused() -> None:
    """An exception that is raised twice keeps the frames, and so the prompts, of both callers."""

    async def story(world: World, box: Box, alice: Consumer) -> None:
        await world.custodian.stop(OPERATOR, "loan", LOAN, "over")
        await asyncio.sleep(1)
        for _ in range(50):
            assert (await alice.ask(box, "a secret")).code == "loan_stopped"
        assert box.enclave.ended is not None
        assert box.enclave.ended.__traceback__ is None

    played(story)


def test_kept_receipts_are_bounded_over_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "RECEIPTS_MAX", 10)

    async def story(world: World, box: Box, alice: Consumer) -> None:
        for n in range(6):
            who = await world.consumer(f"c{n}", 100)
            for _ in range(3):
                await who.ask(box, "hi <end>")
        kept = box.enclave.receipts._kept
        assert sum(len(row) for row in kept.values()) <= 10
        assert len(kept) == 3

    played(story)


def test_vectors_that_no_frame_carries_are_refused_before_they_are_charged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts, "VECTOR_BYTES_MAX", 40)

    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = {"model": MODEL, "input": ["a", "b", "c"]}
        answer = await alice.call(box, "POST", "/v1/embeddings", body)
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert box.enclave.meter.usage() == ()

    played(story)


# Receipts ----------------------------------------------------------------------------------------


def test_a_stream_that_a_stop_cuts_has_a_receipt_for_what_was_sent() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        async with exchange(
            box.application, "POST", "/v1/chat/completions", STREAM, headers=alice.headers
        ) as (answer, task):
            await asyncio.sleep(1)
            await world.custodian.stop(OPERATOR, "consumer", "alice", "enough")
            await task
        assert answer.code == "loan_stopped"
        got = await receipt_of(box, alice, answer.headers["leasehold-receipt-id"])
        sent = json.dumps(STREAM).encode()
        assert check(box, got, sent, answer) > 10

    played(story)


def test_a_refusal_that_cost_something_says_so_and_has_a_receipt() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        asking = asyncio.create_task(alice.ask(box, "a b c", max_tokens=500))
        await asyncio.sleep(1)
        box.host.crash()
        answer = await asking
        assert (answer.status, answer.code) == (503, "engine_failed")
        body = {**CHAT, "max_tokens": 500}
        got = await receipt_of(box, alice, answer.headers["leasehold-receipt-id"])
        units = check(box, got, json.dumps(body).encode(), answer)
        assert f"{units} units were charged" in answer.json()["error"]["message"]

    played(story)


def test_work_that_the_tariff_forgot_is_not_free() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = b'{"model":"echo","input":"a b c"}'
        answer = await alice.call(box, "POST", "/v1/embeddings", body)
        assert (answer.status, answer.code) == (403, "not_priced")
        assert "leasehold-receipt-id" not in answer.headers
        assert box.enclave.gate._running == 0

    played(story, tariff=Tariff(output_token=1))


# Stops -------------------------------------------------------------------------------------------


def test_an_embedding_does_not_leave_after_its_consumer_was_stopped() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        embed = box.host.embed

        async def slow(texts: Any) -> Any:
            await asyncio.sleep(5)
            return await embed(texts)

        box.host.embed = slow  # type: ignore[method-assign]
        body = {"model": MODEL, "input": "a b c"}
        asking = asyncio.create_task(alice.call(box, "POST", "/v1/embeddings", body))
        await asyncio.sleep(1)
        await world.custodian.stop(OPERATOR, "consumer", "alice", "enough")
        answer = await asking
        assert (answer.status, answer.code) == (403, "loan_stopped")

    played(story)


class SlowAnswers:
    """A wire whose answers to attestations come late."""

    def __init__(self, wire: Any, seconds: float) -> None:
        self._wire, self._seconds = wire, seconds

    async def challenge(self) -> Challenge:
        return await self._wire.challenge()  # type: ignore[no-any-return]

    async def attest(self, message: Attest) -> Release:
        release = await self._wire.attest(message)
        await asyncio.sleep(self._seconds)
        return release  # type: ignore[no-any-return]

    async def open_channel(self, certificate: str) -> Channel:
        return await self._wire.open_channel(certificate)  # type: ignore[no-any-return]


def test_a_release_that_arrives_after_a_stop_does_not_bring_the_key_back() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        link = box.enclave.link
        link.wire = SlowAnswers(link.wire, 5)
        link._again.set()
        await asyncio.sleep(1)
        box.wire.weather.deaf_up = True  # the proof does not arrive, so the instance lives on
        await world.custodian.stop(OPERATOR, "loan", LOAN, "over")
        await asyncio.sleep(10)
        assert box.enclave.state is State.STOPPED
        assert link.lent is not None
        assert link.lent.model_key == b""

    played(story)


def test_a_stopped_instance_never_attests_again() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        box.wire.weather.cut = True
        await asyncio.sleep(30)
        assert box.enclave.state is State.STOPPED
        link = box.enclave.link
        seen: list[float] = []

        async def challenge() -> Challenge:
            seen.append(1)
            return await world.custodian.challenge()

        link.wire.challenge = challenge  # type: ignore[method-assign]
        await asyncio.sleep(700)
        assert seen == []
        assert link.lent is not None
        assert link.lent.model_key == b""

    played(story)


def test_a_stop_while_the_model_loads_is_proved_after_what_was_loading_is_gone() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        load = type(box.loader).load
        decrypting = False

        async def slow(self: Any, lent: Lent) -> int:
            nonlocal decrypting
            await self.wipe()  # as the real loader begins
            decrypting = True
            try:
                await asyncio.sleep(20)
                return await load(self, lent)
            finally:
                decrypting = False

        type(box.loader).load = slow  # type: ignore[method-assign]
        try:
            box.host.crash()
            await asyncio.sleep(1)
            assert decrypting
            await world.custodian.stop(OPERATOR, "loan", LOAN, "over")
            async with asyncio.timeout(15):
                await box.life
            assert not decrypting
            assert box.loader.sink.files == {}
        finally:
            type(box.loader).load = load  # type: ignore[method-assign]

    played(story)


def test_a_shutdown_while_attesting_ends_quietly_and_without_a_key() -> None:
    async def story() -> None:
        world = await World.make()
        box = world.enclave()
        box.enclave.link.wire = SlowAnswers(box.enclave.link.wire, 5)
        await asyncio.sleep(1)
        box.enclave.stop(TooBusy(about="shutting down"), 0)
        await asyncio.sleep(10)
        assert box.life.done()
        assert box.life.exception() is None
        assert box.enclave.link.lent is None
        await world.end()

    run_simulated(story)


def test_a_proof_of_stop_that_overtakes_a_closing_report_burns_nothing() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        bob = await world.consumer("bob", 1000)
        await bob.ask(box, "hi <end>")
        assert (await alice.ask(box, "hi <end>")).status == 200
        await asyncio.sleep(2)
        box.wire.weather.deaf_up = True  # the closing report of alice's lease is lost
        await world.custodian.stop(OPERATOR, "consumer", "alice", "first")
        await asyncio.sleep(0.5)
        stop = await world.custodian.stop(OPERATOR, "loan", LOAN, "then all")
        await asyncio.sleep(2)
        assert box.enclave.link.reports._closings
        proof = box.enclave.link.reports.proof
        assert proof is not None
        await world.custodian.handle(box.enclave.instance, proof)
        assert (await world.budget("alice")).budget.written_off == 0
        assert (await world.budget("bob")).budget.written_off == 0
        progress = await world.custodian.look(lambda tx: stops.progress(tx, stop=stop.id))
        assert progress.proved == (box.enclave.instance,)

    played(story)


# Time --------------------------------------------------------------------------------------------


def test_answers_that_the_host_holds_back_do_not_count_as_contact() -> None:
    """What arrives now and was said long ago shows nothing about now (N-8)."""

    async def story(world: World, box: Box, alice: Consumer) -> None:
        box.wire.weather = Weather(delay=(9.0, 9.0))
        await asyncio.sleep(40)
        assert box.enclave.state is State.STOPPED

    played(story, dead_man=20)


def test_a_dead_man_shorter_than_two_heartbeats_is_no_configuration() -> None:
    async def story() -> None:
        world = await World.make()
        with pytest.raises(BadSetting, match="dead_man_seconds"):
            parse_settings(world.configure(dead_man=5))
        await world.end()

    run_simulated(story)


def test_a_slow_clock_cannot_make_a_storm_of_leases() -> None:
    """The custodian wrote the lease off, the enclave still holds it: the newer one ends the older."""

    async def story(world: World, box: Box, alice: Consumer) -> None:
        assert (await alice.ask(box, "hi <end>")).status == 200
        box.clock.run_at(0)
        box.wire.weather.cut = True
        await asyncio.sleep(150)
        assert (await world.budget("alice")).budget.outstanding == 0
        box.wire.weather.cut = False
        await asyncio.sleep(10)
        sent = asks_of(box)
        purse = box.enclave.meter.usage()
        answers = [await alice.ask(box, "x y z", max_tokens=300) for _ in range(5)]
        # The first was under way on the old lease.
        assert [answer.status for answer in answers[1:]] == [200] * 4
        assert len(sent) < 60
        assert box.enclave.meter.usage() != purse

    policy = LeasePolicy(ttl=Duration(4000), exact=True)
    played(story, policy=policy, dead_man=300)


def test_an_unanswered_renewal_is_not_repeated_at_every_tick() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        await alice.ask(box, "hi <end>")
        sent = asks_of(box)
        box.wire.weather.deaf_down = True
        await asyncio.sleep(29)
        assert 0 < len(sent) <= 16

    played(story, dead_man=60)


def test_units_ahead_of_need_are_not_asked_for_at_every_token_of_the_last_ones() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        sent = asks_of(box)
        answer = await alice.ask(box, "go on", max_tokens=500)
        assert answer.json()["leasehold_code"] == "insufficient_quota"
        assert len(sent) <= 10

    played(story, units=120)


def test_leases_of_an_older_epoch_are_void() -> None:
    meter, now = Meter(), Instant(0)
    meter.begin_epoch(1)
    assert meter.credit(granted(10), asked_at=now, now=now) is Credit.TAKEN
    meter.begin_epoch(2)
    assert meter.purse(b"k" * 32) is None
    other = granted(10, lease="1-7", key=b"o" * 32)
    assert meter.credit(other, asked_at=now, now=now) is Credit.STRAY
    newer = granted(10, lease="2-1")
    assert meter.credit(newer, asked_at=now, now=now) is Credit.TAKEN


def test_no_lease_comes_back_and_memory_does_not_grow_with_their_number() -> None:
    meter, now = Meter(), Instant(0)
    grants = [granted(10, lease=f"1-{n}") for n in range(1, 2000)]
    for one in grants:
        assert meter.credit(one, asked_at=now, now=now) is Credit.TAKEN
        meter.due(now=Instant(now + 5000), idle=60_000)
        meter.drop_ended()
        now = Instant(now + 5000)
    for one in grants:
        assert meter.credit(one, asked_at=now, now=now) is Credit.DROPPED
    assert len(meter._newest) == 1


# Bad luck ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stranded", "busy"])
def test_what_was_paid_for_is_answered_where_no_more_units_are_to_be_had(how: str) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        asking = asyncio.create_task(alice.ask(box, "a b c", max_tokens=2000))
        await asyncio.sleep(1)
        if how == "stranded":
            await world.kill_custodian()
        else:

            async def busy(*_: object, **__: object) -> None:
                raise TooBusy(about="units out in leases")

            box.enclave.gate.ask_lease = busy
        answer = await asking
        assert answer.status == 200
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        code = {"stranded": "custodian_unreachable", "busy": "rate_limit_exceeded"}[how]
        assert answer.json()["leasehold_code"] == code
        assert answer.json()["usage"]["completion_tokens"] > 40

    played(story, policy=EXACT, dead_man=100)


def test_a_driver_that_breaks_leaves_no_verifier_waiting_and_says_nothing() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        class Broken:
            simulated = True

            def attest(self, _: bytes) -> Any:
                raise OSError("/dev/attestation: secret words")

        box.enclave.prover.attester = Broken()  # type: ignore[assignment]
        nonce = {"nonce": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}
        for _ in range(2):
            async with asyncio.timeout(5):
                answer = await request(box.application, "POST", "/leasehold/evidence", nonce)
            assert (answer.status, answer.code) == (500, "internal")
            assert b"secret" not in answer.body
        box.enclave.link._again.set()
        await asyncio.sleep(5)
        assert "attestation_refused" in box.log.names()
        assert box.enclave.state is State.SERVING

    played(story)


def test_refused_evidence_is_not_sent_again_and_again() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        link, tries = box.enclave.link, 0

        async def refused(_: Attest) -> Release:
            nonlocal tries
            tries += 1
            link._again.set()  # whatever is said is answered with AttestAgain
            raise Internal

        link.wire.attest = refused  # type: ignore[method-assign]
        link._again.set()
        await asyncio.sleep(30)
        assert 3 < tries < 15

    played(story, dead_man=60)


def test_an_engine_that_dies_as_it_is_loaded_is_loaded_again() -> None:
    async def story() -> None:
        world = await World.make()
        box = world.enclave()
        load, died = box.host.load, []

        async def dying(*what: Any) -> Any:
            loaded = await load(*what)
            if not died:
                died.append(True)
                box.host.crash()
            return loaded

        box.host.load = dying  # type: ignore[method-assign]
        alice = await world.consumer("alice", 100)
        await box.serving()
        await asyncio.sleep(1)
        assert box.enclave.state is State.SERVING
        assert (await alice.ask(box, "hi <end>")).status == 200
        await world.end()

    run_simulated(story)


def test_a_mistake_in_a_task_of_the_governor_ends_service_and_says_no_word_of_it() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        def broken(*_: object, **__: object) -> None:
            raise KeyError("a secret")

        due, Meter.due = Meter.due, broken  # type: ignore[method-assign]
        try:
            await asyncio.sleep(2)
        finally:
            Meter.due = due  # type: ignore[method-assign]
        assert isinstance(box.life.exception(), Internal)
        assert box.enclave.state is State.STOPPED
        assert box.loader.sink.files == {}
        assert ("mistake", {"code": "KeyError"}) in box.log.said
        assert (await alice.ask(box, "hi")).code == "internal"

    played(story)


def test_a_line_that_takes_nothing_is_given_up_and_opened_again() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        channel = box.enclave.link._channel
        assert channel is not None

        async def blocked(_: bytes) -> None:
            await asyncio.Event().wait()

        channel.send = blocked  # type: ignore[method-assign]
        await asyncio.sleep(25)
        assert box.enclave.link._channel is not channel
        assert (await alice.ask(box, "hi <end>")).status == 200

    played(story, dead_man=60)


@pytest.mark.parametrize("after_ms", range(0, 1500, 75))
def test_a_request_that_is_cancelled_at_any_moment_leaves_nothing_held(after_ms: int) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        box.wire.weather = Weather(delay=(0.1, 0.3))
        async with exchange(
            box.application, "POST", "/v1/chat/completions", STREAM, headers=alice.headers
        ) as (_, task):
            await asyncio.sleep(after_ms / 1000)
            if after_ms % 2:
                task.cancel()
        gate = box.enclave.gate
        await asyncio.sleep(2)
        assert (gate._running, gate._strangers, gate._per_caller, gate._wanted) == (0, 0, {}, {})
        assert gate._asking == {}
        assert box.host.generating == 0
        for purse in box.enclave.meter._purses.values():
            assert (purse.held, purse.tickets) == (0, 0)

    played(story)


def test_no_code_of_a_refusal_is_lost_on_its_copy() -> None:
    refusal = TooBusy(about="a", got=1, expected=2)
    copy: LeaseholdError = refusal.again()
    assert (type(copy), copy.message) == (TooBusy, refusal.message)
    assert copy is not refusal
