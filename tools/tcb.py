"""Measure the trusted base: what a clean interpreter loads to be an enclave, in lines.

    python tools/tcb.py            print the table
    python tools/tcb.py --write    and write it to TCB.txt

A fresh interpreter imports the module that `leasehold enclave run` runs, then reports its modules. Lines
are lines of code: blanks, comments and docstrings do not run. Third-party distributions are counted by
all the Python lines they loaded; compiled extensions are listed by name, since lines would say nothing.
"""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import tokenize
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "TCB.txt"
OWN_LINES_MAX = (
    5760  # docs/adr/0009-trusted-base-number.md: the aim of 3,000 is missed, and by how much
)
DISTRIBUTIONS_MAX = 10
SOURCE = ROOT / "src"
LOCK = ROOT / "requirements" / "enclave.txt"
PLACE = Path(sys.prefix) / "tcb"  # an environment with nothing but the enclave's own lock
PROBE = f"""
import json, sys
sys.path.insert(0, {str(SOURCE)!r})
import leasehold.enclave.process
found = {{n: getattr(m, '__file__', None) for n, m in list(sys.modules.items())}}
print(json.dumps({{n: f for n, f in found.items() if f}}))
"""


def loaded_modules() -> dict[str, Path]:
    """Module name to file, of a clean interpreter that is ready to be an enclave."""
    command = [str(_interpreter()), "-I", "-B", "-c", PROBE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: Path(file) for name, file in json.loads(done.stdout).items()}


def _interpreter() -> Path:
    """Python with the enclave's locked dependencies and nothing else; made when the lock changed."""
    made, stamp = PLACE / "bin" / "python", PLACE / "lock"
    if not stamp.exists() or stamp.read_bytes() != LOCK.read_bytes():
        subprocess.run(
            [sys.executable, "-m", "venv", "--clear", "--without-pip", PLACE], check=True
        )
        pip = [sys.executable, "-m", "pip", "--python", str(made), "--disable-pip-version-check"]
        locked = ["install", "-q", "--no-deps", "--require-hashes", "-r", str(LOCK)]
        subprocess.run([*pip, *locked], check=True)
        stamp.write_bytes(LOCK.read_bytes())
    return made


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank lines, no comments, no docstrings."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    skipped = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    )
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def measure() -> str:
    """The table as text."""
    modules = loaded_modules()
    owners = {
        top: dist.name
        for dist in distributions(path=[str(next(PLACE.glob("lib/python*/site-packages")))])
        for top in {str(file).partition("/")[0].partition(".")[0] for file in dist.files or ()}
    }
    own: dict[str, int] = {}
    others: dict[str, tuple[int, set[str]]] = {}
    for name, path in sorted(modules.items()):
        top = name.partition(".")[0]
        if top == "leasehold":
            own[name] = code_lines(path)
        elif "site-packages" in str(path):
            owner = owners.get(top, top)
            lines, compiled = others.get(owner, (0, set()))
            if path.suffix == ".py":
                lines += code_lines(path)
            else:
                compiled = compiled | {name}
            others[owner] = (lines, compiled)
    rows = [
        "# The trusted base of the governor, in loaded lines of code. `make tcb` writes this file.",
        "",
    ]
    rows += [f"{lines:7} {name}" for name, lines in own.items()]
    rows += [f"{sum(own.values()):7} own lines (ceiling {OWN_LINES_MAX}; aim 3000)", ""]
    for owner, (lines, compiled) in sorted(others.items()):
        note = f"  + compiled: {', '.join(sorted(compiled))}" if compiled else ""
        rows.append(f"{lines:7} {owner}{note}")
    rows.append(f"{len(others):7} third-party distributions (aim: at most {DISTRIBUTIONS_MAX})")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    table = measure()
    print(table, end="")
    if "--write" in sys.argv:
        TARGET.write_text(table, encoding="utf-8")
