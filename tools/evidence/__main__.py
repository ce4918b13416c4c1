"""`python -m tools.evidence DIR`: one line per case, then 'N passed, N failed'."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from leasehold.core.crypto import sha256
from leasehold.errors import LeaseholdError
from tools.evidence import amd, intel, nvidia, ratls, tpm
from tools.evidence.common import Check, Replay

REPLAYS: Final[Mapping[str, Replay]] = {
    "sgx": intel.replay,
    "tdx": intel.replay,
    "snp": amd.replay,
    "nvidia-gpu": nvidia.replay,
    "nvidia-switch": nvidia.replay,
    "tpm": tpm.replay,
    "ratls": ratls.replay,
}


def replay(case: Path) -> tuple[int, list[str]]:
    """How many things were compared in one case, and what differs."""
    try:
        told = json.loads((case / "case.json").read_text())
        run = REPLAYS.get(told["platform"])
        if run is None:
            return 0, [f"platform {told['platform']}: not verified by this version"]
        checks: list[Check] = [check_files(case, told["files"]), *run(case, told["expected"])]
    except (LeaseholdError, OSError, KeyError, ValueError, TypeError, AttributeError) as cause:
        return 0, [f"cannot be replayed: {type(cause).__name__}: {cause}"]
    wrong = [f"{check.what}: {line}" for check in checks for line in check.wrong]
    return len(checks), wrong if len(checks) > 1 else ["nothing to compare"]


def check_files(case: Path, files: Mapping[str, Mapping[str, object]]) -> Check:
    """The files are those that were recorded."""
    wrong = []
    for name, told in files.items():
        data = (case / name).read_bytes()
        got = {"sha256": sha256(data).hex(), "size": len(data)}
        if got != told:
            wrong.append(f"{name}: got {got}, expected {dict(told)}")
    return Check("files", tuple(wrong))


def main(folder: Path) -> int:
    """Replay all cases below `folder`; the exit status is 1 where one failed or none was found."""
    passed = failed = 0
    for case in sorted(path.parent for path in folder.glob("*/*/case.json")):
        count, wrong = replay(case)
        passed, failed = passed + (not wrong), failed + bool(wrong)
        detail = "; ".join(wrong) or f"{count} checks"
        print(f"{'FAIL' if wrong else 'ok  '} {case.parent.name}/{case.name}: {detail}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.evidence DIR")
    sys.exit(main(Path(sys.argv[1])))
