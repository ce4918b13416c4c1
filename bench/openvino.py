"""The OpenVINO engine beside llama.cpp: the same random half gigabyte in both formats, both in a real worker.

Rates, and memory at the peak of a load and after it. Memory counts the worker's own pages above those that
it has before it gets a model, and the memory files of the weights, which the governor empties once
they are copied.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from models.random_gguf import MEGABYTE, random_gguf

from bench.harness import Row
from leasehold.core import frames
from leasehold.core.frames import MemoryFile, Settings
from leasehold.enclave import memory
from leasehold.enclave.host import WorkerHost
from models import llama_ir

ROOT: Final = Path(__file__).parent.parent
MODEL_BYTES: Final = 500 * MEGABYTE
ENGINES: Final = ("openvino", "llama")
AT_ONCE: Final = (1, 8)
TOKENS: Final = 32
PREFILL: Final = 512
ROUNDS: Final = 3
SETTINGS: Final = Settings(context_tokens=1024, slots=8, threads=len(os.sched_getaffinity(0)))
GREEDY: Final = frames.Sampling(temperature=0.0)
LOOK_SECONDS: Final = 0.002


def measure() -> list[Row]:
    """Rates, memory, and how long a load takes."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as place:
        source = random_gguf(Path(place) / "half.gguf", size_bytes=MODEL_BYTES)
        folder = llama_ir.write(source, Path(place) / "ir")
        (folder / "generation_config.json").write_text('{"eos_token_id": []}')
        paths = {"openvino": list(folder.iterdir()), "llama": [source]}
        return asyncio.run(_measure(paths))


async def _measure(paths: Mapping[str, list[Path]]) -> list[Row]:
    hosts = {name: WorkerHost() for name in ENGINES}
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    try:
        for name in ENGINES:
            found, seconds[name] = await _load(name, hosts[name], paths[name])
            rows += found if name == "openvino" else []
        beside = f"llama.cpp, whose weights stay where they are: {seconds['llama']:.2f} s"
        size = sum(path.stat().st_size for path in paths["openvino"]) / 1e6
        what = f"OpenVINO: load of {size:.0f} MB from memory, matrices packed"
        rows.append(Row("openvino", what, seconds["openvino"], "s", beside=beside))
        for streams in AT_ONCE:
            rows.append(await _compare(f"tokens/s at {streams} at once", hosts, streams, 0))
        rows.append(await _compare(f"prompts of {PREFILL} tokens, tokens/s", hosts, 1, PREFILL))
    finally:
        for host in hosts.values():
            await host.kill()
    return rows


async def _load(name: str, host: WorkerHost, paths: list[Path]) -> tuple[list[Row], float]:
    files = [_in_memory(path) for path in paths]
    size = sum(file.size for file in files)
    await host.prepare(name)
    await asyncio.sleep(3)  # it imports its engine
    before, peak = _own_bytes(host), 0

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, _own_bytes(host))
            await asyncio.sleep(LOOK_SECONDS)

    watching = asyncio.create_task(watch())
    started = time.perf_counter()
    loaded = await host.load(name, files, SETTINGS)
    seconds = time.perf_counter() - started
    await _speak(host, 8)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    if loaded.has_copied:
        for file in files:
            memory.empty(file)
    await _speak(host, 8)
    kept = sum(512 * os.fstat(file.fd).st_blocks for file in files)
    after = (_own_bytes(host) - before + kept) / size
    for file in files:
        os.close(file.fd)
    beside = f"{size / 1e6:.0f} MB of files; {before / 1e6:.0f} MB of the worker's before them"
    return [
        Row(
            "openvino",
            "OpenVINO: memory at the peak of a load, over the files' size",
            (peak - before + size) / size,
            "",
            2.1,
            beside=beside,
        ),
        Row("openvino", "OpenVINO: memory after it, over the files' size", after, "", 1.3),
    ], seconds


async def _compare(what: str, hosts: Mapping[str, WorkerHost], streams: int, prompt: int) -> Row:
    """The rates of both, in turn."""
    found: dict[str, list[float]] = {name: [] for name in ENGINES}
    for at in range(ROUNDS + 1):
        for name in ENGINES:
            started = time.perf_counter()
            made = await asyncio.gather(
                *(_speak(hosts[name], TOKENS, prompt) for _ in range(streams))
            )
            tokens = prompt or sum(made)
            if at:
                found[name].append(tokens / (time.perf_counter() - started))
    ratios = sorted(a / b for a, b in zip(found["openvino"], found["llama"], strict=True))
    rates = {name: statistics.median(found[name]) for name in ENGINES}
    return Row(
        "openvino",
        f"{what}, OpenVINO over llama.cpp",
        statistics.median(ratios),
        "",
        None,
        ">=",
        (ratios[0], ratios[-1]),
        f"llama.cpp {rates['llama']:.1f}/s; OpenVINO {rates['openvino']:.1f}/s",
    )


async def _speak(host: WorkerHost, tokens: int, prompt: int = 0) -> int:
    """Tokens made; with `prompt` one, after so many."""
    ask: frames.Prompt = (
        frames.Tokens((40,) * prompt) if prompt else frames.Text("A custodian lends")
    )
    made = 0
    async for some in host.generate(ask, max_tokens=1 if prompt else tokens, sampling=GREEDY):
        made += sum(one.count for one in some if isinstance(one, frames.Token))
    return made


def _in_memory(path: Path) -> MemoryFile:
    data = path.read_bytes()
    file = memory.create(path.name, len(data))
    memory.write(file, data, 0)
    memory.seal(file)
    return file


def _own_bytes(host: WorkerHost) -> int:
    """Pages of the worker that are no file."""
    with suppress(OSError):
        rows = Path(f"/proc/{host.process_id}/status").read_text().splitlines()
        parts = [row.split() for row in rows if row.startswith("RssAnon")]
        return sum(int(part[1]) << 10 for part in parts)
    return 0
