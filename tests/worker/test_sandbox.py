"""W-6: a child enters the sandbox and tries to get out; what it reports must be what it met."""

from __future__ import annotations

import json
import platform
import socket
import struct
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from leasehold.worker import sandbox, seccomp
from leasehold.worker.sandbox import Layer

PROBE = Path(__file__).parent / "probe.py"

# What may refuse each act: with any one of these layers in force it must be refused.
STOPPED_BY = {
    "tcp": {"own-network", "landlock", "seccomp"},
    "udp": {"seccomp"},
    "tcp6": {"seccomp"},
    "raw": {"seccomp", "no-capabilities"},
    "unix": {"empty-root"},
    "read": {"landlock", "empty-root"},
    "read memory of parent": {"landlock", "empty-root"},
    "write": {"landlock", "empty-root", "seccomp"},
    "create": {"landlock", "empty-root", "seccomp"},
    "remove": {"landlock", "empty-root", "seccomp"},
    "list": {"landlock", "empty-root"},
    "execute": {"landlock", "empty-root", "seccomp"},
    "fork": {"seccomp"},
    "signal": {"seccomp"},
    "pidfd": {"seccomp"},
    "io_uring": {"seccomp"},
    "namespace": {"seccomp"},
    "more memory files": {"seccomp"},
}


@pytest.fixture(scope="module", params=["free", "poor"])
def probe(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a child said that went in, here and on a machine that grants less."""
    with (
        TemporaryDirectory() as name,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as door,
    ):
        folder = Path(name)
        (folder / "secret").write_text("secret")
        door.bind(str(folder / "door"))
        door.listen()
        where = [name, str(tcp.getsockname()[1]), request.param]
        command = [sys.executable, "-I", "-B", str(PROBE), *where]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert (folder / "secret").read_text() == "secret"
        assert not (folder / "new").exists()
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"poor": request.param == "poor"}


def test_before_nothing_is_refused(probe: dict[str, Any]) -> None:
    """So that the refusals after it are the sandbox's."""
    assert set(probe["before"].values()) == {"done"}


def test_every_layer_is_reported_once(probe: dict[str, Any]) -> None:
    assert sorted(probe["layers"] + probe["absent"]) == sorted(sandbox.NAMES)
    assert "no-new-privileges" in probe["layers"]
    assert "limits" in probe["layers"]
    assert "undumpable" in probe["layers"]
    if probe["poor"]:
        assert {"own-network", "empty-root"} <= set(probe["absent"])


@pytest.mark.parametrize("act", STOPPED_BY)
def test_what_is_reported_is_what_is_met(probe: dict[str, Any], act: str) -> None:
    if STOPPED_BY[act] & set(probe["layers"]):
        assert probe["after"][act] != "done"
    else:
        assert STOPPED_BY[act] <= set(probe["absent"])


def test_what_an_engine_needs_still_works(probe: dict[str, Any]) -> None:
    assert probe["kept"] == {"weights": "weights", "thread": "done", "own sockets": "done"}


def test_a_layer_that_the_kernel_refuses_or_does_not_keep_is_absent() -> None:
    def refuse() -> None:
        raise PermissionError

    layers = (
        Layer("kept", lambda: None, lambda: True),
        Layer("refused", refuse, lambda: True),
        Layer("leaks", lambda: None, lambda: False),
    )
    report = sandbox._enter(layers)
    assert report == sandbox.Report(("kept",), ("refused", "leaks"))


def run_filter(code: bytes, number: int, architecture: int, arguments: tuple[int, ...] = ()) -> int:
    """What the filter answers to one system call: an interpreter of the four instructions it uses."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    program = list(struct.iter_unpack("<HBBI", code))
    at = accumulator = 0
    while True:
        operation, true, false, operand = program[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, operand)[0]
        elif operation == 0x06:
            return int(operand)
        else:
            holds = {
                0x15: accumulator == operand,
                0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }[operation]
            at += true if holds else false


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
X86, ARM = 0xC000003E, 0xC00000B7


@pytest.mark.parametrize(
    ("machine", "architecture", "number", "arguments", "answer"),
    [
        ("x86_64", X86, 0, (), ALLOW),  # read
        ("x86_64", X86, 59, (), EPERM),  # execve
        ("x86_64", X86, 41, (1, 1), ALLOW),  # socket(AF_UNIX)
        ("x86_64", X86, 41, (2, 1), EPERM),  # socket(AF_INET)
        ("x86_64", X86, 41, (16, 3), EPERM),  # socket(AF_NETLINK)
        ("x86_64", X86, 257, (0, 0, 0o2000000), ALLOW),  # openat(O_RDONLY | O_CLOEXEC)
        ("x86_64", X86, 257, (0, 0, 1), EPERM),
        ("x86_64", X86, 257, (0, 0, 0o100), EPERM),
        ("x86_64", X86, 2, (0, 2), EPERM),
        ("x86_64", X86, 437, (), ENOSYS),  # openat2
        ("x86_64", X86, 435, (), ENOSYS),  # clone3
        ("x86_64", X86, 56, (0x3D0F00,), ALLOW),  # clone, as threads are made
        ("x86_64", X86, 56, (0x1200011,), EPERM),  # clone, as fork makes it
        ("x86_64", X86, 234, (77, 78, 6), ALLOW),  # tgkill to itself: abort()
        ("x86_64", X86, 234, (1, 1, 9), EPERM),
        ("x86_64", X86, 0x40000000 + 41, (2, 1), EPERM),  # the x32 table
        ("x86_64", 0x40000003, 11, (), KILL),  # execve of 32-bit code
        ("aarch64", ARM, 63, (), ALLOW),  # read
        ("aarch64", ARM, 221, (), EPERM),  # execve
        ("aarch64", ARM, 198, (1, 1), ALLOW),
        ("aarch64", ARM, 198, (10, 1), EPERM),
        ("aarch64", ARM, 56, (0, 0, 2), EPERM),  # openat
        ("aarch64", ARM, 220, (0x3D0F00,), ALLOW),
        ("aarch64", ARM, 117, (), EPERM),  # ptrace
    ],
)
def test_the_filter_by_machine(
    machine: str, architecture: int, number: int, arguments: tuple[int, ...], answer: int
) -> None:
    code = seccomp.program(machine, process_id=77)
    assert run_filter(code, number, architecture, arguments) == answer


def test_no_filter_for_a_machine_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="no system call numbers"):
        seccomp.install(sandbox._libc)
