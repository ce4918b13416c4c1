"""W-29: the engine in the governor's own process: what it does, what it refuses, and how it ends.

The engines that may run there pass what of the conformance suite is not about a process of their own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from tests.worker.conftest import ROOT, engine_named
from tests.worker.test_conformance import SETTINGS, SUBJECTS, started, until
from tests.worker.test_entry_points import Packages, packages

from leasehold.core.frames import Capability, MemoryFile, Text
from leasehold.enclave import memory
from leasehold.enclave.host import WorkerHost
from leasehold.errors import BadModel, EngineNeedsProcess, NoModelYet, WorkerFailed
from leasehold.worker import inproc, sandbox

__all__ = ["packages"]

HERE = sorted(name for name, one in SUBJECTS.items() if not engine_named(one.engine).needs_process)
LONG = [(name, way) for name in HERE for way in SUBJECTS[name].long]
HOSTILE = [(name, how) for name in HERE for how in SUBJECTS[name].hostile]
FAKE = "from leasehold.testing.engine import FakeEngine\nimport time\n"


class Host(WorkerHost):
    """A host of an engine in this process; `ended` is why the process would have ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.lost: list[WorkerFailed] = []
        super().__init__(
            start=partial(inproc.start, end=self.ended.append), on_exit=self.lost.append
        )


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    """Its engine ends with the test, and never with the process."""
    made = Host()
    yield made
    await made.kill()


def buffers(files: Mapping[str, bytes]) -> list[MemoryFile]:
    """The files in this process's own memory."""
    made = []
    for name, data in files.items():
        made.append(memory.allocate(name, len(data)))
        memory.write(made[-1], data, 0)
        memory.seal(made[-1])
    return made


def listeners() -> set[str]:
    """Inodes of this process's own sockets that listen, of any family."""
    own = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            own.add(os.readlink(link))
        except OSError:
            continue  # the folder's own
    found = set()
    for table in ("tcp", "tcp6"):
        rows = [row.split() for row in Path("/proc/net", table).read_text().splitlines()[1:]]
        found |= {row[9] for row in rows if row[3] == "0A"}
    rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:]]
    found |= {row[6] for row in rows if int(row[3], 16) & 0x10000}
    return {inode for inode in found if f"socket:[{inode}]" in own}


def threads() -> set[str]:
    """Names of the threads of a worker."""
    return {one.name for one in threading.enumerate() if one.name.startswith(("engine", "work"))}


# What it refuses -------------------------------------------------------------------------------------


def test_the_engines_that_may_run_here_are_those_without_a_listener() -> None:
    assert HERE == ["onnx encoder", "onnx graph", "openvino", "transformers"]


async def test_an_engine_with_a_listener_is_refused_by_name_before_it_has_a_model(
    host: Host,
) -> None:
    before = threads()
    with pytest.raises(EngineNeedsProcess) as refusal:
        await host.prepare("llama")
    assert refusal.value.about == "engine llama"
    assert refusal.value.got == "llama.cpp opens an HTTP listener that it cannot close"
    assert refusal.value.code == "engine_needs_process"
    assert "onnx" in refusal.value.do
    assert threads() == before
    with pytest.raises(NoModelYet):
        await host.count(Text("x"))


async def test_an_engine_that_does_not_say_is_refused(host: Host, packages: Packages) -> None:
    packages.add("acme", "acme_here", "acme = acme_here:Engine", "class Engine:\n    pass\n")
    with pytest.raises(EngineNeedsProcess, match="does not say whether it has a listener"):
        await host.prepare("acme")


async def test_an_engine_that_nobody_declares_is_refused(host: Host) -> None:
    with pytest.raises(WorkerFailed) as refusal:
        await host.prepare("nobody")
    assert refusal.value.got == "nobody, declared 0 times"


# What it does ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HERE)
async def test_it_does_what_it_declares_from_buffers_without_memory_files(
    host: Host, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, before = SUBJECTS[name], listeners()
    files = buffers(subject.small(tmp_path))
    monkeypatch.delattr(os, "memfd_create")
    loaded = await host.load(subject.engine, files, SETTINGS)
    assert set(loaded.capabilities) == subject.can
    assert host.process_id == os.getpid()
    assert (loaded.layers, loaded.absent) == ((), sandbox.NAMES)  # it claims no sandbox
    assert not loaded.has_copied  # nothing may empty what it still reads
    await subject.short(host)
    assert listeners() == before
    assert not host.ended


async def test_an_engine_of_a_third_party_is_found_by_its_entry_point(
    host: Host, packages: Packages
) -> None:
    packages.add("acme", "acme_fake", "acme = acme_fake:FakeEngine", FAKE)
    loaded = await host.load("acme", buffers({"model": b"x"}), SETTINGS)
    assert Capability.TEXT in loaded.capabilities
    assert await host.count(Text("a lease")) == 2


@pytest.mark.parametrize(("name", "way"), LONG)
async def test_work_ends_soon_after_nobody_wants_it(
    host: Host, tmp_path: Path, name: str, way: str
) -> None:
    subject = SUBJECTS[name]
    await host.load(subject.engine, buffers(subject.slow(tmp_path)), SETTINGS)
    work = asyncio.ensure_future(subject.long[way](host))
    await started(host)
    work.cancel()
    await asyncio.wait([work])
    await until(lambda: not host.open_requests)
    assert not host.ended
    assert not host.lost


@pytest.mark.parametrize(("name", "way"), LONG)
async def test_ended_at_work_nothing_runs_and_the_weights_are_zeros(
    host: Host, tmp_path: Path, name: str, way: str
) -> None:
    subject, before = SUBJECTS[name], threads()
    files = buffers(subject.slow(tmp_path))
    await host.load(subject.engine, files, SETTINGS)
    work = asyncio.ensure_future(subject.long[way](host))
    await started(host)
    await host.kill()
    with pytest.raises(WorkerFailed):
        await work
    assert threads() == before
    assert not host.ended
    for file in files:
        memory.shred(file)
        assert file.buffer is not None
        assert not any(file.buffer.tobytes())


@pytest.mark.parametrize(("name", "how"), HOSTILE)
async def test_a_wrong_model_is_refused_and_the_next_one_is_served(
    host: Host, tmp_path: Path, name: str, how: str
) -> None:
    subject = SUBJECTS[name]
    with pytest.raises(BadModel):
        await host.load(subject.engine, buffers(subject.hostile[how]), SETTINGS)
    if how == next(iter(subject.hostile)):
        await host.load(subject.engine, buffers(subject.small(tmp_path)), SETTINGS)
        await subject.short(host)
    assert not host.ended


# How it ends -----------------------------------------------------------------------------------------

HANGS = FAKE + "class Engine(FakeEngine):\n    def count(self, what):\n        time.sleep(30)\n"
FAILS = FAKE + "class Engine(FakeEngine):\n    def load(self, files, settings):\n        1 // 0\n"
HOLDS = (
    FAKE
    + "import ctypes\n"
    + "class Engine(FakeEngine):\n"
    + "    def count(self, what):\n"
    + "        ctypes.PyDLL(None).sleep(60)\n"  # a call into C that keeps Python's lock
)


async def test_one_that_does_not_stop_ends_the_process(
    host: Host, packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inproc, "END_SECONDS_MAX", 0.2)
    packages.add("hangs", "hangs", "hangs = hangs:Engine", HANGS.replace("30", "2"))
    await host.load("hangs", buffers({"model": b"x"}), SETTINGS)
    work = asyncio.ensure_future(host.count(Text("x")))
    await started(host)
    await host.kill()
    assert host.ended == ["it did not stop within 0.2 s"]
    with pytest.raises(WorkerFailed):
        await work


async def test_one_that_fails_where_it_should_not_ends_the_process(
    host: Host, packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    packages.add("fails", "fails", "fails = fails:Engine", FAILS)
    with pytest.raises(WorkerFailed):
        await host.load("fails", buffers({"model": b"x"}), SETTINGS)
    assert host.ended == ["a failure that it did not foresee"]
    assert len(told) == 1  # what a real end comes before


ALONE = """
import asyncio, sys
sys.path.insert(0, {folder!r})
from leasehold.core.frames import Settings, Text
from leasehold.enclave import memory
from leasehold.enclave.host import WorkerHost
from leasehold.worker import inproc
inproc.END_SECONDS_MAX, inproc.HELD_SECONDS_MAX = 0.2, 2.0

async def main():
    host = WorkerHost(start=inproc.start)
    await host.load("odd", [memory.allocate("model", 1)], Settings(slots=1))
    try:
        await asyncio.wait_for(host.count(Text("x")), 0.5)
    finally:
        await host.kill()
        await asyncio.sleep(60)

asyncio.run(main())
"""


def ending(packages: Packages, code: str) -> subprocess.CompletedProcess[str]:
    """A process whose engine is of that code."""
    packages.add("odd", "odd", "odd = odd:Engine", code)
    script = ALONE.format(folder=str(packages.folder))
    return subprocess.run(
        [sys.executable, "-c", script],
        *(),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        cwd=ROOT,
    )


def test_a_process_with_a_hanging_engine_ends_with_words(packages: Packages) -> None:
    ran = ending(packages, HANGS)
    assert ran.returncode == 70
    assert "error [engine_failed]" in ran.stderr
    assert "it did not stop within 0.2 s" in ran.stderr


def test_a_process_with_a_failing_engine_ends_and_says_nothing_of_what_it_read(
    packages: Packages,
) -> None:
    ran = ending(packages, FAILS)
    assert ran.returncode == 70
    assert "a failure that it did not foresee" in ran.stderr
    assert "ZeroDivisionError" not in ran.stderr


def test_a_process_whose_engine_keeps_pythons_lock_ends_too(packages: Packages) -> None:
    ran = ending(packages, HOLDS)
    assert ran.returncode == 1
    assert ran.stderr == ""
