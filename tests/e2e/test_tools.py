"""Functions, schemas and probabilities, asked for by OpenAI's own package.

The model is nonsense, whose template knows functions: what it calls is what choice and schema hold it to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from demo.stage import free_port, wait_for
from models.random_gguf import random_gguf
from tests.worker.conftest import TOOLS_TEMPLATE

from e2e.conftest import CLINIC, MODELS
from e2e.house import READY_SECONDS, House
from leasehold.consumer.client import Enclave

LOAN = MODEL = "caller"
TARIFF = "input_token=1,output_token=1,logprob=3"
ASK: Any = [{"role": "user", "content": "hi"}]
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "halt"}},
]
WEATHER: Any = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house that lends this one model."""
    made = House(tmp_path_factory.mktemp("tools"))
    try:
        made.found()
        made.serve()
        folder = made.source / MODEL
        folder.mkdir(parents=True)
        random_gguf(folder / "model.gguf", size_bytes=2_000_000, template=TOOLS_TEMPLATE)
        made.operate("seal", folder, "--name", MODEL, "--engine", "llama")
        made.ports[LOAN] = free_port()
        made.lend(LOAN, MODEL, "llama", "--tariff", TARIFF, cap=1_000_000)
        made.enclave(LOAN, LOAN)
        made.enrol("alice", {LOAN: 100_000})
        made.running[LOAN].event("serving", seconds=READY_SECONDS)
        yield made
    finally:
        made.end()


@pytest.fixture
def client(lender: House) -> Iterator[openai.OpenAI]:
    """Alice at that model."""
    with lender.connect(LOAN, "alice") as enclave:
        yield enclave.openai()


@pytest.fixture
def clinic(house: House) -> Iterator[Enclave]:
    """Alice at a model and a loan that know nothing of all this."""
    with house.connect(CLINIC, "alice") as enclave:
        yield enclave


def _is_weather(arguments: str) -> bool:
    found = json.loads(arguments)
    return set(found) == {"city", "days"} and len(found["city"]) <= 6 and 1 <= found["days"] <= 9


def test_a_function_that_was_chosen_is_called_as_its_schema_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice=WEATHER, max_tokens=400
    )
    choice = whole.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "weather"
    assert _is_weather(call.function.arguments)
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 1


def test_some_function_is_called_where_one_must_be(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice="required", max_tokens=400
    )
    calls = whole.choices[0].message.tool_calls or []
    assert calls
    for call in calls:
        assert call.type == "function"
        assert call.function.name in ("weather", "halt")


def test_a_call_is_streamed_and_its_pieces_are_the_call(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice=WEATHER, max_tokens=400, stream=True
    )
    chunks = [chunk for chunk in stream if chunk.choices]
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]
    assert {part.index for part in parts} == {0}
    assert [bool(part.id) for part in parts] == [True] + [False] * (len(parts) - 1)
    functions = [part.function for part in parts if part.function is not None]
    assert [one.name for one in functions if one.name] == ["weather"]
    assert _is_weather("".join(one.arguments or "" for one in functions))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ""
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_where_none_may_be_called_none_is(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice="none", max_tokens=20
    )
    assert whole.choices[0].message.tool_calls is None
    assert whole.choices[0].finish_reason in ("stop", "length")


def test_a_conversation_goes_on_with_what_the_function_gave(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice=WEATHER, max_tokens=400
    )
    said = first.choices[0].message
    (call,) = said.tool_calls or ()
    earlier: Any = [
        *ASK,
        said.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    then = client.chat.completions.create(
        model=MODEL, messages=earlier, tools=TOOLS, tool_choice="auto", max_tokens=5
    )
    assert first.usage is not None
    assert then.usage is not None
    assert then.usage.prompt_tokens > first.usage.prompt_tokens


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        (TOOLS, {"type": "function", "function": {"name": "other"}}, "tool_choice"),
        ([{"type": "function", "function": {"name": "a", "parameters": 7}}], "auto", "parameters"),
        ([{"type": "custom", "custom": {"name": "a"}}], "auto", "tools"),
    ],
)
def test_what_no_function_can_be_is_refused(
    client: openai.OpenAI, tools: Any, choice: Any, said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client.chat.completions.create(
            model=MODEL, messages=ASK, tools=tools, tool_choice=choice, max_tokens=5
        )
    assert caught.value.code in ("invalid_request", "unsupported_parameter")


def test_a_model_without_functions_says_so(clinic: Enclave) -> None:
    with pytest.raises(openai.BadRequestError, match="tools") as caught:
        clinic.openai().chat.completions.create(
            model=MODELS[CLINIC], messages=ASK, tools=TOOLS, tool_choice="required"
        )
    assert caught.value.code == "unsupported_parameter"


def test_a_schema_that_cannot_be_kept_is_refused(clinic: Enclave) -> None:
    schema: Any = {"type": "object", "properties": {"x": {"type": "nonsense"}}, "required": ["x"]}
    with pytest.raises(openai.BadRequestError) as caught:
        clinic.openai().chat.completions.create(
            model=MODELS[CLINIC],
            messages=ASK,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )
    assert caught.value.code in ("invalid_request", "unsupported_parameter")


def test_probabilities_are_paid_where_they_are_priced(lender: House) -> None:
    lender.enrol("bob", {LOAN: 1_000})
    with lender.connect(LOAN, "bob") as enclave:
        whole = enclave.openai().chat.completions.create(
            model=MODEL, messages=ASK, logprobs=True, top_logprobs=2, max_tokens=4
        )
    told = whole.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert whole.usage is not None
    assert 0 < len(told.content) <= whole.usage.completion_tokens
    assert {len(one.top_logprobs) for one in told.content} == {2}
    for one in told.content:
        assert one.logprob <= 0
        assert one.top_logprobs[0].logprob >= one.top_logprobs[1].logprob
    paid = (
        whole.usage.total_tokens + 3 * 3 * whole.usage.completion_tokens
    )  # whether it came or not
    wait_for(lambda: lender.budgets(LOAN)["bob"].settled == paid, "all of it settles")


def test_probabilities_are_refused_where_they_have_no_price(clinic: Enclave) -> None:
    with pytest.raises(openai.BadRequestError, match="logprobs") as caught:
        clinic.openai().chat.completions.create(model=MODELS[CLINIC], messages=ASK, logprobs=True)
    assert caught.value.code == "unsupported_parameter"
