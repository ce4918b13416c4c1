"""W-15: any ONNX model as a function of tensors, through the engine's port."""

from __future__ import annotations

import struct
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.worker.conftest import SETTINGS, InMemory

from leasehold.core.frames import (
    Capability,
    Chat,
    Embed,
    Generate,
    Infer,
    Loaded,
    Message,
    Role,
    Sampling,
    Text,
    Texts,
)
from leasehold.core.tensors import DataType, Port, Tensor, check_tensor, join
from leasehold.errors import (
    AnswerTooLarge,
    BadMessage,
    BadModel,
    BadRequest,
    UnsupportedParameter,
    WorkerFailed,
)
from leasehold.worker.onnx import OnnxEngine

Value = onnx.ValueInfoProto
MOST = 1 << 20
TYPES = {
    DataType.BOOL: (TensorProto.BOOL, b"\x01\x00\x01\x01"),
    DataType.UINT8: (TensorProto.UINT8, bytes([0, 1, 127, 255])),
    DataType.UINT16: (TensorProto.UINT16, struct.pack("<4H", 0, 1, 2, 65535)),
    DataType.UINT32: (TensorProto.UINT32, struct.pack("<4I", 0, 1, 2, 2**32 - 1)),
    DataType.UINT64: (TensorProto.UINT64, struct.pack("<4Q", 0, 1, 2, 2**64 - 1)),
    DataType.INT8: (TensorProto.INT8, struct.pack("<4b", 0, 1, -1, -128)),
    DataType.INT16: (TensorProto.INT16, struct.pack("<4h", 0, 1, -1, -(2**15))),
    DataType.INT32: (TensorProto.INT32, struct.pack("<4i", 0, 1, -1, -(2**31))),
    DataType.INT64: (TensorProto.INT64, struct.pack("<4q", 0, 1, -1, -(2**63))),
    DataType.FP16: (TensorProto.FLOAT16, struct.pack("<4e", 0, 1.5, -1, 65504)),
    DataType.FP32: (TensorProto.FLOAT, struct.pack("<4f", 0, 1.5, -1, float("inf"))),
    DataType.FP64: (TensorProto.DOUBLE, struct.pack("<4d", 0, 1.5, -1, 1e300)),
    DataType.BF16: (TensorProto.BFLOAT16, struct.pack("<4H", 0x3F80, 0, 0xBF80, 0x4000)),
    DataType.BYTES: (TensorProto.STRING, join([b"a", b"", "é".encode(), b"lease"])),
}


def proto(
    nodes: list[onnx.NodeProto], inputs: list[Value], outputs: list[Value], *constants: object
) -> onnx.ModelProto:
    """A model of these nodes."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def value(name: str, kind: int, *shape: object) -> Value:
    """An input or output."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def echo(kind: int) -> bytes:
    """Gives what it takes: [n, 2]."""
    node = helper.make_node("Identity", ["x"], ["y"])
    model = proto([node], [value("x", kind, "n", 2)], [value("y", kind, "n", 2)])
    return model.SerializeToString()


def loaded(in_memory: InMemory, data: bytes, **others: bytes) -> tuple[OnnxEngine, Loaded]:
    """An engine with a model, and other files beside it."""
    engine = OnnxEngine()
    files = [in_memory("model.onnx", data)] + [in_memory(n, d) for n, d in others.items()]
    return engine, engine.load(files, SETTINGS)


@pytest.mark.parametrize("datatype", TYPES)
def test_every_element_type_goes_in_and_comes_out(in_memory: InMemory, datatype: DataType) -> None:
    kind, data = TYPES[datatype]
    engine, found = loaded(in_memory, echo(kind))
    assert found.capabilities == (Capability.INFER,)
    assert found.inputs == (Port("x", datatype, (-1, 2)),)
    assert found.outputs == (Port("y", datatype, (-1, 2)),)
    answer = engine.infer(
        Infer(7, (Tensor("x", datatype, (2, 2), data),), ("y",), MOST), lambda: True
    )
    assert answer.id == 7
    assert answer.outputs == (Tensor("y", datatype, (2, 2), data),)
    check_tensor(answer.outputs[0], found.outputs[0], BadMessage)
    empty = Infer(8, (Tensor("x", datatype, (0, 2), b""),), ("y",), MOST)
    assert engine.infer(empty, lambda: True).outputs == (Tensor("y", datatype, (0, 2), b""),)


def test_several_inputs_and_outputs_by_name_and_in_the_order_asked_for(in_memory: InMemory) -> None:
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["rest"]),
        helper.make_node("Shape", ["a"], ["shape"]),
    ]
    pair = [value("a", TensorProto.FLOAT, "n", 2), value("b", TensorProto.FLOAT, "n", 2)]
    outs = [value("sum", TensorProto.FLOAT, "n", 2), value("rest", TensorProto.FLOAT, "n", 2)]
    outs.append(value("shape", TensorProto.INT64, 2))
    engine, _ = loaded(in_memory, proto(nodes, pair, outs).SerializeToString())
    a, b = struct.pack("<2f", 5, 7), struct.pack("<2f", 1, 2)
    inputs = tuple(Tensor(name, DataType.FP32, (1, 2), data) for name, data in (("b", b), ("a", a)))
    answer = engine.infer(Infer(1, inputs, ("rest", "shape", "sum"), MOST), lambda: True)
    assert [one.name for one in answer.outputs] == ["rest", "shape", "sum"]
    assert struct.unpack("<2f", answer.outputs[0].data) == (4, 5)
    assert struct.unpack("<2q", answer.outputs[1].data) == (1, 2)
    assert struct.unpack("<2f", answer.outputs[2].data) == (6, 9)


def external(table: np.ndarray, location: str, offset: int = 0) -> bytes:
    """x + table, where the table is in another file."""
    node = helper.make_node("Add", ["x", "table"], ["y"])
    model = proto(
        [node],
        [value("x", TensorProto.FLOAT, "n", table.size)],
        [value("y", TensorProto.FLOAT, "n", table.size)],
        numpy_helper.from_array(table, "table"),
    )
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", offset), ("length", table.nbytes)):
        entry = weights.external_data.add()
        entry.key, entry.value = key, str(text)
    return model.SerializeToString()


def test_weights_in_another_file_of_the_folder(in_memory: InMemory) -> None:
    table = np.arange(1024, dtype=np.float32)
    engine, _ = loaded(
        in_memory, external(table, "model.data", 64), **{"model.data": bytes(64) + table.tobytes()}
    )
    zeros = Tensor("x", DataType.FP32, (1, 1024), bytes(4096))
    answer = engine.infer(Infer(1, (zeros,), ("y",), MOST), lambda: True)
    assert answer.outputs[0].data == table.tobytes()


@pytest.mark.parametrize(
    ("location", "offset"),
    [
        ("other.data", 0),
        ("/etc/hostname", 0),
        ("../stolen", 0),
        ("stolen", 0),
        ("model.data", 64),
        ("model.data", 1 << 40),
    ],
)
def test_weights_that_are_not_there_are_refused(
    in_memory: InMemory, location: str, offset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name outside of the folder is not looked for, and what lies beyond the end is not read."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("stolen", "../stolen", "other.data"):
        Path(name).write_bytes(bytes(8192))
    table = np.zeros(1024, np.float32)
    with pytest.raises(BadModel):
        loaded(in_memory, external(table, location, offset), **{"model.data": table.tobytes()})


def test_outputs_that_are_no_tensors_are_left_out(in_memory: InMemory) -> None:
    sequence = helper.make_tensor_sequence_value_info("all", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("SequenceConstruct", ["x"], ["all"]),
    ]
    x, y = (value(name, TensorProto.FLOAT, 2) for name in "xy")
    _, found = loaded(in_memory, proto(nodes, [x], [y, sequence]).SerializeToString())
    assert [port.name for port in found.outputs] == ["y"]
    with pytest.raises(BadModel, match="outputs of the model"):
        loaded(in_memory, proto(nodes[1:], [x], [sequence]).SerializeToString())
    at = helper.make_node("SequenceAt", ["all", "zero"], ["y"])
    zero = numpy_helper.from_array(np.array(0), "zero")
    with pytest.raises(BadModel, match="all"):
        loaded(in_memory, proto([at], [sequence], [y], zero).SerializeToString())


def test_more_names_than_a_frame_tells_are_refused(in_memory: InMemory) -> None:
    names = [f"x{number}" for number in range(33)]
    inputs = [value(name, TensorProto.FLOAT, 1) for name in names]
    node = helper.make_node("Sum", names, ["y"])
    data = proto([node], inputs, [value("y", TensorProto.FLOAT, 1)]).SerializeToString()
    with pytest.raises(BadModel, match="inputs and outputs"):
        loaded(in_memory, data)
    long = "x" * 129
    node = helper.make_node("Identity", [long], ["y"])
    one, other = value(long, TensorProto.FLOAT, 1), value("y", TensorProto.FLOAT, 1)
    with pytest.raises(BadModel, match="length <= 128"):
        loaded(in_memory, proto([node], [one], [other]).SerializeToString())


def test_an_answer_has_no_more_bytes_than_it_may(in_memory: InMemory) -> None:
    for datatype in (DataType.FP32, DataType.BYTES, DataType.BF16):
        kind, data = TYPES[datatype]
        engine, _ = loaded(in_memory, echo(kind))
        x = Tensor("x", datatype, (2, 2), data)
        assert engine.infer(Infer(1, (x,), ("y",), len(data)), lambda: True).outputs
        for most in (len(data) - 1, 1):
            with pytest.raises(AnswerTooLarge):
                engine.infer(Infer(1, (x,), ("y",), most), lambda: True)


def test_what_the_graph_does_not_take_is_the_callers_fault(in_memory: InMemory) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    inputs = [value("x", TensorProto.FLOAT, "n"), value("shape", TensorProto.INT64, "k")]
    data = proto([node], inputs, [value("y", TensorProto.FLOAT, None)]).SerializeToString()
    engine, _ = loaded(in_memory, data)
    x = Tensor("x", DataType.FP32, (4,), bytes(16))
    shape = Tensor("shape", DataType.INT64, (2,), struct.pack("<2q", 3, 3))
    with pytest.raises(BadRequest):
        engine.infer(Infer(1, (x, shape), ("y",), MOST), lambda: True)
    engine, _ = loaded(in_memory, echo(TensorProto.STRING))
    words = Tensor("x", DataType.BYTES, (1, 2), join([b"\xff", b""]))
    with pytest.raises(BadRequest, match="UTF-8"):
        engine.infer(Infer(1, (words,), ("y",), MOST), lambda: True)


def endless() -> bytes:
    """A loop of as many rounds as its input says; a round takes microseconds."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Sin", ["state"], ["next"]),
        ],
        "round",
        [
            value("round", TensorProto.INT64),
            value("go", TensorProto.BOOL),
            value("state", TensorProto.FLOAT, 64),
        ],
        [value("on", TensorProto.BOOL), value("next", TensorProto.FLOAT, 64)],
    )
    loop = helper.make_node("Loop", ["rounds", "true", "start"], ["y"], body=body)
    return proto(
        [loop],
        [value("rounds", TensorProto.INT64)],
        [value("y", TensorProto.FLOAT, 64)],
        numpy_helper.from_array(np.array(True), "true"),
        numpy_helper.from_array(np.ones(64, np.float32), "start"),
    ).SerializeToString()


def test_a_graph_is_stopped_in_the_middle(in_memory: InMemory) -> None:
    engine, _ = loaded(in_memory, endless())
    started, stopped = threading.Event(), threading.Event()
    rounds = Tensor("rounds", DataType.INT64, (), struct.pack("<q", 1 << 40))

    def go_on() -> bool:
        started.set()
        return not stopped.is_set()

    refusals: list[Exception] = []

    def run() -> None:
        try:
            engine.infer(Infer(1, (rounds,), ("y",), MOST), go_on)
        except WorkerFailed as refusal:
            refusals.append(refusal)

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    stopped.set()
    thread.join()
    assert len(refusals) == 1


def test_a_graph_is_no_language_model(in_memory: InMemory) -> None:
    engine, _ = loaded(in_memory, echo(TensorProto.FLOAT))
    chat = Chat((Message(Role.USER, "a"),))
    for what in (chat, Text("a"), Texts(("a",))):
        with pytest.raises(UnsupportedParameter):
            engine.count(what)
    with pytest.raises(UnsupportedParameter):
        engine.embed(Embed(1, Texts(("a",))), lambda: True)
    with pytest.raises(UnsupportedParameter):
        engine.generate(Generate(1, Text("a"), 4, Sampling()), lambda _text, _count: True)
