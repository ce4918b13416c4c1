"""W-14, W-16: calls of functions, grammars and probabilities, of every engine that declares them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.worker.conftest import InMemory, Model, engine_named, make_caller

from leasehold.core.frames import Call as Called
from leasehold.core.frames import (
    CallPart,
    Capability,
    Chat,
    Done,
    Generate,
    Loaded,
    Message,
    Prob,
    Reason,
    Role,
    Sampling,
    Settings,
    Text,
    Tools,
)
from leasehold.enclave import memory
from leasehold.errors import BadRequest
from leasehold.worker.calls import HEAD_CHARS_MAX, Calls
from leasehold.worker.engine import Engine

CITY = {"type": "string", "maxLength": 6}
WEATHER = {
    "type": "object",
    "properties": {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FUNCTIONS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "stop"}},
]
DESCRIBED = json.dumps(FUNCTIONS)
ASK = (Message(Role.USER, "hi"),)


@dataclass(slots=True)
class Said:
    """What an engine emitted."""

    most: int = 1 << 30
    text: str = ""
    tokens: int = 0
    calls: dict[int, list[str]] = field(default_factory=dict)
    rows: list[tuple[Prob, ...]] = field(default_factory=list)
    pieces: int = 0

    def __call__(
        self,
        text: str,
        count: int,
        calls: tuple[CallPart, ...] = (),
        probs: tuple[tuple[Prob, ...], ...] = (),
        /,
    ) -> bool:
        assert count or not (text or calls or probs)
        self.text += text
        self.tokens += count
        self.rows += probs
        self.pieces += bool(calls)
        for part in calls:
            call = self.calls.setdefault(part.index, ["", ""])
            call[0] += part.name
            call[1] += part.arguments
        return self.tokens < self.most


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine and what it said of itself."""

    engine: Engine
    loaded: Loaded

    def chat(
        self, said: Said, tools: Tools | None = None, tokens: int = 400, **how: object
    ) -> Done:
        """Generate with a chat of one turn."""
        sampling = Sampling(seed=5, **how)  # type: ignore[arg-type]
        return self.engine.generate(Generate(1, Chat(ASK, tools), tokens, sampling), said)


CALLERS = ("llama", "transformers", "openvino")


@pytest.fixture(scope="module", params=CALLERS)
def subject(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Subject]:
    """An engine with a model whose template knows functions."""
    files = []
    for name, data in make_caller(request.param, tmp_path_factory.mktemp("caller")).files.items():
        files.append(memory.create(name, len(data)))
        memory.write(files[-1], data, 0)
    engine = engine_named(request.param)
    settings = Settings(context_tokens=2048, slots=2, threads=2, seed=7)
    yield Subject(engine, engine.load(files, settings))
    del engine
    for file in files:
        memory.shred(file)


# Reading ---------------------------------------------------------------------------------------------


def read(pieces: list[str], *, several: bool = True) -> tuple[str, dict[int, list[str]]]:
    """What the reader makes of pieces."""
    reader, said = Calls(several=several), Said()
    for piece in pieces:
        text, parts = reader.feed(piece)
        said(text, 1, parts)
    text, parts = reader.finish()
    said(text, 1, parts)
    return said.text, said.calls


def tagged(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


TRICKY = json.dumps({"a": 'quote " brace } \\', "b": [{"c": "]</tool_call>{"}], "d": "ä\n"})
WHOLE = {
    "hello": ("hello", {}),
    tagged("f", "{}"): ("", {0: ["f", "{}"]}),
    f"before {tagged('f', TRICKY)}": ("before ", {0: ["f", TRICKY]}),
    f"{tagged('f', TRICKY)}\n{tagged('g', '{}')} after": (
        "after",
        {0: ["f", TRICKY], 1: ["g", "{}"]},
    ),
    "a <tool_c": ("a <tool_c", {}),
    "a < b <tool_call": ("a < b <tool_call", {}),
    "<tool_call>no call</tool_call> x": ("<tool_call>no call</tool_call> x", {}),
    '<tool_call>{"name": "f"': ('<tool_call>{"name": "f"', {}),
    "<tool_call>" + "x" * (HEAD_CHARS_MAX + 9): ("<tool_call>" + "x" * (HEAD_CHARS_MAX + 9), {}),
    '<tool_call>{"name": "f", "parameters": {"x": [': ("", {0: ["f", '{"x": [']}),
    '<tool_call>{"name":"f","arguments":{"x":"\\': ("", {0: ["f", '{"x":"\\']}),
}


@pytest.mark.parametrize("text", WHOLE, ids=range(len(WHOLE)))
def test_calls_are_read_out_of_text(text: str) -> None:
    assert read([text]) == WHOLE[text]
    assert read(list(text)) == WHOLE[text]


@given(st.sampled_from(list(WHOLE)), st.lists(st.integers(0, 200), max_size=8))
def test_where_the_pieces_are_cut_changes_nothing(text: str, cuts: list[int]) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert read(pieces) == WHOLE[text]


@given(st.lists(st.sampled_from(['"', "\\", "{", "}", "[", "a", "<tool_call>", "</tool_call>"])))
def test_nothing_that_a_model_says_breaks_the_reader(pieces: list[str]) -> None:
    start = ['<tool_call>{"name": "f", "arguments": {']
    assert read(pieces) == read(["".join(pieces)])
    assert read(start + pieces) == read(["".join(start + pieces)])


# Forcing ---------------------------------------------------------------------------------------------


def test_only_a_template_that_describes_functions_declares_them(
    subject: Subject, nonsense: Model, nonsense_folder: Model, tiny_ir: Model, in_memory: InMemory
) -> None:
    assert Capability.TOOLS in subject.loaded.capabilities
    for model in (nonsense, nonsense_folder, tiny_ir):
        plain = engine_named(model.engine).load(model.in_memory(in_memory), Settings(threads=1))
        assert Capability.TOOLS not in plain.capabilities


@pytest.mark.parametrize("forced", [("weather",), ("stop",), ("weather", "stop")])
def test_a_forced_call_is_made_whole_and_every_token_is_counted(
    subject: Subject, forced: tuple[str, ...]
) -> None:
    said = Said()
    done = subject.chat(said, Tools(DESCRIBED, forced), tokens=1500)
    assert list(said.calls) == [0]
    assert said.text == ""
    name, arguments = said.calls[0]
    assert name in forced
    assert done.output_tokens == said.tokens
    assert done.input_tokens == subject.engine.count(Chat(ASK, Tools(DESCRIBED)))
    if done.reason is Reason.TOOL_CALLS:
        json.loads(arguments)
    else:
        assert done.reason is Reason.LENGTH  # any object: nonsense finds no end
    if forced == ("weather",):
        assert done.reason is Reason.TOOL_CALLS
        assert 1 <= json.loads(arguments)["days"] <= 9
        assert said.pieces > 5  # it streams


def test_a_call_that_is_not_forced_is_read_too(subject: Subject) -> None:
    rules = f"start: {json.dumps('x' + tagged('weather', '{}') + tagged('stop', '{}'))}"
    said = Said()
    done = subject.chat(said, Tools(DESCRIBED), grammar=rules)
    assert (said.text, said.calls) == ("x", {0: ["weather", "{}"], 1: ["stop", "{}"]})
    assert (done.reason, done.output_tokens) == (Reason.TOOL_CALLS, said.tokens)

    one = Said()
    done = subject.chat(one, Tools(DESCRIBED, several=False), grammar=rules)
    assert one.calls == {0: ["weather", "{}"]}
    assert (done.reason, done.output_tokens) == (Reason.TOOL_CALLS, one.tokens)
    assert one.tokens < said.tokens


def test_text_that_only_begins_like_a_call_is_text(subject: Subject) -> None:
    for text in ("a <tool_c", "<tool_call> b"):
        said = Said()
        rules = f"start: {json.dumps(text)}"
        done = subject.chat(said, Tools(DESCRIBED), grammar=rules)
        assert (said.text, said.calls) == (text, {})
        assert (done.reason, done.output_tokens) == (Reason.STOP, said.tokens)


@pytest.mark.parametrize("most", [0, 1, 5, 40, 70])
def test_stopped_in_the_middle_of_a_call_the_counts_agree(subject: Subject, most: int) -> None:
    said = Said(most=most)
    done = subject.chat(said, Tools(DESCRIBED, ("weather",)))
    assert done.reason is Reason.CANCELLED
    assert done.output_tokens == said.tokens


def test_calls_and_answers_of_earlier_turns_are_in_the_prompt(subject: Subject) -> None:
    calls = (Called("c1", "weather", '{"city": "Oslo"}'),)
    turns = (*ASK, Message(Role.ASSISTANT, "", calls), Message(Role.TOOL, "rain", answers="c1"))
    with_them = Chat(turns, Tools(DESCRIBED))
    assert subject.engine.count(with_them) > subject.engine.count(Chat(ASK, Tools(DESCRIBED))) + 30


@pytest.mark.parametrize(
    "parameters",
    [{"type": "string"}, {"type": "object", "properties": {"x": {"type": "nothing"}}}],
)
def test_parameters_that_cannot_be_enforced_are_the_callers_fault(
    subject: Subject, parameters: object
) -> None:
    functions = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    with pytest.raises(BadRequest):
        subject.chat(Said(), Tools(json.dumps(functions), ("f",)))


# Grammars --------------------------------------------------------------------------------------------


def test_a_grammar_holds(subject: Subject) -> None:
    for prompt in (Chat(ASK), Text("hi")):
        said = Said()
        sampling = Sampling(seed=5, grammar='start: "yes" | other\nother: /no{2,4}/')
        done = subject.engine.generate(Generate(1, prompt, 20, sampling), said)
        assert said.text in ("yes", "noo", "nooo", "noooo")
        assert (done.reason, done.output_tokens) == (Reason.STOP, said.tokens)


@pytest.mark.parametrize(
    "rules",
    [
        'root ::= "yes"',
        "",
        'start: ("yes"',
        'start: "a"\nstart: "b"',
        '%llguidance {}\nstart: "a"',
        "start: nothing",
        "start: " + "(" * 20_000 + '"a"' + ")" * 20_000,
    ],
    ids=range(7),
)
def test_a_grammar_that_cannot_be_enforced_is_the_callers_fault(
    subject: Subject, rules: str
) -> None:
    with pytest.raises(BadRequest, match="grammar"):
        subject.chat(Said(), grammar=rules or "\n")


def test_a_grammar_that_branches_without_end_delays_nobody(subject: Subject) -> None:
    """llama.cpp's own grammars take seconds for 26 such rules and double with each more."""
    rules = [f"r{n}: r{n + 1} | r{n + 1}" for n in range(60)]
    said = Said()
    subject.chat(said, grammar="\n".join(["start: r0", *rules, 'r60: "a"']))
    assert said.text == "a"


# Probabilities ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("probs", [1, 3, 21])
def test_each_token_has_its_probabilities(subject: Subject, probs: int) -> None:
    said = Said()
    done = subject.chat(said, tokens=12, probs=probs, temperature=0.0)
    assert 0 < len(said.rows) <= done.output_tokens == said.tokens
    for own, *top in said.rows:
        assert len(top) == probs - 1
        assert own.logprob <= 0
        if top:
            assert top[0] == own  # greedily chosen
            assert [one.logprob for one in top] == sorted((o.logprob for o in top), reverse=True)


def test_without_asking_there_are_none(subject: Subject) -> None:
    said = Said()
    subject.chat(said, tokens=12)
    assert said.rows == []
