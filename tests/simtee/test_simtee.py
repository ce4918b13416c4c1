"""The simulated platform: structurally genuine, openly simulated, the same from the same seed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import dcap_qvl
import pytest
from click.testing import CliRunner
from cryptography import x509

import leasehold
from leasehold.attest.collateral import HeldCollateral, parse_collateral
from leasehold.attest.intel.quote import parse_quote
from leasehold.attest.intel.sgx import authenticate
from leasehold.attest.manifest import Manifest, read_policy, render
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import TcbStatus, Trust
from leasehold.core.units import SECOND, Instant
from leasehold.errors import BadSetting, FileTrouble, Unavailable
from leasehold_simtee.cli import main
from leasehold_simtee.hierarchy import Ca, Vendor
from leasehold_simtee.machine import Machine
from leasehold_simtee.measure import imported_package, measure

NOW = Instant(1_800_000_000_000)


def seeded(seed: str) -> Callable[[int], bytes]:
    calls = iter(range(1_000_000))
    return lambda size: hashlib.shake_256(f"{seed}/{next(calls)}".encode()).digest(size)


@pytest.mark.parametrize("ca", ["processor", "platform"])
def test_dcap_qvl_verifies_it_unchanged_under_its_root_and_no_other(ca: Ca) -> None:
    entropy = seeded(ca)
    machine = Machine.create(entropy, NOW, vendor=Vendor.create(entropy, NOW, ca=ca))
    evidence = machine.attester(bytes(32)).attest(b"r" * 64)
    seconds = NOW // SECOND
    collateral = dcap_qvl.QuoteCollateralV3.from_json(machine.collateral.decode())
    policy = dcap_qvl.QuotePolicy.strict(seconds)
    verifier = dcap_qvl.QuoteVerifier(machine.root)
    claims = json.loads(
        verifier.verify_with_policy(evidence.quote, collateral, seconds, policy).to_json()
    )
    assert claims["tcb"]["status"] == "UpToDate"
    assert claims["report"]["SgxEnclave"]["report_data"] == "72" * 64
    with pytest.raises(ValueError, match="Verification failed"):
        dcap_qvl.QuoteVerifier().verify_with_policy(evidence.quote, collateral, seconds, policy)


def test_the_same_seed_makes_the_same_machine_and_the_same_quote() -> None:
    one, two = (Machine.create(seeded("same"), NOW) for _ in range(2))
    assert (one.root, one.collateral, one.ppid) == (two.root, two.collateral, two.ppid)
    quotes = [machine.attester(bytes(32)).attest(bytes(64)) for machine in (one, two)]
    assert quotes[0] == quotes[1]
    assert Machine.create(seeded("other"), NOW).root != one.root


def test_every_name_says_simulated() -> None:
    machine = Machine.create(seeded("names"), NOW)
    quote = parse_quote(machine.attester(bytes(32)).attest(bytes(64)).quote)
    certificates = x509.load_pem_x509_certificates(quote.chain_pem)
    certificates += [machine.vendor.tcb]
    for certificate in certificates:
        assert "SIMULATED" in certificate.subject.rfc4514_string()
        assert "SIMULATED" in certificate.issuer.rfc4514_string()
        assert "Intel" not in certificate.subject.rfc4514_string()


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_has_64_bytes(size: int) -> None:
    attester = Machine.create(seeded("size"), NOW).attester(bytes(32))
    with pytest.raises(Unavailable):
        attester.attest(bytes(size))


# Folders -----------------------------------------------------------------------------------------


def test_a_machine_comes_back_from_its_folder(tmp_path: Path) -> None:
    machine = Machine.create(seeded("folder"), NOW)
    machine.save(tmp_path / "machine")
    loaded = Machine.load(tmp_path / "machine")
    assert loaded.platform_id == machine.platform_id
    assert loaded.collateral == machine.collateral
    assert (tmp_path / "machine" / "root.der").read_bytes() == machine.root
    assert loaded.attester(bytes(32)).attest(bytes(64)) == machine.attester(bytes(32)).attest(
        bytes(64)
    )
    assert stat.S_IMODE((tmp_path / "machine" / "machine.json").stat().st_mode) == 0o600


def test_a_folder_without_a_machine_is_trouble(tmp_path: Path) -> None:
    with pytest.raises(FileTrouble):
        Machine.load(tmp_path)
    Machine.create(seeded("folder"), NOW).save(tmp_path)
    for text in ("", "{}", "[]", '{"ppid": "zz"}'):
        (tmp_path / "machine.json").write_text(text)
        with pytest.raises(BadSetting):
            Machine.load(tmp_path)


def test_the_entry_point_opens_a_machine_and_measures_what_is_imported(tmp_path: Path) -> None:
    (found,) = entry_points(group="leasehold.attesters", name="simulated")
    machine = Machine.create(seeded("entry"), NOW)
    machine.save(tmp_path)
    attester = found.load()(str(tmp_path))
    assert attester.simulated is True
    report = parse_quote(attester.attest(bytes(64)).quote).report
    assert report.mr_enclave == measure()
    assert imported_package() == Path(leasehold.__file__).parent


# The measurement ---------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "leasehold"
    for name in (
        "__init__.py",
        "errors.py",
        "core/a.py",
        "enclave/b.py",
        "net/c.py",
        "worker/d.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    return folder


def test_the_measurement_is_of_contents_and_not_of_places(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "elsewhere")
    assert measure(package) == measure(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "name", ["errors.py", "core/a.py", "enclave/b.py", "net/c.py", "worker/d.py"]
)
def test_every_file_inside_counts(package: Path, name: str) -> None:
    before = measure(package)
    (package / name).write_text("# changed\n")
    changed = measure(package)
    (package / name).rename(package / name.replace(".py", "x.py"))
    assert len({before, changed, measure(package)}) == 3


def test_files_outside_the_enclave_do_not_count(package: Path) -> None:
    before = measure(package)
    for name in ("custodian/x.py", "attest/x.py", "core/__pycache__/a.pyc", "core/notes.txt"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text("x")
    assert measure(package) == before


def test_an_empty_folder_has_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(FileTrouble):
        measure(tmp_path)


# The command -------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_init_warns_in_words_and_refuses_to_overwrite(tmp_path: Path) -> None:
    first = CliRunner().invoke(main, ["init", str(tmp_path / "m")])
    assert first.exit_code == 0
    assert "SIMULATED" in first.stderr
    assert "keeps nothing secret" in first.stderr
    kept = (tmp_path / "m" / "machine.json").read_bytes()
    second = CliRunner().invoke(main, ["init", str(tmp_path / "m")])
    assert second.exit_code != 0
    assert "already_exists" in second.output
    assert (tmp_path / "m" / "machine.json").read_bytes() == kept


def test_show_prints_what_a_manifest_needs(tmp_path: Path) -> None:
    run("init", str(tmp_path / "m"))
    machine = Machine.load(tmp_path / "m")
    head = (
        'version = 1\nname = "shown"\nnot_after = 2030-01-01T00:00:00Z\n'
        f'custodian_root = "{"ab" * 32}"\nconfigurations = ["{"cd" * 32}"]\n'
    )
    policy: Manifest = read_policy((head + run("show", str(tmp_path / "m"))).encode())
    assert policy.machines[0].platform_id == machine.platform_id
    assert policy.simulated == Simulated(machine.root_sha256)
    assert policy.sgx is not None
    assert policy.sgx.mr_enclave == (run("measure").strip(),)
    assert read_policy(render(policy)) == policy


def test_machines_beside_each_other_share_a_root(tmp_path: Path) -> None:
    run("init", str(tmp_path / "one"))
    run("init", str(tmp_path / "two"), "--beside", str(tmp_path / "one"))
    one, two = (Machine.load(tmp_path / name) for name in ("one", "two"))
    assert one.root == two.root
    assert one.platform_id != two.platform_id


def test_renewed_collateral_says_what_was_asked(tmp_path: Path) -> None:
    run("init", str(tmp_path / "m"))
    before = Machine.load(tmp_path / "m")
    run("renew", str(tmp_path / "m"), "--status", "OutOfDate", "--advisory", "INTEL-SA-00001")
    machine = Machine.load(tmp_path / "m")
    assert (machine.ppid, machine.root) == (before.ppid, before.root)
    held = HeldCollateral([parse_collateral(machine.collateral)])
    facts = held.find(fmspc=b"SIMULA".hex(), ca="processor", tee="sgx")
    seen = authenticate(
        machine.attester(bytes(32)).attest(bytes(64)).quote,
        held,
        simulated=Simulated(machine.root_sha256),
        now=facts.tcb_issued,
    )
    assert (seen.trust, seen.status) == (Trust.SIMULATION, TcbStatus.OUT_OF_DATE)
    assert seen.advisories == ("INTEL-SA-00001",)


def test_no_environment_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says, measuring and attesting come out the same."""
    machine = Machine.create(seeded("env"), NOW)
    before = (measure(), machine.attester(bytes(32)).attest(bytes(64)))
    monkeypatch.setattr(os, "environ", {})
    after = (measure(), replace(machine).attester(bytes(32)).attest(bytes(64)))
    assert before == after
