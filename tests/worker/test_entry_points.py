"""W-20: engines of third parties come by entry point, and only the one that is named is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from leasehold.errors import WorkerFailed
from leasehold.worker.engine import EXIT_STATUS_BUG
from leasehold.worker.main import ENTRY_POINTS, find_engine


class Packages:
    """A folder of installed packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, package: str, module: str, line: str, code: str) -> None:
        """Install a module of that code, and one line of entry points."""
        (self.folder / f"{module}.py").write_text(code)
        about = self.folder / f"{package}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{line}\n")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    """Nothing yet; it is looked in first."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return Packages(tmp_path)


ENGINE = "class Engine:\n    load_peak_ratio = 2.0\n"


def test_the_engine_of_a_third_party_is_found_by_its_name(packages: Packages) -> None:
    packages.add("acme", "acme_engine", "acme = acme_engine:Engine", ENGINE)
    assert find_engine("acme").load_peak_ratio == 2.0


def test_what_is_installed_and_not_named_is_never_imported(packages: Packages) -> None:
    packages.add("acme", "acme_named", "acme = acme_named:Engine", ENGINE)
    packages.add("evil", "evil_engine", "evil = evil_engine:Engine", "raise SystemExit(3)\n")
    find_engine("acme")
    assert "evil_engine" not in sys.modules


@pytest.mark.parametrize("name", ["acme", "leasehold.engines", "acme_engine:Engine", "", "../x"])
def test_a_name_that_nobody_declares_is_refused(packages: Packages, name: str) -> None:
    packages.add("other", "other_engine", "other = other_engine:Engine", ENGINE)
    with pytest.raises(WorkerFailed) as refusal:
        find_engine(name)
    assert refusal.value.got == f"{name}, declared 0 times"


def test_a_package_cannot_take_the_name_of_another(packages: Packages) -> None:
    packages.add("evil", "evil_llama", "llama = evil_llama:Engine", "raise SystemExit(3)\n")
    with pytest.raises(WorkerFailed) as refusal:
        find_engine("llama")
    assert refusal.value.got == "llama, declared 2 times"
    assert "evil_llama" not in sys.modules


@pytest.mark.parametrize("code", ["import no_such_module\n", "Other = 1\n"])
def test_an_engine_that_does_not_import_is_refused(packages: Packages, code: str) -> None:
    packages.add("broken", f"broken_{len(code)}", f"broken = broken_{len(code)}:Engine", code)
    with pytest.raises(WorkerFailed) as refusal:
        find_engine("broken")
    assert refusal.value.about == "engine broken"


def test_a_step_that_fails_ends_the_worker() -> None:
    """Whoever waits for an answer of that thread would wait for ever."""
    code = (
        "import time; from leasehold.worker.engine import step_for_ever;"
        " steps = iter([1, 2]); step_for_ever(lambda: print(next(steps), flush=True), name='steps');"
        " time.sleep(60)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50
    )
    assert (ran.returncode, ran.stdout) == (EXIT_STATUS_BUG, "1\n2\n")
