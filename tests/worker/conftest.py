"""Small models for the engines: made here or kept in the repository, as memory files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from models.llama_folder import folder_of
from models.random_gguf import random_gguf
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from leasehold.core.frames import MemoryFile, Settings
from leasehold.enclave import memory
from leasehold.worker.engine import Engine
from models import llama_ir

ROOT = Path(__file__).parents[2]
DIMS = 8
CONTEXT = 256
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "lease", "grant", "stop", "budget", "custodian")

InMemory = Callable[[str, bytes], MemoryFile]


@dataclass(frozen=True, slots=True)
class Model:
    """Files of one model by name, and the engine that reads them."""

    engine: str
    files: Mapping[str, bytes]

    def in_memory(self, put: InMemory) -> list[MemoryFile]:
        """The files as memory files."""
        return [put(name, data) for name, data in self.files.items()]


@pytest.fixture
def in_memory() -> Iterator[InMemory]:
    """Makes sealed memory files that go away with the test."""
    made: list[MemoryFile] = []

    def put(name: str, data: bytes) -> MemoryFile:
        made.append(memory.create(name, len(data)))
        memory.write(made[-1], data, 0)
        memory.seal(made[-1])
        return made[-1]

    yield put
    for file in made:
        os.close(file.fd)


def make_gguf(folder: Path, size_bytes: int) -> Model:
    """A model that speaks nonsense, one byte a token."""
    path = random_gguf(folder / "model.gguf", size_bytes=size_bytes)
    return Model("llama", {"model.gguf": path.read_bytes()})


def make_folder(place: Path, size_bytes: int, shards: int = 1, dtype: str = "F32") -> Model:
    """The like, in safetensors."""
    packed = round(size_bytes * 34 / 32 / (4 if dtype == "F32" else 2))
    path = random_gguf(place / "model.gguf", size_bytes=packed)
    files = folder_of(path, dtype, shards)
    path.unlink()
    return Model("transformers", files)


@pytest.fixture(scope="session")
def nonsense_folder(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two megabytes in three files."""
    return make_folder(tmp_path_factory.mktemp("folder"), 2_000_000, shards=3)


@pytest.fixture(scope="session")
def nonsense(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two megabytes: a token takes well under a millisecond."""
    return make_gguf(tmp_path_factory.mktemp("nonsense"), 2_000_000)


def make_ir(folder: Path, source: Path) -> Model:
    """The Llama of a GGUF file in OpenVINO's format."""
    made = llama_ir.write(source, folder / "ir")
    return Model("openvino", {path.name: path.read_bytes() for path in made.iterdir()})


@pytest.fixture(scope="session")
def tiny_ir(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The model of the repository for OpenVINO."""
    return make_ir(tmp_path_factory.mktemp("ir"), ROOT / "models/tiny/tiny.gguf")


# In the manner of Hermes and Qwen: it describes functions, and shows calls and what they answered.
TOOLS_TEMPLATE = """{%- if tools %}<|system|>
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
Answer {"name": ..., "arguments": ...} between <tool_call> and </tool_call>.
{% endif %}{%- for message in messages %}{%- if message.tool_calls %}<|assistant|>
{{ message.content }}{% for tool_call in message.tool_calls %}
<tool_call>
{"name": "{{ tool_call.function.name }}", "arguments": {{ tool_call.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% else %}<|{{ message.role }}|>
{{ message.content }}
{% endif %}{%- endfor %}<|assistant|>
"""


def make_caller(engine: str, place: Path) -> Model:
    """Nonsense whose template knows functions, the same weights for each engine."""
    path = random_gguf(place / "model.gguf", size_bytes=2_000_000, template=TOOLS_TEMPLATE)
    match engine:
        case "llama":
            return Model(engine, {"model.gguf": path.read_bytes()})
        case "transformers":
            return Model(engine, folder_of(path))
        case _:
            return make_ir(place, path)


@pytest.fixture(scope="session")
def slow_nonsense(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Sixty megabytes: its prefill takes long enough to be cancelled in the middle."""
    return make_gguf(tmp_path_factory.mktemp("slow"), 60_000_000)


@pytest.fixture(scope="session")
def tiny() -> Model:
    """The model of the repository, which answers questions about Leasehold."""
    return Model("llama", {"tiny.gguf": (ROOT / "models/tiny/tiny.gguf").read_bytes()})


def encoder_graph(words: int) -> bytes:
    """An ONNX encoder: the mean of random vectors, one for each word, where the mask is 1."""
    table = np.random.default_rng(1).standard_normal((words, DIMS)).astype(np.float32)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", DIMS])
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    last = numpy_helper.from_array(np.array([2], np.int64), "last")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["vectors", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["sentence_embedding"]),
    ]
    constants = [numpy_helper.from_array(table, "table"), axis, last]
    graph = helper.make_graph(nodes, "encoder", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def encoder_tokenizer(tokens_max: int = CONTEXT) -> bytes:
    """One token for each known word, and one before and after."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(tokens_max)
    tokenizer.enable_padding(length=64)
    return tokenizer.to_str().encode()


@pytest.fixture(scope="session")
def encoder() -> Model:
    """A sentence encoder of ten words; its tokenizer.json asks to cut and to pad."""
    files = {"model.onnx": encoder_graph(len(WORDS)), "tokenizer.json": encoder_tokenizer()}
    return Model("onnx", files)


def engine_named(name: str) -> Engine:
    """One of the engines that pass the conformance tests."""
    if name == "llama":
        from leasehold.worker.llama import LlamaEngine

        return LlamaEngine()
    if name == "onnx":
        from leasehold.worker.onnx import OnnxEngine

        return OnnxEngine()
    if name == "transformers":
        from leasehold.worker.transformer import TransformersEngine

        return TransformersEngine()
    if name == "openvino":
        from leasehold.worker.openvino import OpenVinoEngine

        return OpenVinoEngine()
    from leasehold.testing.engine import FakeEngine

    return FakeEngine()


SETTINGS = Settings(context_tokens=CONTEXT, slots=4, threads=2, seed=7)
