"""W-17 to W-19: the transformers engine, in this process: files, templates, answers, fairness."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.llama_folder import INDEX, folder_of, safetensors
from models.llama_gguf import PAD
from tests.worker.conftest import ROOT, SETTINGS, InMemory, Model, engine_named, make_caller
from tests.worker.test_calls import Said
from tests.worker.test_engines import Listener

from leasehold.core.frames import (
    Call,
    Capability,
    Chat,
    Generate,
    Message,
    Prob,
    Prompt,
    Reason,
    Role,
    Sampling,
    Settings,
    Text,
    Tokens,
    Tools,
)
from leasehold.enclave.child import ENVIRONMENT
from leasehold.errors import BadModel, BadRequest, UnsupportedParameter
from leasehold.worker import pytorch, recipe, shards
from leasehold.worker.calls import OPEN
from leasehold.worker.engine import Engine
from leasehold.worker.spelling import Cut, Speech, Spelling
from leasehold.worker.template import Template

GREEDY = Sampling(temperature=0.0)
QUESTIONS = json.loads((ROOT / "models/tiny/questions.json").read_text(encoding="utf-8"))
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def tiny_folder() -> Files:
    """The model of the repository in three safetensors files."""
    return folder_of(ROOT / "models/tiny/tiny.gguf", "F32", shards=3)


def loaded(
    files: Mapping[str, bytes], in_memory: InMemory, settings: Settings = SETTINGS
) -> Engine:
    engine = engine_named("transformers")
    engine.load([in_memory(name, data) for name, data in files.items()], settings)
    return engine


def said(engine: Engine, prompt: Prompt, sampling: Sampling = GREEDY, most: int = 900) -> str:
    listener = Listener()
    engine.generate(Generate(1, prompt, most, sampling), listener)
    return listener.text


def asks(question: str) -> Chat:
    return Chat((Message(Role.USER, question),))


# Answers ---------------------------------------------------------------------------------------------


def test_it_answers_as_llama_does(tiny: Model, tiny_folder: Files, in_memory: InMemory) -> None:
    """Greedy, on the same weights: the one of q8_0, the other of the same numbers in float32."""
    wide = Settings(context_tokens=1024, slots=8, threads=1, seed=7)
    ours, llama = loaded(tiny_folder, in_memory, wide), engine_named("llama")
    llama.load(tiny.in_memory(in_memory), wide)
    prompts: list[Prompt] = [asks(one["question"]) for one in QUESTIONS["questions"]]
    prompts += [Text(one["question"]) for one in QUESTIONS["completions"]]
    prompts.append(asks(QUESTIONS["long"][0]["question"]))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda one: said(ours, one), prompts)) == [
            said(llama, one) for one in prompts
        ]
    assert [ours.count(one) for one in prompts] == [llama.count(one) for one in prompts]


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_weights_are_taken_in_the_dtype_that_they_have(in_memory: InMemory, dtype: str) -> None:
    engine = loaded(folder_of(ROOT / "models/tiny/tiny.gguf", dtype), in_memory)
    assert (
        said(engine, asks("What is a custodian?")) == "The custodian owns the model and lends it."
    )


def test_each_kind_of_network_says_what_transformers_says(in_memory: InMemory) -> None:
    """Random weights, pieces of 64 tokens, neighbours in other slots: the same as one pass over all."""
    import torch

    for kind, network in pytorch.KINDS.items():
        config = network.config_class(
            hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, vocab_size=300, max_position_embeddings=256,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        torch.manual_seed(1)
        model = network(config).eval()
        with torch.no_grad():
            for one in model.parameters():
                one.normal_(std=0.2)
        weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
        file = in_memory("model.safetensors", safetensors(weights, "F32"))
        said_of_it = {"config.json": json.dumps(config.to_dict()).encode()}
        found = recipe.read({"config.json": in_memory("config.json", said_of_it["config.json"])})
        made = pytorch.open_network(found, shards.read([file]), slots=3, context=200, threads=1)
        ids = [(7 * at) % 300 for at in range(150)]
        with torch.no_grad():
            whole = model(input_ids=torch.tensor([ids])).logits[0]
        for start in (0, 64, 128):
            logits = made.prefill(1, ids[start : min(start + 64, 149)], start)
        assert torch.allclose(logits, whole[148], atol=1e-4), kind
        made.prefill(0, ids[:9], 0)
        both = made.decode({1: (ids[149], 149), 0: (ids[9], 9)})
        assert torch.allclose(both[1], whole[149], atol=1e-4), kind
        assert torch.allclose(both[0], whole[9], atol=1e-4), kind


def test_a_short_request_is_not_behind_a_long_one(
    nonsense_folder: Model, in_memory: InMemory
) -> None:
    """Each step serves all: eight tokens are made while another request makes about as many."""
    engine = loaded(nonsense_folder.files, in_memory, Settings(context_tokens=1024, slots=2))
    long, so_far = Listener(), []
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(engine.generate, Generate(1, Tokens((9,)), 1000, GREEDY), long)
        while not long.tokens:
            pass
        before = long.tokens
        engine.generate(Generate(2, Tokens((10,)), 8, GREEDY), Listener())
        so_far.append(long.tokens - before)
        long.most = 0
        assert work.result().reason is Reason.CANCELLED
    assert so_far[0] < 500


@pytest.mark.parametrize(
    ("milliseconds", "tokens"), [(0.1, 64), (3.9, 64), (4, 32), (15, 16), (31, 8), (5000, 8)]
)
def test_a_piece_of_a_prompt_is_as_long_as_the_machine_is_fast(
    milliseconds: float, tokens: int
) -> None:
    """What may be waited for between two looks at who still wants what."""
    config = pytorch.KINDS["llama"].config_class(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=8,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    network = pytorch.Network(pytorch.KINDS["llama"](config).eval(), 1, 64)
    clock = iter(at * 8 * milliseconds / 1000 for at in range(4))
    network.rehearse(lambda: next(clock))
    assert network.prompt_tokens == tokens


def test_what_was_said_in_a_slot_is_wiped(nonsense_folder: Model, in_memory: InMemory) -> None:
    engine: Any = loaded(nonsense_folder.files, in_memory, Settings(context_tokens=256, slots=1))
    said(engine, Tokens((9, 8, 7)), most=20)
    said(engine, Tokens((9,)), most=1)  # comes after the slot of the first was released
    store = engine._loaded()[1]._model._store
    assert all(
        float(one[:, :, 1:-1].abs().max()) == 0 for both in store._layers.values() for one in both
    )


def test_probabilities_sum_to_one_and_the_likeliest_is_chosen(
    nonsense_folder: Model, in_memory: InMemory
) -> None:
    engine = loaded(nonsense_folder.files, in_memory)
    rows: list[tuple[Prob, ...]] = []

    def emit(_text: str, _count: int, _calls: object = (), probs: Any = ()) -> bool:
        rows.extend(probs)
        return True

    done = engine.generate(Generate(1, Text("a"), 5, Sampling(temperature=0.0, probs=4)), emit)
    assert len(rows) == done.output_tokens
    for row in rows:
        assert len(row) == 4
        assert row[0] == row[1]  # its own, and the likeliest of three
        assert row[1].logprob >= row[2].logprob >= row[3].logprob
        assert sum(np.exp(one.logprob) for one in row[1:]) <= 1.0001


def test_penalties_keep_a_token_from_coming_again(
    nonsense_folder: Model, in_memory: InMemory
) -> None:
    engine = loaded(nonsense_folder.files, in_memory)
    harsh = Sampling(temperature=0.0, presence_penalty=2.0, frequency_penalty=2.0)
    assert said(engine, Text("a"), harsh, 40) != said(engine, Text("a"), GREEDY, 40)


def test_what_it_does_not_do_is_refused(tiny_folder: Files, in_memory: InMemory) -> None:
    tools = Chat((Message(Role.USER, "a"),), Tools("[]"))
    with pytest.raises(UnsupportedParameter):
        loaded(tiny_folder, in_memory).generate(Generate(1, tools, 4, GREEDY), Listener())


@pytest.mark.parametrize("special", [True, False])
def test_the_mark_of_a_call_may_be_one_token_but_no_special_one(
    in_memory: InMemory, tmp_path: Path, special: bool
) -> None:
    """Tokenizers of models that call functions have it; a special token would not be in the text."""
    files = dict(make_caller("transformers", tmp_path).files)
    tokenizer = files["tokenizer.json"].replace(PAD.encode(), OPEN.encode())
    told = json.loads(tokenizer)
    (mark,) = [one for one in told["added_tokens"] if one["content"] == OPEN]
    mark["special"] = special
    engine = engine_named("transformers")
    changed = files | {"tokenizer.json": json.dumps(told).encode()}
    loaded = engine.load([in_memory(*one) for one in changed.items()], SETTINGS)
    assert (Capability.TOOLS in loaded.capabilities) is not special
    tools = Tools('[{"type": "function", "function": {"name": "f"}}]', ("f",))
    chat, heard = Chat((Message(Role.USER, "a"),), tools), Said(most=30)
    if special:
        with pytest.raises(UnsupportedParameter) as refusal:
            engine.generate(Generate(1, chat, 40, GREEDY), heard)
        assert refusal.value.about == "tools"
    else:
        engine.generate(Generate(1, chat, 40, GREEDY), heard)
        assert heard.calls[0][0] == "f"
        assert heard.text == ""


def test_a_schema_and_a_grammar_hold_beside_others(tiny_folder: Files, in_memory: InMemory) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "yy"]}}, "required": ["a"]}
    held = Sampling(seed=3, json_schema=json.dumps(schema | {"additionalProperties": False}))
    ruled = Sampling(seed=4, grammar='start: "lease" /[0-9]{3}/')
    engine = loaded(tiny_folder, in_memory)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(said, engine, Text("a"), held, 60)
        second = pool.submit(said, engine, Text("a"), ruled, 60)
        free = pool.submit(said, engine, asks("What is a custodian?"))
    assert json.loads(first.result())["a"] in ("x", "yy")
    assert re.fullmatch("lease[0-9]{3}", second.result())
    assert free.result() == "The custodian owns the model and lends it."


@pytest.mark.parametrize(
    "sampling",
    [Sampling(json_schema="{"), Sampling(grammar="start: nothing"), Sampling(grammar="x: y")],
)
def test_a_rule_that_does_not_compile_is_the_callers_fault(
    tiny_folder: Files, in_memory: InMemory, sampling: Sampling
) -> None:
    with pytest.raises(BadRequest):
        loaded(tiny_folder, in_memory).generate(Generate(1, Text("a"), 4, sampling), Listener())


# Files -----------------------------------------------------------------------------------------------

HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def file_of(header: object, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(**other: object) -> dict[str, object]:
    return {"a": HEADER["a"] | other}


@pytest.mark.parametrize(
    ("data", "about"),
    [
        (b"", "a.safetensors"),
        (b"1234567", "a.safetensors"),
        (file_of(HEADER, length=1 << 63), "header of"),
        (file_of(HEADER, length=4096), "header of"),
        (file_of(b"[]"), "header of"),
        (file_of(b"\xff{"), "header of"),
        (file_of(b"[" * 100_000), "header of"),
        (file_of(entry(dtype="F64")), "dtype of a"),
        (file_of(entry(dtype="I64")), "dtype of a"),
        (file_of(entry(dtype="F8_E4M3")), "dtype of a"),
        (file_of(entry(dtype=None)), "header of"),
        (file_of(entry(shape=[-2])), "header of"),
        (file_of(entry(shape=[1 << 47, 1 << 47])), "bytes of a"),
        (file_of(entry(shape=[2] * 9)), "header of"),
        (file_of(entry(shape=[3])), "bytes of a"),
        (file_of(entry(data_offsets=[8, 0])), "bytes of a"),
        (file_of(entry(data_offsets=[0, 8, 16])), "header of"),
        (file_of(entry(data_offsets=[4, 12]), bytes(12)), "offset of a"),
        (file_of(entry(data_offsets=[1 << 40, (1 << 40) + 8])), "offset of a"),
        (file_of(HEADER, bytes(7)), "bytes of a.safetensors"),
        (file_of(HEADER, bytes(9)), "bytes of a.safetensors"),
        (
            file_of(HEADER | {"b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
            "offset of b",
        ),
        (file_of(HEADER | {"b": HEADER["a"]}), "offset of b"),
        (file_of(entry(where="/etc/passwd")), "header of"),
        (file_of(b'{"a": {"dtype": "F32"}}'), "header of"),
        (file_of({}, b"\0" * 8), "bytes of a.safetensors"),
    ],
)
def test_a_header_that_lies_is_refused(in_memory: InMemory, data: bytes, about: str) -> None:
    with pytest.raises(BadModel) as refusal:
        shards.read([in_memory("a.safetensors", data)])
    assert str(refusal.value.about).startswith(about)


def test_a_tensor_that_is_not_aligned_is_refused(in_memory: InMemory) -> None:
    text = json.dumps(HEADER).encode()
    text += b" " * (-len(text) % 8 + 1)
    with pytest.raises(BadModel) as refusal:
        shards.read(
            [
                in_memory(
                    "a.safetensors",
                    file_of(HEADER)[:0] + len(text).to_bytes(8, "little") + text + bytes(8),
                )
            ]
        )
    assert refusal.value.expected == "one that is aligned"


def test_a_good_header_is_read(in_memory: InMemory) -> None:
    about: dict[str, object] = {"__metadata__": {"format": "pt"}}
    found = shards.read([in_memory("a.safetensors", file_of(about | HEADER))])
    assert found["a"].shape == (2,)
    assert found["a"].size == 8


INDEXES: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "a file outside": lambda places: dict.fromkeys(places, "../model.safetensors"),
    "a file of the host": lambda places: dict.fromkeys(places, "/etc/passwd"),
    "no safetensors": lambda places: dict.fromkeys(places, "config.json"),
    "a missing file": lambda places: dict.fromkeys(places, "model-00009-of-00009.safetensors"),
    "a tensor less": lambda places: dict(list(places.items())[1:]),
    "a tensor more": lambda places: places | {"more": next(iter(places.values()))},
    "another file": lambda places: places | {next(iter(places)): list(places.values())[-1]},
    "nothing": lambda _: {},
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_that_lies_is_refused(tiny_folder: Files, in_memory: InMemory, name: str) -> None:
    index = json.loads(tiny_folder[INDEX])
    index["weight_map"] = INDEXES[name](index["weight_map"])
    files = tiny_folder | {INDEX: json.dumps(index).encode()}
    with pytest.raises(BadModel):
        loaded(files, in_memory)


def changed(name: str, **keys: object) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        said_there = json.loads(files[name]) | keys
        kept = {key: value for key, value in said_there.items() if value is not ...}
        return files | {name: json.dumps(kept).encode()}

    return change


def without(name: str) -> Callable[[Files], Files]:
    return lambda files: {title: data for title, data in files.items() if title != name}


FOLDERS: dict[str, Callable[[Files], Files]] = {
    "no configuration": without("config.json"),
    "no tokenizer": without("tokenizer.json"),
    "no index": without(INDEX),
    "pickles": lambda files: {
        name.replace(".safetensors", ".bin"): data for name, data in files.items() if name != INDEX
    },
    "another architecture": changed("config.json", model_type="../evil"),
    "code of the folder": changed(
        "config.json", model_type="own", auto_map={"AutoModelForCausalLM": "modeling.Evil"}
    ),
    "packed weights": changed("config.json", quantization_config={"quant_method": "gptq"}),
    "layers without end": changed("config.json", num_hidden_layers=1 << 40),
    "one layer more": changed("config.json", num_hidden_layers=5),
    "one layer less": changed("config.json", num_hidden_layers=3),
    "another width": changed("config.json", hidden_size=64),
    "no heads": changed("config.json", num_attention_heads=0),
    "heads by name": changed("config.json", num_attention_heads="four"),
    "an unknown function": changed("config.json", hidden_act="os.system"),
    "no length": changed("config.json", max_position_embeddings=...),
    "turns that change": changed("config.json", rope_parameters={"rope_type": "dynamic"}),
    "turns of nothing": changed("config.json", rope_parameters=[1]),
    "more words than rows": changed("config.json", vocab_size=8),
    "an untied head": changed("config.json", tie_word_embeddings=False),
    "ends by name": changed("generation_config.json", eos_token_id="end"),
    "a template with an error": changed("tokenizer_config.json", chat_template="{% for %}"),
    "a template of numbers": changed("tokenizer_config.json", chat_template=7),
    "no JSON": lambda files: files | {"config.json": b"\x80\x04."},
    "deep JSON": lambda files: files | {"config.json": b"[" * 100_000},
    "no words": lambda files: files | {"tokenizer.json": b"{}"},
    "an empty file": lambda files: files | {"tokenizer_config.json": b""},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_none_is_refused(
    tiny_folder: Files, in_memory: InMemory, name: str
) -> None:
    with pytest.raises(BadModel):
        loaded(FOLDERS[name](tiny_folder), in_memory)


def test_keys_that_choose_code_are_not_followed(tiny_folder: Files, in_memory: InMemory) -> None:
    change = changed(
        "config.json",
        auto_map={"AutoModelForCausalLM": "modeling.Evil"},
        attn_implementation="somebody/kernel",
        _attn_implementation="somebody/kernel",
    )
    files = change(tiny_folder) | {
        "modeling.py": b"raise SystemExit",
        "pytorch_model.bin": b"\x80.",
    }
    assert said(loaded(files, in_memory), asks("What is a custodian?")).startswith("The custodian")


# Templates and text ----------------------------------------------------------------------------------

HOSTILE_TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ raise_exception('no') }}",
    "{{ 1 / 0 }}",
    "{{ nothing.of.it }}",
    "{% include '/etc/passwd' %}",
    "{% for a in range(10 ** 9) %}{% endfor %}",
)


@pytest.mark.parametrize("text", HOSTILE_TEMPLATES)
def test_a_template_reaches_nothing(text: str) -> None:
    with pytest.raises(BadRequest):
        Template(text, {}).render(asks("a"))


def test_a_template_sees_calls_as_objects() -> None:
    template = Template(
        "{{ messages[0].tool_calls[0].function.arguments.x }}{{ bos_token }}", {"bos_token": "<s>"}
    )
    call = Call("1", "f", '{"x": 5}')
    assert template.render(Chat((Message(Role.ASSISTANT, "", (call,)),))) == "5<s>"


@pytest.fixture(scope="module")
def spelling(nonsense_folder: Model) -> Spelling:
    from leasehold.enclave import memory

    data = nonsense_folder.files["tokenizer.json"]
    file = memory.create("tokenizer.json", len(data))
    memory.write(file, data, 0)
    try:
        return Spelling(file)
    finally:
        memory.shred(file)


def test_characters_of_many_tokens_come_whole(spelling: Spelling) -> None:
    speech = Speech(spelling, [0])
    ids = spelling.tokens("aé😀b", bare=True)
    assert [speech.take(one) for one in ids] == ["a", "", "é", "", "", "", "😀", "b"]


def test_what_never_becomes_a_character_is_not_held_for_ever(spelling: Spelling) -> None:
    speech = Speech(spelling, [0])
    half = spelling.tokens("😀", bare=True)[0]
    told = [speech.take(half) for _ in range(30)]
    assert "\ufffd" in "".join(told)
    assert max(len(one.encode()) for one in told) <= 9 * spelling.longest_token_bytes
    assert speech.finish() + "".join(told) == "\ufffd" * 30


def test_a_stop_is_found_across_pieces_and_what_only_began_one_comes_out() -> None:
    cut = Cut(("stop", "to"))
    assert [cut.take(one) for one in ("a s", "t", "x", "s", "top z")] == ["a ", "", "stx", "", ""]
    assert cut.found
    cut = Cut(("stop",))
    assert cut.take("sto") + cut.finish() == "sto"


def test_importing_it_starts_no_thread_and_its_hub_is_offline(tmp_path: Path) -> None:
    """Threads that run before the sandbox closes would be outside of it."""
    code = (
        "import os, leasehold.worker.transformer, huggingface_hub.constants as hub;"
        "print(len(os.listdir('/proc/self/task')), hub.HF_HUB_OFFLINE, hub.HF_HUB_DISABLE_TELEMETRY)"
    )
    command = [sys.executable, "-I", "-B", "-c", code]
    done = subprocess.run(
        command,
        env=ENVIRONMENT | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "True", "True"]
    assert list(tmp_path.rglob("*")) == []
