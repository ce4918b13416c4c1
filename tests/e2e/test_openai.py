"""OpenAI's own package, as it is installed, against real enclaves; and clients that know nothing of it."""

from __future__ import annotations

import http.client
import json
import math
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
import openai
import pytest
from demo.stage import wait_for
from openai.types.chat import ChatCompletionChunk
from openai.types.chat import ChatCompletionUserMessageParam as Turn

from e2e.conftest import CLINIC, MODELS, SEARCH
from e2e.house import House
from leasehold.consumer.async_client import AsyncEnclave
from leasehold.consumer.client import Enclave
from leasehold.net.certificates import ENCLAVE_NAME
from leasehold.net.tls import pinned_context

Known = list[tuple[str, str]]
Reference = list[tuple[str, list[float]]]
LIKENESS_MIN = 0.999
CHARS_MAX = 1000  # the one text that is longer has more than 256 tokens; the makers' code cuts it
USES_TINY, USES_MINILM = MODELS[CLINIC], MODELS[SEARCH]


@dataclass(slots=True)
class Plain:
    """The client of somebody who has only the enclave's certificate; `sent` are its requests."""

    client: openai.OpenAI
    sent: list[httpx2.Request] = field(default_factory=list)


@contextmanager
def plain(house: House, loan: str, who: str) -> Iterator[Plain]:
    """`openai.OpenAI` with nothing of Leasehold below it but the verified certificate."""
    with house.connect(loan, who) as enclave:
        certificate = enclave.verified.certificate
    sent: list[httpx2.Request] = []
    with httpx2.Client(
        verify=pinned_context([certificate]), event_hooks={"request": [sent.append]}
    ) as below:
        base = f"https://127.0.0.1:{house.ports[loan]}/v1"
        yield Plain(openai.OpenAI(api_key=house.keys[who], base_url=base, http_client=below), sent)


def turn(question: str) -> list[Turn]:
    """A conversation of one question."""
    return [Turn(role="user", content=question)]


def likeness(one: list[float], other: list[float]) -> float:
    """The cosine."""
    product = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(math.fsum(a * a for a in one) * math.fsum(b * b for b in other))


@pytest.fixture
def clinic(house: House) -> Iterator[Enclave]:
    """Alice at the language model."""
    with house.connect(CLINIC, "alice") as enclave:
        yield enclave


@pytest.fixture
def search(house: House) -> Iterator[Enclave]:
    """Alice at the sentence encoder."""
    with house.connect(SEARCH, "alice") as enclave:
        yield enclave


# Right answers ---------------------------------------------------------------------------------------


def test_chat_answers_are_right_and_counted(clinic: Enclave, known: Known) -> None:
    client = clinic.openai()
    for question, answer in known:
        whole = client.chat.completions.create(
            model=USES_TINY, messages=turn(question), temperature=0
        )
        assert whole.choices[0].message.content == answer
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage is not None
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        assert min(whole.usage.prompt_tokens, whole.usage.completion_tokens) > 0


def test_a_stream_is_the_same_answer_and_ends_with_its_usage(clinic: Enclave, known: Known) -> None:
    client = clinic.openai()
    question, answer = known[0]
    stream = client.chat.completions.create(
        model=USES_TINY,
        messages=turn(question),
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == answer
    assert len([piece for piece in pieces if piece]) > 1
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "stop"
    assert set(reasons[:-1]) == {None}
    whole = client.chat.completions.create(model=USES_TINY, messages=turn(question), temperature=0)
    assert chunks[-1].usage == whole.usage
    assert [chunk for chunk in chunks[:-1] if chunk.usage is not None] == []


def test_text_completions(clinic: Enclave) -> None:
    client = clinic.openai()
    whole = client.completions.create(
        model=USES_TINY, prompt="A lease moves units", max_tokens=5, temperature=0
    )
    stream = client.completions.create(
        model=USES_TINY, prompt="A lease moves units", max_tokens=5, temperature=0, stream=True
    )
    text = whole.choices[0].text
    assert text
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == text
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 5
    assert whole.choices[0].finish_reason == "length"


def test_answers_are_held_to_a_schema_and_to_a_grammar(clinic: Enclave) -> None:
    client = clinic.openai()
    properties = {"x": {"enum": [7]}}
    schema = {"type": "object", "properties": properties, "required": ["x"]}
    schema["additionalProperties"] = False
    held = client.chat.completions.create(
        model=USES_TINY,
        messages=turn("What is a lease?"),
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert json.loads(held.choices[0].message.content or "")["x"] == 7
    written = client.completions.create(
        model=USES_TINY, prompt="a", extra_body={"grammar": 'start: "yes" | "no"'}
    )
    assert written.choices[0].text in ("yes", "no")
    with pytest.raises(openai.BadRequestError, match="not what this endpoint"):
        client.completions.create(model=USES_TINY, prompt="a", extra_body={"grammar": "start: ("})
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        client.chat.completions.create(model=USES_TINY, messages=turn("a"), logprobs=True)


def test_vectors_are_the_reference_s_in_both_encodings(
    search: Enclave, reference: Reference
) -> None:
    client = search.openai()
    short = [row for row in reference if len(row[0]) < CHARS_MAX]
    assert len(short) == len(reference) - 1
    texts = [text for text, _ in short]
    by_default = client.embeddings.create(model=USES_MINILM, input=texts)
    as_floats = client.embeddings.create(model=USES_MINILM, input=texts, encoding_format="float")
    for answer in (by_default, as_floats):
        assert [row.index for row in answer.data] == list(range(len(texts)))
        for row, (_, expected) in zip(answer.data, short, strict=True):
            assert likeness(row.embedding, expected) > LIKENESS_MIN
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(texts)
    # The two encodings carry the same float32 numbers.
    for one, other in zip(by_default.data, as_floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, rel=1e-6, abs=1e-9)


def test_a_text_that_is_too_long_is_refused_and_not_cut(
    search: Enclave, reference: Reference
) -> None:
    (text,) = [text for text, _ in reference if len(text) >= CHARS_MAX]
    with pytest.raises(openai.BadRequestError) as caught:
        search.openai().embeddings.create(model=USES_MINILM, input=text)
    assert caught.value.code == "context_length_exceeded"


def test_models_are_listed(clinic: Enclave, search: Enclave) -> None:
    for enclave, name in ((clinic, USES_TINY), (search, USES_MINILM)):
        (model,) = enclave.openai().models.list().data
        assert (model.id, model.object) == (name, "model")
        assert model.model_dump()["leasehold_digest"] == enclave.verified.model_digest


async def test_the_asynchronous_client_does_the_same(
    house: House, known: Known, reference: Reference
) -> None:
    async with await AsyncEnclave.connect(
        f"127.0.0.1:{house.ports[CLINIC]}",
        manifest=house.manifest(CLINIC),
        api_key=house.keys["alice"],
    ) as enclave:
        client = enclave.openai()
        question, answer = known[1]
        whole = await client.chat.completions.create(
            model=USES_TINY, messages=turn(question), temperature=0
        )
        assert whole.choices[0].message.content == answer
        stream = await client.chat.completions.create(
            model=USES_TINY, messages=turn(question), temperature=0, stream=True
        )
        pieces = [one.choices[0].delta.content or "" async for one in stream if one.choices]
        assert "".join(pieces) == answer
        assert [model.id async for model in client.models.list()] == [USES_TINY]
    async with await AsyncEnclave.connect(
        f"127.0.0.1:{house.ports[SEARCH]}",
        manifest=house.manifest(SEARCH),
        api_key=house.keys["alice"],
    ) as enclave:
        text, expected = reference[0]
        found = await enclave.openai().embeddings.create(model=USES_MINILM, input=text)
        assert likeness(found.data[0].embedding, expected) > LIKENESS_MIN


# Clients without Leasehold ---------------------------------------------------------------------------


def test_a_client_that_knows_the_certificate_needs_nothing_else(house: House, known: Known) -> None:
    question, answer = known[2]
    with plain(house, CLINIC, "alice") as mine:
        whole = mine.client.chat.completions.create(
            model=USES_TINY, messages=turn(question), temperature=0
        )
        assert whole.choices[0].message.content == answer
        stream = mine.client.chat.completions.create(
            model=USES_TINY, messages=turn(question), temperature=0, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(pieces) == answer


def test_the_standard_library_with_the_certificate_as_its_only_authority(
    house: House, known: Known
) -> None:
    """What `curl --cacert enclave.pem --connect-to enclave.leasehold::HOST:PORT` does."""
    question, answer = known[3]
    with house.connect(CLINIC, "alice") as enclave:
        certificate = enclave.verified.certificate
    body = json.dumps({"model": USES_TINY, "messages": turn(question), "temperature": 0})
    status, said = _ask(house, CLINIC, certificate, body)
    assert status == 200
    assert said["choices"][0]["message"]["content"] == answer
    with pytest.raises(ssl.SSLCertVerificationError):  # the certificate of one is no other's
        _ask(house, SEARCH, certificate, body)


def _ask(
    house: House, loan: str, certificate: str, body: str
) -> tuple[int, dict[str, list[dict[str, dict[str, str]]]]]:
    context = ssl.create_default_context(cadata=certificate)
    address = ("127.0.0.1", house.ports[loan])
    connection = http.client.HTTPSConnection(ENCLAVE_NAME, context=context)
    with (
        socket.create_connection(address, 30) as wire,
        context.wrap_socket(wire, server_hostname=ENCLAVE_NAME) as connection.sock,
    ):
        headers = {
            "Authorization": f"Bearer {house.keys['alice']}",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


# The end of it ---------------------------------------------------------------------------------------


def test_the_end_of_a_budget_is_a_rate_limit_error_and_is_not_tried_again(house: House) -> None:
    house.enrol("erin", {CLINIC: 60})
    with plain(house, CLINIC, "erin") as mine:
        ask = mine.client.chat.completions.create
        long = ask(model=USES_TINY, messages=turn("Count from 1 to 200."), max_tokens=500)
        assert long.choices[0].finish_reason == "length"
        assert long.model_dump()["leasehold_code"] == "insufficient_quota"
        assert long.usage is not None
        assert long.usage.total_tokens == 60
        before = len(mine.sent)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(model=USES_TINY, messages=turn("And now?"))
        assert caught.value.code == "insufficient_quota"
        assert caught.value.status_code == 429
        assert len(mine.sent) == before + 1
    with house.connect(CLINIC, "erin") as enclave, pytest.raises(openai.RateLimitError) as caught:
        enclave.openai().chat.completions.create(model=USES_TINY, messages=turn("And now?"))
    assert caught.value.code == "insufficient_quota"
    wait_for(lambda: house.budgets(CLINIC)["erin"].settled == 60, "all of it settles")
    assert house.budgets(CLINIC)["erin"].available == 0


def _read_for_ever(client: openai.OpenAI, stream: openai.Stream[ChatCompletionChunk]) -> None:
    while True:
        for chunk in stream:
            assert not chunk.choices or chunk.choices[0].finish_reason in (None, "length", "stop")
        stream = client.chat.completions.create(
            model=USES_TINY, messages=turn("Count from 1 to 200."), max_tokens=900, stream=True
        )


def test_a_stopped_consumer_is_refused_for_good_and_the_others_are_not(
    house: House, clinic: Enclave, known: Known
) -> None:
    house.enrol("frank", {CLINIC: 10_000})
    question, answer = known[4]
    with plain(house, CLINIC, "frank") as mine, ThreadPoolExecutor(1) as beside:
        ask = mine.client.chat.completions.create
        stream = ask(
            model=USES_TINY, messages=turn("Count from 1 to 200."), max_tokens=900, stream=True
        )
        assert next(stream).choices
        stopping = beside.submit(
            house.operate, *("stop", "consumer", "frank", "--reason", "left us", "--wait")
        )
        with pytest.raises(openai.APIError) as cut:  # the stream's last event says why it ends
            _read_for_ever(mine.client, stream)
        assert cut.value.code == "loan_stopped"
        assert "complete" in stopping.result().out
        before = len(mine.sent)
        with pytest.raises(openai.PermissionDeniedError) as caught:
            ask(model=USES_TINY, messages=turn(question))
        assert caught.value.code == "loan_stopped"
        assert caught.value.status_code == 403
        assert len(mine.sent) == before + 1
    whole = clinic.openai().chat.completions.create(
        model=USES_TINY, messages=turn(question), temperature=0
    )
    assert whole.choices[0].message.content == answer
