"""A sealed model of half a gigabyte: loading it, the memory it takes, and how fast it is gone.

Beside the load: the plain file, read into the same kind of memory by as many threads. The worker is
the real one, in its sandbox.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.random_gguf import MEGABYTE, random_gguf

from bench.harness import Row, Timed, interleaved, pairwise_ratio
from leasehold.core import frames
from leasehold.core.crypto import SigningKey
from leasehold.core.frames import MemoryFile, Settings
from leasehold.core.sealed import SPAN_BYTES_MAX
from leasehold.custodian.seal import seal_folder
from leasehold.enclave import memory
from leasehold.enclave.host import WorkerHost
from leasehold.enclave.loader import MemorySink
from leasehold.enclave.weights import THREADS_MAX, FileSource, load_sealed

ROOT: Final = Path(__file__).parent.parent
MODEL_BYTES: Final = 500 * MEGABYTE
RUNS: Final = 5
STOPS: Final = 7
SETTINGS: Final = Settings(context_tokens=1024, slots=2, threads=len(os.sched_getaffinity(0)))
LONG: Final = "lend " * 180  # about 900 tokens
LOOK_SECONDS: Final = 0.002

Load = Callable[[MemorySink], Awaitable[None]]


def measure() -> list[Row]:
    """Loading, memory and stops."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as place:
        source = Path(place) / "half"
        source.mkdir()
        plain = random_gguf(source / "half.gguf", size_bytes=MODEL_BYTES)
        target, root = Path(place) / "half.sealed", SigningKey.make(os.urandom)
        sealed = seal_folder(
            source,
            target,
            name="half",
            version="1",
            engine="llama",
            licence="none",
            root_key=root,
            entropy=os.urandom,
        )

        async def load(sink: MemorySink) -> None:
            await load_sealed(
                [FileSource(target)],
                digest=sealed.digest,
                root_public=root.public,
                model_key=sealed.model_key,
                engine="llama",
                sink=sink,
            )

        size = plain.stat().st_size
        rows = asyncio.run(_memory(size, load))  # first: later this process has memory to spare
        return [*_loads(plain, load), *rows, *asyncio.run(_stops(load))]


# Loading ---------------------------------------------------------------------------------------------


def _loads(plain: Path, load: Load) -> list[Row]:
    def ours() -> None:
        sink = MemorySink()
        asyncio.run(_whole(load, sink))
        sink.shred()

    def floor() -> None:
        memory.shred(read_plain(plain))

    mine, bare = interleaved(RUNS, ours, floor)
    ratio, spread = pairwise_ratio(bare, mine)
    return [
        Row(
            "worker",
            "sealed load, over reading the plain file into the same memory",
            ratio,
            "",
            0.9,
            ">=",
            spread,
            f"{_rate(mine, plain)}; plain {_rate(bare, plain)}",
        )
    ]


async def _whole(load: Load, sink: MemorySink) -> None:
    await load(sink)


def _rate(timed: Timed, plain: Path) -> str:
    return f"{plain.stat().st_size / timed.median / 1e9:.2f} GB/s"


def read_plain(path: Path) -> MemoryFile:
    """A file in a memory file, read by several threads in pieces as large as ours."""
    size = path.stat().st_size
    made = memory.create(path.name, size)
    starts = iter(range(0, size, SPAN_BYTES_MAX))
    lock = threading.Lock()

    def work() -> None:
        buffer = memoryview(bytearray(SPAN_BYTES_MAX))
        with path.open("rb", buffering=0) as file:
            while True:
                with lock:
                    start = next(starts, None)
                if start is None:
                    return
                got = os.preadv(file.fileno(), [buffer[: size - start]], start)
                memory.write(made, buffer[:got], start)

    threads = min(THREADS_MAX, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        for one in [pool.submit(work) for _ in range(threads)]:
            one.result()
    return made


# Memory ----------------------------------------------------------------------------------------------


async def _memory(size: int, load: Load) -> list[Row]:
    """Peaks while loading and answering, of the worker and of what the governor needs more than before."""
    sink, host = MemorySink(), WorkerHost()
    before = _kib(os.getpid(), "RssAnon")
    peak = _Peak(host, sink)
    watching = asyncio.create_task(peak.watch())
    await load(sink)
    for file in sink.files:
        memory.seal(file)
    await host.load("llama", sink.files, SETTINGS)
    async for _ in host.generate(frames.Text("lend"), max_tokens=16):
        pass
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await host.kill()
    sink.shred()
    weights = 1024 * max(one.mapped for one in peak.seen) / size
    worst = max(peak.seen, key=lambda one: one.whole)
    governor, whole = worst.governor - before, 1024 * (worst.whole - before) / size
    beside = f"{size / 1e6:.0f} MB of weights, {worst.private / 1000:.0f} MB of the worker's own"
    return [
        Row("worker", "weights in memory, over their size", weights, "", 1.02, "<=", beside=beside),
        Row(
            "worker",
            "all memory at the peak, over the weights' size",
            whole,
            "",
            1.2,
            "<=",
            beside=f"{governor / 1000:.0f} MB of it the governor's at that moment",
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Memory:
    """KiB at one moment: the weights' files, those of their pages that the worker maps, and what the worker
    and the governor have of their own."""

    files: int
    mapped: int
    private: int
    governor: int

    @property
    def whole(self) -> int:
        """All of it."""
        return self.files + self.private + self.governor


class _Peak:
    """What was seen, moment by moment."""

    def __init__(self, host: WorkerHost, sink: MemorySink) -> None:
        self.seen: list[_Memory] = []
        self._host, self._sink = host, sink

    async def watch(self) -> None:
        """Look all the time."""
        while True:
            pid = self._host.process_id
            own = (0, 0) if pid is None else (_kib(pid, "RssShmem"), _kib(pid, "RssAnon"))
            files = sum(os.fstat(file.fd).st_blocks for file in self._sink.files) // 2
            self.seen.append(_Memory(files, *own, _kib(os.getpid(), "RssAnon")))
            await asyncio.sleep(LOOK_SECONDS)


def _kib(pid: int, what: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == what:
                return int(value.split()[0])
    return 0


# Stopping --------------------------------------------------------------------------------------------


async def _stops(load: Load) -> list[Row]:
    sink, host = MemorySink(), WorkerHost()
    await load(sink)
    for file in sink.files:
        memory.seal(file)
    await host.load("llama", sink.files, SETTINGS)
    decode = [await _cancelled(host, "lend", tokens=3) for _ in range(STOPS)]
    prefill = [await _cancelled(host, LONG, tokens=0) for _ in range(STOPS)]
    gone = await _killed(host, sink)
    return [
        _stopped("in decode, until the engine is idle", decode, 50),
        _stopped("in a prefill of 900 tokens, until the engine is idle", prefill, 500),
        _stopped("kill in the middle, and half a gigabyte shredded", [gone], 150),
    ]


def _stopped(what: str, seconds: list[float], bar: float) -> Row:
    found = sorted(1e3 * one for one in seconds)
    median = statistics.median(found)
    return Row("worker", f"stop {what}", median, "ms", bar, "<=", (found[0], found[-1]))


async def _cancelled(host: WorkerHost, prompt: str, *, tokens: int) -> float:
    """Seconds from the cancellation, after so many frames, until the worker has said that it is over."""
    stream = host.generate(frames.Text(prompt), max_tokens=100)
    if tokens:
        for _ in range(tokens):
            await anext(stream)
    else:
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.15)
        if first.done():
            raise RuntimeError("the prefill was over before it could be cancelled")
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
    if not host.open_requests:
        raise RuntimeError("the answer was over before it could be cancelled")
    started = time.perf_counter()
    await stream.aclose()
    while host.open_requests:  # noqa: ASYNC110  (the host tells nobody when one ends)
        await asyncio.sleep(LOOK_SECONDS / 10)
    return time.perf_counter() - started


async def _killed(host: WorkerHost, sink: MemorySink) -> float:
    """Seconds for the worker to be gone and its memory given back, in the middle of a generation."""
    stream = host.generate(frames.Text("lend"), max_tokens=100)
    await anext(stream)
    started = time.perf_counter()
    await host.kill()
    sink.shred()
    seconds = time.perf_counter() - started
    await stream.aclose()
    return seconds
