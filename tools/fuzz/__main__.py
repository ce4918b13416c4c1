"""`python -m tools.fuzz TARGET CORPUS [libFuzzer options]`, or `python -m tools.fuzz --all SECONDS`.

CORPUS is a folder: inputs that were found are kept in it, and the next run begins with them. All
targets keep theirs in `build/fuzz`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["leasehold", "msgspec"]):
    from leasehold.errors import LeaseholdError
    from tools.fuzz.targets import TARGETS, Target

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "build" / "fuzz"
BYTES_MAX = 1 << 17
LIMITS = ["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=0"]


def fuzz(target: Target, corpus: Path, options: list[str]) -> None:
    """Run one target until its limits; the process ends with it, non-zero for a finding."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        try:
            target.read(data)
        except LeaseholdError:
            return

    arguments = [sys.argv[0], *LIMITS, f"-max_len={BYTES_MAX}", *options, str(corpus)]
    atheris.Setup(arguments, one)
    atheris.Fuzz()


def fuzz_all(seconds: int) -> int:
    """Every target in a process of its own, for so long each."""
    findings = []
    for name in TARGETS:
        print(f"{name}: {seconds} s", flush=True)
        options = [str(CORPUS / name), f"-max_total_time={seconds}"]
        command = [sys.executable, "-m", "tools.fuzz", name, *options]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        last = [line for line in done.stderr.splitlines() if "cov:" in line][-1:]
        print(f"  {last[0] if last else 'no coverage'}", flush=True)
        if done.returncode:
            findings.append(name)
            print(done.stdout + done.stderr, flush=True)
    print(f"{len(TARGETS) - len(findings)} targets clean, {len(findings)} with findings")
    return 1 if findings else 0


def main(arguments: list[str]) -> int:
    """One target, or all."""
    if arguments[:1] == ["--all"] and len(arguments) == 2 and arguments[1].isdigit():
        return fuzz_all(int(arguments[1]))
    if len(arguments) < 2 or arguments[0] not in TARGETS:
        print("usage: python -m tools.fuzz TARGET CORPUS [options]  or  --all SECONDS")
        print(f"targets: {', '.join(TARGETS)}")
        return 2
    fuzz(TARGETS[arguments[0]], Path(arguments[1]), arguments[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
