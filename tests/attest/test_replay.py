"""The replay of recorded evidence: it passes what is right, and fails whatever was falsified."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.evidence.__main__ import main

from leasehold.core.crypto import sha256
from leasehold_simtee.certificates import pem

from .bench import NOW, make_bench

ROOT = Path(__file__).parents[2]
RECORDED = sorted(path.parent for path in ROOT.parent.glob("*/evidence/index.json"))
AT = "2027-01-15T08:00:00Z"  # NOW


def make_case(folder: Path) -> dict[str, Any]:
    """One case of the recorded form, with simulated evidence; returns what was written as expected."""
    bench = make_bench()
    case = folder / "sgx" / "simulated"
    case.mkdir(parents=True)
    (case / "quote.bin").write_bytes(bench.evidence.quote)
    flipped = bytearray(bench.evidence.quote)
    flipped[100] ^= 1
    (case / "flipped.bin").write_bytes(flipped)
    (case / "collateral.json").write_bytes(bench.machine.collateral)
    (case / "root.pem").write_bytes(pem(bench.machine.vendor.root).encode())
    anchored = {"at": AT, "collateral": "collateral.json", "trust_anchor": "root.pem"}
    expected = {
        "parse": {
            "header": {"version": 3, "tee_type": 0},
            "report": {
                "mr_enclave": bench.enclave.mr_enclave.hex(),
                "isv_svn": 1,
                "debug": False,
            },
        },
        "verdicts": [
            anchored
            | {
                "outcome": "verified",
                "tcb_status": "UpToDate",
                "advisory_ids": [],
                "strict_uptodate_only_policy": "accept",
            },
            anchored
            | {
                "file": "flipped.bin",
                "outcome": "rejected",
                "reason": "quote-signature-invalid",
            },
        ],
    }
    write(folder, expected)
    return expected


def write(folder: Path, expected: dict[str, Any]) -> None:
    case = folder / "sgx" / "simulated"
    files = {
        path.name: {"sha256": sha256(path.read_bytes()).hex(), "size": path.stat().st_size}
        for path in case.iterdir()
        if path.name != "case.json"
    }
    told = {"platform": "sgx", "files": files, "expected": expected}
    (case / "case.json").write_text(json.dumps(told))


def test_a_case_that_says_the_truth_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_case(tmp_path)
    assert main(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["ok   sgx/simulated: 4 checks", "1 passed, 0 failed"]


def verdict(number: int, **fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda expected: expected["verdicts"][number].update(fields)


def report(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda expected: expected["parse"]["report"].update(fields)


@pytest.mark.parametrize(
    "falsify",
    [
        report(mr_enclave="00" * 32),
        report(isv_svn=2),
        report(debug=True),
        report(a_field_that_nobody_knows=0),
        lambda expected: expected["parse"]["header"].update(version=4),
        lambda expected: expected.update(another_part={"x": 1}),
        lambda expected: expected.clear(),
        verdict(0, outcome="rejected", reason="debug-enabled"),
        verdict(0, tcb_status="OutOfDate"),
        verdict(0, advisory_ids=["INTEL-SA-00615"]),
        verdict(0, strict_uptodate_only_policy="reject"),
        verdict(0, at="2030-01-01T00:00:00Z"),
        verdict(0, file="flipped.bin"),
        verdict(0, file="absent.bin"),
        verdict(0, an_unknown_field=True),
        verdict(1, outcome="verified", tcb_status="UpToDate"),
        verdict(1, reason="debug-enabled"),
        verdict(1, reason="a reason that nobody knows"),
        verdict(1, file="quote.bin"),
    ],
)
def test_a_falsified_expectation_fails(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    falsify: Callable[[dict[str, Any]], object],
) -> None:
    expected = make_case(tmp_path)
    falsify(expected)
    write(tmp_path, expected)
    assert main(tmp_path) == 1
    assert capsys.readouterr().out.endswith("0 passed, 1 failed\n")


def test_files_that_are_not_the_recorded_ones_fail(tmp_path: Path) -> None:
    make_case(tmp_path)
    case = tmp_path / "sgx" / "simulated"
    (case / "quote.bin").write_bytes((case / "quote.bin").read_bytes() + bytes(8))
    assert main(tmp_path) == 1


def test_a_folder_without_cases_fails(tmp_path: Path) -> None:
    assert main(tmp_path) == 1


def test_the_clock_is_the_cases_own() -> None:
    assert NOW == 1_800_000_000_000


if RECORDED:

    @pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.parent.name)
    def test_recorded_evidence_of_real_machines(
        folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Runs where such a folder lies beside the repository; its licences keep it out of it."""
        status = main(folder)
        assert status == 0, capsys.readouterr().out
