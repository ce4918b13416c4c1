"""Rows with bars, medians of interleaved runs, a table, and JSON: what all measurements share."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

_CPUCLOCK_SCHED: Final = 2  # of the kernel's include/linux/posix-timers.h
RESULTS: Final = Path(__file__).parent.parent / "build" / "bench.json"
PACKAGES: Final = (
    "cryptography",
    "uvicorn",
    "httptools",
    "websockets",
    "msgspec",
    "dcap-qvl",
    "xllamacpp",
    "onnxruntime",
    "openvino",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number. `bar` is what it must reach; None where it is only told."""

    bench: str
    what: str
    value: float
    unit: str
    bar: float | None = None
    better: Literal["<=", ">="] = "<="
    spread: tuple[float, float] | None = None
    beside: str = ""

    @property
    def passes(self) -> bool:
        """Whether the bar is reached; a row without one always passes."""
        if self.bar is None:
            return True
        return self.value <= self.bar if self.better == "<=" else self.value >= self.bar


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of several runs of one thing."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)


def interleaved(runs: int, *things: Callable[[], object]) -> list[Timed]:
    """Time several things in turn, A B A B, so that a drifting machine drifts for all alike."""
    seconds: list[list[float]] = [[] for _ in things]
    for thing in things:
        thing()
    for _ in range(runs):
        for at, thing in enumerate(things):
            started = time.perf_counter()
            thing()
            seconds[at].append(time.perf_counter() - started)
    return [Timed(tuple(row)) for row in seconds]


def pairwise_ratio(one: Timed, other: Timed) -> tuple[float, tuple[float, float]]:
    """Median and range of one's time over the other's, pair by pair."""
    ratios = sorted(a / b for a, b in zip(one.seconds, other.seconds, strict=True))
    return statistics.median(ratios), (ratios[0], ratios[-1])


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far, all its threads, in nanoseconds' steps.

    /proc counts in steps of 10 ms, as much as a hundred tokens may take. Source: clock_getcpuclockid(3).
    """
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def _earlier(machine: dict[str, Any]) -> list[dict[str, Any]]:
    if not RESULTS.exists():
        return []
    found = json.loads(RESULTS.read_text())
    rows: list[dict[str, Any]] = found["rows"]
    return rows if found["machine"] == machine else []


def report(rows: Sequence[Row]) -> int:
    """Print the table, write the JSON; 1 where a bar is missed.

    The JSON keeps what other benches found before on this machine, with these versions.
    """
    width = max((len(row.what) for row in rows), default=0)
    for row in rows:
        bar = "" if row.bar is None else f"{row.better} {row.bar:g}"
        mark = "" if row.bar is None else ("pass" if row.passes else "SHORT")
        spread = "" if row.spread is None else f"({row.spread[0]:.3g} to {row.spread[1]:.3g})"
        beside = f"  beside {row.beside}" if row.beside else ""
        print(
            f"{row.bench:8} {row.what:{width}}  {row.value:10.4g} {row.unit:12} {bar:10} {mark:5} "
            f"{spread}{beside}"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    measured = int(time.time())
    found = [asdict(row) | {"passes": row.passes, "measured": measured} for row in rows]
    again = {(row.bench, row.what) for row in rows}
    kept = [row for row in _earlier(machine) if (row["bench"], row["what"]) not in again]
    RESULTS.write_text(json.dumps({"machine": machine, "rows": kept + found}, indent=1) + "\n")
    short = [row for row in rows if not row.passes]
    print(f"{len(rows) - len(short)} rows pass, {len(short)} short; {RESULTS.name} has the rest")
    return 1 if short else 0
