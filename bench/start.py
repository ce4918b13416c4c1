"""An enclave from its start to its first answer, and what that time consists of.

The process is the one that `leasehold enclave run` starts; it says when its imports are done. The custodian is
a process of its own, on the same machine; the model has one megabyte. A row less the weights leaves out what
grows with them: fetching and decrypting, and the engine's own loading, which is timed in another process.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo.stage import free_port
from tests.e2e.house import TINY, House

from bench.harness import Row
from leasehold.net.tls import pinned_context

ROOT: Final = Path(__file__).parent.parent
ROUNDS: Final = 9
LOAN: Final = "loan"
MODEL: Final = "tiny"
# What the console script does, and one line of the log once everything is imported.
PROGRAM: Final = """
import sys
from leasehold.cli import main
from leasehold.cli.enclave import run
print('{"event": "imported"}', file=sys.stderr, flush=True)
main()
"""
ENGINE: Final = """
import sys, time
from leasehold.core.frames import MemoryFile, Settings
from leasehold.worker.llama import LlamaEngine
with open(sys.argv[1], "rb") as file:
    engine, started = LlamaEngine(), time.perf_counter()
    engine.load([MemoryFile("tiny.gguf", file.seek(0, 2), file.fileno())], Settings(1024, 2, 1))
    print(time.perf_counter() - started, flush=True)
import os
os._exit(0)
"""


@dataclass(frozen=True, slots=True)
class Start:
    """Milliseconds from the process' start to each moment, and its CPU to the answer and to `imported`."""

    imported: float
    listening: float
    attested: float
    decrypted: float
    ready: float
    answered: float
    cpu: float
    cpu_imported: float


def measure() -> list[Row]:
    """Starts of one process after another, each of which answers once and is ended."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as place, _house(Path(place)) as house:
        starts = [_start(house) for _ in range(1 + ROUNDS)][1:]
    return _rows(starts, [_engine() for _ in range(ROUNDS)])


@contextmanager
def _house(place: Path) -> Iterator[House]:
    house = House(place / "house")
    try:
        house.found()
        house.serve()
        house.seal_tiny(MODEL)
        house.lend(LOAN, MODEL, "llama", "--instances-max", 2 + ROUNDS, cap=1 << 30)
        house.enrol("bench", {LOAN: 1 << 20})
        yield house
    finally:
        house.end()


def _start(house: House) -> Start:
    port = free_port()
    words = (
        *(sys.executable, "-c", PROGRAM, "enclave", "run"),
        *("--config", house.configuration(LOAN), "--platform", house.machine),
        *("--custodian", f"{house.address}:{house.port}", "--listen", f"127.0.0.1:{port}"),
    )
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in words], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        at: dict[str, float] = {}
        cpu_imported = 0.0
        if process.stderr is None:
            raise RuntimeError("no output")
        for line in process.stderr:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "imported":
                cpu_imported = 1e3 * _family_cpu(process.pid)
            at[event["event"]] = 1e3 * (time.perf_counter() - began)  # of `loading` the last
            if event["event"] == "serving":
                break
        else:
            raise RuntimeError("the enclave ended")
        context = pinned_context([ssl.get_server_certificate(("127.0.0.1", port))])
        asked = time.perf_counter()
        with closing(http.client.HTTPSConnection("127.0.0.1", port, context=context)) as wire:
            _ask(wire, house.keys["bench"])
        answered = at["serving"] + 1e3 * (time.perf_counter() - asked)
        cpu = 1e3 * _family_cpu(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    names = ("imported", "listening", "attested", "loading", "engine_ready")
    return Start(*(at[name] for name in names), answered, cpu, cpu_imported)


def _ask(wire: http.client.HTTPSConnection, key: str) -> None:
    """One token, with a handshake and a lease before it."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    wire.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = wire.getresponse()
    said = response.read()
    if response.status != 200:
        raise RuntimeError(said.decode())


def _family_cpu(pid: int) -> float:
    """User and system seconds of a process and its children, the living ones."""
    ticks = 0
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in (str(pid), *children):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _engine() -> float:
    """Milliseconds in which the engine alone loads the same model."""
    words = [sys.executable, "-c", ENGINE, str(TINY / "tiny.gguf")]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return 1e3 * float(ran.stdout.splitlines()[-1])


def _rows(starts: list[Start], engine: list[float]) -> list[Row]:
    loads = statistics.median(engine)

    def row(what: str, found: list[float], bar: float | None = None, beside: str = "") -> Row:
        spread = (min(found), max(found))
        return Row("start", what, statistics.median(found), "ms", bar, "<=", spread, beside)

    def weights(one: Start) -> float:
        return one.decrypted - one.attested + loads

    cpu = statistics.median(one.cpu for one in starts)
    return [
        row(
            "the enclave's code to its first answer, less the weights",
            [one.answered - one.imported - weights(one) for one in starts],
            100,
            f"{loads:.0f} ms in which the engine alone loads a megabyte left out",
        ),
        row(
            "the process to its first answer, less the weights",
            [one.answered - weights(one) for one in starts],
            beside=f"{cpu:.0f} ms of CPU, the engine's process included",
        ),
        row(
            "CPU of the enclave's code to its first answer, both processes",
            [one.cpu - one.cpu_imported for one in starts],
            beside="the engine's interpreter, imports and load included",
        ),
        row("of it: interpreter and imports", [one.imported for one in starts]),
        row("of it: configuration, keys, port", [one.listening - one.imported for one in starts]),
        row("of it: attestation and key", [one.attested - one.listening for one in starts]),
        row("of it: engine's process", [one.ready - one.decrypted - loads for one in starts]),
        row("of it: a lease and one token", [one.answered - one.ready for one in starts]),
    ]
