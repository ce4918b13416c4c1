"""What consumers meet at the enclave's door: shapes of answers, and a code for every refusal."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from leasehold.core.encoding import from_json
from leasehold.core.merkle import leaf_hash
from leasehold.core.messages import EvidenceAnswer, ReceiptAnswer
from leasehold.core.receipt_checks import check_content, check_receipt
from leasehold.core.receipts import head
from leasehold.core.trees import check_inclusion
from leasehold.errors import BadSignature
from leasehold.testing.asgi import request
from leasehold.testing.time import run_simulated
from leasehold.testing.world import LOAN, MODEL, Box, Consumer, World

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "one two <end>"}]}
Story = Callable[[World, Box, Consumer], Awaitable[None]]


def played(story: Story, *, units: int = 1000) -> None:
    """Run a story with one serving enclave and one consumer."""

    async def run() -> None:
        world = await World.make()
        box = await world.enclave().serving()
        await story(world, box, await world.consumer("alice", units))
        await world.check_books()
        await world.end()

    run_simulated(run)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{not json", 400, "invalid_request"),
        (b"\xff\xfe", 400, "invalid_request"),
        (b"", 400, "invalid_request"),
        (b"x" * 70_000, 413, "body_too_large"),
        ({**CHAT, "model": "other"}, 404, "model_not_found"),
        ({**CHAT, "messages": []}, 400, "invalid_request"),
        ({**CHAT, "messages": [{"role": "villain", "content": "x"}]}, 400, "invalid_request"),
        ({**CHAT, "temperature": 9}, 400, "invalid_request"),
        ({**CHAT, "max_tokens": 0}, 400, "invalid_request"),
        ({**CHAT, "n": 2}, 400, "invalid_request"),
        ({**CHAT, "logprobs": True}, 400, "unsupported_parameter"),
        ({**CHAT, "logit_bias": {"1": 5}}, 400, "unsupported_parameter"),
        ({"model": MODEL}, 400, "invalid_request"),
    ],
)
def test_bad_requests_are_refused_by_name_and_cost_nothing(
    body: object, status: int, code: str
) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, "POST", "/v1/chat/completions", body)
        assert (answer.status, answer.code) == (status, code)
        assert "Traceback" not in answer.body.decode()
        assert (await world.budget("alice")).budget.available == 1000

    played(story)


def test_an_unsupported_parameter_is_named() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, "POST", "/v1/chat/completions", {**CHAT, "top_logprobs": 5})
        assert "top_logprobs" in answer.json()["error"]["message"]

    played(story)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer " + "x" * 300},
    ],
)
def test_without_a_good_key_nothing_is_served(headers: dict[str, str]) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await request(
            box.application, "POST", "/v1/chat/completions", CHAT, headers=headers
        )
        assert (answer.status, answer.code) == (401, "invalid_api_key")

    played(story)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/v1/chat/completions"), ("POST", "/v1/nothing"), ("GET", "/metrics")],
)
def test_what_is_not_there_is_said_not_to_be_there(method: str, path: str) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, method, path)
        assert (answer.status, answer.code) == (404, "unknown_endpoint")

    played(story)


def test_a_stream_has_openais_events() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
        answer = await alice.call(box, "POST", "/v1/chat/completions", body)
        events = answer.events()
        assert answer.headers["content-type"] == "text/event-stream"
        assert {event["object"] for event in events} == {"chat.completion.chunk"}
        assert len({event["id"] for event in events}) == 1
        assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
        assert text == "one two"
        assert events[-2]["choices"][0]["finish_reason"] == "stop"
        assert events[-1]["usage"]["completion_tokens"] == 2
        assert answer.body.endswith(b"data: [DONE]\n\n")

    played(story)


def test_a_text_stream_has_no_role() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = {"model": MODEL, "prompt": "one two <end>", "stream": True}
        answer = await alice.call(box, "POST", "/v1/completions", body)
        texts = [event["choices"][0].get("text") for event in answer.events()]
        assert None not in texts
        assert "".join(texts) == "one two"

    played(story)


def test_token_ids_are_taken_as_they_are() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = {"model": MODEL, "prompt": [11, 12, 13], "max_tokens": 3}
        answer = await alice.call(box, "POST", "/v1/completions", body)
        assert answer.json()["usage"]["prompt_tokens"] == 3
        assert answer.json()["choices"][0]["text"] == "11 12 13"

    played(story)


def test_embeddings_come_as_numbers_and_as_base64() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body: dict[str, Any] = {"model": MODEL, "input": ["a b", "c"]}
        plain = (await alice.call(box, "POST", "/v1/embeddings", body)).json()
        packed = (
            await alice.call(box, "POST", "/v1/embeddings", {**body, "encoding_format": "base64"})
        ).json()
        assert plain["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        for one, other in zip(plain["data"], packed["data"], strict=True):
            raw = base64.b64decode(other["embedding"])
            assert list(struct.unpack("<8f", raw)) == pytest.approx(one["embedding"])

    played(story)


def test_embeddings_that_the_budget_does_not_cover_are_not_started() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = {"model": MODEL, "input": ["one two three four five six"]}
        answer = await alice.call(box, "POST", "/v1/embeddings", body)
        assert (answer.status, answer.code) == (429, "insufficient_quota")

    played(story, units=5)


def test_input_longer_than_the_context_is_refused_and_costs_nothing() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.ask(box, "w " * 5000)
        assert (answer.status, answer.code) == (400, "context_length_exceeded")

    played(story, units=100_000)


def test_the_budget_is_told_in_the_custodians_numbers() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        await alice.ask(box, "one two <end>")
        budget = (await alice.call(box, "GET", "/leasehold/budget")).json()
        assert (budget["consumer"], budget["loan"], budget["granted"]) == ("alice", LOAN, 1000)
        assert budget["unit"] == "1 unit per input token, 1 unit per output token"
        total = sum(budget[k] for k in ("available", "outstanding", "settled", "written_off"))
        assert total == 1000

    played(story)


def test_a_receipt_proves_what_was_asked_and_answered_and_only_to_the_asker() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        sent = b'{"model":"echo","messages":[{"role":"user","content":"one two <end>"}]}'
        answer = await alice.call(box, "POST", "/v1/chat/completions", sent)
        path = f"/leasehold/receipts/{answer.headers['leasehold-receipt-id']}"
        got = from_json((await alice.call(box, "GET", path)).body, ReceiptAnswer)
        receipt = check_receipt(got.receipt, statement_key=box.enclave.keys.statement.public)
        assert receipt.units == answer.json()["usage"]["total_tokens"]
        assert receipt.simulated is True
        check_content(receipt, salt=got.salt, request=sent, response=answer.body)
        with pytest.raises(BadSignature, match="another response"):
            check_content(receipt, salt=got.salt, request=sent, response=answer.body + b" ")
        bob = await world.consumer("bob", 10)
        refused = await bob.call(box, "GET", path)
        assert (refused.status, refused.code) == (404, "not_found")

    played(story)


def test_receipts_of_one_lease_are_a_chain() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        receipts = []
        for _ in range(3):
            answer = await alice.ask(box, "hi <end>", stream=True)
            path = f"/leasehold/receipts/{answer.headers['leasehold-receipt-id']}"
            got = from_json((await alice.call(box, "GET", path)).body, ReceiptAnswer)
            key = box.enclave.keys.statement.public
            receipts.append((got, check_receipt(got.receipt, statement_key=key)))
        assert receipts[0][1].previous == b""
        for (before, _), (_, after) in pairwise(receipts):
            assert after.previous == head(before.receipt)

    played(story)


def test_a_crowd_of_verifiers_shares_one_quote() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        nonces = [bytes([n]) * 32 for n in range(50)]
        asks = [
            request(
                box.application,
                "POST",
                "/leasehold/evidence",
                {"nonce": base64.b64encode(nonce).decode()},
            )
            for nonce in nonces
        ]
        answers = [from_json(a.body, EvidenceAnswer) for a in await asyncio.gather(*asks)]
        assert len({answer.evidence.digest() for answer in answers}) == 1
        for nonce, answer in zip(nonces, answers, strict=True):
            check_inclusion(
                leaf_hash(nonce),
                index=answer.index,
                size=answer.nonces,
                proof=answer.proof,
                head=answer.root,
            )

    played(story)


@pytest.mark.parametrize("nonce", ["", "AAAA", "!!"])
def test_a_nonce_of_the_wrong_size_is_refused(nonce: str) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await request(box.application, "POST", "/leasehold/evidence", {"nonce": nonce})
        assert (answer.status, answer.code) == (400, "invalid_request")

    played(story)


def test_more_requests_at_once_than_a_consumer_may_have_are_told_to_wait() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answers = await asyncio.gather(*(alice.ask(box, "a b <end>") for _ in range(20)))
        statuses = [answer.status for answer in answers]
        assert statuses.count(200) == 16
        busy = [answer for answer in answers if answer.status != 200]
        assert {(a.code, a.headers["retry-after"]) for a in busy} == {("rate_limit_exceeded", "2")}

    played(story, units=10_000)


def test_everything_says_simulated() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        health = await request(box.application, "GET", "/leasehold/health")
        assert health.headers["leasehold-platform"] == "SIMULATED"
        assert health.json() == {
            "state": "serving",
            "instance": box.enclave.instance,
            "loan": LOAN,
            "simulated": True,
            "log_forked": False,
            "coming": None,
        }

    played(story)


def test_a_mistake_of_ours_tells_the_host_and_the_caller_nothing() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        async def broken(_: object) -> int:
            raise RuntimeError("the prompt was: my secret")

        box.host.count = broken  # type: ignore[method-assign]
        answer = await alice.ask(box, "my secret")
        assert (answer.status, answer.code) == (500, "internal")
        assert b"secret" not in answer.body
        assert ("mistake", {"code": "RuntimeError"}) in box.log.said
        assert (await world.budget("alice")).budget.settled == 0

    played(story)
