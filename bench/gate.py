"""The gate in front of an engine that costs nothing, beside a bare application on the same server."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.harness import Row, cpu_seconds
from leasehold.net.tls import TlsContext, pinned_context

ROOT = Path(__file__).parent.parent
REQUESTS = 1500
STREAMS = 30
THREADS = 8


@dataclass(frozen=True, slots=True)
class Server:
    """A running `bench.server`."""

    pid: int
    port: int
    key: str
    context: TlsContext

    def connection(self) -> http.client.HTTPSConnection:
        """A kept-alive connection."""
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context)

    def ask(self, connection: http.client.HTTPSConnection, *, stream: bool) -> bytes:
        """One chat request to its end."""
        words = "word " * (499 if stream else 20)
        body = {
            "model": "echo",
            "messages": [{"role": "user", "content": f"{words}<end>"}],
            "stream": stream,
            "max_tokens": 600,
        }
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(answer.decode())
        return answer


@contextmanager
def server(kind: str) -> Iterator[Server]:
    """Start a server process and stop it."""
    command = [sys.executable, "-m", "bench.server", kind]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None:
            raise RuntimeError("no output")
        told = json.loads(process.stdout.readline())
        context = pinned_context([told["certificate"]])
        yield Server(process.pid, told["port"], told["key"], context)
    finally:
        process.kill()
        process.wait()


def _latencies(target: Server, count: int) -> list[float]:
    connection = target.connection()
    found = []
    for _ in range(count):
        started = time.perf_counter()
        target.ask(connection, stream=False)
        found.append(time.perf_counter() - started)
    return found


def _cpu_of(target: Server, count: int, *, stream: bool) -> float:
    """Server CPU seconds for each of `count` requests by several connections."""
    before = cpu_seconds(target.pid)

    def work() -> None:
        connection = target.connection()
        for _ in range(count // THREADS):
            target.ask(connection, stream=stream)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (cpu_seconds(target.pid) - before) / (count // THREADS * THREADS)


def measure() -> list[Row]:
    """CPU and latency the gate adds, and the events it streams per CPU-second."""
    with server("gate") as gate, server("bare") as bare:
        _latencies(gate, 200), _latencies(bare, 200)
        added, cpu, events = [], [], []
        for _ in range(5):
            mine, floor = _latencies(gate, 300), _latencies(bare, 300)
            added.append(statistics.median(mine) - statistics.median(floor))
            cpu.append(
                (_cpu_of(gate, REQUESTS, stream=False), _cpu_of(bare, REQUESTS, stream=False))
            )
            streams = STREAMS * THREADS
            events.append(
                (_cpu_of(gate, streams, stream=True), _cpu_of(bare, streams, stream=True))
            )
    extra = sorted(1000 * (a - b) for a, b in cpu)
    ratio = sorted(b / a for a, b in events)
    per_token = sorted(1000 * (a - b) / 500 for a, b in events)
    total = statistics.median(1000 * a for a, _ in cpu)
    return [
        Row(
            "gate",
            "CPU added per request",
            statistics.median(extra),
            "ms",
            0.3,
            "<=",
            (extra[0], extra[-1]),
            f"a bare application; {total:.2f} ms in all",
        ),
        Row(
            "gate",
            "latency added, p50",
            1000 * statistics.median(added),
            "ms",
            1.0,
            "<=",
            (1000 * min(added), 1000 * max(added)),
            "a bare application",
        ),
        Row(
            "gate",
            "CPU added per streamed token",
            statistics.median(per_token),
            "ms",
            0.1,
            "<=",
            (per_token[0], per_token[-1]),
            "a bare application",
        ),
        Row(
            "gate",
            "streamed events per CPU-second",
            statistics.median(ratio),
            "x",
            0.6,
            ">=",
            (ratio[0], ratio[-1]),
            "a bare application",
        ),
    ]
