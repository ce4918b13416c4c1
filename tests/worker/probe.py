"""Enters the sandbox, then tries to get out. Prints what it reports and what it met, as JSON.

`python -I probe.py FOLDER TCP_PORT free|poor`: a writable folder with a Unix socket `door` that
listens. `poor` is a machine that grants neither namespaces nor another root directory.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from leasehold.worker import sandbox, seccomp


def attempt(act: Callable[[], object]) -> str:
    """What came of it: `done`, or the name of the error."""
    try:
        act()
    except OSError as refusal:
        return type(refusal).__name__
    return "done"


def run_in_thread() -> None:
    """Threads are still allowed."""
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def call(number: int, *arguments: int) -> None:
    """A system call by its number on x86-64 and aarch64 alike."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")


def main(folder: Path, port: int, *, poor: bool) -> None:
    """Try everything, before and after."""
    secret, file = folder / "secret", os.memfd_create("weights")
    os.write(file, b"weights")
    parent = os.getppid()
    attempts: dict[str, Callable[[], object]] = {
        "tcp": lambda: socket.create_connection(("127.0.0.1", port), 5).close(),
        "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "tcp6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close(),
        "raw": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
        "unix": lambda: socket.socket(socket.AF_UNIX).connect(str(folder / "door")),
        "read": lambda: secret.read_bytes(),
        "read memory of parent": lambda: Path(f"/proc/{parent}/mem").open("rb").close(),
        "write": lambda: secret.write_bytes(b"x"),
        "create": lambda: (folder / "new").touch(),
        "remove": lambda: secret.unlink(),
        "list": lambda: os.listdir(folder),
        "execute": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "fork": lambda: os.fork() or os._exit(0),
        "signal": lambda: os.kill(parent, signal.SIGWINCH),
        "pidfd": lambda: call(434, parent, 0),
        "io_uring": lambda: call(425, 1, 0),
        "namespace": lambda: os.chroot("/"),
        "more memory files": lambda: os.memfd_create("more"),
    }
    before = {name: attempt(attempts[name]) for name in ("tcp", "unix", "read", "list", "signal")}
    if poor:
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # no_new_privs
        seccomp.install(ctypes.CDLL(None, use_errno=True))
    report = sandbox.isolate() + sandbox.confine()
    after = {name: attempt(act) for name, act in attempts.items()}
    path = f"/proc/self/fd/{file}" if os.access("/proc", os.F_OK) else f"/{file}"
    kept = {
        "weights": Path(path).read_bytes().decode(),
        "thread": attempt(run_in_thread),
        "own sockets": attempt(lambda: socket.socket(socket.AF_UNIX).bind("\0own")),
    }
    facts = {"layers": report.layers, "absent": report.absent}
    sys.stdout.write(json.dumps(facts | {"before": before, "after": after, "kept": kept}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), poor=sys.argv[3] == "poor")
