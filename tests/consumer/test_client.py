"""The SDK against enclaves over real TLS: asking, pinning, restarts, and what a bad one gets to see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from consumer.conftest import Serve
from consumer.server import TlsServer
from consumer.world import API_KEY, MODEL, OTHER_MEASUREMENT, WORDS, FakeEnclave, World
from leasehold.consumer.answers import Exchange
from leasehold.consumer.client import Enclave
from leasehold.consumer.verify import TRUST_TIME
from leasehold.core.crypto import SigningKey
from leasehold.core.receipts import Receipt
from leasehold.core.units import DAY
from leasehold.errors import (
    BadRequest,
    BadSignature,
    BudgetExhausted,
    CollateralNotCurrent,
    EnclaveUnreachable,
    FileTrouble,
    LoanStopped,
    NotVerified,
    UnknownKey,
    WrongCustodian,
    WrongMeasurement,
    WrongReceipt,
)

TEXT = "".join(WORDS)
SECRET = "what ails my employer"


def connect(world: World, server: TlsServer, **choices: Any) -> Enclave:
    """An honest consumer's enclave."""
    choices = {"manifest": world.manifest(), "api_key": API_KEY} | choices
    return Enclave.connect(server.address, clock=world.clock, entropy=world.entropy, **choices)


def seen(server: TlsServer) -> bytes:
    """All clear text that ever reached whoever served there."""
    return b"".join(server.received)


# Asking -----------------------------------------------------------------------------------------------


def test_it_answers(world: World, serve: Serve) -> None:
    fake = world.enclave()
    with connect(world, serve(fake)) as enclave:
        answer = enclave.ask("How many eggs?", system="Be brief.", max_tokens=9, temperature=0)
    assert (answer.text, answer.finish_reason, answer.code) == (TEXT, "stop", None)
    assert (answer.input_tokens, answer.output_tokens) == (5, 4)
    (body,) = fake.asked
    assert msgspec.json.decode(body) == {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "How many eggs?"},
        ],
        "max_tokens": 9,
        "temperature": 0,
    }


def test_it_answers_piece_by_piece(world: World, serve: Serve) -> None:
    with connect(world, serve(world.enclave())) as enclave:
        stream = enclave.ask([{"role": "user", "content": "Eggs?"}], stream=True)
        assert tuple(stream) == WORDS
        assert stream.answer.text == TEXT
        assert stream.answer.output_tokens == 4


def test_a_stream_that_was_cut_is_no_answer(world: World, serve: Serve) -> None:
    with connect(world, serve(world.enclave(cuts_stream=True))) as enclave:
        stream = enclave.ask("Eggs?", stream=True)
        pieces = []
        with pytest.raises(EnclaveUnreachable) as caught:
            pieces.extend(stream)
        assert caught.value.about == "stream"


def test_a_stream_may_be_left_early(world: World, serve: Serve) -> None:
    with connect(world, serve(world.enclave())) as enclave:
        with enclave.ask("Eggs?", stream=True) as stream:
            assert next(iter(stream)) == WORDS[0]
        assert enclave.ask("Eggs?").text == TEXT


def test_an_answer_says_why_it_was_cut(world: World, serve: Serve) -> None:
    with connect(world, serve(world.enclave(code="insufficient_quota"))) as enclave:
        stream = enclave.ask("Eggs?", stream=True)
        list(stream)
        whole = enclave.ask("Eggs?")
    for answer in (stream.answer, whole):
        assert (answer.finish_reason, answer.code) == ("length", "insufficient_quota")


@pytest.mark.parametrize("error", [BudgetExhausted(got=0), LoanStopped(about="by the custodian")])
def test_a_refusal_is_the_same_error_here(world: World, serve: Serve, error: Any) -> None:
    with (
        connect(world, serve(world.enclave(refuses=error))) as enclave,
        pytest.raises(type(error)) as caught,
    ):
        enclave.ask("Eggs?")
    assert caught.value.message == error.message


def test_an_unknown_key_is_refused(world: World, serve: Serve) -> None:
    with (
        connect(world, serve(world.enclave()), api_key="another") as enclave,
        pytest.raises(UnknownKey),
    ):
        enclave.budget()


def test_it_embeds_in_the_order_of_the_texts(world: World, serve: Serve) -> None:
    with connect(world, serve(world.enclave())) as enclave:
        answer = enclave.embed(["a", "b", "c"])
        assert answer.vectors == ((0, 0.5), (1, 0.5), (2, 0.5))
        assert enclave.receipt(answer).content_checked
        with pytest.raises(BadRequest):
            enclave.embed("a")
        with pytest.raises(BadRequest):
            enclave.embed([])


def test_it_shows_the_budget(world: World, serve: Serve) -> None:
    with connect(world, serve(world.enclave())) as enclave:
        state = enclave.budget()
    assert (state.consumer, state.loan, state.available) == ("alice", "loan-1", 1000)


# Extensions -------------------------------------------------------------------------------------------


def test_a_request_that_is_decided_at_once(world: World, serve: Serve) -> None:
    with connect(world, serve(world.enclave())) as enclave:
        state = enclave.request_more(100, "a long report")
    assert (state.status, state.approved) == ("approved", 50)


@pytest.mark.parametrize(
    ("wait", "after", "status", "polls"),
    [(0, 1, "open", 0), (45, 2, "approved", 2), (45, 1, "approved", 1), (45, 9, "open", 2)],
)
def test_waiting_is_long_polling(
    world: World, serve: Serve, wait: int, after: int, status: str, polls: int
) -> None:
    server = serve(world.enclave(decides_after=after))
    with connect(world, server) as enclave:
        assert enclave.request_more(100, "a long report", wait=wait).status == status
    lines = [line.split(b" ")[1] for line in server.received]
    asked = [line for line in lines if line.startswith(b"/leasehold/extension?")]
    assert asked == [b"/leasehold/extension?wait=30", b"/leasehold/extension?wait=15"][:polls]


@pytest.mark.parametrize(("units", "reason"), [(0, "why"), (-5, "why"), (5, " "), (5, "x" * 501)])
def test_a_request_without_units_or_reason_is_not_sent(
    world: World, serve: Serve, units: int, reason: str
) -> None:
    server = serve(world.enclave())
    with connect(world, server) as enclave, pytest.raises(BadRequest):
        enclave.request_more(units, reason)
    assert len(server.received) == 1


# Receipts ---------------------------------------------------------------------------------------------


def test_receipts_are_for_exactly_these_bytes(world: World, serve: Serve) -> None:
    with connect(world, serve(world.enclave())) as enclave:
        stream = enclave.ask("Eggs?", stream=True)
        list(stream)
        for answer in (enclave.ask("Eggs?"), stream.answer):
            checked = enclave.receipt(answer)
            assert checked.content_checked
            assert (checked.receipt.units, checked.receipt.loan) == (9, "loan-1")
        other = Exchange(answer.exchange.receipt, answer.exchange.request, b"another answer")
        with pytest.raises(BadSignature):
            enclave.receipt(other)


def test_a_receipt_by_name_is_checked_without_its_content(world: World, serve: Serve) -> None:
    with connect(world, serve(world.enclave())) as enclave:
        name = enclave.ask("Eggs?").exchange.receipt
        assert not enclave.receipt(name).content_checked


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "receipt-9"),
        ("loan", "loan-2"),
        ("model_digest", "00" * 32),
        ("simulated", False),
        ("instance", "00" * 32),
    ],
)
def test_a_receipt_for_something_else_is_refused(
    world: World, serve: Serve, field: str, value: Any
) -> None:
    def change(receipt: Receipt) -> Receipt:
        return msgspec.structs.replace(receipt, **{field: value})

    with connect(world, serve(world.enclave(change_receipt=change))) as enclave:
        answer = enclave.ask("Eggs?")
        with pytest.raises(WrongReceipt) as caught:
            enclave.receipt(answer)
    assert caught.value.about == field.replace("_", " ")


def test_a_receipt_under_another_key_is_refused(world: World, serve: Serve) -> None:
    fake = world.enclave()
    with connect(world, serve(fake)) as enclave:
        fake.statement = SigningKey.make(world.entropy)
        answer = enclave.ask("Eggs?")
        with pytest.raises(BadSignature):
            enclave.receipt(answer)


# C-8 to C-10: pins, restarts, and what leaves ---------------------------------------------------------


def bad(world: World) -> FakeEnclave:
    """An enclave that runs other code."""
    return world.enclave(measurement=OTHER_MEASUREMENT)


def test_a_bad_enclave_sees_a_nonce_and_nothing_else(world: World, serve: Serve) -> None:
    server = serve(bad(world))
    with pytest.raises(WrongMeasurement):
        connect(world, server)
    (request,) = server.received
    assert request.startswith(b"POST /leasehold/evidence ")
    assert API_KEY.encode() not in request
    assert b"uthorization" not in request


def test_one_verification_serves_many_questions_for_ten_minutes(world: World, serve: Serve) -> None:
    server = serve(world.enclave())
    with connect(world, server) as enclave:
        enclave.ask("one")
        world.clock.turn(TRUST_TIME - 1)
        enclave.ask("two")
        assert server.handshakes == 2  # one to verify, one to ask
        first = enclave.verified
        world.clock.turn(1)
        enclave.ask("three")
        assert server.handshakes == 3  # verified again; the pinned connection stayed
        assert enclave.verified.verified_at > first.verified_at
    assert [line.split(b" ")[1] for line in server.received] == [
        b"/leasehold/evidence",
        b"/v1/chat/completions",
        b"/v1/chat/completions",
        b"/leasehold/evidence",
        b"/v1/chat/completions",
    ]


def test_after_ten_minutes_nothing_leaves_before_a_new_verdict(world: World, serve: Serve) -> None:
    fake = world.enclave(collateral=world.collateral())
    server = serve(fake)
    expected = world.manifest()
    with connect(world, server, manifest=expected) as enclave:
        world.clock.turn(DAY)
        with pytest.raises(CollateralNotCurrent):
            enclave.ask(SECRET)
    assert SECRET.encode() not in seen(server)


def test_an_enclave_that_started_anew_is_verified_and_asked_again(
    world: World, serve: Serve
) -> None:
    server = serve(world.enclave())
    with connect(world, server) as enclave:
        enclave.ask("one")
        first = enclave.verified
        server.restart(world.enclave())
        assert enclave.ask("two").text == TEXT
        assert enclave.verified.instance == server.enclave.instance != first.instance


def test_a_newcomer_that_is_bad_is_refused_by_tls_and_sees_nothing(
    world: World, serve: Serve
) -> None:
    server = serve(world.enclave())
    with connect(world, server) as enclave:
        server.restart(bad(world))
        with pytest.raises(WrongMeasurement):
            enclave.ask(SECRET)
    assert SECRET.encode() not in seen(server)
    assert API_KEY.encode() not in seen(server)


def test_a_fleet_behind_one_address_is_verified_one_by_one(world: World, serve: Serve) -> None:
    one, other = world.enclave(), world.enclave()
    server = serve(one)
    with connect(world, server) as enclave:
        for member in (other, one, other):
            server.restart(member)
            enclave.ask("who answers?")
    paths = [line.split(b" ")[1] for line in server.received]
    assert paths.count(b"/leasehold/evidence") == 2
    assert (len(one.asked), len(other.asked)) == (1, 2)


def test_a_stream_goes_on_while_a_newcomer_is_verified(world: World, serve: Serve) -> None:
    server = serve(world.enclave())
    with connect(world, server) as enclave:
        stream = iter(enclave.ask("Eggs?", stream=True))
        pieces = [next(stream)]
        server.enclave = world.enclave()
        assert enclave.ask("who answers?").text == TEXT
        assert (*pieces, *stream) == WORDS


def test_an_enclave_that_went_away(world: World, serve: Serve) -> None:
    server = serve(world.enclave())
    with connect(world, server) as enclave:
        server.__exit__()
        with pytest.raises(EnclaveUnreachable):
            enclave.ask("anybody?")


@pytest.mark.parametrize(
    "elsewhere",
    [
        lambda address: f"http://{address}/leasehold/budget",
        lambda address: f"https://localhost:{address.rpartition(':')[2]}/leasehold/budget",
        lambda _: "https://127.0.0.1/leasehold/budget",
    ],
)
def test_nothing_goes_elsewhere(
    world: World, serve: Serve, elsewhere: Callable[[str], str]
) -> None:
    server = serve(world.enclave())
    with (
        connect(world, server) as enclave,
        enclave.http_client() as client,
        pytest.raises(NotVerified),
    ):
        client.get(elsewhere(server.address))
    assert len(server.received) == 1


def test_the_environment_has_no_effect(
    world: World, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with connect(world, serve(world.enclave())) as enclave:
        assert enclave.ask("Eggs?").text == TEXT


def test_any_httpx2_client_works(world: World, serve: Serve) -> None:
    with connect(world, serve(world.enclave())) as enclave, enclave.http_client() as client:
        assert client.get("/leasehold/budget").json()["consumer"] == "alice"
        refused = client.get("/leasehold/receipts/none")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_endpoint")
        assert isinstance(client, httpx2.Client)


def test_a_manifest_comes_from_a_file(world: World, serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    with pytest.raises(FileTrouble):
        connect(world, serve(world.enclave()), manifest=path)
    path.write_bytes(world.manifest())
    with connect(world, serve(world.enclave()), manifest=str(path)) as enclave:
        assert enclave.verified.is_simulated


def test_a_custodian_that_is_known_better_counts(world: World, serve: Serve) -> None:
    server = serve(world.enclave())
    with pytest.raises(WrongCustodian):
        connect(world, server, custodian=SigningKey.make(world.entropy).public)
    assert server.received == []
