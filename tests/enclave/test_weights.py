"""Loading: from files, over HTTP with faults, from liars; all of it in the sink or nothing."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from leasehold.core.crypto import SigningKey
from leasehold.core.streaming import SEGMENT_BYTES
from leasehold.custodian.seal import Sealed, seal_folder
from leasehold.enclave.weights import FileSource, FileWriter, ModelSource, load_sealed
from leasehold.errors import (
    BadSealedModel,
    BadSignature,
    FileTrouble,
    LeaseholdError,
    ModelUnreachable,
    WrongEngine,
    WrongModel,
    WrongModelKey,
)
from leasehold.net.fetch import RangeReader

ROOT = SigningKey.load(b"r" * 32)
CONTENTS = {
    "config.json": b"{}",
    "empty": b"",
    "model.gguf": os.urandom(19 * SEGMENT_BYTES + 7),
    "tokens": os.urandom(SEGMENT_BYTES),
}


@dataclass(frozen=True, slots=True)
class Lent:
    """A sealed file on disk with what opens it."""

    path: Path
    sealed: Sealed


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Lent:
    base = tmp_path_factory.mktemp("sealed")
    (base / "model").mkdir()
    for name, data in CONTENTS.items():
        (base / "model" / name).write_bytes(data)
    return Lent(base / "tiny.sealed", make(base / "model", base / "tiny.sealed"))


def make(folder: Path, out: Path) -> Sealed:
    """Seal a folder with the plainest arguments."""
    names = {"name": "tiny", "version": "1", "engine": "llama", "licence": "Apache-2.0"}
    return seal_folder(folder, out, **names, root_key=ROOT, entropy=os.urandom)


@dataclass(slots=True)
class Memory:
    """A sink of plain bytearrays."""

    files: dict[str, bytearray] = field(default_factory=dict)
    shreds: int = 0

    def file(self, name: str, size: int) -> FileWriter:
        self.files[name] = bytearray(size)
        return Part(self.files[name])

    def shred(self) -> None:
        self.shreds += 1
        self.files.clear()

    @property
    def contents(self) -> dict[str, bytes]:
        return {name: bytes(data) for name, data in self.files.items()}


@dataclass(slots=True)
class Part:
    """One file of Memory."""

    data: bytearray

    def write_at(self, offset: int, data: memoryview) -> None:
        self.data[offset : offset + len(data)] = data


@dataclass(slots=True)
class MemoryFiles:
    """A sink of memory files, as an engine would map them."""

    handles: dict[str, int] = field(default_factory=dict)

    def file(self, name: str, size: int) -> FileWriter:
        handle = os.memfd_create(name)
        os.ftruncate(handle, size)
        self.handles[name] = handle
        return Handle(handle)

    def shred(self) -> None:
        for handle in self.handles.values():
            os.close(handle)
        self.handles.clear()


@dataclass(slots=True)
class Handle:
    """One memory file."""

    handle: int

    def write_at(self, offset: int, data: memoryview) -> None:
        assert os.pwrite(self.handle, data, offset) == len(data)


@dataclass(slots=True)
class Source:
    """The sealed file in memory, behind whatever `meddle` does to what is read."""

    data: bytes
    meddle: Callable[[int, memoryview], None] = lambda _offset, _out: None
    name: str = "memory"
    reads: list[int] = field(default_factory=list)

    def read_into(self, offset: int, out: memoryview) -> int:
        self.reads.append(offset)
        if offset + len(out) > len(self.data):
            raise BadSealedModel(about=self.name, got="its end")
        out[:] = self.data[offset : offset + len(out)]
        self.meddle(offset, out)
        return len(self.data)


async def load(
    lent: Lent, *sources: ModelSource, sink: Any = None, **more: Any
) -> dict[str, bytes]:
    """Load with the right keys into a new Memory; what came out."""
    sink = Memory() if sink is None else sink
    arguments = {
        "digest": lent.sealed.digest,
        "root_public": ROOT.public,
        "model_key": lent.sealed.model_key,
        "engine": lent.sealed.model.header.engine,
        "sink": sink,
        **more,
    }
    model = await load_sealed(sources, **arguments)
    assert model == lent.sealed.model
    return sink.contents if isinstance(sink, Memory) else {}


async def refused(
    expected: type[LeaseholdError], lent: Lent, *sources: ModelSource, **more: Any
) -> list[tuple[str, LeaseholdError]]:
    """Check that loading fails like this and leaves nothing; the sources that were dropped."""
    sink, dropped = Memory(), list[tuple[str, LeaseholdError]]()
    more.setdefault("on_drop", lambda name, cause: dropped.append((name, cause)))
    with pytest.raises(expected):
        await load(lent, *sources, sink=sink, **more)
    assert sink.shreds >= 1
    assert sink.files == {}
    await asyncio.sleep(0)
    return dropped


@pytest.mark.parametrize("threads", [1, 2, 4])
async def test_a_local_file_loads(lent: Lent, threads: int) -> None:
    assert await load(lent, FileSource(lent.path), threads=threads) == CONTENTS


async def test_it_loads_into_memory_files(lent: Lent) -> None:
    sink = MemoryFiles()
    await load(lent, FileSource(lent.path), sink=sink)
    for name, handle in sink.handles.items():
        assert os.pread(handle, len(CONTENTS[name]) + 1, 0) == CONTENTS[name]
    sink.shred()


async def test_progress_is_told_on_the_loop(lent: Lent) -> None:
    told: list[tuple[int, int, int]] = []
    here = threading.get_ident()

    def listen(done: int, total: int) -> None:
        told.append((done, total, threading.get_ident()))

    await load(lent, FileSource(lent.path), on_progress=listen)
    total = sum(map(len, CONTENTS.values()))
    assert told[-1] == (total, total, here)
    assert [one[0] for one in told] == sorted(one[0] for one in told)


async def test_no_source_no_model(lent: Lent) -> None:
    assert await refused(ModelUnreachable, lent) == []


async def test_a_missing_file_is_named(lent: Lent) -> None:
    ((name, cause),) = await refused(FileTrouble, lent, FileSource(lent.path / "no"))
    assert name.endswith("no")
    assert "Not a directory" in str(cause)


async def test_s2_the_wrong_root_and_the_wrong_digest(lent: Lent, tmp_path: Path) -> None:
    await refused(BadSignature, lent, FileSource(lent.path), root_public=b"\1" * 32)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_bytes(b"the version before")
    make(tmp_path / "model", tmp_path / "old")
    await refused(WrongModel, lent, FileSource(tmp_path / "old"))


async def test_s6_the_wrong_key_drops_no_source(lent: Lent) -> None:
    dropped = await refused(WrongModelKey, lent, FileSource(lent.path), model_key=b"x" * 32)
    assert dropped == []


async def test_s19_another_engine_is_refused_before_a_byte_of_the_weights_is_fetched(
    lent: Lent,
) -> None:
    source, dropped, sink = Source(lent.path.read_bytes()), list[str](), Memory()
    with pytest.raises(WrongEngine) as refusal:
        await load(
            lent, source, sink=sink, engine="onnx", on_drop=lambda name, _: dropped.append(name)
        )
    await asyncio.sleep(0)
    assert (refusal.value.got, refusal.value.expected) == (lent.sealed.model.header.engine, "onnx")
    assert max(source.reads) < lent.sealed.model.body
    assert dropped == []
    assert sink.files == {}


async def test_s11_a_short_or_long_file_is_refused_before_its_body_is_read(lent: Lent) -> None:
    data = lent.path.read_bytes()
    for bad in (data[:-1], data + b"\0"):
        source = Source(bad)
        await refused(BadSealedModel, lent, source)
        assert len(source.reads) == 2


async def test_s11_a_file_that_shrinks_meanwhile_is_refused(lent: Lent, tmp_path: Path) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(lent.path.read_bytes())
    body = lent.sealed.model.body

    class Shrinking(FileSource):
        def read_into(self, offset: int, out: memoryview) -> int:
            if offset > body:
                os.truncate(path, body + 100)
            return super().read_into(offset, out)

    await refused(BadSealedModel, lent, Shrinking(path))


@pytest.mark.parametrize("where", [0, 25, 40, 300, -1, -SEGMENT_BYTES, -5 * SEGMENT_BYTES])
async def test_s11_a_changed_byte_is_refused(lent: Lent, where: int) -> None:
    data = bytearray(lent.path.read_bytes())
    data[where] ^= 1
    (dropped,) = await refused(LeaseholdError, lent, Source(bytes(data)))
    assert isinstance(dropped[1], BadSealedModel | BadSignature)


async def test_s11_the_next_source_goes_on_where_a_liar_was_caught(lent: Lent) -> None:
    data = lent.path.read_bytes()
    caught = lent.sealed.model.body + 10 * SEGMENT_BYTES

    def lie(offset: int, out: memoryview) -> None:
        if offset > caught:
            out[17] ^= 1

    liar, honest = Source(data, lie, "liar"), Source(data, name="honest")
    dropped: list[tuple[str, LeaseholdError]] = []
    got = await load(
        lent,
        Source(b"", name="nothing"),
        liar,
        honest,
        threads=1,
        on_drop=lambda name, cause: dropped.append((name, cause)),
    )
    await asyncio.sleep(0)
    assert got == CONTENTS
    assert [name for name, _ in dropped] == ["nothing", "liar"]
    assert "segment" in str(dropped[1][1])
    assert min(honest.reads) > caught


async def test_s11_several_threads_drop_a_liar_once(lent: Lent) -> None:
    data = lent.path.read_bytes()
    everyone = threading.Barrier(3)

    def lie(offset: int, out: memoryview) -> None:
        if offset >= lent.sealed.model.body and len(out) > SEGMENT_BYTES:
            everyone.wait(5)
            out[-1] ^= 1

    dropped: list[str] = []
    sources = Source(data, lie, "liar"), Source(data, name="honest")
    got = await load(lent, *sources, threads=3, on_drop=lambda name, _: dropped.append(name))
    await asyncio.sleep(0)
    assert got == CONTENTS
    assert dropped == ["liar"]


async def test_s13_a_sink_that_fails_is_shredded(lent: Lent) -> None:
    class Full(Memory):
        def file(self, name: str, size: int) -> FileWriter:
            if name == "tokens":
                raise MemoryError
            return Memory.file(self, name, size)

    sink = Full()
    with pytest.raises(MemoryError):
        await load(lent, FileSource(lent.path), sink=sink)
    assert sink.shreds == 1


async def test_s13_cancelling_shreds(lent: Lent) -> None:
    started, go_on = threading.Event(), threading.Event()
    body = lent.sealed.model.body

    def wait(offset: int, out: memoryview) -> None:
        if offset > body + SEGMENT_BYTES:
            started.set()
            assert go_on.wait(10)

    sink = Memory()
    loading = asyncio.create_task(load(lent, Source(lent.path.read_bytes(), wait), sink=sink))
    await asyncio.to_thread(started.wait, 10)
    loading.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert sink.shreds == 1
    assert sink.files == {}


# Over HTTP -------------------------------------------------------------------------------------------


class Mirror(BaseHTTPRequestHandler):
    """Serves the sealed file by ranges, with the faults that the server's `faults` hold."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        data, fault = self.server.data, next(self.server.faults, None)
        first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
        self.server.asked.append((first, last))
        body = data[first : last + 1]
        if fault == "503":
            self.send_error(503)
            return
        if fault == "whole":
            self.send_response(200)
        else:
            self.send_response(206)
            shift = 1 if fault == "other range" else 0
            self.send_header("Content-Range", f"bytes {first + shift}-{last + shift}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        if fault == "cut":
            self.close_connection = True

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def mirror(lent: Lent) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.data, server.faults, server.asked = lent.path.read_bytes(), iter(()), []
    server.url = f"http://127.0.0.1:{server.server_port}/models/tiny.sealed"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def reader(mirror: Any) -> Iterator[RangeReader]:
    """A reader that does not wait between attempts."""
    with closing(RangeReader(mirror.url, sleep=lambda _: None)) as made:
        yield made


async def test_a_mirror_loads(lent: Lent, reader: RangeReader) -> None:
    assert await load(lent, reader) == CONTENTS


async def test_a_mirror_that_drops_connections_is_resumed(
    lent: Lent, mirror: Any, reader: RangeReader
) -> None:
    mirror.faults = iter([None, None, "cut", "503", "cut", None, "503", "503", "503"])
    assert await load(lent, reader, threads=1) == CONTENTS
    asked = mirror.asked
    assert asked[2][0] < asked[3][0] == asked[4][0] < asked[5][0]
    assert asked[2][1] == asked[5][1]


@pytest.mark.parametrize("fault", ["whole", "other range"])
async def test_a_server_without_ranges_is_dropped_at_once(
    lent: Lent, mirror: Any, reader: RangeReader, fault: str
) -> None:
    mirror.faults = iter([fault])
    dropped = await refused(ModelUnreachable, lent, reader)
    assert len(dropped) == len(mirror.asked) == 1


async def test_a_dead_server_is_given_up_after_five_attempts(
    lent: Lent, mirror: Any, reader: RangeReader
) -> None:
    mirror.faults = iter(["503"] * 9)
    waits: list[float] = []
    await refused(ModelUnreachable, lent, RangeReader(mirror.url, sleep=waits.append))
    assert len(mirror.asked) == 5
    assert waits == [0.25, 0.5, 1.0, 2.0]
    mirror.faults = iter(["503"] * 9)
    assert await load(lent, reader, FileSource(lent.path)) == CONTENTS
