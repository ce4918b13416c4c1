"""W-11: the conformance tests. What an engine declares that it can do, it does like this."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.worker.conftest import CONTEXT, SETTINGS, InMemory, Model, engine_named

from leasehold.core.frames import (
    Capability,
    Chat,
    Embed,
    Generate,
    Loaded,
    MemoryFile,
    Message,
    Prompt,
    Reason,
    Role,
    Sampling,
    Text,
    Texts,
    Tokens,
)
from leasehold.enclave import memory
from leasehold.errors import BadModel, BadRequest, InputTooLong, UnsupportedParameter, WorkerFailed
from leasehold.worker.engine import Engine

CHAT = Chat((Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "What is a lease?")))
PROMPTS = (CHAT, Text("What is a lease?"), Tokens((4, 5, 6)))
SCHEMA = json.dumps({"const": "äé€😀"})
GREEDY = Sampling(temperature=0.0)
CAN = {
    "fake": set(Capability) - {Capability.SCHEMA},
    "llama": {Capability.CHAT, Capability.TEXT, Capability.SCHEMA, Capability.PROBS},
    "onnx": {Capability.EMBED},
    "transformers": {Capability.CHAT, Capability.TEXT, Capability.SCHEMA, Capability.PROBS},
    "openvino": {Capability.CHAT, Capability.TEXT, Capability.SCHEMA, Capability.PROBS},
}


@dataclass(slots=True)
class Listener:
    """Takes what an engine emits, and tells it to stop once it has `most` tokens."""

    most: int = 1 << 30
    calls: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, text: str, count: int) -> bool:
        self.calls.append((text, count))
        return self.tokens < self.most

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.calls)

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.calls)


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine with a model."""

    name: str
    engine: Engine
    loaded: Loaded


@pytest.fixture(scope="module")
def subjects(
    nonsense: Model, encoder: Model, nonsense_folder: Model, tiny_ir: Model
) -> Iterator[dict[str, Subject]]:
    """Each engine, loaded once."""
    found, files = {}, []
    for model in (Model("fake", {}), nonsense, encoder, nonsense_folder, tiny_ir):
        own, name = [], model.engine
        for title, data in model.files.items():
            own.append(memory.create(title, len(data)))
            memory.write(own[-1], data, 0)
        engine = engine_named(name)
        found[name] = Subject(name, engine, engine.load(own, SETTINGS))
        files += own
    yield found
    found.clear()
    for file in files:
        memory.shred(file)


@pytest.fixture(params=CAN)
def subject(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    """Every engine."""
    return subjects[request.param]


@pytest.fixture(params=[name for name, can in CAN.items() if Capability.TEXT in can])
def writer(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    """Every engine that generates text."""
    return subjects[request.param]


@pytest.fixture(params=[name for name, can in CAN.items() if Capability.EMBED in can])
def embedder(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    """Every engine that embeds."""
    return subjects[request.param]


def test_it_declares_what_it_can(subject: Subject) -> None:
    assert set(subject.loaded.capabilities) == CAN[subject.name]
    assert bool(subject.loaded.embedding_dims) == (Capability.EMBED in CAN[subject.name])
    assert subject.loaded.context_tokens == CONTEXT


def test_it_refuses_what_it_does_not_declare(subject: Subject) -> None:
    can, engine = CAN[subject.name], subject.engine
    if Capability.TEXT not in can:
        with pytest.raises(UnsupportedParameter):
            engine.generate(Generate(1, Text("a"), 4, Sampling()), Listener())
        with pytest.raises(UnsupportedParameter):
            engine.count(CHAT)
    if Capability.EMBED not in can:
        with pytest.raises(UnsupportedParameter):
            engine.embed(Embed(1, Texts(("a",))), lambda: True)
        with pytest.raises(UnsupportedParameter):
            engine.count(Texts(("a",)))
    if Capability.SCHEMA not in can:
        with pytest.raises(UnsupportedParameter):
            engine.generate(Generate(1, Text("a"), 4, Sampling(json_schema=SCHEMA)), Listener())


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: type(prompt).__name__)
def test_the_count_is_what_the_generation_reports(writer: Subject, prompt: Prompt) -> None:
    done = writer.engine.generate(Generate(1, prompt, 1, Sampling()), Listener())
    assert done.input_tokens == writer.engine.count(prompt)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: type(prompt).__name__)
def test_every_token_is_emitted_and_counted(writer: Subject, prompt: Prompt) -> None:
    listener = Listener()
    done = writer.engine.generate(Generate(1, prompt, 40, Sampling(seed=5)), listener)
    assert done.id == 1
    assert 0 < done.output_tokens == listener.tokens <= 40
    assert (done.output_tokens == 40) >= (done.reason is Reason.LENGTH)
    assert len(listener.text.encode()) <= listener.tokens * writer.loaded.longest_token_bytes
    assert max(count for _, count in listener.calls) <= 16


def test_the_same_seed_gives_the_same_text(writer: Subject) -> None:
    texts = []
    for number in (1, 2):
        listener = Listener()
        writer.engine.generate(Generate(number, PROMPTS[1], 20, Sampling(seed=9)), listener)
        texts.append(listener.text)
    assert texts[0] == texts[1]


def test_it_stops_where_it_is_told_to(writer: Subject) -> None:
    listener = Listener(most=5)
    done = writer.engine.generate(Generate(1, PROMPTS[1], 200, GREEDY), listener)
    assert done.reason is Reason.CANCELLED
    assert done.output_tokens == listener.tokens
    assert 5 <= listener.tokens < 40


def test_it_stops_before_the_first_token(writer: Subject) -> None:
    listener = Listener(most=0)
    done = writer.engine.generate(Generate(1, PROMPTS[1], 200, GREEDY), listener)
    assert (done.reason, done.output_tokens) == (Reason.CANCELLED, 0)
    assert listener.calls == [("", 0)]


@pytest.mark.parametrize("name", ["llama", "transformers"])
def test_it_asks_between_batches_of_a_long_prompt(subjects: dict[str, Subject], name: str) -> None:
    whole, prompt = Listener(), Tokens((40,) * (CONTEXT - 6))
    engine = subjects[name].engine
    engine.generate(Generate(1, prompt, 1, GREEDY), whole)
    assert [count for _, count in whole.calls].index(1) >= 3  # before, between, after two batches

    answers = iter((True, False))
    done = engine.generate(Generate(1, prompt, 9, GREEDY), lambda _text, _count: next(answers))
    assert (done.reason, done.output_tokens) == (Reason.CANCELLED, 0)


def test_a_stop_string_ends_the_text_and_is_not_in_it(writer: Subject) -> None:
    whole = Listener()
    writer.engine.generate(Generate(1, PROMPTS[1], 60, Sampling(seed=5)), whole)
    found = re.search("[!-~]", whole.text[4:])
    assert found is not None
    stop = found[0]
    listener = Listener()
    sampling = Sampling(seed=5, stop=(stop,))
    done = writer.engine.generate(Generate(2, PROMPTS[1], 60, sampling), listener)
    assert done.reason is Reason.STOP
    assert listener.text == whole.text[: whole.text.index(stop)]
    assert done.output_tokens == listener.tokens


def test_an_input_as_long_as_the_context_is_refused_with_numbers(writer: Subject) -> None:
    with pytest.raises(InputTooLong) as refusal:
        writer.engine.generate(Generate(1, Text("lease " * 400), 4, Sampling()), Listener())
    assert refusal.value.got == writer.engine.count(Text("lease " * 400))
    assert isinstance(refusal.value.expected, int)


def test_it_ends_at_the_end_of_the_context(writer: Subject) -> None:
    prompt = Tokens((4,) * (CONTEXT - 10))
    done = writer.engine.generate(Generate(1, prompt, 200, GREEDY), Listener())
    assert done.reason is Reason.LENGTH
    assert done.input_tokens + done.output_tokens <= CONTEXT + 1


def test_requests_side_by_side_do_not_mix(writer: Subject) -> None:
    prompts = [Text(f"lease number {number}") for number in range(8)]

    def run(prompt: Text) -> str:
        listener = Listener()
        writer.engine.generate(Generate(1, prompt, 24, GREEDY), listener)
        return listener.text

    alone = [run(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, prompts)) == alone


@pytest.mark.parametrize("name", ["llama", "transformers"])
def test_a_schema_holds_and_characters_of_many_tokens_come_whole(
    subjects: dict[str, Subject], name: str
) -> None:
    listener = Listener()
    ask = Generate(1, Text("a"), 100, Sampling(json_schema=SCHEMA))
    done = subjects[name].engine.generate(ask, listener)
    assert json.loads(listener.text) == "äé€😀"
    assert done.reason is Reason.STOP
    assert done.output_tokens == listener.tokens
    assert "\ufffd" not in "".join(text for text, _ in listener.calls)


@pytest.mark.parametrize("name", ["llama", "transformers"])
@pytest.mark.parametrize("schema", ["{", '{"type": "nothing"}', '{"$ref": "http://127.0.0.1/x"}'])
def test_a_schema_that_is_none_is_the_callers_fault(
    subjects: dict[str, Subject], schema: str, name: str
) -> None:
    ask = Generate(1, Text("a"), 4, Sampling(json_schema=schema))
    with pytest.raises(BadRequest):
        subjects[name].engine.generate(ask, Listener())


@pytest.mark.parametrize("name", ["llama", "transformers"])
def test_token_ids_beyond_the_vocabulary_are_the_callers_fault(
    subjects: dict[str, Subject], name: str
) -> None:
    ask = Generate(1, Tokens((1, 1 << 30)), 4, Sampling())
    with pytest.raises(BadRequest):
        subjects[name].engine.generate(ask, Listener())


def test_one_vector_for_each_text_whatever_its_neighbours(embedder: Subject) -> None:
    texts = [f"lease {'grant ' * (number % 7)}stop" for number in range(70)]
    answer = embedder.engine.embed(Embed(3, Texts(tuple(texts))), lambda: True)
    table = np.frombuffer(answer.vectors, "<f4").reshape(len(texts), answer.dims)
    assert (answer.id, answer.dims) == (3, embedder.loaded.embedding_dims)
    assert answer.input_tokens == embedder.engine.count(Texts(tuple(texts)))
    for at in (0, 33, 69):
        alone = embedder.engine.embed(Embed(1, Texts((texts[at],))), lambda: True)
        assert np.allclose(table[at], np.frombuffer(alone.vectors, "<f4"), atol=1e-5)


def test_embedding_stops_between_batches(embedder: Subject) -> None:
    answers = iter([True, False])
    with pytest.raises(WorkerFailed):
        embedder.engine.embed(Embed(1, Texts(("lease",) * 100)), lambda: next(answers))


def test_a_text_that_is_too_long_is_refused_not_cut(embedder: Subject) -> None:
    texts = Texts(("stop", "lease " * 300))
    with pytest.raises(InputTooLong) as refusal:
        embedder.engine.embed(Embed(1, texts), lambda: True)
    assert refusal.value.expected == CONTEXT


HOSTILE_GGUF = {
    "garbage": b"\x80\x04not a model" * 100,
    "empty header": b"GGUF",
    "another version": b"GGUF" + (99).to_bytes(4, "little") + bytes(64),
    "keys without end": b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 64,
}


@pytest.mark.parametrize("data", HOSTILE_GGUF.values(), ids=HOSTILE_GGUF)
def test_llama_refuses_what_is_no_model(in_memory: InMemory, data: bytes) -> None:
    with pytest.raises(BadModel):
        engine_named("llama").load([in_memory("model.gguf", data)], SETTINGS)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_llama_refuses_a_model_cut_short(nonsense: Model, in_memory: InMemory, kept: float) -> None:
    data = nonsense.files["model.gguf"]
    file = in_memory("model.gguf", data[: int(len(data) * kept)])
    with pytest.raises(BadModel):
        engine_named("llama").load([file], SETTINGS)


def test_onnx_refuses_what_is_no_model(encoder: Model, in_memory: InMemory) -> None:
    good = dict(encoder.files)
    for name, data in (
        ("model.onnx", b"no"),
        ("model.onnx", good["model.onnx"][:-200]),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b""),
        ("config.json", b"["),
        ("config.json", b'{"max_position_embeddings": "many"}'),
    ):
        files = [in_memory(title, content) for title, content in (good | {name: data}).items()]
        with pytest.raises(BadModel):
            engine_named("onnx").load(files, SETTINGS)


@pytest.mark.parametrize("name", ["llama", "onnx", "transformers"])
def test_a_folder_of_other_files_is_no_model(in_memory: InMemory, name: str) -> None:
    with pytest.raises(BadModel):
        engine_named(name).load([in_memory("readme.txt", b"hello")], SETTINGS)


@pytest.mark.parametrize("name", ["llama", "onnx", "openvino"])
def test_it_loads_from_any_descriptor_where_there_are_no_memory_files(
    name: str,
    nonsense: Model,
    encoder: Model,
    tiny_ir: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W-10: as from a tmpfs inside an enclave; each file is opened, and its name gone."""
    model = {"llama": nonsense, "onnx": encoder, "openvino": tiny_ir}[name]
    monkeypatch.delattr(os, "memfd_create")
    files = []
    for title, data in model.files.items():
        (tmp_path / title).write_bytes(data)
        files.append(MemoryFile(title, len(data), os.open(tmp_path / title, os.O_RDONLY)))
        (tmp_path / title).unlink()
    assert set(engine_named(name).load(files, SETTINGS).capabilities) == CAN[name]
    for file in files:
        os.close(file.fd)
