"""What sealing costs a load: the enclave's own loader beside plain reading into the same memory, and the peak.

Both copy from the page cache into memory files with as many threads, 8 MiB at a time; the plain one is the
least that anybody would do. Memory is measured in a process of its own: what the governor maps beside the
memory files, and what governor and engine hold together when llama.cpp has the model.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

from bench.harness import Row, Timed, interleaved, pairwise_ratio
from leasehold.core.crypto import SigningKey
from leasehold.core.frames import Settings
from leasehold.core.sealed import SPAN_BYTES_MAX
from leasehold.core.units import MIB
from leasehold.custodian.seal import Sealed, seal_folder
from leasehold.enclave import memory
from leasehold.enclave.host import WorkerHost
from leasehold.enclave.loader import MemorySink
from leasehold.enclave.weights import THREADS_MAX, FileSource, ModelSource, load_sealed
from leasehold.net.fetch import RangeReader

BYTES: Final = 512 * MIB
GGUF_BYTES: Final = 300 * MIB
RUNS: Final = 5
ROOT: Final = SigningKey.load(b"r" * 32)
THREADS: Final = min(THREADS_MAX, os.cpu_count() or 1)


def sealed_of(folder: Path) -> tuple[Path, Sealed]:
    """The folder as one sealed file."""
    out = folder.with_suffix(".sealed")
    names = {"name": "bench", "version": "1", "engine": "llama", "licence": "none"}
    return out, seal_folder(folder, out, **names, root_key=ROOT, entropy=os.urandom)


def load(source: ModelSource, sealed: Sealed) -> MemorySink:
    """As an enclave does."""
    sink = MemorySink()
    asyncio.run(
        load_sealed(
            [source],
            digest=sealed.digest,
            root_public=ROOT.public,
            model_key=sealed.model_key,
            sink=sink,
        )
    )
    return sink


def read_plain(read: Callable[[int, memoryview], object], size: int) -> MemorySink:
    """The same bytes in clear into the same memory, by as many threads."""
    sink = MemorySink()
    writer = sink.file("plain", size)
    offsets = iter(range(0, size, SPAN_BYTES_MAX))

    def work() -> None:
        buffer = memoryview(bytearray(SPAN_BYTES_MAX))
        while (offset := next(offsets, None)) is not None:
            part = buffer[: min(SPAN_BYTES_MAX, size - offset)]
            read(offset, part)
            writer.write_at(offset, part)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work) for _ in range(THREADS)]:
            done.result()
    return sink


def shredded(make: Callable[[], MemorySink], used: list[float] | None = None) -> None:
    """Make it and give it back; `used` gets the processor seconds of making it."""
    started = time.process_time()
    sink = make()
    if used is not None:
        used.append(time.process_time() - started)
    sink.shred()


class Ranges(BaseHTTPRequestHandler):
    """Files of a folder by ranges, out of the page cache."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        """One range."""
        path = self.server.folder / self.path.strip("/")
        first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{path.stat().st_size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        with path.open("rb") as file:
            self.connection.sendfile(file, first, last - first + 1)

    def log_message(self, *_args: object) -> None:
        """Quiet."""


def speeds(folder: Path) -> list[Row]:
    """Sealed beside plain, from a disk and over HTTP."""
    (folder / "model").mkdir()
    plain = folder / "model" / "weights"
    with plain.open("wb") as out:
        for _ in range(BYTES // MIB):
            out.write(os.urandom(MIB))
    path, sealed = sealed_of(folder / "model")
    used: tuple[list[float], list[float]] = ([], [])
    disk = interleaved(
        RUNS,
        partial(shredded, partial(load, FileSource(path), sealed), used[0]),
        partial(shredded, partial(read_plain, FileSource(plain).read_into, BYTES), used[1]),
    )
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    server.folder, server.daemon_threads = folder, True
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    readers = RangeReader(f"{base}/{path.name}"), RangeReader(f"{base}/model/weights")
    wire = interleaved(
        RUNS,
        partial(shredded, partial(load, readers[0], sealed)),
        partial(shredded, partial(read_plain, readers[1].read_into, BYTES)),
    )
    for reader in readers:
        reader.close()
    server.shutdown()
    server.server_close()
    cpu = Timed(tuple(used[0])), Timed(tuple(used[1]))
    ratio, spread = pairwise_ratio(cpu[1], cpu[0])
    beside = (
        f"{cpu[0].median / BYTES * 1e9:.2f} and {cpu[1].median / BYTES * 1e9:.2f} s of CPU a GB"
    )
    rows = [
        Row("load", "the same in processor time, disk", ratio, "ratio", None, ">=", spread, beside)
    ]
    for where, (ours, theirs), bar in (("disk", disk, 0.9), ("HTTP", wire, None)):
        ratio, (low, high) = pairwise_ratio(theirs, ours)
        beside = f"{BYTES / ours.median / 1e9:.2f} and {BYTES / theirs.median / 1e9:.2f} GB/s"
        what = f"sealed load over plain read, {where}"
        rows.insert(
            0 if bar else 1, Row("load", what, ratio, "ratio", bar, ">=", (low, high), beside)
        )
    return rows


def peaks(folder: Path) -> list[Row]:
    """In a process of its own, so that nothing else is in its peak."""
    from models.random_gguf import random_gguf  # not in the process that is measured

    (folder / "model").mkdir()
    random_gguf(folder / "model" / "model.gguf", size_bytes=GGUF_BYTES)
    path, sealed = sealed_of(folder / "model")
    words = (str(path), sealed.digest.hex(), sealed.model_key.hex())
    command = [sys.executable, "-m", "bench.load", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, governor, engine, shared = map(int, done.stdout.split())
    model = f"a model of {size / MIB:.0f} MiB"
    return [
        Row("load", "weights in memory over model", shared / size, "ratio", 1.02, beside=model),
        Row("load", "engine's process over model", (engine + shared) / size, "ratio", 1.2),
        Row("load", "governor's own memory at the peak", governor / MIB, "MiB", 128),
    ]


def measure() -> list[Row]:
    """All rows."""
    with tempfile.TemporaryDirectory() as place:
        rows = speeds(Path(place))
    with tempfile.TemporaryDirectory() as place:
        return rows + peaks(Path(place))


def of(pid: int | str | None, name: str) -> int:
    """A line of /proc/PID/status, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


async def one_load(path: Path, digest: bytes, model_key: bytes) -> None:
    """Print the model's size, the governor's peak, and what the engine holds alone and shares."""
    sink = MemorySink()
    model = await load_sealed(
        [FileSource(path)],
        digest=digest,
        root_public=ROOT.public,
        model_key=model_key,
        sink=sink,
    )
    governor = of("self", "VmHWM")
    for file in sink.files:
        memory.seal(file)
    host = WorkerHost()
    await host.load("llama", sink.files, Settings(context_tokens=256, slots=1, threads=2))
    pid = host.process_id
    print(model.plain_bytes, governor, of(pid, "RssAnon"), of(pid, "RssShmem"))
    await host.kill()
    sink.shred()


if __name__ == "__main__":
    asyncio.run(one_load(Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])))
