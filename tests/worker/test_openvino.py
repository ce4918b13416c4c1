"""W-21 and W-22: graphs without files, pages of memory, tokens and their bytes."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.worker.conftest import SETTINGS, InMemory, Model, engine_named

from leasehold.core.frames import (
    Capability,
    Chat,
    Generate,
    Message,
    Role,
    Sampling,
    Text,
    Tokens,
    Tools,
)
from leasehold.errors import BadModel, BadRequest, UnsupportedParameter
from leasehold.worker.spelling import Spelling

GREEDY = Sampling(temperature=0.0)
QUESTION = Chat((Message(Role.USER, "What is a lease?"),))


def answer(engine: object, prompt: Chat | Text, sampling: Sampling = GREEDY) -> str:
    """All that it says."""
    said: list[str] = []

    def emit(text: str, _count: int, *_: object) -> bool:
        said.append(text)
        return True

    engine.generate(Generate(1, prompt, 60, sampling), emit)  # type: ignore[attr-defined]
    return "".join(said)


def test_it_answers_as_the_same_weights_do_in_llama(
    tiny_ir: Model, tiny: Model, in_memory: InMemory
) -> None:
    said = []
    for model in (tiny_ir, tiny):
        engine = engine_named(model.engine)
        engine.load(model.in_memory(in_memory), SETTINGS)
        said.append(answer(engine, QUESTION))
    assert said[0] == said[1] != ""


def test_it_needs_no_page_of_the_file_once_it_has_loaded(
    tiny_ir: Model, in_memory: InMemory
) -> None:
    engine = engine_named("openvino")
    files = tiny_ir.in_memory(in_memory)
    engine.load(files, SETTINGS)
    before = answer(engine, QUESTION)
    for file in files:
        os.truncate(file.fd, 0)
    assert answer(engine, QUESTION) == before
    with ThreadPoolExecutor(4) as pool:
        prompts = [Text("lease " * count) for count in (1, 9, 20, 30)]
        assert all(pool.map(lambda prompt: answer(engine, prompt), prompts))


def test_its_telemetry_cannot_be_imported(tiny_ir: Model, in_memory: InMemory) -> None:
    engine_named("openvino").load(tiny_ir.in_memory(in_memory), SETTINGS)
    with pytest.raises(ImportError):
        __import__("openvino_telemetry")
    assert sys.modules["openvino_telemetry"] is None


def test_functions_are_refused_by_name(tiny_ir: Model, in_memory: InMemory) -> None:
    engine = engine_named("openvino")
    assert Capability.TOOLS not in engine.load(tiny_ir.in_memory(in_memory), SETTINGS).capabilities
    with pytest.raises(UnsupportedParameter) as refusal:
        engine.count(Chat(QUESTION.messages, Tools("[]")))
    assert refusal.value.about == "tools"


@pytest.mark.parametrize(
    ("old", "new", "about"),
    [
        ('element_type="i8"', 'element_type="string"', "type of a constant"),
        ('size="90112"', 'size="90113"', "constant"),
        ('offset="0"', 'offset="99999999999"', "weights"),
        ("<net ", "<no ", "OpenVINO"),
    ],
)
def test_a_graph_that_points_outside_of_its_weights_is_refused(
    tiny_ir: Model, in_memory: InMemory, old: str, new: str, about: str
) -> None:
    graph = tiny_ir.files["openvino_model.xml"].decode()
    assert old in graph
    changed = {"openvino_model.xml": graph.replace(old, new, 1).encode()}
    files = [in_memory(name, data) for name, data in (dict(tiny_ir.files) | changed).items()]
    with pytest.raises(BadModel) as refusal:
        engine_named("openvino").load(files, SETTINGS)
    assert refusal.value.about == about


def test_a_model_without_an_end_token_says_where_to_put_it(
    tiny_ir: Model, in_memory: InMemory
) -> None:
    files = [in_memory(n, d) for n, d in tiny_ir.files.items() if not n.startswith("generation")]
    with pytest.raises(BadModel) as refusal:
        engine_named("openvino").load(files, SETTINGS)
    assert refusal.value.about == "eos_token_id"


def test_a_grammar_holds_and_a_wrong_one_is_the_callers_fault(
    tiny_ir: Model, in_memory: InMemory
) -> None:
    engine = engine_named("openvino")
    engine.load(tiny_ir.in_memory(in_memory), SETTINGS)
    grammar = 'start: "yes" | "no"'
    assert answer(engine, QUESTION, Sampling(seed=3, grammar=grammar)) in ("yes", "no")
    for wrong in ("begin: /a/", "start: unknown_rule"):
        with pytest.raises(BadRequest):
            answer(engine, QUESTION, Sampling(grammar=wrong))


# Text ------------------------------------------------------------------------------------------------


def test_bytes_of_tokens_in_both_spellings(in_memory: InMemory) -> None:
    special = {"content": "<s>", "special": True} | dict.fromkeys(
        ("single_word", "lstrip", "rstrip", "normalized"), False
    )

    def table(vocabulary: dict[str, int], decoder: str, size: int) -> object:
        model = {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": True}
        added = [special | {"id": len(vocabulary)}]
        told = {"version": "1.0", "added_tokens": added, "model": model}
        told["decoder"] = {"type": decoder, **_SPELLINGS[decoder]}
        return Spelling(in_memory("tokenizer.json", json.dumps(told).encode())).table(size)

    letters = {"\u0120a": 0, "\u00c3": 1, "b": 2}
    assert table(letters, "ByteLevel", 5) == ([b" a", b"\xc3", b"b", b"", b""], [3])
    assert table({"\u2581a": 0, "<0x0A>": 1}, "ByteFallback", 2) == ([b" a", b"\n"], [])
    assert table(letters, "WordPiece", 4) is None


_SPELLINGS = {
    "ByteLevel": {"add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "ByteFallback": {},
    "WordPiece": {"prefix": "##", "cleanup": True},
}


def test_a_model_that_scores_other_tokens_than_its_configuration_says_is_refused(
    tiny_ir: Model, in_memory: InMemory
) -> None:
    config = json.loads(tiny_ir.files["config.json"])
    config["vocab_size"] += 1
    files = dict(tiny_ir.files) | {"config.json": json.dumps(config).encode()}
    with pytest.raises(BadModel) as refusal:
        engine_named("openvino").load([in_memory(*one) for one in files.items()], SETTINGS)
    assert refusal.value.about == "vocab_size"


def test_token_ids_beyond_the_vocabulary_are_the_callers_fault_here_too(
    tiny_ir: Model, in_memory: InMemory
) -> None:
    engine = engine_named("openvino")
    engine.load(tiny_ir.in_memory(in_memory), SETTINGS)
    with pytest.raises(BadRequest):
        engine.count(Tokens((1, 1 << 30)))
