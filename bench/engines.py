"""Tokens of a real engine through the whole of it, beside the same engine called bare, and llama-server.

Ours is an enclave as `leasehold enclave run` makes it: TLS, keys, meter, receipts, the engine in its sandbox.
The model is a Llama of half a gigabyte with random weights. All three have the same threads and slots.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from demo.stage import free_port
from models.random_gguf import MEGABYTE, random_gguf
from tests.e2e.house import House

from bench.harness import Row, cpu_seconds
from bench.streams import Job, Stream, Taken, take
from leasehold.net.tls import pinned_context

ROOT: Final = Path(__file__).parent.parent
MODEL_BYTES: Final = 500 * MEGABYTE
SLOTS: Final = 16
THREADS: Final = len(os.sched_getaffinity(0))
CONTEXT: Final = 512
AT_ONCE: Final = (1, 8, 16)
TOKENS: Final = 48
ROUNDS: Final = 3
FIRSTS: Final = 25
REST_SECONDS: Final = 0.3  # after each: llama.cpp's threads spin on, on the same processors
PROMPT: Final = "A custodian lends, a borrower runs, a consumer asks."
LOAD_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Target:
    """Something that makes tokens, and the process whose CPU is not the engine's, where there is one."""

    name: str
    do: Callable[[Job], Taken]
    governor: int | None = None


@contextmanager
def bare(kind: str, model: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A process of `bench.bare` that is ready, and its first line."""
    command = [sys.executable, "-m", "bench.bare", kind, model, SLOTS, THREADS, CONTEXT]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, _line(process)
    finally:
        process.kill()
        process.wait()


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    if process.stdout is None or not (line := process.stdout.readline()):
        raise RuntimeError("the engine ended")
    found: dict[str, Any] = json.loads(line)
    return found


@contextmanager
def inside(model: Path) -> Iterator[Target]:
    """The engine in a process that only calls it."""
    with bare("inside", model) as (process, _):

        def do(job: Job) -> Taken:
            if process.stdin is None:
                raise RuntimeError("no input")
            process.stdin.write(json.dumps(job.row()) + "\n")
            process.stdin.flush()
            said = _line(process)
            return Taken(said["seconds"], [Stream(**row) for row in said["streams"]])

        yield Target("bare", do)


@contextmanager
def listener(model: Path) -> Iterator[Target]:
    """llama-server's own HTTP listener."""
    with bare("listener", model) as (_, said):
        url = urlsplit(said["url"])

        def connect() -> http.client.HTTPConnection:
            return http.client.HTTPConnection(url.hostname or "", url.port, timeout=600)

        # As ours: the prompt of one request tells nothing about another's.
        yield Target("llama-server", lambda job: take(job, connect, more={"cache_prompt": False}))


@contextmanager
def ours(model: Path, place: Path) -> Iterator[Target]:
    """A custodian that lends the model, and an enclave that serves it."""
    house = House(place)
    try:
        house.found()
        house.serve()
        source = house.source / "half"
        source.mkdir(parents=True)
        shutil.copy(model, source)
        house.operate("seal", source, "--name", "half", "--engine", "llama")
        configuration = house.configuration("loan")
        house.operate(
            *("custodian", "configure", "--loan", "loan", "--engine", "llama"),
            *("--attester", "simulated", "--context-tokens", CONTEXT, "--slots", SLOTS),
            *("--threads", THREADS, "--concurrency-max", SLOTS, "--out", configuration),
        )
        house.operate(
            *("manifest", "new", "--name", "loan", "--configuration", configuration),
            *("--values", house.folder / "values.toml", "--out", house.manifest("loan")),
        )
        house.operate(
            *("loan", "create", "loan", "--model", "half", "--manifest", house.manifest("loan")),
            *("--cap", 1 << 40),
        )
        key = house.enrol("bench", {"loan": 1 << 40})
        house.ports["loan"] = free_port()
        actor = house.enclave("loan", "loan")
        actor.event("serving", seconds=LOAD_SECONDS)
        with house.connect("loan", "bench") as enclave:
            context = pinned_context([enclave.verified.certificate])

        def connect() -> http.client.HTTPConnection:
            port = house.ports["loan"]
            return http.client.HTTPSConnection("127.0.0.1", port, timeout=600, context=context)

        yield Target("ours", lambda job: take(job, connect, key), actor.process.pid)
    finally:
        house.end()


def measure() -> list[Row]:
    """Rates at 1, 8 and 16 streams, the first token, and what a token costs the governor."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as place, ExitStack() as stack:
        model = random_gguf(Path(place) / "half.gguf", size_bytes=MODEL_BYTES)
        targets = [
            stack.enter_context(ours(model, Path(place) / "house")),
            stack.enter_context(inside(model)),
            stack.enter_context(listener(model)),
        ]
        return [*_rates(targets), *_firsts(targets)]


def _rates(targets: list[Target]) -> list[Row]:
    rows: list[Row] = []
    per_token: list[float] = []
    for streams in AT_ONCE:
        job = Job(streams, TOKENS, PROMPT)
        found: list[list[float]] = []
        for target in targets:
            target.do(job)
        for _ in range(ROUNDS):
            found.append([])
            for target in targets:
                before = cpu_seconds(target.governor) if target.governor else 0.0
                taken = target.do(job)
                found[-1].append(taken.rate)
                if target.governor:
                    tokens = sum(one.tokens for one in taken.streams)
                    per_token.append(1e3 * (cpu_seconds(target.governor) - before) / tokens)
        for at, bar in ((1, 0.97), (2, None)):
            ratios = sorted(row[0] / row[at] for row in found)
            rates = [statistics.median(row[one] for row in found) for one in (0, at)]
            rows.append(
                Row(
                    "engines",
                    f"tokens/s at {streams} at once, over {targets[at].name}",
                    statistics.median(ratios),
                    "",
                    bar,
                    ">=",
                    (ratios[0], ratios[-1]),
                    f"{targets[at].name}: {rates[1]:.1f}/s; ours {rates[0]:.1f}/s",
                )
            )
    spread = (min(per_token), max(per_token))
    what, median = "governor's CPU per token, TLS and all", statistics.median(per_token)
    return [*rows, Row("engines", what, median, "ms", 0.1, "<=", spread)]


def _firsts(targets: list[Target]) -> list[Row]:
    """Seconds to the first piece of text: one request at a time, everybody in turn, in changing order."""
    job = Job(1, 2, PROMPT)
    found: list[list[float]] = []
    for number in range(FIRSTS):
        row: dict[str, float] = {}
        for at in range(len(targets)):
            one = targets[(number + at) % len(targets)]
            row[one.name] = 1e3 * one.do(job).streams[0].first
            time.sleep(REST_SECONDS)
        found.append([row[one.name] for one in targets])
    rows: list[Row] = []
    for at, bar in ((1, 5.0), (2, None)):
        added = sorted(row[0] - row[at] for row in found)
        rows.append(
            Row(
                "engines",
                f"first token, added to {targets[at].name}, p50",
                statistics.median(added),
                "ms",
                bar,
                "<=",
                (added[0], added[-1]),
                f"{targets[at].name}: {statistics.median(row[at] for row in found):.0f} ms",
            )
        )
    return rows
