"""W-11: one suite that each engine passes in a real worker, for the capabilities that it declares.

A subject is an engine with a model of each kind that it reads. What the engine's port asks of it in one
process is in test_engines.py, test_graph.py and test_calls.py; here it is a process, a sandbox and memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from models.random_gguf import random_gguf
from onnx import TensorProto, helper, numpy_helper
from tests.worker.conftest import (
    CONTEXT,
    WORDS,
    InMemory,
    encoder_graph,
    encoder_tokenizer,
    engine_named,
    make_caller,
    make_folder,
    make_gguf,
    make_ir,
)
from tests.worker.test_graph import endless, external, proto, value

from leasehold.core.frames import (
    Capability,
    Chat,
    Done,
    MemoryFile,
    Message,
    Prompt,
    Reason,
    Role,
    Sampling,
    Settings,
    Text,
    Token,
    Tools,
)
from leasehold.core.tensors import ROW_BYTES, DataType, Tensor
from leasehold.enclave import memory
from leasehold.enclave.host import WorkerHost
from leasehold.errors import BadModel, WorkerFailed

MIB = 1 << 20
TABLE = np.arange(1024, dtype=np.float32)
SETTINGS = Settings(context_tokens=1024, slots=1, threads=2, seed=7)
LIBRARIES = {"llama": "xllamacpp", "onnx": "onnxruntime", "transformers": "libtorch"} | {
    "openvino": "libopenvino",
}
COPIES = {"openvino"}
BIG_MIB, SMALL_MIB = 64, 2


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine with a kind of model.

    `small` answers fast. `slow` is at work for seconds when `long` is asked of it, in the way in which
    `names` says. `sized` makes a model of so many mebibytes: what the peak grows by with it is at most
    what the engine declares.
    """

    engine: str
    can: frozenset[Capability]
    small: Callable[[Path], Mapping[str, bytes]]
    slow: Callable[[Path], Mapping[str, bytes]]
    sized: Callable[[Path, int], Mapping[str, bytes]]
    short: Callable[[WorkerHost], Awaitable[None]]
    long: Mapping[str, Callable[[WorkerHost], Awaitable[object]]]
    hostile: Mapping[str, Mapping[str, bytes]]


# Language models -------------------------------------------------------------------------------------


WEATHER = {
    "type": "object",
    "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["days"],
    "additionalProperties": False,
}
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
TURN = (Message(Role.USER, "lease"),)
SEED = Sampling(seed=5)


async def speak_and_call(host: WorkerHost) -> None:
    """Text, and a call that is forced: its name, and arguments that fit."""
    await answer(host, Text("lease"), 20)
    tokens = await answer(host, Chat(TURN, Tools(json.dumps([FUNCTION]), ("weather",))), 400)
    parts = [part for token in tokens for part in token.calls]
    assert "".join(part.name for part in parts) == "weather"
    assert 1 <= json.loads("".join(part.arguments for part in parts))["days"] <= 9
    assert "".join(token.text for token in tokens) == ""


async def answer(host: WorkerHost, prompt: Prompt, most: int) -> list[Token]:
    """All its tokens, each counted, and no more input than was counted before."""
    counted, tokens = await host.count(prompt), []
    async for some in host.generate(prompt, max_tokens=most, sampling=SEED):
        tokens += [one for one in some if isinstance(one, Token)]
        for done in some:
            if isinstance(done, Done):
                told = sum(token.count for token in tokens)
                assert 0 < done.output_tokens == told <= most
                assert done.input_tokens == counted
                calls = isinstance(prompt, Chat) and prompt.tools is not None
                assert (done.reason is Reason.TOOL_CALLS) == calls
                return tokens
    raise AssertionError("no end")


async def decode(host: WorkerHost) -> None:
    """Nine hundred tokens."""
    async for _ in host.generate(Text("lease"), max_tokens=900, sampling=Sampling(seed=1)):
        pass


async def prefill(host: WorkerHost) -> None:
    """A prompt of nearly a thousand tokens."""
    async for _ in host.generate(Text("lease " * 160), max_tokens=1):
        pass


def calling(engine: str) -> Callable[[Path], Mapping[str, bytes]]:
    """A model whose template knows functions."""
    return lambda place: make_caller(engine, place).files


def gguf(megabytes: int) -> Callable[[Path], Mapping[str, bytes]]:
    return lambda folder: make_gguf(folder, megabytes * MIB).files


def folder(megabytes: float, shards: int = 2) -> Callable[[Path], Mapping[str, bytes]]:
    return lambda place: make_folder(place, round(megabytes * MIB), shards).files


def in_openvino(megabytes: int) -> Callable[[Path], Mapping[str, bytes]]:
    """The same weights in another format."""

    def make(folder: Path) -> Mapping[str, bytes]:
        return make_ir(folder, random_gguf(folder / "model.gguf", size_bytes=megabytes * MIB)).files

    return make


def endless_in_openvino(folder: Path) -> Mapping[str, bytes]:
    """Sixty megabytes that never say that they have ended."""
    return dict(in_openvino(60)(folder)) | {"generation_config.json": b'{"eos_token_id": []}'}


# Encoders --------------------------------------------------------------------------------------------


async def embed(host: WorkerHost) -> None:
    """A vector for each text, and its input as it was counted."""
    found = await host.embed(["lease", "grant stop"])
    assert len(found.vectors) == 2 * found.dims * 4
    assert found.dims == host.loaded.embedding_dims
    assert found.input_tokens == 7  # words, and one token before and after each text


async def embed_much(host: WorkerHost) -> None:
    """Two thousand texts of two hundred and fifty words."""
    await host.embed(["lease " * (CONTEXT - 6)] * 2000)


def an_encoder(_folder: Path) -> Mapping[str, bytes]:
    return {"model.onnx": encoder_graph(len(WORDS)), "tokenizer.json": encoder_tokenizer()}


def a_deep_encoder(_folder: Path) -> Mapping[str, bytes]:
    """The same with a detour that takes its time."""
    import onnx

    model = onnx.load_from_string(encoder_graph(len(WORDS)))
    model.graph.node.remove(model.graph.node[0])
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["deep0"])]
    nodes += [helper.make_node("Sin", [f"deep{n}"], [f"deep{n + 1}"]) for n in range(200)]
    nodes.append(helper.make_node("Identity", ["deep200"], ["vectors"]))
    for at, node in enumerate(nodes):
        model.graph.node.insert(at, node)
    return dict(an_encoder(_folder)) | {"model.onnx": model.SerializeToString()}


# Graphs ----------------------------------------------------------------------------------------------


async def infer(host: WorkerHost) -> None:
    """The table of the model, by its weights in another file."""
    zeros = Tensor("x", DataType.FP32, (1, TABLE.size), bytes(TABLE.nbytes))
    found = await host.infer((zeros,), ("y",), bytes_max=ROW_BYTES)
    assert found.outputs[0].data[: TABLE.nbytes] == TABLE.tobytes()


async def loop(host: WorkerHost) -> object:
    """As many rounds as there are."""
    rounds = Tensor("rounds", DataType.INT64, (), struct.pack("<q", 1 << 40))
    return await host.infer((rounds,), ("y",), bytes_max=ROW_BYTES)


def a_graph(_folder: Path) -> Mapping[str, bytes]:
    return {"model.onnx": external(TABLE, "model.data"), "model.data": TABLE.tobytes()}


def a_heavy_graph(_folder: Path, mebibytes: int) -> Mapping[str, bytes]:
    """A matrix of that size in another file."""
    table = np.ones((1024, mebibytes * MIB // 4096), np.float32)
    node = helper.make_node("MatMul", ["x", "table"], ["y"])
    model = proto(
        [node],
        [value("x", TensorProto.FLOAT, "n", 1024)],
        [value("y", TensorProto.FLOAT, "n", table.shape[1])],
        numpy_helper.from_array(np.zeros((1024, table.shape[1]), np.float32)[:0], "table"),
    )
    weights = model.graph.initializer[0]
    weights.dims[:] = table.shape
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, text in (("location", "model.data"), ("offset", "0"), ("length", str(table.nbytes))):
        entry = weights.external_data.add()
        entry.key, entry.value = key, text
    return {"model.onnx": model.SerializeToString(), "model.data": table.tobytes()}


GARBAGE = b"\x80\x04not a model" * 100
SPEAKS = frozenset({Capability.CHAT, Capability.TEXT, Capability.SCHEMA, Capability.PROBS})
LANGUAGE = SPEAKS | {Capability.TOOLS}
SUBJECTS = {
    "llama": Subject(
        "llama",
        LANGUAGE,
        calling("llama"),
        gguf(60),
        lambda folder, size: gguf(size)(folder),
        short=speak_and_call,
        long={"decode": decode, "prefill": prefill},
        hostile={
            "garbage": {"model.gguf": GARBAGE},
            "nothing": {"model.gguf": b""},
            "endless keys": {"model.gguf": b"GGUF\x03\0\0\0" + b"\xff" * 64},
            "two models": {"a.gguf": GARBAGE, "b.gguf": GARBAGE},
            "another kind": {"model.onnx": encoder_graph(len(WORDS))},
        },
    ),
    "transformers": Subject(
        "transformers",
        LANGUAGE,
        calling("transformers"),
        folder(160),
        lambda place, size: folder(size)(place),
        short=speak_and_call,
        long={"decode": decode, "prefill": prefill},
        hostile={
            "garbage": {
                "model.safetensors": GARBAGE,
                "config.json": b"{}",
                "tokenizer.json": b"{}",
            },
            "pickles": {"pytorch_model.bin": b"\x80\x04.", "config.json": b"{}"},
        },
    ),
    "openvino": Subject(
        "openvino",
        LANGUAGE,
        calling("openvino"),
        endless_in_openvino,
        lambda folder, size: in_openvino(size)(folder),
        short=speak_and_call,
        long={"decode": decode, "prefill": prefill},
        hostile={
            "no weights": {"openvino_model.xml": b"<net/>", "tokenizer.json": b"{}"},
            "garbage": {
                "openvino_model.xml": GARBAGE,
                "openvino_model.bin": GARBAGE,
                "tokenizer.json": b"{}",
            },
            "another kind": {"model.onnx": encoder_graph(len(WORDS))},
        },
    ),
    "onnx encoder": Subject(
        "onnx",
        frozenset({Capability.EMBED}),
        an_encoder,
        a_deep_encoder,
        lambda folder, _: an_encoder(folder),
        short=embed,
        long={"batches": embed_much},
        hostile={
            "garbage": {"model.onnx": GARBAGE, "tokenizer.json": encoder_tokenizer()},
            "no words": {"model.onnx": encoder_graph(len(WORDS)), "tokenizer.json": b"{}"},
            "pickles": {"model.onnx": GARBAGE, "tokenizer.json": b"\x80\x04."},
        },
    ),
    "onnx graph": Subject(
        "onnx",
        frozenset({Capability.INFER}),
        a_graph,
        lambda _: {"model.onnx": endless()},
        a_heavy_graph,
        short=infer,
        long={"a graph": loop},
        hostile={
            "garbage": {"model.onnx": GARBAGE},
            "nothing": {"model.onnx": b""},
            "no model": {"readme.txt": b"hello"},
            "weights of the host": {"model.onnx": external(TABLE, "/etc/hostname")},
            "weights beyond the end": {
                "model.onnx": external(TABLE, "model.data", 1 << 40),
                "model.data": bytes(4096),
            },
        },
    ),
}
LONG = [(name, way) for name, one in SUBJECTS.items() for way in one.long]
HOSTILE = [(name, how) for name, one in SUBJECTS.items() for how in one.hostile]


@pytest.fixture
async def host() -> AsyncIterator[WorkerHost]:
    """A host whose worker ends with the test."""
    made = WorkerHost(cancel_seconds=20)
    yield made
    await made.kill()


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    """Every engine with every kind of model."""
    return SUBJECTS[request.param]


def put(in_memory: InMemory, files: Mapping[str, bytes]) -> list[MemoryFile]:
    """The files as sealed memory files."""
    return [in_memory(name, data) for name, data in files.items()]


def peak_bytes(process: int | None) -> int:
    """The most that was in memory of a process at any time."""
    rows = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(row.split()[1]) << 10 for row in rows if row.startswith("VmHWM"))


def own_bytes(process: int | None) -> int:
    """Pages of a process beside memory files; 0 where there is none."""
    if not is_there(process):
        return 0
    rows = [row.split() for row in Path(f"/proc/{process}/status").read_text().splitlines()]
    return sum(int(row[1]) << 10 for row in rows if row[0] in ("RssAnon:", "RssFile:"))


class OwnPeak:
    """The most pages that a worker was seen to have beside memory files, in bytes."""

    def __init__(self, host: WorkerHost) -> None:
        self.bytes = 0
        self._host = host

    async def watch(self) -> None:
        """Look all the time."""
        while True:
            self.bytes = max(self.bytes, own_bytes(self._host.process_id))
            await asyncio.sleep(0.001)


async def started(host: WorkerHost) -> None:
    """Return when what was asked before has reached the worker and has had time to begin."""
    await until(lambda: host.open_requests > 0)
    await asyncio.sleep(0.2)


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds; the longest that an engine may go on is the host's to end."""
    while True:
        if holds():
            return
        await asyncio.sleep(0.01)


def is_there(process: int | None) -> bool:
    """Is there such a process, or one that nobody has reaped?"""
    return Path(f"/proc/{process}").exists()


def mapped(process: int | None) -> str:
    """What is mapped into it."""
    return Path(f"/proc/{process}/maps").read_text()


def below(folder: Path) -> list[Path]:
    """All files of a folder."""
    return sorted(folder.rglob("*"))


# What is loaded --------------------------------------------------------------------------------------


async def test_it_does_what_it_declares_and_counts_what_it_does(
    host: WorkerHost, subject: Subject, in_memory: InMemory, tmp_path: Path
) -> None:
    loaded = await host.load(subject.engine, put(in_memory, subject.small(tmp_path)), SETTINGS)
    assert set(loaded.capabilities) == subject.can
    assert bool(loaded.embedding_dims) == (Capability.EMBED in subject.can)
    assert bool(loaded.outputs) == (Capability.INFER in subject.can)
    await subject.short(host)


async def test_no_other_engine_is_in_its_process(
    host: WorkerHost, subject: Subject, in_memory: InMemory, tmp_path: Path
) -> None:
    await host.load(subject.engine, put(in_memory, subject.small(tmp_path)), SETTINGS)
    maps = mapped(host.process_id)
    assert {name for name, library in LIBRARIES.items() if library in maps} == {subject.engine}


async def test_nothing_reaches_it_and_it_reaches_nothing(
    host: WorkerHost, subject: Subject, in_memory: InMemory, tmp_path: Path
) -> None:
    """No socket that listens or is connected, but its own pair; no file but memory."""
    files = subject.small(tmp_path)
    home = below(tmp_path)
    await host.load(subject.engine, put(in_memory, files), SETTINGS)
    await subject.short(host)
    folder = Path(f"/proc/{host.process_id}")
    if "own-network" in host.loaded.layers:
        for table in ("tcp", "tcp6", "udp", "udp6", "raw"):
            assert (folder / "net" / table).read_text().splitlines()[1:] == []
    opened = [os.readlink(link) for link in (folder / "fd").iterdir()]
    kinds = {name.split(":")[0] for name in opened}
    assert kinds <= {"socket", "pipe", "anon_inode", "/memfd", "/dev/null", "/"}
    assert below(tmp_path) == home


async def test_what_says_that_it_has_copied_needs_no_page_of_the_files(
    host: WorkerHost, subject: Subject, in_memory: InMemory, tmp_path: Path
) -> None:
    """W-28."""
    files = put(in_memory, subject.small(tmp_path))
    loaded = await host.load(subject.engine, files, SETTINGS)
    assert loaded.has_copied == (subject.engine in COPIES)
    for file in files if loaded.has_copied else ():
        memory.empty(file)
    await subject.short(host)


# What is under way -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "way"), LONG)
async def test_work_ends_soon_after_nobody_wants_it(
    host: WorkerHost, in_memory: InMemory, tmp_path: Path, name: str, way: str
) -> None:
    subject = SUBJECTS[name]
    await host.load(subject.engine, put(in_memory, subject.slow(tmp_path)), SETTINGS)
    process = host.process_id
    work = asyncio.ensure_future(subject.long[way](host))
    await started(host)
    assert not work.done()
    work.cancel()
    await asyncio.wait([work])
    await until(lambda: not host.open_requests)  # the worker says that it has ended it
    assert host.process_id == process
    assert is_there(process)


@pytest.mark.parametrize(("name", "way"), LONG)
async def test_killed_at_work_it_is_gone_and_so_are_the_weights(
    host: WorkerHost, in_memory: InMemory, tmp_path: Path, name: str, way: str
) -> None:
    subject = SUBJECTS[name]
    files = put(in_memory, subject.slow(tmp_path))
    await host.load(subject.engine, files, SETTINGS)
    process = host.process_id
    work = asyncio.ensure_future(subject.long[way](host))
    await started(host)
    await host.kill()
    assert not is_there(process)
    with pytest.raises(WorkerFailed):
        await work
    for file in files:
        os.truncate(file.fd, 0)  # what `memory.shred` does, but for closing
        assert os.fstat(file.fd).st_blocks == 0


@pytest.mark.parametrize(("name", "way"), LONG)
async def test_shredded_at_work_it_gives_nothing_or_dies(
    in_memory: InMemory, tmp_path: Path, name: str, way: str
) -> None:
    """The governor needs no consent: the pages are gone at once, whoever maps them."""
    told: list[WorkerFailed] = []
    host = WorkerHost(on_exit=told.append)
    subject = SUBJECTS[name]
    files = put(in_memory, subject.slow(tmp_path))
    await host.load(subject.engine, files, SETTINGS)
    work = asyncio.ensure_future(subject.long[way](host))
    await started(host)
    for file in files:
        os.truncate(file.fd, 0)
        assert os.fstat(file.fd).st_blocks == 0
    await asyncio.wait([work], timeout=1)
    process = host.process_id
    await host.kill()
    assert not is_there(process)
    await asyncio.wait([work])
    assert isinstance(work.exception(), WorkerFailed)


# What it takes ---------------------------------------------------------------------------------------


async def test_the_peak_grows_with_the_model_as_it_says(
    subject: Subject, in_memory: InMemory, tmp_path: Path
) -> None:
    """Base and caches cancel out: two models are compared, and the weights' own pages count."""
    ratio, peaks, sizes = engine_named(subject.engine).load_peak_ratio, [], []
    for at, mebibytes in enumerate((SMALL_MIB, BIG_MIB)):
        (tmp_path / str(at)).mkdir()
        files = subject.sized(tmp_path / str(at), mebibytes)
        host = WorkerHost()
        settings = Settings(context_tokens=64, slots=1, threads=1)
        sizes.append(sum(len(data) for data in files.values()))
        own = OwnPeak(host)
        watching = asyncio.ensure_future(own.watch())
        await host.load(subject.engine, put(in_memory, files), settings)
        watching.cancel()
        await asyncio.wait([watching])
        # at once: the most that was mapped, files included; and its own pages beside files not mapped
        peaks.append(max(peak_bytes(host.process_id), own.bytes + sizes[-1]))
        await host.kill()
    assert peaks[1] - peaks[0] <= ratio * (sizes[1] - sizes[0]) + 24 * MIB


@pytest.mark.parametrize(("name", "how"), HOSTILE)
async def test_a_wrong_model_is_refused_and_the_next_one_is_served(
    host: WorkerHost, in_memory: InMemory, tmp_path: Path, name: str, how: str
) -> None:
    subject = SUBJECTS[name]
    with pytest.raises(BadModel):
        await host.load(subject.engine, put(in_memory, subject.hostile[how]), SETTINGS)
    assert host.process_id is None
    if how == next(iter(subject.hostile)):
        await host.load(subject.engine, put(in_memory, subject.small(tmp_path)), SETTINGS)
        await subject.short(host)
