"""W-27: a model that the machine has no memory for is refused before it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.worker.conftest import engine_named

from leasehold.core.frames import MemoryFile
from leasehold.enclave import memory
from leasehold.enclave.host import WorkerHost
from leasehold.errors import ModelTooLarge
from leasehold.worker import room

FILE = MemoryFile("model", 1000, -1)


def test_what_an_engine_takes_beside_the_files_has_to_be_there() -> None:
    room.check(3.0, [FILE], 2000)
    room.check(3.0, [FILE], None)
    with pytest.raises(ModelTooLarge) as refusal:
        room.check(3.0, [FILE, FILE], 3999)
    assert refusal.value.got == 3999
    assert str(refusal.value.expected).startswith(">= 4000: 3.0 times the files' 2000 bytes")


def test_free_is_the_least_of_machine_and_group(tmp_path: Path) -> None:
    assert room.free_bytes(tmp_path, tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    assert room.free_bytes(tmp_path, tmp_path) == 500 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    assert room.free_bytes(tmp_path, tmp_path) == 500 * 1024
    (tmp_path / "memory.max").write_text("9000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 4000\nshmem 3000\n")
    assert room.free_bytes(tmp_path, tmp_path) == 9000 - 5000 + 1000
    (tmp_path / "memory.current").write_text("90000\n")
    assert room.free_bytes(tmp_path, tmp_path) == 0


@pytest.mark.parametrize("name", ["llama", "onnx", "openvino", "transformers"])
async def test_the_worker_says_so_and_reads_nothing(name: str) -> None:
    """Sixteen terabytes that have no page."""
    host, file = WorkerHost(), memory.create("model.onnx", 1 << 44)
    assert engine_named(name).load_peak_ratio > 1
    with pytest.raises(ModelTooLarge) as refusal:
        await host.load(name, [file])
    assert refusal.value.about == name
    assert refusal.value.got == f"{1 << 44} bytes"
    assert os.fstat(file.fd).st_blocks == 0
    memory.shred(file)
