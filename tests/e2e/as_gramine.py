"""`leasehold` as it finds things under Gramine, on the simulated machine of `--platform`.

The device files of /dev/attestation make simulated quotes; there are no memory files, no descriptors can be
passed, and no process can be started. Source: Gramine's features.md, read 2026-11.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from leasehold.cli import main
from leasehold.enclave import gramine
from leasehold.net import tls
from leasehold_simtee.machine import Machine
from leasehold_simtee.measure import measure


class DeviceFiles:
    """What a machine's quoting enclave gives through /dev/attestation."""

    def __init__(self) -> None:
        folder = Path(sys.argv[sys.argv.index("--platform") + 1])
        self._attester = Machine.load(folder).attester(measure())
        self._written = b""

    def read(self, path: str) -> bytes:
        match path.rpartition("/")[2]:
            case "attestation_type":
                return b"dcap"
            case "quote":
                return self._attester.attest(self._written).quote
        raise FileNotFoundError(errno.ENOENT, path)

    def write(self, path: str, data: bytes) -> None:
        assert path.endswith("/user_report_data")
        self._written = data.ljust(64, b"\x00")


def refuse(*_: object, **__: object) -> NoReturn:
    """No such call."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def become() -> None:
    """Take away what is not there."""
    gramine.GramineAttester.simulated = True  # it must say what its evidence shows
    gramine.KernelFiles = DeviceFiles  # type: ignore[assignment,misc]
    os.memfd_create = refuse  # type: ignore[assignment]
    os.fork = refuse
    socket.send_fds = socket.recv_fds = refuse  # type: ignore[assignment]
    subprocess.Popen = asyncio.create_subprocess_exec = refuse  # type: ignore[misc,assignment]
    tls.MEMORY_FOLDER = tempfile.gettempdir()  # type: ignore[misc]


if __name__ == "__main__":
    become()
    main()
