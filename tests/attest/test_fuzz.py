"""A short run of every fuzz target, and that a run can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tools.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
RUNS = 2000
BROKEN = """
from pathlib import Path
from tools.fuzz.__main__ import fuzz
from tools.fuzz.targets import Target
fuzz(Target(lambda data: data.decode("ascii"), lambda: [b"plain"]), Path({corpus!r}), ["-runs=20000"])
"""


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in found.stderr or found.returncode
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_reads_or_refuses(name: str, tmp_path: Path) -> None:
    options = [f"-runs={RUNS}", "-seed=1", f"-artifact_prefix={tmp_path}/"]
    done = run("-m", "tools.fuzz", name, str(tmp_path / "corpus"), *options, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Done {RUNS} runs" in done.stderr


def test_seeds_are_read_and_not_refused() -> None:
    for target in TARGETS.values():
        for seed in target.seeds():
            target.read(seed)


def test_a_parser_that_raises_anything_else_is_found(tmp_path: Path) -> None:
    done = run("-c", BROKEN.format(corpus=str(tmp_path / "corpus")), cwd=tmp_path)
    assert done.returncode != 0
    assert "UnicodeDecodeError" in done.stdout + done.stderr
