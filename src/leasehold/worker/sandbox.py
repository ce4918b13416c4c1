"""Layers between the engine and the machine. Each is verified by trying, and reported as it is.

Spec: docs/spec/worker.md, W-6. `isolate` comes before the engine is imported, while there is one
thread; `confine` after, and before any byte of a model is parsed. Refuses to know engines.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from leasehold.errors import WorkerFailed
from leasehold.worker import landlock, seccomp
from leasehold.worker.profile import Profile

_PR_SET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 1, 3, 4
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 38, 39
_CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 1 << 26, 1 << 27, 1 << 28, 1 << 30
_CAPABILITY_VERSION_3: Final = 0x20080522
OPEN_FILES_MAX: Final = 256  # 128 model files, the socket, what an engine opens for itself
LANDLOCK, EMPTY, SECCOMP = "landlock", "empty-root", "seccomp"
EMPTY_ROOT: Final = "/proc/self/fd"  # as root directory it holds nothing but what is open already

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: `enter` puts it up or raises OSError, `holds` tries to get through it."""

    name: str
    enter: Callable[[], object]
    holds: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Report:
    """Names of the layers in force, and of those that this kernel did not give."""

    layers: tuple[str, ...]
    absent: tuple[str, ...]

    def __add__(self, other: Report) -> Report:
        """Both, in order."""
        return Report(self.layers + other.layers, self.absent + other.absent)


def isolate() -> Report:
    """The layers that a process can enter only while it has one thread."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return _enter(BEFORE_IMPORT)


def confine(profile: Profile | None = None) -> Report:
    """The layers under which nothing more can be imported. No other thread may run yet.

    With a profile (W-31) paths lead somewhere, so the root stays, and only Landlock says where to: raises
    WorkerFailed where the kernel has none.
    """
    if profile is None:
        return _enter(BEFORE_PARSING)
    report = _enter(with_profile(profile))
    if LANDLOCK in report.absent:
        raise WorkerFailed(about=f"sandbox profile {profile.name}", got="a kernel without Landlock")
    return report + Report((), (EMPTY,))


def with_profile(profile: Profile) -> tuple[Layer, ...]:
    """W-31: `BEFORE_PARSING` but for the empty root, with the profile's files."""
    changed = {
        LANDLOCK: Layer(LANDLOCK, lambda: _install_landlock(profile), _opens_nothing),
        SECCOMP: Layer(
            SECCOMP,
            lambda: seccomp.install(_libc, opens_to_write=True),
            lambda: _is_filtered(os.O_WRONLY | os.O_CREAT),
        ),
    }
    return tuple(changed.get(one.name, one) for one in BEFORE_PARSING if one.name != EMPTY)


def _enter(layers: Sequence[Layer]) -> Report:
    inside: list[str] = []
    absent: list[str] = []
    for layer in layers:
        try:
            layer.enter()
        except OSError:
            absent.append(layer.name)
        else:
            (inside if layer.holds() else absent).append(layer.name)
    return Report(tuple(inside), tuple(absent))


def _prctl(option: int, argument: int = 0) -> int:
    result = int(_libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
    return result


def _refused(act: Callable[[], object], *codes: int) -> bool:
    """Does the kernel refuse this act with one of these error numbers?"""
    try:
        act()
    except OSError as refusal:
        return refusal.errno in codes
    return False


def _limit() -> None:
    for what, most in LIMITS:
        resource.setrlimit(what, (most, most))


LIMITS: Final = (
    (resource.RLIMIT_CORE, 0),  # a core dump would be the weights on the host's disk
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_NOFILE, OPEN_FILES_MAX),
)


def _are_limited() -> bool:
    return all(resource.getrlimit(what) == (most, most) for what, most in LIMITS)


def _leave_namespaces() -> None:
    wanted = _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS
    # As root the user namespace may be refused where the others are not.
    if _libc.unshare(_CLONE_NEWUSER | wanted) != 0 and _libc.unshare(wanted) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _is_alone() -> bool:
    """In a network of its own not even the loopback is up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return _refused(lambda: probe.connect(("127.0.0.1", 9)), errno.ENETUNREACH)


def _empty_root() -> None:
    os.chroot(EMPTY_ROOT)
    os.chdir("/")


def _is_empty() -> bool:
    return not any(os.access(path, os.F_OK) for path in ("/proc", "/usr", "/lib", "/etc", "/dev"))


def _drop_capabilities() -> None:
    for number in range(64):
        if _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            _prctl(_PR_CAPBSET_DROP, number)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _has_no_capabilities() -> bool:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    held = ctypes.create_string_buffer(24)
    return _libc.capget(header, held) == 0 and held.raw == bytes(24)


def _install_landlock(profile: Profile | None = None) -> None:
    if threading.active_count() > 1:
        raise OSError(errno.EBUSY, "landlock holds for one thread")
    landlock.install(_libc, profile.rules() if profile else ())


def _opens_nothing() -> bool:
    return _refused(lambda: os.close(os.open("/", os.O_RDONLY)), errno.EACCES)


def _is_filtered(flags: int = os.O_WRONLY) -> bool:
    """Tries a socket, a file to write, a program and a process; wrong paths, should one pass."""
    acts: tuple[Callable[[], object], ...] = (
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
        lambda: os.open("", flags),
        lambda: os.execve("", ["-"], {}),  # noqa: S606, S607
        lambda: os.fork() or os._exit(0),
    )
    return all(_refused(act, errno.EPERM) for act in acts)


BEFORE_IMPORT: Final = (
    Layer(
        "no-new-privileges",
        lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1),
        lambda: _prctl(_PR_GET_NO_NEW_PRIVS) == 1,
    ),
    Layer("own-network", _leave_namespaces, _is_alone),
)
BEFORE_PARSING: Final = (
    Layer("limits", _limit, _are_limited),
    Layer(LANDLOCK, _install_landlock, _opens_nothing),
    Layer(EMPTY, _empty_root, _is_empty),
    Layer("no-capabilities", _drop_capabilities, _has_no_capabilities),
    Layer(
        "undumpable",
        lambda: _prctl(_PR_SET_DUMPABLE, 0),
        lambda: _prctl(_PR_GET_DUMPABLE) == 0,
    ),
    Layer(SECCOMP, lambda: seccomp.install(_libc), _is_filtered),
)
NAMES: Final = tuple(layer.name for layer in (*BEFORE_IMPORT, *BEFORE_PARSING))
