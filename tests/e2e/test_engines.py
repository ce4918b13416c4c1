"""The engines that compute on tokens, through all of it: sealed, lent, attested, asked, stopped.

What holds for all engines is shown with llama.cpp's; here is that each other one gets its own kind of
model through sealing, memory and the sandbox to an answer that is paid, receipted and stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import openai
import pytest
from demo.stage import free_port, wait_for
from openai.types.chat import ChatCompletionUserMessageParam as Turn

from e2e.house import READY_SECONDS, House
from leasehold.errors import LoanStopped

GRANTED = 10_000
Known = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Loan:
    """A loan whose enclave serves; its model and its consumer's grant are its own."""

    house: House
    name: str
    model: str
    who: str


@pytest.fixture(scope="module", params=["transformers", "openvino"])
def loan(house: House, request: pytest.FixtureRequest) -> Iterator[Loan]:
    """The language model of the repository in an engine's own form, served in the sandbox."""
    engine = request.param
    made = Loan(house, f"on-{engine}", f"tiny-{engine}", f"grace-of-{engine}")
    house.seal_folder(made.model, engine)
    house.ports[made.name] = free_port()
    house.lend(made.name, made.model, engine, cap=1_000_000)
    enclave = house.enclave(made.name, made.name)
    house.enrol(made.who, {made.name: GRANTED})
    ready = enclave.event("engine_ready", seconds=READY_SECONDS)
    assert "landlock" in [*ready["layers"], *ready["absent"]]
    enclave.event("serving", seconds=READY_SECONDS)
    yield made
    enclave.end()


def turn(question: str) -> list[Turn]:
    return [Turn(role="user", content=question)]


def test_answers_are_right_paid_and_receipted_and_a_stop_cuts_one(loan: Loan, known: Known) -> None:
    house = loan.house
    with house.connect(loan.name, loan.who) as enclave:
        client, spent = enclave.openai(), 0
        for question, answer in known[:3]:
            whole = client.chat.completions.create(
                model=loan.model, messages=turn(question), temperature=0
            )
            assert whole.choices[0].message.content == answer
            assert whole.choices[0].finish_reason == "stop"
            assert whole.usage is not None
            spent += whole.usage.total_tokens
        question, answer = known[3]
        asked = enclave.ask(question, temperature=0)
        assert asked.text == answer
        checked = enclave.receipt(asked)
        assert checked.receipt.loan == loan.name
        spent += checked.receipt.units
        held = client.completions.create(
            model=loan.model, prompt="a", extra_body={"grammar": 'start: "yes" | "no"'}
        )
        assert held.choices[0].text in ("yes", "no")
        assert held.usage is not None
        spent += held.usage.total_tokens
        spent += call_a_function(loan, client)
        wait_for(lambda: house.budgets(loan.name)[loan.who].settled == spent, "all of it settles")
        budget = house.budgets(loan.name)[loan.who]
        assert budget.available + budget.outstanding + budget.settled == GRANTED
        cut_in_mid_stream(loan, client)
    enclave_log = house.running[loan.name]
    assert enclave_log.event("stopping")["code"] == "loan_stopped"
    assert enclave_log.event("stopped")["bytes"] > 1_000_000
    with pytest.raises(LoanStopped):
        house.connect(loan.name, loan.who)


def call_a_function(loan: Loan, client: openai.OpenAI) -> int:
    """A call that is required, streamed piece by piece; gives what it cost."""
    days = {"type": "integer", "minimum": 1, "maximum": 9}
    parameters = {"type": "object", "properties": {"days": days}, "required": ["days"]}
    parameters["additionalProperties"] = False
    chunks = list(
        client.chat.completions.create(
            model=loan.model,
            messages=turn("How long is a lease?"),
            tools=[{"type": "function", "function": {"name": "extend", "parameters": parameters}}],
            tool_choice="required",
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[-1].finish_reason == "tool_calls"
    parts = [one.function for choice in choices for one in choice.delta.tool_calls or ()]
    assert [part.name for part in parts if part is not None and part.name] == ["extend"]
    arguments = json.loads("".join(part.arguments or "" for part in parts if part is not None))
    assert 1 <= arguments["days"] <= 9
    assert chunks[-1].usage is not None
    return chunks[-1].usage.total_tokens


def cut_in_mid_stream(loan: Loan, client: openai.OpenAI) -> None:
    """A stop of the loan ends an answer that is being written, and is proved."""

    def read() -> None:
        """Answers to no end: one may be over before the stop is there."""
        nonlocal pieces
        while True:
            stream = client.chat.completions.create(
                model=loan.model,
                messages=turn("Count from 1 to 200."),
                max_tokens=900,
                temperature=0,
                stream=True,
            )
            for chunk in stream:
                pieces += sum(bool(one.delta.content) for one in chunk.choices)

    pieces = 0
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(read)
        wait_for(lambda: pieces > 3 or reading.done(), "an answer that is being written")
        order = ("stop", "loan", loan.name, "--reason", "enough", "--wait", "--json")
        proved = json.loads(loan.house.operate(*order).out)
        with pytest.raises(openai.APIError) as cut:
            reading.result()
    assert cut.value.code == "loan_stopped"
    assert proved["proved"]
    assert proved["units"] == 0
