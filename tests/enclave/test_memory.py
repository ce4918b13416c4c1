"""W-10: memory files, and a kernel that has none."""

from __future__ import annotations

import errno
import os

import pytest

from leasehold.enclave import memory
from leasehold.errors import NoMemoryFiles


def refuse(code: int) -> object:
    """A memfd_create that says no."""

    def create(_name: str, _flags: int) -> int:
        raise OSError(code, os.strerror(code))

    return create


def test_without_memory_files_the_refusal_says_where_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "memfd_create", refuse(errno.ENOSYS))
    with pytest.raises(NoMemoryFiles) as refusal:
        memory.create("model.gguf", 4096)
    assert refusal.value.about == "memfd_create"
    assert "Gramine" in refusal.value.message


def test_another_failure_is_no_lack_of_memory_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "memfd_create", refuse(errno.EMFILE))
    with pytest.raises(OSError, match="open files"):
        memory.create("model.gguf", 4096)
