"""W-13: onnxruntime leaves no trace and makes no contact; the real model gives the known vectors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.worker.conftest import DIMS, SETTINGS, WORDS, InMemory, Model, encoder_graph

from leasehold.core.frames import Embed, Texts
from leasehold.errors import BadModel
from leasehold.worker.onnx import OnnxEngine

USE = """
import ctypes, os
from pathlib import Path
from leasehold.core.frames import Embed, MemoryFile, Settings, Texts
from leasehold.worker.onnx import OnnxEngine
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
files = []
for path in Path({models!r}).iterdir():
    fd = os.open(path, os.O_RDONLY)
    files.append(MemoryFile(path.name, path.stat().st_size, fd))
engine = OnnxEngine()
engine.load(files, Settings())
engine.embed(Embed(1, Texts(("lease",))), lambda: True)
print(getenv(b"ORT_DISABLE_TELEMETRY").decode())
"""


def test_telemetry_is_off_and_nothing_is_written(encoder: Model, tmp_path: Path) -> None:
    models, home = tmp_path / "models", tmp_path / "home"
    models.mkdir()
    home.mkdir()
    for name, data in encoder.files.items():
        (models / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-B", "-c", USE.format(models=str(models))],
        env={"HOME": str(home), "XDG_CACHE_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "1\n"
    assert list(home.rglob("*")) == []


def test_vectors_of_states_are_averaged_over_real_tokens(
    in_memory: InMemory, encoder: Model
) -> None:
    """A model without pooling of its own gives a state for each token."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(encoder_graph(len(WORDS)))
    del model.graph.output[:]
    shape = ["batch", "sequence", DIMS]
    model.graph.output.append(helper.make_tensor_value_info("vectors", TensorProto.FLOAT, shape))
    files = dict(encoder.files) | {"model.onnx": model.SerializeToString()}
    plain, pooled = OnnxEngine(), OnnxEngine()
    plain.load([in_memory(name, data) for name, data in files.items()], SETTINGS)
    pooled.load(encoder.in_memory(in_memory), SETTINGS)
    ask = Embed(1, Texts(("lease", "grant stop budget")))
    got = np.frombuffer(plain.embed(ask, lambda: True).vectors, "<f4").reshape(2, DIMS)
    expected = np.frombuffer(pooled.embed(ask, lambda: True).vectors, "<f4").reshape(2, DIMS)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(got, expected, atol=1e-6)


def test_a_model_of_another_kind_is_refused(in_memory: InMemory, encoder: Model) -> None:
    import onnx
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["out"])], "g", [image], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    files = dict(encoder.files) | {"model.onnx": model.SerializeToString()}
    with pytest.raises(BadModel) as refusal:
        OnnxEngine().load([in_memory(name, data) for name, data in files.items()], SETTINGS)
    assert refusal.value.got == ["image"]


def test_weights_outside_of_the_model_file_are_refused(
    in_memory: InMemory, encoder: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-51480 and its kin: a model that names any file of the machine as its weights."""
    import onnx

    model = onnx.load_from_string(encoder_graph(len(WORDS)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stolen").write_bytes(b"\0" * 4096)
    table = model.graph.initializer[0]
    table.ClearField("raw_data")
    table.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "/etc/hostname"), ("offset", "0"), ("length", "320")):
        entry = table.external_data.add()
        entry.key, entry.value = key, value
    files = dict(encoder.files) | {"model.onnx": model.SerializeToString()}
    with pytest.raises(BadModel):
        OnnxEngine().load([in_memory(name, data) for name, data in files.items()], SETTINGS)
