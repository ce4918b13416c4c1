"""Enters the sandbox with a profile of a fake tree, or without one, and tries to open things. Prints JSON.

`python -I profile_probe.py TREE gpu|none|no-landlock`
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from leasehold.errors import WorkerFailed
from leasehold.worker import landlock, sandbox
from leasehold.worker.profile import GPU


def attempt(act: Callable[[], object]) -> str:
    """What came of it: `done`, or the name of the error."""
    try:
        act()
    except OSError as refusal:
        return type(refusal).__name__
    return "done"


def opening(path: Path, flags: int) -> Callable[[], None]:
    return lambda: os.close(os.open(path, flags))


def no_landlock(*_: object) -> None:
    raise OSError("no landlock")


def main(tree: Path, how: str) -> None:
    """Every file of the tree, to read and to write; and what no engine may do."""
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    if how == "no-landlock":
        landlock.install = no_landlock
    report = sandbox.isolate()
    try:
        report += sandbox.confine(None if how == "none" else GPU.under(str(tree)))
    except WorkerFailed as refusal:
        sys.stdout.write(json.dumps({"refused": [str(refusal.about), str(refusal.got)]}))
        return
    names = {str(path.relative_to(tree)): path for path in files}
    found = {
        "layers": report.layers,
        "absent": report.absent,
        "read": {name: attempt(opening(path, os.O_RDONLY)) for name, path in names.items()},
        "write": {name: attempt(opening(path, os.O_RDWR)) for name, path in names.items()},
        "acts": {
            "create": attempt(opening(tree / "dev/new", os.O_RDWR | os.O_CREAT)),
            "truncate": attempt(opening(tree / "dev/nvidia0", os.O_RDWR | os.O_TRUNC)),
            "unnamed": attempt(opening(tree / "proc/self/task", os.O_RDWR | os.O_TMPFILE)),
            "remove": attempt(lambda: os.unlink(tree / "dev/nvidia0")),
            "list": attempt(lambda: os.listdir(tree)),
            "tcp": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()),
            "netlink": attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()),
            "execute": attempt(lambda: os.posix_spawn("/bin/true", ["true"], {})),
            "fork": attempt(lambda: os.fork() or os._exit(0)),
        },
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
