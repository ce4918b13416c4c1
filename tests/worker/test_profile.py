"""W-31: an engine with a profile opens the files that it names in a fake tree, and nothing else.

No GPU is here: what CUDA does with these files is not tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.worker.conftest import InMemory, engine_named
from tests.worker.test_sandbox import ALLOW, EPERM, X86, run_filter

from leasehold.cli import enclave, main
from leasehold.core.frames import Settings
from leasehold.enclave.host import WorkerHost
from leasehold.errors import WorkerFailed
from leasehold.worker import sandbox, seccomp
from leasehold.worker.profile import GPU, PROFILES, profile_of

PROBE = Path(__file__).parent / "profile_probe.py"
DEVICES = {"dev/nvidiactl", "dev/nvidia0", "dev/nvidia1", "dev/nvidia-uvm", "dev/nvidia-uvm-tools"}
COMM = "proc/self/task/7/comm"
READ = {
    *DEVICES,
    *(COMM, "proc/self/maps", "proc/cpuinfo", "proc/meminfo", "proc/devices"),
    *("proc/driver/nvidia/params", "proc/driver/nvidia-uvm/version"),
    *("sys/bus/pci/devices/0", "sys/devices/system/node/0", "usr/lib/libcuda.so.1"),
    *("lib64/libc.so", "etc/ld.so.cache"),
}
OTHERS = {
    *("dev/sda", "dev/mem", "dev/nvidia-modeset", "dev/nvidia-caps/1", "dev/dri/card0"),
    *(
        "etc/passwd",
        "proc/1/environ",
        "proc/driver/other",
        "root/key",
        "tmp/prompt",
        "sys/kernel/x",
    ),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files where a machine with two cards has them, and others."""
    for name in READ | OTHERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def probe(tree: Path, how: str) -> dict[str, Any]:
    """What a process met that went in."""
    command = [sys.executable, "-I", "-B", str(PROBE), str(tree), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def which(found: dict[str, str]) -> set[str]:
    """What was done."""
    return {name for name, how in found.items() if how == "done"}


def has_landlock() -> bool:
    """Whether this kernel has it."""
    code = (
        "from leasehold.worker import sandbox; sandbox.isolate(); print(sandbox.confine().layers)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return "landlock" in ran.stdout


def test_with_it_the_files_it_names_open_and_nothing_else(tree: Path) -> None:
    found = probe(tree, "gpu")
    if not has_landlock():
        assert found == {"refused": ["sandbox profile gpu", "a kernel without Landlock"]}
        return
    assert which(found["read"]) == READ
    assert which(found["write"]) == DEVICES | {COMM}
    assert which(found["acts"]) == set()  # no socket, program, process, new file or list
    assert (tree / "dev/nvidia0").read_text() == "x"
    assert "empty-root" in found["absent"]  # it says so
    assert sorted(found["layers"] + found["absent"]) == sorted(sandbox.NAMES)
    assert {"landlock", "seccomp", "undumpable", "no-capabilities"} <= set(found["layers"])


def test_without_it_nothing_of_that_opens(tree: Path) -> None:
    found = probe(tree, "none")
    assert which(found["write"]) == set()
    if {"landlock", "empty-root"} & set(found["layers"]):
        assert which(found["read"]) == set()


def test_where_nothing_says_which_paths_there_is_no_profile(tree: Path) -> None:
    found = probe(tree, "no-landlock")
    assert found == {"refused": ["sandbox profile gpu", "a kernel without Landlock"]}


@pytest.mark.parametrize("name", ["llama", "onnx", "openvino", "transformers", "fake"])
def test_an_engine_that_does_not_ask_gets_nothing_of_it(name: str) -> None:
    assert profile_of(engine_named(name)) is None


def test_a_profile_that_is_not_in_the_table_is_refused() -> None:
    class Engine:
        profile = "everything"

    with pytest.raises(WorkerFailed) as refusal:
        profile_of(Engine())
    assert (refusal.value.about, refusal.value.got) == ("sandbox profile", "everything")
    assert refusal.value.expected == ["gpu"]
    assert list(PROFILES.values()) == [GPU]


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (os.O_RDONLY, ALLOW),
        (os.O_WRONLY, ALLOW),
        (os.O_RDWR, ALLOW),
        (os.O_RDWR | os.O_CREAT, EPERM),
        (os.O_WRONLY | os.O_TRUNC, EPERM),
        (os.O_RDWR | os.O_TMPFILE, EPERM),
    ],
)
def test_its_filter_opens_to_write_what_exists_and_makes_nothing(flags: int, answer: int) -> None:
    code = seccomp.program("x86_64", process_id=77, opens_to_write=True)
    assert run_filter(code, 257, X86, (0, 0, flags)) == answer
    assert run_filter(code, 41, X86, (2, 1)) == EPERM  # socket(AF_INET)
    assert run_filter(code, 16, X86, ()) == ALLOW  # ioctl, as without a profile


DECLARES = """
import sys
from leasehold.testing.engine import FakeEngine
from leasehold.worker import main
class Engine(FakeEngine):
    profile = "gpu"
main.find_engine = lambda name: Engine()
sys.exit(main.main(sys.argv[1:]))
"""


async def test_a_worker_goes_in_by_what_its_engine_declares(in_memory: InMemory) -> None:
    host = WorkerHost(command=(sys.executable, "-c", DECLARES))
    file = in_memory("model", b"x")
    if has_landlock():
        loaded = await host.load("declares", [file], Settings(slots=1))
        assert "empty-root" in loaded.absent
        assert {"landlock", "seccomp"} <= set(loaded.layers)
    else:
        with pytest.raises(WorkerFailed):
            await host.load("declares", [file], Settings(slots=1))
    await host.kill()


def test_the_check_shows_what_is_opened_and_what_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = [name for name in sandbox.NAMES if name != "empty-root"]
    said = {"layers": layers, "absent": ["empty-root"], "profile": "gpu"}
    said |= {"without": ["empty-root"], "opens": ["/dev/nvidiactl"]}

    def run(words: list[str], **_how: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(words, 0, json.dumps(said).encode())

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(enclave, "has_swap", lambda: False)
    ran = CliRunner().invoke(main, ["enclave", "check", "--engine", "vllm"])
    assert ran.exit_code == 0
    assert "does without empty-root and opens, of this machine: /dev/nvidiactl" in ran.stderr
    said["absent"] = ["empty-root", "seccomp"]
    assert CliRunner().invoke(main, ["enclave", "check"]).exit_code == enclave.NOT_PROVEN


LATE = """
import os, threading
from leasehold.worker import sandbox
from leasehold.worker.profile import GPU
sandbox.isolate() + sandbox.confine(GPU)
import torch
print(int(torch.ones(3).sum()))
def name_itself():
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "r+") as comm:
        comm.write("cuda")
        print("named")
thread = threading.Thread(target=name_itself)
thread.start()
thread.join()
try:
    open("/etc/passwd")
except PermissionError:
    print("refused")
"""


def test_on_this_machine_libraries_load_late_and_threads_name_themselves() -> None:
    """The real paths, as far as a machine without a GPU has them."""
    if has_landlock():
        ran = subprocess.run(
            [sys.executable, "-I", "-B", "-c", LATE], capture_output=True, text=True, check=False
        )
        assert ran.stdout.split() == ["3", "named", "refused"], ran.stderr[-2000:]
