"""OpenAI's fields: what holds an answer, functions, probabilities, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from leasehold.core import frames
from leasehold.core.crypto import sha256
from leasehold.core.frames import Tools
from leasehold.core.tariff import PER_TOKEN, Tariff
from leasehold.core.units import Units
from leasehold.enclave import openai
from leasehold.enclave.claims import floor
from leasehold.errors import BadRequest, UnsupportedParameter
from leasehold.testing.time import run_simulated
from leasehold.testing.world import MODEL, Box, Consumer, World

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "one two <end>"}]}
TEXT: dict[str, Any] = {"model": MODEL, "prompt": "one two <end>"}
COUNT = {
    "type": "function",
    "function": {"name": "count", "description": "Counts.", "parameters": {"type": "object"}},
}
OTHER = {"type": "function", "function": {"name": "other"}}
FORCED = {"type": "function", "function": {"name": "count"}}
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
PRICED = Tariff(input_token=1, output_token=1, logprob=3)
Story = Callable[[World, Box, Consumer], Awaitable[None]]


def played(story: Story, *, tariff: Tariff = PER_TOKEN, units: int = 1000) -> None:
    """Run a story with one serving enclave and one consumer."""

    async def run() -> None:
        world = await World.make(tariff=tariff)
        box = await world.enclave().serving()
        await story(world, box, await world.consumer("alice", units))
        await world.check_books()
        await world.end()

    run_simulated(run)


def chat(**more: Any) -> openai.Generation:
    """A parsed chat request."""
    return openai.parse_chat(json.dumps(CHAT | more).encode())


def tools(**more: Any) -> Tools | None:
    """The functions of a parsed chat request."""
    prompt = chat(**more).prompt
    assert isinstance(prompt, frames.Chat)
    return prompt.tools


# What is read ----------------------------------------------------------------------------------------


def test_formats_become_schemas() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    assert json.loads(chat(response_format=wanted).sampling.json_schema) == SCHEMA
    any_object = chat(response_format={"type": "json_object"}).sampling.json_schema
    assert json.loads(any_object) == {"type": "object"}
    assert chat(response_format={"type": "text"}).sampling.json_schema == ""
    assert chat(grammar='start: "a"').sampling.grammar == 'start: "a"'
    text = openai.parse_text(json.dumps(TEXT | {"grammar": 'start: "a"'}).encode())
    assert text.sampling.grammar == 'start: "a"'


def test_choices_become_forced_names() -> None:
    both = [COUNT, OTHER]
    found = tools(tools=both)
    assert found is not None
    assert json.loads(found.described) == both
    assert (found.forced, found.several) == ((), True)
    cases = {"auto": (), "required": ("count", "other")}
    for choice, forced in cases.items():
        found = tools(tools=both, tool_choice=choice, parallel_tool_calls=False)
        assert found is not None
        assert (found.forced, found.several) == (forced, False)
    found = tools(tools=both, tool_choice=FORCED)
    assert found is not None
    assert found.forced == ("count",)
    assert tools(tools=both, tool_choice="none") is None
    assert tools(tools=[]) is None


def test_earlier_calls_and_answers_are_read_and_are_input() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "count", "arguments": "{}"}}
    turns = [
        *CHAT["messages"],
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    prompt = chat(messages=turns, tools=[COUNT]).prompt
    assert isinstance(prompt, frames.Chat)
    assert prompt.messages[1].calls == (frames.Call("c1", "count", "{}"),)
    assert prompt.messages[2].answers == "c1"
    described = len(prompt.tools.described) if prompt.tools is not None else 0
    said = len("one two <end>" + "count" + "{}" + "2")
    assert floor(prompt, 1) == said + described


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_object"}, "grammar": 'start: "a"'}, "one that holds"),
        ({"tools": [COUNT], "tool_choice": "required", "grammar": "x"}, "one that holds"),
        ({"tools": [COUNT, COUNT]}, "different names"),
        ({"tools": [OTHER], "tool_choice": FORCED}, "one of the tools"),
        ({"tool_choice": "required"}, "one of the tools"),
        ({"tool_choice": "auto"}, "one of the tools"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "name"),
        ({"tools": [{"type": "web_search"}]}, "type"),
        ({"top_logprobs": 3}, "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": None}]}, "content"),
        ({"messages": [{"role": "user", "content": "a", "tool_call_id": "x"}]}, "tool_call_id"),
        ({"grammar": "x" * (65_537)}, "grammar"),
    ],
)
def test_what_does_not_fit_together_is_named(more: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        chat(**more)


def test_calls_are_the_assistants() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "count", "arguments": "{}"}}
    with pytest.raises(BadRequest, match="tool_calls"):
        chat(messages=[{"role": "user", "content": "a", "tool_calls": [call]}])


@pytest.mark.parametrize(
    "field",
    [
        *("logit_bias", "best_of", "echo", "suffix", "functions", "function_call", "store"),
        *("metadata", "modalities", "audio", "prediction", "reasoning_effort", "service_tier"),
        *("web_search_options", "verbosity", "top_k", "min_p", "extra"),
    ],
)
def test_what_is_not_done_is_refused_by_name(field: str) -> None:
    for parse, body in ((openai.parse_chat, CHAT), (openai.parse_text, TEXT)):
        with pytest.raises(UnsupportedParameter, match=field):
            parse(json.dumps(body | {field: {}}).encode())


def test_a_text_is_one_and_has_no_probabilities() -> None:
    for prompt in (["a", "b"], [[1, 2], [3]], ["a", 1], [[1], "a"]):
        with pytest.raises(UnsupportedParameter, match="several prompts"):
            openai.parse_text(json.dumps(TEXT | {"prompt": prompt}).encode())
    for field in ("logprobs", "tools", "response_format"):
        with pytest.raises(UnsupportedParameter, match=field):
            openai.parse_text(json.dumps(TEXT | {field: 1}).encode())
    for ids in ([1, 2], [[1, 2]]):
        found = openai.parse_text(json.dumps(TEXT | {"prompt": ids}).encode())
        assert found.prompt == frames.Tokens((1, 2))
    for prompt in ([], [[]], [-1], [1 << 31]):
        with pytest.raises(BadRequest):
            openai.parse_text(json.dumps(TEXT | {"prompt": prompt}).encode())


def test_embeddings_are_of_texts_and_as_the_model_makes_them() -> None:
    for more, name in (
        ({"input": [1, 2]}, "token ids"),
        ({"input": [[1], [2]]}, "token ids"),
        ({"input": ["a", 2]}, "token ids"),
        ({"input": "a", "dimensions": 8}, "dimensions"),
    ):
        with pytest.raises(UnsupportedParameter, match=name):
            openai.parse_embedding(json.dumps({"model": MODEL} | more).encode())


# At the door -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"grammar": 'start: "a"'}, "grammar"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_what_model_or_loan_does_not_allow_costs_nothing(more: dict[str, Any], name: str) -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, "POST", "/v1/chat/completions", CHAT | more)
        assert (answer.status, answer.code) == (400, "unsupported_parameter")
        assert f"About: {name}." in answer.json()["error"]["message"]
        assert (await world.budget("alice")).budget.available == 1000

    played(story)


def test_a_forced_call_is_answered_whole() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = CHAT | {"tools": [COUNT], "tool_choice": "required"}
        answer = await alice.call(box, "POST", "/v1/chat/completions", body)
        found = ChatCompletion.model_validate(answer.json())
        choice = found.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        assert call.type == "function"
        assert call.function.name == "count"
        assert json.loads(call.function.arguments)["words"] > 0
        assert call.id.startswith("call_")
        assert found.usage is not None
        assert found.usage.completion_tokens == 4

    played(story)


def test_a_forced_call_is_streamed_piece_by_piece() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = CHAT | {"tools": [COUNT], "tool_choice": FORCED, "stream": True}
        answer = await alice.call(box, "POST", "/v1/chat/completions", body)
        chunks = [ChatCompletionChunk.model_validate(event) for event in answer.events()]
        parts = [part for one in chunks for part in one.choices[0].delta.tool_calls or ()]
        assert [part.index for part in parts] == [0, 0, 0, 0]
        assert [bool(part.id) for part in parts] == [True, False, False, False]
        names = [part.function.name for part in parts if part.function is not None]
        assert names == ["count", None, None, None]
        arguments = "".join(p.function.arguments or "" for p in parts if p.function is not None)
        assert json.loads(arguments)["words"] > 0
        assert chunks[-1].choices[0].finish_reason == "tool_calls"

    played(story)


def test_calls_are_paid_by_token() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = CHAT | {"tools": [COUNT], "tool_choice": "required"}
        whole = await alice.call(box, "POST", "/v1/chat/completions", body)
        usage = whole.json()["usage"]
        assert box.enclave.meter.spent(sha256(alice.key.encode())) == usage["total_tokens"]

    played(story)


def test_probabilities_are_told_where_they_are_priced_and_are_paid() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        for top, prices in ((None, 1), (0, 1), (4, 5)):
            before = box.enclave.meter.spent(sha256(alice.key.encode()))
            more = {} if top is None else {"top_logprobs": top}
            body = CHAT | {"logprobs": True} | more
            answer = await alice.call(box, "POST", "/v1/chat/completions", body)
            found = ChatCompletion.model_validate(answer.json())
            logprobs = found.choices[0].logprobs
            assert logprobs is not None
            assert logprobs.content is not None
            assert [one.token for one in logprobs.content] == ["one", " two"]
            assert {len(one.top_logprobs) for one in logprobs.content} == {prices - 1}
            assert logprobs.content[0].bytes == list(b"one")
            assert logprobs.content[0].logprob == -0.5
            assert found.usage is not None
            spent = box.enclave.meter.spent(sha256(alice.key.encode())) - before
            assert spent == found.usage.total_tokens + 2 * prices * 3

    played(story, tariff=PRICED)


def test_probabilities_are_streamed_with_their_tokens() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = CHAT | {"logprobs": True, "top_logprobs": 1, "stream": True}
        answer = await alice.call(box, "POST", "/v1/chat/completions", body)
        chunks = [ChatCompletionChunk.model_validate(event) for event in answer.events()]
        rows = [
            row for one in chunks if (told := one.choices[0].logprobs) for row in told.content or ()
        ]
        assert [row.token for row in rows] == ["one", " two"]

    played(story, tariff=PRICED)


def test_with_a_small_budget_probabilities_end_the_answer_sooner() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        body = CHAT | {
            "messages": [{"role": "user", "content": "one two"}],
            "logprobs": True,
            "top_logprobs": 4,
        }
        answer = await alice.call(box, "POST", "/v1/chat/completions", body)
        found = answer.json()
        assert found["choices"][0]["finish_reason"] == "length"
        assert found["leasehold_code"] == "insufficient_quota"
        assert found["usage"]["completion_tokens"] == 6  # 16 units each, of 98

    played(story, tariff=PRICED, units=100)


def test_a_text_completion_is_openais() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        answer = await alice.call(box, "POST", "/v1/completions", TEXT)
        assert Completion.model_validate(answer.json()).choices[0].text == "one two"

    played(story)


def test_work_for_output_counts_its_probabilities() -> None:
    assert PRICED.cost(chat(logprobs=True, top_logprobs=2).output(10)) == Units(10 + 10 * 3 * 3)
    assert PRICED.cost(chat().output(10)) == Units(10)


def test_a_model_that_embeds_nothing_says_so_before_anything_is_held() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        able = tuple(one for one in box.host.loaded.capabilities if one != "embed")
        box.host._loaded = msgspec.structs.replace(box.host.loaded, capabilities=able)
        body = {"model": MODEL, "input": "lease"}
        answer = await alice.call(box, "POST", "/v1/embeddings", body)
        assert (answer.status, answer.code) == (400, "unsupported_parameter")
        assert "embeddings" in answer.json()["error"]["message"]
        assert box.enclave.meter.purse(sha256(alice.key.encode())) is None

    played(story)


# What an input costs, once it is counted --------------------------------------------------------------


def test_an_input_that_is_more_than_was_guessed_begins_once_it_is_paid() -> None:
    async def story(world: World, box: Box, alice: Consumer) -> None:
        asked: list[int] = []
        generate = box.host.generate

        def watched(*given: Any, **more: Any) -> Any:
            asked.append(more["input_max"])
            return generate(*given, **more)

        box.host.generate = watched  # type: ignore[method-assign]
        prompt = {"prompt": "a " * 399 + "<end>"}  # 400 tokens, of two bytes each
        answer = await alice.call(box, "POST", "/v1/completions", TEXT | prompt | {"max_tokens": 4})
        found = Completion.model_validate(answer.json())
        assert found.usage is not None
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (400, 4)
        guess = (
            len(prompt["prompt"]) // 3 + 1
        )  # and a block of 64 for output, of which one token is kept
        assert asked == [guess + 63, 0]

        asked.clear()
        answer = await alice.call(box, "POST", "/v1/completions", TEXT)
        assert answer.status == 200
        assert len(asked) == 1  # what was guessed was enough

        asked.clear()
        prompt = {"prompt": "a " * 700 + "<end>"}  # guessed at about 470; she has 594 left
        answer = await alice.call(box, "POST", "/v1/completions", TEXT | prompt)
        assert (answer.status, answer.code) == (429, "insufficient_quota")
        assert len(asked) == 1  # nothing began
        assert asked[0] < 700

    played(story)
