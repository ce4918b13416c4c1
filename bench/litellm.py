"""LiteLLM's proxy in front of an upstream that costs nothing, beside our gate: CPU and latency of a request.

LiteLLM runs without a database and says nothing to anybody, in plain HTTP, from `.venv-litellm`; its upstream
is the bare application, whose CPU does not count. Our gate has TLS, and its worker's CPU does not count either.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo.stage import free_port

from bench.gate import ROOT, Server, _cpu_of, _latencies, server
from bench.harness import Row

PLACE: Final = ROOT / ".venv-litellm"
PROGRAM: Final = PLACE / "bin" / "litellm"
KEY: Final = "sk-bench"
READY_SECONDS: Final = 120.0
QUIET: Final = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1", "LITELLM_LOG": "ERROR"}
ROUNDS: Final = 3
ASKED: Final = 160  # requests of a round; LiteLLM makes some fifty a second
STREAMED: Final = 8
STREAM_TOKENS: Final = 500


@dataclass(frozen=True, slots=True)
class Plain(Server):
    """A server without TLS."""

    def connection(self) -> http.client.HTTPConnection:  # type: ignore[override]
        """A kept-alive connection."""
        return http.client.HTTPConnection("127.0.0.1", self.port)


@contextmanager
def proxy(upstream: int) -> Iterator[Plain]:
    """LiteLLM as its users start it, one worker, in front of that port."""
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "config.json"  # JSON is YAML
        config.write_text(json.dumps(_config(upstream)))
        port = free_port()
        words = (PROGRAM, "--config", config, "--host", "127.0.0.1", "--port", port)
        with (Path(place) / "log").open("wb") as log:
            process = subprocess.Popen(
                [*map(str, words), "--telemetry", "False", "--num_workers", "1"],
                cwd=place,
                env=dict(os.environ) | QUIET,
                stdout=log,
                stderr=log,
            )
        try:
            made = Plain(process.pid, port, KEY, None)  # type: ignore[arg-type]
            _wait(made, process)
            yield made
        finally:
            process.kill()
            process.wait()


def _config(upstream: int) -> dict[str, Any]:
    model = {
        "model": "openai/echo",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": "none",
    }
    return {
        "model_list": [{"model_name": "echo", "litellm_params": model}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False},
    }


def _wait(made: Plain, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            made.ask(made.connection(), stream=False)
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


def _check(made: Server) -> None:
    """Raise RuntimeError where a stream is not what it should be."""
    events = made.ask(made.connection(), stream=True).count(b'"content":')
    if events < STREAM_TOKENS / 20:  # both may put tokens of one moment into one event
        raise RuntimeError(f"a stream of {events} events")


def measure() -> list[Row]:
    """One request and one stream of each, in turn."""
    if not PROGRAM.exists():
        print("LiteLLM is not there, so nothing is compared with it: make .venv-litellm/.ready")
        return []
    with server("gate") as gate, server("upstream") as upstream, proxy(upstream.port) as theirs:
        both = (gate, theirs)
        for one in both:
            _check(one)
        for one in both:
            _latencies(one, 50)
            _cpu_of(one, STREAMED, stream=True)
        waits, whole, streamed = [], [], []
        for _ in range(ROUNDS):
            waits.append([1e3 * statistics.median(_latencies(one, 60)) for one in both])
            whole.append([1e3 * _cpu_of(one, ASKED, stream=False) for one in both])
            streamed.append([1e3 * _cpu_of(one, STREAMED, stream=True) for one in both])
    return [
        _row("CPU of a request, over LiteLLM's", whole),
        _row("latency of a request, p50, over LiteLLM's", waits),
        _row("CPU of a stream of 500 tokens, over LiteLLM's", streamed),
    ]


def _row(what: str, found: list[list[float]]) -> Row:
    """Less than it is the bar."""
    ratios = sorted(ours / theirs for ours, theirs in found)
    ours, theirs = (statistics.median(pair[one] for pair in found) for one in (0, 1))
    beside = f"LiteLLM {theirs:.1f} ms; ours {ours:.2f} ms"
    spread = (ratios[0], ratios[-1])
    return Row("gate", what, statistics.median(ratios), "", 1.0, "<=", spread, beside)
