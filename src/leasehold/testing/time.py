"""Simulated time: an event loop that never waits, and clocks that a hostile host can turn.

With one loop, one thread and seeded entropy a whole day runs in a second, the same each time.
"""

from __future__ import annotations

import asyncio
import hashlib
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from leasehold.core.units import Instant

T = TypeVar("T")
START = Instant(1_767_225_600_000)  # 2026-01-01T00:00:00Z, when every simulated day begins


class _Instantly(selectors.BaseSelector):
    """A selector that waits by moving the loop's clock."""

    def __init__(self) -> None:
        self._real = selectors.SelectSelector()
        self.seconds = 0.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = self._real.select(0)
            if not ready:
                raise RuntimeError("the simulated world stands still: everybody waits for ever")
            return ready
        if timeout > 0:
            self.seconds += timeout
        return []  # there is nothing outside the world to hear of, so the system is not asked

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop on simulated time: `sleep` returns at once, and the clock has moved."""

    def __init__(self) -> None:
        self._instantly = _Instantly()
        super().__init__(self._instantly)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Simulated seconds since the loop was made."""
        return self._instantly.seconds


def run_simulated(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function in a fresh simulated loop."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main())


class SimulatedClock:
    """The clock of one machine in the simulated world; its owner may freeze, skew or speed it up."""

    def __init__(self) -> None:
        self._rate = 1.0
        self._anchor_loop = _loop_ms()
        self._anchor_own = 0.0
        self._wall_skew = 0

    def now(self) -> Instant:
        """Milliseconds since the Unix epoch, as this machine believes."""
        return Instant(START + self._wall_skew + int(self._own()))

    def monotonic(self) -> Instant:
        """Milliseconds since the world began, as this machine believes."""
        return Instant(int(self._own()))

    def run_at(self, rate: float) -> None:
        """From now on run `rate` times as fast as the world; 0 freezes."""
        self._anchor_own, self._anchor_loop = self._own(), _loop_ms()
        self._rate = rate

    def jump_wall(self, milliseconds: int) -> None:
        """Set the wall clock off by so much; monotonic time can't be set."""
        self._wall_skew += milliseconds

    def _own(self) -> float:
        return self._anchor_own + (_loop_ms() - self._anchor_loop) * self._rate


def _loop_ms() -> float:
    return asyncio.get_running_loop().time() * 1000


class SeededEntropy:
    """A stream of bytes that a seed decides: SHA-256 in counter mode."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self._count = 0

    def __call__(self, size: int) -> bytes:
        """The next `size` bytes."""
        out = b""
        while len(out) < size:
            self._count += 1
            out += hashlib.sha256(self._seed + self._count.to_bytes(8, "big")).digest()
        return out[:size]


async def in_place(work: Callable[[], T]) -> T:
    """Slow work, done at once: simulated time has no threads."""
    return work()
