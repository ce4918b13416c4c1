"""OpenAI's own client, unchanged, on a pinned transport."""

from __future__ import annotations

import openai
import pytest

from consumer.conftest import Serve
from consumer.world import API_KEY, MODEL, OTHER_MEASUREMENT, WORDS, World
from leasehold.consumer.async_client import AsyncEnclave
from leasehold.consumer.client import Enclave
from leasehold.consumer.openai_client import EnclaveRefused
from leasehold.errors import BudgetExhausted, WrongMeasurement

TEXT = "".join(WORDS)
ASKED = [{"role": "user", "content": "How many eggs?"}]


def test_it_works_with_nothing_added(world: World, serve: Serve) -> None:
    server = serve(world.enclave())
    with Enclave.connect(
        server.address,
        manifest=world.manifest(),
        api_key=API_KEY,
        clock=world.clock,
        entropy=world.entropy,
    ) as enclave:
        client = enclave.openai()
        answer = client.chat.completions.create(model=MODEL, messages=ASKED)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == TEXT
        stream = client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)  # type: ignore[call-overload]
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(pieces) == TEXT
        vectors = client.embeddings.create(model=MODEL, input=["a", "b"], encoding_format="float")
        assert sorted(row.index for row in vectors.data) == [0, 1]


def test_a_restart_goes_unnoticed_and_an_impostor_gets_nothing(world: World, serve: Serve) -> None:
    server = serve(world.enclave())
    with Enclave.connect(
        server.address,
        manifest=world.manifest(),
        api_key=API_KEY,
        clock=world.clock,
        entropy=world.entropy,
    ) as enclave:
        client = enclave.openai()
        server.restart(world.enclave())
        answer = client.chat.completions.create(model=MODEL, messages=ASKED)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == TEXT
        server.restart(world.enclave(measurement=OTHER_MEASUREMENT))
        before = len(server.received)
        with pytest.raises(EnclaveRefused) as caught:
            client.chat.completions.create(model=MODEL, messages=ASKED)  # type: ignore[arg-type]
        assert isinstance(caught.value.cause, WrongMeasurement)
        assert isinstance(caught.value, openai.OpenAIError)
        assert "wrong_measurement" in str(caught.value)
        (after,) = server.received[before:]  # one nonce; the client did not try again
        assert after.startswith(b"POST /leasehold/evidence ")


def test_our_codes_reach_its_errors(world: World, serve: Serve) -> None:
    server = serve(world.enclave(refuses=BudgetExhausted()))
    with Enclave.connect(
        server.address,
        manifest=world.manifest(),
        api_key=API_KEY,
        clock=world.clock,
        entropy=world.entropy,
    ) as enclave:
        client = enclave.openai().with_options(max_retries=0)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model=MODEL, messages=ASKED)  # type: ignore[arg-type]
    assert caught.value.code == "insufficient_quota"


async def test_the_awaited_client(world: World, serve: Serve) -> None:
    server = serve(world.enclave())
    async with await AsyncEnclave.connect(
        server.address,
        manifest=world.manifest(),
        api_key=API_KEY,
        clock=world.clock,
        entropy=world.entropy,
    ) as enclave:
        client = enclave.openai()
        answer = await client.chat.completions.create(model=MODEL, messages=ASKED)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == TEXT
        server.restart(world.enclave(measurement=OTHER_MEASUREMENT))
        with pytest.raises(EnclaveRefused):
            await client.chat.completions.create(model=MODEL, messages=ASKED)  # type: ignore[arg-type]
