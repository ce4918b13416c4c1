"""W-30: a machine that swaps gets memory that is locked, or no model."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from leasehold.core.crypto import SigningKey
from leasehold.core.encoding import to_json
from leasehold.core.statements import sign_text
from leasehold.enclave import memory
from leasehold.enclave.host import COMMAND, WorkerHost
from leasehold.enclave.settings import KIND
from leasehold.errors import SwapOn

HEAD: Final = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
DISK: Final = "/dev/sda2                               partition\t8388604\t\t0\t\t-2\n"
MAY_LOCK: Final = 1 << 14  # CAP_IPC_LOCK

# An ordinary user with a small limit: whoever runs this gives up the right to lock more.
POOR: Final = """
import resource
from leasehold.worker import sandbox
sandbox._drop_capabilities()
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
"""
INSTANCE: Final = """
import asyncio, sys
from pathlib import Path
from leasehold.enclave import process
from leasehold.errors import LeaseholdError

class Attester:
    simulated = sys.argv[3] == "simulated"

async def prepare(host, engine):
    print("prepared", "--lock" in host._start.args[0])
    sys.stdout.flush()
    raise SystemExit

process._SWAPS = Path(sys.argv[1])
process.open_attester = lambda *_: Attester()
process.WorkerHost.prepare = prepare
hints = process.Hints(Path(sys.argv[2]), "127.0.0.1", 1, "127.0.0.1", 0, "")
try:
    asyncio.run(process.run_instance(hints, None))
except LeaseholdError as refusal:
    print(refusal.code, "|", refusal.about, "|", refusal.got)
"""
LOCKED: Final = """
import sys
from pathlib import Path
from leasehold.enclave import memory
memory.lock_process()
file = memory.create_locked("model", 8 << 20)
rows = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
print(rows["RssShmem"].split()[0] if int(rows["VmLck"].split()[0]) >= 8192 else "not locked")
memory.write(file, b"x" * (8 << 20), 0)
memory.seal(file)
memory.shred(file)
"""


def run(script: str, *words: object) -> str:
    """What a process of this script says."""
    command = [sys.executable, "-c", script, *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return (ran.stdout + ran.stderr[-2000:]).strip()


def configuration(**changed: object) -> bytes:
    """A signed one."""
    root = SigningKey.make(os.urandom)
    numbers = ("context_tokens", "slots", "threads", "block_tokens", "queue_max")
    keys: dict[str, object] = (
        dict.fromkeys((*numbers, "concurrency_max", "body_bytes_max"), 64)
        | dict.fromkeys(("loan", "engine", "custodian_ca", "custodian_name"), "x")
        | {"version": 1, "attester": "tsm", "dead_man_seconds": 60}
        | {"custodian_root": root.public.hex()}
        | changed
    )
    lines = [f"{name} = {to_json(value).decode()}" for name, value in keys.items()]
    return sign_text(root, KIND, "\n".join(lines).encode())


def instance(folder: Path, swaps: str, platform: str, **changed: object) -> str:
    """What an instance says that may lock 64 KiB, as far as its start."""
    (folder / "swaps").write_text(swaps)
    (folder / "enclave.toml").write_bytes(configuration(**changed))
    return run(POOR + INSTANCE, folder / "swaps", folder / "enclave.toml", platform)


def test_a_machine_that_swaps_and_may_not_lock_gets_nothing(tmp_path: Path) -> None:
    said = instance(tmp_path, HEAD + DISK, "real")
    assert said == "swap_on | mlockall | Cannot allocate memory"
    assert "swapoff" in SwapOn.do


@pytest.mark.parametrize(
    ("swaps", "platform", "changed"),
    [
        (HEAD, "real", {}),
        (HEAD + DISK, "simulated", {}),
        (HEAD + DISK, "real", {"unsafe_swapped_weights": True}),
    ],
    ids=["no swap", "simulated", "unsafe"],
)
def test_it_begins_without_locks_where_none_are_asked_for(
    tmp_path: Path, swaps: str, platform: str, changed: dict[str, Any]
) -> None:
    assert instance(tmp_path, swaps, platform, **changed) == "prepared False"


def may_lock() -> bool:
    """Whether a process of these tests may lock all that it likes."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    row = next(row for row in Path("/proc/self/status").read_text().splitlines() if "CapEff" in row)
    return limit == resource.RLIM_INFINITY or bool(int(row.split()[1], 16) & MAY_LOCK)


def test_where_it_may_every_page_of_a_file_is_locked_before_it_is_written(tmp_path: Path) -> None:
    said = run(LOCKED)
    if may_lock():
        assert int(said) >= 8 << 10  # KiB
    else:
        assert "SwapOn" in said
    (tmp_path / "swaps").write_text(HEAD + DISK)
    (tmp_path / "enclave.toml").write_bytes(configuration())
    said = run(INSTANCE, tmp_path / "swaps", tmp_path / "enclave.toml", "real")
    assert said == "prepared True" if may_lock() else said.startswith("swap_on | mlockall")


def test_a_file_that_cannot_be_locked_is_refused_and_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[int] = []

    def refuse(fd: int, *_: object, **__: object) -> None:
        opened.append(fd)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(SwapOn) as refusal:
        memory.create_locked("model.gguf", 4096)
    assert refusal.value.about == "4096 bytes of model.gguf"
    assert refusal.value.got == os.strerror(errno.EAGAIN)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


async def test_a_worker_that_may_not_lock_reads_no_model() -> None:
    main = POOR + "import sys\nfrom leasehold.worker.main import main\nsys.exit(main(sys.argv[1:]))"
    host = WorkerHost(command=(sys.executable, "-c", main, "--lock"))
    file = memory.create("model.onnx", 1 << 20)
    with pytest.raises(SwapOn) as refusal:
        await host.load("onnx", [file])
    assert refusal.value.about == "onnx"
    assert host.process_id is None
    memory.shred(file)


async def test_a_locked_worker_serves_as_any_other() -> None:
    if may_lock():  # else the test before has shown the refusal
        host = WorkerHost(command=(*COMMAND, "--lock"))
        await host.prepare("onnx")
        assert host.process_id is not None
        await host.kill()
