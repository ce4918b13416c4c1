"""What the process looks at before it holds a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from leasehold.enclave import process

HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
DISK = "/dev/sda2                               partition\t8388604\t\t0\t\t-2\n"


@pytest.mark.parametrize(("text", "has_swap"), [(HEAD, False), (HEAD + DISK, True), (None, False)])
def test_t48_a_machine_that_swaps_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, has_swap: bool
) -> None:
    if text is not None:
        (tmp_path / "swaps").write_text(text)
    monkeypatch.setattr(process, "_SWAPS", tmp_path / "swaps")
    assert process.has_swap() is has_swap
