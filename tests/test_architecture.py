"""The shape of the house: import rules, the trusted base, file sizes, clause ids."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tools import tcb

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("src", "packages") for path in (ROOT / folder).rglob("*.py"))
MODULE_LINES_MAX = 400
CLAUSE = re.compile(r"\b(?!P-256|P-384|P-521)([A-Z]-\d+)\b")  # elliptic curves are no clauses
LONG = {"errors.py": "one table of all codes"}


def test_imports_go_one_way() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_trusted_base_is_what_tcb_txt_says() -> None:
    """Growth of the trusted base is a line in somebody's diff: run `make tcb` and look at it."""
    assert tcb.TARGET.read_text() == tcb.measure()


def test_the_trusted_base_is_small() -> None:
    table = tcb.measure().splitlines()
    own = next(int(line.split()[0]) for line in table if "own lines" in line)
    others = next(int(line.split()[0]) for line in table if "third-party distributions" in line)
    assert own <= tcb.OWN_LINES_MAX
    assert others <= tcb.DISTRIBUTIONS_MAX


def test_the_enclave_loads_no_verifier_and_no_framework() -> None:
    loaded = tcb.loaded_modules()
    for name in ("leasehold.attest", "leasehold_simtee", "dcap_qvl", "starlette", "sqlite3"):
        assert not [module for module in loaded if module == name or module.startswith(name + ".")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE_LINES_MAX or path.name in LONG
    assert text.startswith('"""')


def clauses(folder: Path, pattern: str) -> set[str]:
    """Clause ids that are mentioned in files of this pattern."""
    found: set[str] = set()
    for path in folder.rglob(pattern):
        found |= set(CLAUSE.findall(path.read_text()))
    return found


def definitions() -> list[str]:
    """Clause ids that some page of the specification defines: in bold, at the start of a paragraph."""
    found: list[str] = []
    for page in (ROOT / "docs" / "spec").glob("*.md"):
        found += re.findall(r"^(?:- |\d+\. )?\*\*([A-Z]-\d+)", page.read_text(), re.MULTILINE)
    return found


def defined() -> set[str]:
    """As a set."""
    return set(definitions())


def test_no_clause_is_defined_twice() -> None:
    assert [clause for clause, count in Counter(definitions()).items() if count > 1] == []


def test_code_cites_no_clause_that_no_page_defines() -> None:
    cited = clauses(ROOT / "src", "*.py")
    assert cited - defined() == set()


def test_every_clause_is_cited_by_the_code() -> None:
    assert defined() - clauses(ROOT / "src", "*.py") == set()


def test_no_source_reads_the_environment_but_the_command_line() -> None:
    for path in SOURCES:
        if "/cli/" not in str(path):
            assert not re.search(r"os\.environ|getenv", path.read_text()), path
