"""`leasehold collateral`: fetch, import, bundle, status, as an operator uses them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.attest.bench import seeded
from tests.custodian.vendor_bench import Town, open_town

from leasehold.attest.collateral import parse_collateral
from leasehold.cli import main
from leasehold.core.crypto import sha256
from leasehold.core.units import DAY, Instant
from leasehold.custodian.collateral.folder import Failure, FolderCollateral
from leasehold.custodian.collateral.intake import Intake
from leasehold.errors import VendorUnreachable
from leasehold_simtee.amd_certificates import to_pem
from leasehold_simtee.certificates import der
from leasehold_simtee.hierarchy import FMSPC
from leasehold_simtee.machine import Machine
from leasehold_simtee.nvidia_certificates import Party
from leasehold_simtee.snp import Amd

NOW = Instant(int(time.time() * 1000))
FAMILY = f"sgx-{FMSPC.hex()}-processor"


@pytest.fixture(scope="module")
def amd() -> Amd:
    return Amd.create(seeded("cli"), NOW)


def run(*words: object, code: int = 0) -> str:
    found = CliRunner().invoke(main, [str(word) for word in words])
    assert found.exit_code == code, found.output
    return found.output


def rows(folder: Path) -> dict[str, dict[str, object]]:
    said = run("collateral", "status", "--json", "--custodian", folder)
    text = said[said.index("[") :]
    return {row["item"]: row for row in json.loads(text)}


# Importing ---------------------------------------------------------------------------------------


def import_chain(amd: Amd, tmp_path: Path, folder: Path) -> None:
    chain = next(one for one in amd.documents(NOW) if one.name == "vcek-Milan")
    (tmp_path / "chain.pem").write_bytes(chain.data)
    words = ("--kind", "amd-chain", "--name", "vcek-Milan", "--custodian", folder)
    run("collateral", "import", tmp_path / "chain.pem", *words)


def test_documents_are_kept_for_a_day_and_shown(amd: Amd, tmp_path: Path) -> None:
    folder = tmp_path / "custodian"
    import_chain(amd, tmp_path, folder)
    file = tmp_path / "crl.der"
    file.write_bytes(amd.crl(NOW, number=7))
    words = ("--kind", "amd-crl", "--name", "vcek-Milan", "--custodian", folder)
    said = run("collateral", "import", file, *words)
    assert "SIMULATED" in said
    row = rows(folder)["amd-crl-vcek-Milan"]
    assert (row["order"], row["state"], row["source"]) == (7, "OK", "file crl.der")
    assert isinstance(row["good_until"], int)
    assert NOW < row["good_until"] <= time.time() * 1000 + DAY
    assert "OK" in run("collateral", "status", "--custodian", folder)


def test_a_set_is_kept_for_a_day_and_shown(tmp_path: Path) -> None:
    file, folder = tmp_path / "set.json", tmp_path / "custodian"
    file.write_bytes(Machine.create(seeded("set"), NOW).collateral)
    run("collateral", "import", file, "--custodian", folder)
    row = rows(folder)[FAMILY]
    assert (row["order"], row["simulated"], row["state"]) == (20, True, "OK")
    assert isinstance(row["good_until"], int)
    assert row["good_until"] <= time.time() * 1000 + DAY


def test_what_is_over_or_lower_or_nameless_is_refused(amd: Amd, tmp_path: Path) -> None:
    folder = tmp_path / "custodian"
    import_chain(amd, tmp_path, folder)
    file = tmp_path / "crl"
    words = ("--kind", "amd-crl", "--name", "vcek-Milan", "--custodian", folder)
    for number, code in ((7, 0), (6, 3)):
        file.write_bytes(amd.crl(NOW, number=number))
        run("collateral", "import", file, *words, code=code)
    file.write_bytes(amd.crl(Instant(NOW - 31 * DAY), number=8))
    assert "collateral_not_current" in run("collateral", "import", file, *words, code=3)
    run("collateral", "import", file, "--kind", "amd-crl", "--custodian", folder, code=2)


def test_an_ocsp_answer_needs_to_know_whom_it_is_about(tmp_path: Path) -> None:
    folder = tmp_path / "custodian"
    with open_town(folder / "collateral") as town:
        vendor = town.vendors.nvidia
        assert vendor is not None
        signer, authority = vendor.rim_chain[:2]
        name = sha256(signer.der).hex()
        (tmp_path / "answer.der").write_bytes(vendor.ocsp(vendor.rim_chain[:2], NOW)[name])
    (tmp_path / "chain.pem").write_bytes(_pem(signer) + _pem(authority))
    words = ("collateral", "import", tmp_path / "answer.der", "--kind", "nvidia-ocsp")
    words += ("--name", name, "--custodian", folder)
    assert "collateral_missing" in run(*words, code=3)
    run(*words, "--chain", tmp_path / "chain.pem")
    assert rows(folder)[f"nvidia-ocsp-{name}"]["state"] == "OK"
    run(*words, "--chain", tmp_path / "answer.der", code=3)


def _pem(one: Party) -> bytes:
    return to_pem(der(one.certificate))


# Fetching ----------------------------------------------------------------------------------------


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """Vendors that answer, and a custodian whose settings name them."""
    folder = tmp_path / "custodian"
    run("custodian", "init", folder)
    with open_town(folder / "collateral") as town:
        point_at(town, folder)
        yield town


def point_at(town: Town, folder: Path) -> None:
    file = folder / "custodian.toml"
    text = file.read_text()
    told = town.simulated
    roots = ", ".join(f'{name} = "{getattr(told, name)}"' for name in told.__struct_fields__[:4])
    table = "\n".join(f'{name} = "{town.address}"' for name in ("pcs", "kds", "rim", "ocsp"))
    before = text[: text.index("[collateral]")]
    operators = text[text.index("[operators]") :] if "[operators]" not in before else ""
    operators = operators.partition("[collateral]")[0]
    file.write_text(f"{before}{operators}\n[collateral]\n{table}\nsimulated = {{ {roots} }}\n")


def words_of(town: Town) -> tuple[str, Path]:
    return "--custodian", town.path.parent


def test_init_writes_the_public_addresses(tmp_path: Path) -> None:
    run("custodian", "init", tmp_path / "custodian")
    text = (tmp_path / "custodian" / "custodian.toml").read_text()
    assert 'pcs = "https://api.trustedservices.intel.com"' in text
    assert "refresh_minutes = 240" in text


def test_a_family_and_a_document_are_fetched_by_name(town: Town) -> None:
    words = ("--fmspc", FMSPC.hex(), "--ca", "processor", "--document", "amd-crl", "vcek-Milan")
    said = run("collateral", "fetch", *words, *words_of(town))
    assert "amd-crl-vcek-Milan" in said
    assert set(rows(town.path.parent)) == {FAMILY, "amd-crl-vcek-Milan", "amd-chain-vcek-Milan"}
    again = json.loads(run("collateral", "fetch", "--json", *words_of(town)))
    assert len(again) == 3


def test_evidence_says_itself_what_it_takes(town: Town, tmp_path: Path) -> None:
    machine, (chip,), (device,) = (
        town.vendors.machine,
        town.vendors.chips,
        town.vendors.devices,
    )
    quote, report, gpu, chain = (tmp_path / name for name in ("q.bin", "r.bin", "g.bin", "c.pem"))
    quote.write_bytes(machine.attester(bytes(32)).attest(bytes(64)).quote)
    report.write_bytes(chip.attester().attest(bytes(64)).quote)
    gpu.write_bytes(device.evidence(bytes(32)).report)
    chain.write_bytes(device.evidence(bytes(32)).chain)
    for files in ((quote,), (report,), (gpu, chain)):
        given = [word for file in files for word in ("--evidence", file)]
        run("collateral", "fetch", *given, *words_of(town))
    kinds = [name.rpartition("-")[0] for name in rows(town.path.parent)]
    assert len(kinds) == 1 + 3 + 2 + 6


def test_what_fails_is_said_with_its_address(town: Town) -> None:
    words = ("--fmspc", "00" * 6, "--fmspc", FMSPC.hex(), "--ca", "processor")
    said = run("collateral", "fetch", *words, *words_of(town), code=5)
    assert "vendor_unreachable" in said
    assert f"{town.address}/sgx/certification/v4/tcb" in said
    assert set(rows(town.path.parent)) == {FAMILY}


# Bundles -----------------------------------------------------------------------------------------


def test_a_bundle_reaches_a_custodian_without_a_network(town: Town, tmp_path: Path) -> None:
    words = ("--fmspc", FMSPC.hex(), "--ca", "processor", "--document", "amd-crl", "vcek-Milan")
    run("collateral", "fetch", *words, *words_of(town))
    file, lonely = tmp_path / "bundle.json", tmp_path / "lonely"
    said = run("collateral", "bundle", "--out", file, "--days", 30, *words_of(town))
    root = next(line.split()[-1] for line in said.splitlines() if "signed by" in line)
    run("custodian", "init", lonely)
    assert "bad_signature" in run("collateral", "import", file, "--custodian", lonely, code=2)
    run("collateral", "import", file, "--signer", root, "--custodian", lonely)
    found = rows(lonely)
    assert set(found) == {FAMILY, "amd-crl-vcek-Milan", "amd-chain-vcek-Milan"}
    assert str(found[FAMILY]["source"]).startswith(f"bundle: {town.address}")
    assert isinstance(found[FAMILY]["good_until"], int)
    assert found[FAMILY]["good_until"] > NOW + 29 * DAY
    run("collateral", "import", file, *words_of(town))  # its own


# Showing -----------------------------------------------------------------------------------------


def test_what_is_missing_is_shown(tmp_path: Path) -> None:
    file, folder = tmp_path / "set.json", tmp_path / "custodian"
    file.write_bytes(Machine.create(seeded("set"), NOW).collateral)
    run("collateral", "import", file, "--custodian", folder)
    (folder / "collateral" / f"{FAMILY}.json").unlink()
    assert rows(folder)[FAMILY]["state"] == "MISSING"
    assert "leasehold collateral fetch" in run("collateral", "status", "--custodian", folder)


def test_what_is_stale_and_what_failed_last_is_shown(tmp_path: Path) -> None:

    folder, ago = tmp_path / "custodian", Instant(NOW - 2 * DAY)
    store = FolderCollateral(folder / "collateral")
    told = parse_collateral(Machine.create(seeded("old"), ago).collateral)
    Intake(store, by_hand=True).set(told, source="test", now=ago)
    store.note([Failure(FAMILY, VendorUnreachable(about="https://pcs.example"))], now=NOW)
    assert rows(folder)[FAMILY]["state"] == "STALE"
    said = run("collateral", "status", "--custodian", folder)
    assert "vendor_unreachable" in said
    assert "pcs.example" in said
