"""A bare engine to measure beside ours: `python -m bench.bare inside|listener MODEL SLOTS THREADS CONTEXT`.

`inside` is the very engine that our worker runs, called by threads of its own process: no socket, no TLS, no
meter. It reads jobs as lines of JSON and answers each with one. `listener` is llama-server's own HTTP
listener, the one that users of llama.cpp run, with its defaults for everything that ours does not choose.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import xllamacpp

from bench.streams import Job, Stream
from leasehold.core import frames
from leasehold.core.frames import MemoryFile, Settings
from leasehold.worker.llama import LlamaEngine

BATCH: Final = 512  # llama-server's own


def settings(words: list[str]) -> Settings:
    """SLOTS THREADS CONTEXT."""
    slots, threads, context = map(int, words)
    return Settings(context_tokens=context, slots=slots, threads=threads)


def inside(model: Path, chosen: Settings) -> None:
    """Do `streams.Job`s until standard input ends."""
    engine = LlamaEngine()
    with model.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        engine.load([MemoryFile(model.name, size, file.fileno())], chosen)
        say({"ready": True})
        for line in sys.stdin:
            job = Job(**json.loads(line))
            started = time.perf_counter()
            with ThreadPoolExecutor(job.streams) as pool:
                made = list(pool.map(partial(generate, engine, job), range(1, 1 + job.streams)))
            seconds = time.perf_counter() - started
            say({"seconds": seconds, "streams": [one.row() for one in made]})


def generate(engine: LlamaEngine, job: Job, number: int) -> Stream:
    """One generation."""
    sampling = frames.Sampling(temperature=0.0, seed=1)
    request = frames.Generate(number, frames.Text(job.prompt), job.tokens, sampling)
    started, first, last = time.perf_counter(), 0.0, 0.0

    def emit(text: str, _count: int) -> bool:
        nonlocal first, last
        if text:
            last = time.perf_counter()
            first = first or last
        return True

    done = engine.generate(request, emit)
    return Stream(done.output_tokens, first - started, last - started)


def listener(model: Path, chosen: Settings) -> None:
    """Listen on a port of the loopback until standard input ends."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = chosen.context_tokens * chosen.slots
    params.n_parallel = chosen.slots
    params.n_batch = params.n_ubatch = BATCH
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = chosen.threads
    params.hostnames = ["127.0.0.1"]
    params.warmup = params.ui = False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    say({"url": server.listening_address})
    sys.stdin.read()


def say(what: dict[str, Any]) -> None:
    """One line."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    {"inside": inside, "listener": listener}[sys.argv[1]](
        Path(sys.argv[2]), settings(sys.argv[3:6])
    )
    os._exit(0)
