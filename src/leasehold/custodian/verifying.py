"""One thread for verification: a crowd of attestations waits in line, and nothing else waits for it.

Verifying is short native calls that hold the interpreter's lock. With many such threads the event loop
would have to win the lock from all of them; from one, it gets it between two calls, if it asks often
enough. Refuses to know what is verified.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

PAUSE_SECONDS: Final = 0.0001
SWITCH_SECONDS: Final = 0.0005  # how long a thread that wants the lock waits before it asks for it


def _politely(work: Callable[[], T]) -> T:
    """Sleep a moment first: whoever waits for the lock has it before the next in line begins."""
    time.sleep(PAUSE_SECONDS)
    return work()


class Verifying:
    """Runs slow functions one after the other, beside the event loop."""

    __slots__ = ("_thread",)

    def __init__(self) -> None:
        """Shortens the interpreter's switch interval, for the whole process."""
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="verifying")

    async def __call__(self, work: Callable[[], T], /) -> T:
        """The function's result, in its turn. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, _politely, work)

    def close(self) -> None:
        """End the thread; what still waits in line is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)
