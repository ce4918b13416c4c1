"""The worker as the governor sees it: something at the other end of a socket pair that can be ended.

Spec: docs/spec/worker.md, W-5, W-9 and W-29. Refuses to know frames, and what is said over the socket.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from leasehold.core.frames import MemoryFile
from leasehold.errors import WorkerFailed

# Nothing of the governor's environment. These switch off what engines report home by default, and
# threads that libraries start before the sandbox stands.
_QUIET: Final = ("ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "OPENBLAS_NUM_THREADS")
ENVIRONMENT: Final = dict.fromkeys(_QUIET, "1") | {"LANG": "C.UTF-8"}


class Worker(Protocol):
    """One worker, from its start to its end."""

    @property
    def process_id(self) -> int:
        """The process that the engine is in."""

    def order(self, ours: socket.socket, order: bytes, files: Sequence[MemoryFile]) -> None:
        """Send the first frame over the governor's end, and hand over the files. Raises OSError."""

    def kill(self) -> None:
        """Begin to end it. May be called again."""

    async def wait(self) -> None:
        """Return when it is gone, after `kill`."""


Start = Callable[[socket.socket, str], Awaitable[Worker]]
"""Starts a worker at its end of a pair, which it takes, for the engine of that name. Raises WorkerFailed."""


class Child:
    """A worker that is a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self.process_id = process, process.pid

    def order(self, ours: socket.socket, order: bytes, files: Sequence[MemoryFile]) -> None:
        """W-5: by SCM_RIGHTS."""
        socket.send_fds(ours, [order], [file.fd for file in files])

    def kill(self) -> None:
        """W-9: SIGKILL."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):  # it ended by itself and is being reaped
                self._process.kill()

    async def wait(self) -> None:
        """Reap it."""
        await self._process.wait()


async def start_process(command: Sequence[str], theirs: socket.socket, engine: str) -> Child:
    """W-5: a `Start`, once it has its command. Raises WorkerFailed."""
    fd, streams = theirs.fileno(), ("stdin", "stdout", "stderr")
    words = (*command, "--fd", str(fd), "--engine", engine)
    quiet: Any = dict.fromkeys(
        streams, subprocess.DEVNULL
    )  # engines log prompts; logs are the host's
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *words, pass_fds=(fd,), env=ENVIRONMENT, cwd="/", process_group=0, **quiet
            )
    except OSError as cause:
        raise WorkerFailed(about="start", got=cause) from cause
    return Child(process)
