"""`leasehold collateral`: what is kept, and until when."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.attest.bench import make_bench, seeded

from leasehold.cli import main
from leasehold.core.units import DAY, Instant
from leasehold_simtee.snp import Amd

NOW = Instant(int(time.time() * 1000))


@pytest.fixture(scope="module")
def amd() -> Amd:
    return Amd.create(seeded("cli"), NOW)


def run(*words: object) -> tuple[int, str]:
    found = CliRunner().invoke(main, [str(word) for word in words])
    return found.exit_code, found.output


def test_documents_are_kept_for_a_day_and_shown(amd: Amd, tmp_path: Path) -> None:
    file = tmp_path / "crl.der"
    file.write_bytes(amd.crl(NOW, number=7))
    where = ("--custodian", tmp_path / "custodian")
    code, said = run(
        "collateral", "import", file, "--kind", "amd-crl", "--name", "vcek-Milan", *where
    )
    assert code == 0, said
    code, said = run("collateral", "status", "--json", *where)
    (row,) = json.loads(said)
    assert (row["kind"], row["name"], row["order"]) == ("amd-crl", "vcek-Milan", 7)
    assert NOW < row["good_until"] <= time.time() * 1000 + DAY
    code, said = run("collateral", "status", *where)
    assert code == 0
    assert "ok" in said


def test_a_set_is_shown_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "set.json"
    file.write_bytes(make_bench().machine.vendor.collateral(NOW))
    where = ("--custodian", tmp_path / "custodian")
    assert run("collateral", "import", file, *where)[0] == 0
    code, said = run("collateral", "status", *where)
    assert code == 0
    assert b"SIMULA".hex() in said


def test_what_is_over_or_lower_or_nameless_is_refused(amd: Amd, tmp_path: Path) -> None:
    where = ("--custodian", tmp_path / "custodian")
    options = ("--kind", "amd-crl", "--name", "vcek-Milan")
    for number, code in ((7, 0), (6, 3)):
        (tmp_path / "crl").write_bytes(amd.crl(NOW, number=number))
        assert run("collateral", "import", tmp_path / "crl", *options, *where)[0] == code
    (tmp_path / "old").write_bytes(amd.crl(Instant(NOW - 31 * DAY), number=8))
    code, said = run("collateral", "import", tmp_path / "old", *options, *where)
    assert code == 3
    assert "collateral_not_current" in said
    assert run("collateral", "import", tmp_path / "crl", "--kind", "amd-crl", *where)[0] == 2
