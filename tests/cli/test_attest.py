"""`leasehold attest`: what a person who just received a quote gets to see, on every platform."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from leasehold.attest.collateral import DatedSet, Holdings, parse_collateral, sign_bundle
from leasehold.attest.ear import Tier, read_ear
from leasehold.attest.verdict import TcbStatus
from leasehold.cli import output
from leasehold.cli.assessment import TCB_WORDS
from leasehold.core.crypto import TlsKey
from leasehold.core.encoding import to_json
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold.custodian import settings
from leasehold_simtee.ratls import GRAMINE, certificate

from .evidence import PLATFORMS, Files, invoke, make_files, run, verify

EVIDENCE_KEYS = {
    "platform",
    "trust",
    "valid_until",
    "findings",
    "devices",
    "machine_note",
    "tcb_status",
    "advisories",
    "measurements",
    "machine",
    "platform_instance",
    "report_data",
}
KEYS = {
    "verdict",
    "headline",
    "advice",
    "code",
    "message",
    "simulated",
    "at",
    "what",
    "manifest",
    "manifest_name",
    "certificate",
    "evidence",
    "not_checked",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("evidence"))


@pytest.fixture(scope="module")
def manifest(files: Files) -> str:
    values = ("--values", files.path("sgx", "values.toml"))
    return files.manifest(files.folder / "manifest.toml", *values)


def codes(found: list[dict[str, Any]]) -> set[str]:
    return {one["code"] for one in found}


# verify ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", PLATFORMS)
def test_simulation_passes_only_where_it_is_asked_for(files: Files, platform: str) -> None:
    told = verify(*files.words(platform), code=3)
    assert (told["verdict"], told["code"]) == ("refused", "untrusted_root")
    assert told["evidence"] == []
    told = verify(*files.words(platform), *files.simulated(platform))
    assert set(told) == KEYS
    assert (told["verdict"], told["code"], told["simulated"]) == ("authentic", None, True)
    assert told["headline"].startswith("SIMULATED")
    (evidence,) = told["evidence"]
    assert set(evidence) == EVIDENCE_KEYS
    assert evidence["trust"] == "simulation"
    assert "simulated" in codes(evidence["findings"])
    assert "policy" in codes(told["not_checked"])
    assert codes(told["not_checked"]) & {"binding", "freshness"}


def test_simulated_is_said_on_standard_error_too(files: Files) -> None:
    result = invoke("attest", "verify", *files.words("sgx"), *files.simulated("sgx"), "--json")
    assert output.SIMULATED in result.stderr


def test_what_a_quote_says(files: Files) -> None:
    told = verify(*files.words("tdx"), *files.simulated("tdx"))
    (evidence,) = told["evidence"]
    assert told["what"] == "Intel TDX quote, version 4"
    assert (evidence["platform"], evidence["tcb_status"]) == ("tdx", "UpToDate")
    assert {"MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3", "MRSEAM"} <= set(evidence["measurements"])
    assert len(evidence["report_data"]) == 128
    assert len(evidence["machine"]) == 32


def test_a_page_says_what_it_is_what_was_not_checked_and_what_next(files: Files) -> None:
    page = run("attest", "verify", *files.words("sgx"), *files.simulated("sgx"))
    assert page.startswith("SIMULATED, nobody has said what to expect\n")
    for words in (
        "Give it nothing secret.",
        "Shown: Intel SGX quote, version 3",
        "Trust: SIMULATION",
        "Patch level: UpToDate",
        "MRENCLAVE: ",
        "simulated: SIMULATED",
        "Not checked",
        "binding: ",
        "leasehold manifest derive",
    ):
        assert words in page


def test_by_a_manifest(files: Files, manifest: str) -> None:
    told = verify(*files.words("sgx"), "--manifest", manifest)
    assert (told["verdict"], told["manifest_name"]) == ("expected", "pilot")
    assert told["headline"] == "SIMULATED, otherwise what this manifest expects"
    assert told["evidence"][0]["machine_note"] == "SIMULATED"
    assert codes(told["not_checked"]) == {"binding"}
    assert told["manifest"] in run("manifest", "check", manifest)


def test_what_a_manifest_does_not_expect_is_refused(
    files: Files, manifest: str, tmp_path: Path
) -> None:
    told = verify(*files.words("tdx"), "--manifest", manifest, code=3)
    assert (told["verdict"], told["code"]) == ("refused", "platform_not_allowed")
    values = ("--values", files.path("sgx", "values.toml"), "--measurement", "ab" * 32)
    other = files.manifest(tmp_path / "other.toml", *values)
    told = verify(*files.words("sgx"), "--manifest", other, code=3)
    assert told["code"] == "wrong_measurement"
    assert "ab" * 32 in told["message"]
    page = run("attest", "verify", *files.words("sgx"), "--manifest", other, code=3)
    assert page.startswith("REFUSED [wrong_measurement]: ")
    assert "Do not trust it." in page
    assert f"Expected: {'ab' * 32}" in page


def test_a_machine_that_is_not_listed_is_refused(files: Files, tmp_path: Path) -> None:
    values = Path(files.path("sgx", "values.toml")).read_text()
    machine = values.split('platform_id = "')[1].split('"')[0]
    changed = tmp_path / "values.toml"
    changed.write_text(values.replace(machine, "ab" * 16))
    other = files.manifest(tmp_path / "other.toml", "--values", str(changed))
    assert verify(*files.words("sgx"), "--manifest", other, code=3)["code"] == "unknown_machine"


def test_a_manifest_says_itself_whether_simulation_passes(files: Files, manifest: str) -> None:
    words = (*files.words("sgx"), *files.simulated("sgx"), "--manifest", manifest)
    run("attest", "verify", *words, code=2)


def test_a_manifest_of_another_custodian_is_refused(files: Files, manifest: str) -> None:
    words = (*files.words("sgx"), "--manifest", manifest, "--root", "00" * 32)
    assert verify(*words, code=3)["code"] == "wrong_custodian"


@pytest.mark.parametrize("form", ["certificate", "PEM", "fingerprint", "table"])
def test_a_simulated_root_is_named_in_any_form(files: Files, tmp_path: Path, form: str) -> None:
    table = Path(files.path("sgx", "values.toml")).read_text()
    root = Path(files.path("sgx", "root.der")).read_bytes()
    wrapped = tmp_path / "root.pem"
    text = base64.encodebytes(root).decode()
    wrapped.write_text(f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n")
    given = {
        "certificate": files.path("sgx", "root.der"),
        "PEM": str(wrapped),
        "fingerprint": table.rpartition('root_sha256 = "')[2][:64],
        "table": files.path("sgx", "values.toml"),
    }[form]
    told = verify(*files.words("sgx"), "--simulated-root", given)
    assert told["verdict"] == "authentic"
    assert verify(*files.words("sgx"), "--simulated-root", "11" * 32, code=3)["code"] == (
        "untrusted_root"
    )


def test_without_collateral_nothing_is_shown_either_way(files: Files) -> None:
    quote = files.path("sgx", "quote.bin")
    told = verify(quote, *files.simulated("sgx"), code=3)
    assert told["code"] == "collateral_missing"
    assert told["advice"].startswith("It may be genuine")
    page = run("attest", "verify", quote, *files.simulated("sgx"), code=3)
    assert "--collateral FILE" in page


def test_the_clock_is_an_argument(files: Files) -> None:
    words = (*files.words("sgx"), *files.simulated("sgx"))
    told = verify(*words, "--at", "2000-01-01", code=3)
    assert told["at"] == 946_684_800_000
    assert told["code"] == "certificate_rejected"
    assert verify(*words, "--at", "2000-01-01T01:00:00+01:00", code=3)["at"] == told["at"]
    later = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 40 * 86_400))
    assert verify(*words, "--at", later, code=3)["code"] == "collateral_not_current"
    assert "Expected: after 20" in run("attest", "verify", *words, "--at", later, code=3)
    run("attest", "verify", *words, "--at", "yesterday", code=2)


def test_a_changed_quote_is_refused(files: Files, tmp_path: Path) -> None:
    quote = bytearray(Path(files.path("sgx", "quote.bin")).read_bytes())
    quote[120] ^= 1
    (tmp_path / "quote.bin").write_bytes(quote)
    words = (str(tmp_path / "quote.bin"), *files.words("sgx")[1:], *files.simulated("sgx"))
    assert verify(*words, code=3)["code"] == "quote_forged"


def test_wrapped_evidence_is_verified_too(files: Files, tmp_path: Path) -> None:
    quote = Path(files.path("sgx", "quote.bin")).read_bytes()
    (tmp_path / "quote.b64").write_bytes(base64.encodebytes(quote.ljust(8192, b"\0")))
    words = (str(tmp_path / "quote.b64"), *files.words("sgx")[1:], *files.simulated("sgx"))
    assert verify(*words)["verdict"] == "authentic"


def test_evidence_as_the_wire_has_it(files: Files, tmp_path: Path) -> None:
    read = {name: Path(files.path("snp", name)).read_bytes() for name in files.samples["snp"].files}
    whole = Evidence("snp", read["report.bin"], (read["certificates.bin"],))
    (tmp_path / "evidence.json").write_bytes(to_json(whole))
    words = (str(tmp_path / "evidence.json"), "--collateral", files.path("snp", "crl.der"))
    assert verify(*words, *files.simulated("snp"))["evidence"][0]["platform"] == "snp"


def test_what_it_is_can_be_said(files: Files) -> None:
    words = (*files.words("sgx"), *files.simulated("sgx"))
    assert verify(*words, "--platform", "sgx")["verdict"] == "authentic"
    assert verify(*words, "--platform", "snp", code=2)["code"] == "bad_evidence"
    run("attest", "verify", *words, "--platform", "abacus", code=2)


def test_what_is_no_evidence_is_refused(files: Files, tmp_path: Path) -> None:
    told = verify(files.path("sgx", "collateral.json"), code=2)
    assert told["code"] == "unsupported_evidence"
    assert "evidence first" in told["message"]
    (tmp_path / "x").write_bytes(b"nothing in particular")
    told = verify(str(tmp_path / "x"), code=2)
    assert "an SGX or TDX quote" in told["message"]
    run("attest", "verify", str(tmp_path / "missing"), code=5)


def test_two_machines_are_two_questions(files: Files) -> None:
    words = (files.path("sgx", "quote.bin"), files.path("tdx", "quote.bin"))
    told = verify(*words, *files.simulated("sgx"), code=2)
    assert "one machine's evidence at a time" in told["message"]


def test_collateral_that_is_none_is_refused(files: Files, tmp_path: Path) -> None:
    words = (files.path("sgx", "quote.bin"), *files.simulated("sgx"), "--collateral")
    (tmp_path / "x").write_bytes(b"{}")
    assert verify(*words, str(tmp_path / "x"), code=3)["code"] == "collateral_rejected"
    quote = files.path("sgx", "quote.bin")
    assert verify(*words, quote, code=3)["code"] == "collateral_rejected"


def test_collateral_from_a_custodian_s_folder_and_from_a_bundle(
    files: Files, tmp_path: Path
) -> None:
    collateral = files.path("sgx", "collateral.json")
    words = (files.path("sgx", "quote.bin"), *files.simulated("sgx"), "--collateral")
    run("collateral", "import", collateral, "--custodian", files.custodian)
    folder = str(Path(files.custodian) / "collateral")
    assert verify(*words, folder)["verdict"] == "authentic"
    root = settings.read_keys(Path(files.custodian)).root
    now = Instant(time.time_ns() // 1_000_000)
    dated = DatedSet(parse_collateral(Path(collateral).read_bytes()), Instant(now + 60_000))
    bundle = sign_bundle(root, Holdings((dated,)), now=now)
    (tmp_path / "bundle.json").write_bytes(to_json(bundle))
    given = (*words, str(tmp_path / "bundle.json"))
    assert verify(*given, "--root", root.public.hex())["verdict"] == "authentic"
    assert verify(*given, code=3)["code"] == "collateral_rejected"
    assert verify(*given, "--root", "00" * 32, code=2)["code"] == "bad_signature"


# Devices -----------------------------------------------------------------------------------------


def test_a_device_alone_vouches_for_no_machine(files: Files) -> None:
    told = verify(*files.words("nvidia"), *files.simulated("nvidia"))
    assert told["what"] == "1 nvidia-gpu"
    (evidence,) = told["evidence"]
    assert (evidence["platform"], evidence["measurements"]) == ("nvidia-gpu", None)
    (device,) = evidence["devices"]
    assert (device["model"], device["driver"]) == ("GH100", "550.90.07")
    assert codes(evidence["findings"]) == {"simulated"}
    assert codes(told["not_checked"]) == {"policy", "binding", "devices"}


def test_a_chain_may_come_before_its_report(files: Files) -> None:
    report, chain, *rest = files.words("nvidia")
    assert verify(chain, report, *rest, *files.simulated("nvidia"))["what"] == "1 nvidia-gpu"


def test_what_is_missing_of_a_device_s_collateral_is_a_finding(files: Files) -> None:
    told = verify(*files.words("nvidia")[:2], *files.simulated("nvidia"))
    found = codes(told["evidence"][0]["findings"])
    assert found == {"simulated", "revocation_unknown", "not_compared"}


def test_a_report_without_its_chain_is_refused(files: Files) -> None:
    told = verify(files.path("nvidia", "report.bin"), code=2)
    assert told["code"] == "bad_evidence"
    assert "certificate chain beside it" in told["message"]


def test_a_processor_with_its_device(files: Files) -> None:
    words = (*files.words("sgx"), *files.words("nvidia"))
    roots = (*files.simulated("sgx"), *files.simulated("nvidia"))
    told = verify(*words, *roots)
    (evidence,) = told["evidence"]
    assert (evidence["platform"], len(evidence["devices"])) == ("sgx", 1)
    assert "devices" in codes(told["not_checked"])


# RA-TLS ------------------------------------------------------------------------------------------


def test_a_certificate_s_evidence_and_its_key(files: Files, tmp_path: Path) -> None:
    told = verify(*files.words("ra-tls"), *files.simulated("ra-tls"))
    assert told["certificate"]["key_bound"] is True
    assert len(told["certificate"]["key_sha256"]) == 64
    assert codes(told["not_checked"]) == {"policy", "freshness"}
    page = run("attest", "verify", *files.words("ra-tls"), *files.simulated("ra-tls"))
    assert told["certificate"]["key_sha256"] in page
    values = ("--values", files.path("ra-tls", "values.toml"))
    policy = files.manifest(tmp_path / "manifest.toml", *values)
    assert verify(*files.words("ra-tls"), "--manifest", policy)["verdict"] == "expected"


def test_evidence_for_another_key_is_refused(files: Files, tmp_path: Path) -> None:
    quote = Path(files.path("sgx", "quote.bin")).read_bytes()
    key = TlsKey.make(lambda size: bytes(range(size))).private
    wrong = certificate(key, {GRAMINE: quote})
    (tmp_path / "certificate.der").write_bytes(wrong)
    words = (str(tmp_path / "certificate.der"), *files.words("ra-tls")[1:])
    assert verify(*words, *files.simulated("ra-tls"), code=3)["code"] == "wrong_binding"


# Attestation results -----------------------------------------------------------------------------


def test_a_signed_result_of_what_passed(files: Files, manifest: str, tmp_path: Path) -> None:
    key, out = str(tmp_path / "ear.key"), tmp_path / "result.jwt"
    told = json.loads(run("attest", "key", key))
    assert json.loads(run("attest", "key", key)) == told
    assert (tmp_path / "ear.key").stat().st_mode & 0o777 == 0o600
    ear = ("--ear", str(out), "--key", key, "--nonce", "00" * 8)
    run("attest", "verify", *files.words("sgx"), "--manifest", manifest, *ear)
    public = base64.urlsafe_b64decode(told["x"] + "=")
    now = Instant(time.time_ns() // 1_000_000)
    result = read_ear(out.read_text().strip(), public, now=now)
    assert result.ear_status is Tier.CONTRAINDICATED  # it is simulated
    assert result.eat_nonce == "AAAAAAAAAAA"
    assert result.submods["sgx"].ear_appraisal_policy_ids
    inspected = json.loads(run("attest", "inspect", str(out), "--json"))
    assert inspected["kind"] == "result"


def test_nothing_is_signed_of_what_was_refused(files: Files, tmp_path: Path) -> None:
    key, out = str(tmp_path / "ear.key"), tmp_path / "result.jwt"
    run("attest", "key", key)
    verify(*files.words("sgx"), "--ear", str(out), "--key", key, code=3)
    assert not out.exists()
    words = (*files.words("nvidia"), *files.simulated("nvidia"))
    run("attest", "verify", *words, "--ear", str(out), "--key", key, code=2)
    run("attest", "verify", *files.words("sgx"), "--ear", str(out), code=2)
    (tmp_path / "bad.key").write_text("no key")
    words = (*files.words("sgx"), *files.simulated("sgx"), "--ear", str(out))
    assert (
        "bad_setting"
        in invoke("attest", "verify", *words, "--key", str(tmp_path / "bad.key")).stderr
    )
    assert not out.exists()


def test_simulated_devices_make_the_whole_result_simulated(files: Files, tmp_path: Path) -> None:
    key, out = str(tmp_path / "ear.key"), tmp_path / "result.jwt"
    public = base64.urlsafe_b64decode(json.loads(run("attest", "key", key))["x"] + "=")
    words = (*files.words("sgx"), *files.words("nvidia"))
    roots = (*files.simulated("sgx"), *files.simulated("nvidia"))
    run("attest", "verify", *words, *roots, "--ear", str(out), "--key", key)
    now = Instant(time.time_ns() // 1_000_000)
    result = read_ear(out.read_text().strip(), public, now=now)
    assert len(result.submods) == 2
    assert {one.ear_status for one in result.submods.values()} == {Tier.CONTRAINDICATED}


# inspect -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", PLATFORMS)
def test_inspect_explains_every_field(files: Files, platform: str) -> None:
    file = files.words(platform)[0]
    told = json.loads(run("attest", "inspect", file, "--json"))
    assert told["verified"] is False
    fields = [one for section in told["sections"] for one in section["fields"]]
    assert len(fields) > 5
    assert all(one["name"] and one["value"] for one in fields)
    assert file in told["next"]
    page = run("attest", "inspect", file)
    assert page.startswith(told["what"] + "\n")
    assert "nothing here is verified" in page
    for one in fields:
        assert f"{one['name']}: {one['value']}" in page


@pytest.mark.parametrize("platform", ["sgx", "tdx", "snp", "tpm", "azure-snp", "nvidia"])
def test_the_next_command_has_the_options_that_verify_takes(files: Files, platform: str) -> None:
    told = json.loads(run("attest", "inspect", files.words(platform)[0], "--json"))
    options = {word for word in told["next"].split() if word.startswith("--")}
    assert options <= {"--collateral", "--endorsements"}


def test_inspect_takes_the_wrapping_off_and_says_so(files: Files, tmp_path: Path) -> None:
    quote = Path(files.path("sgx", "quote.bin")).read_bytes()
    (tmp_path / "quote.hex").write_text(quote.hex() + "\n")
    assert "out of hex" in run("attest", "inspect", str(tmp_path / "quote.hex"))


def test_inspect_names_what_it_tried(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x01\x02nothing in particular")
    result = invoke("attest", "inspect", str(tmp_path / "x"))
    assert result.exit_code == 2
    assert "error [unsupported_evidence]" in result.stderr
    assert "begin 01 02" in result.stderr
    assert "an SGX or TDX quote" in result.stderr


# On a terminal -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 80, 140])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_pages_fit_the_terminal(
    files: Files, platform: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    verified = run("attest", "verify", *files.words(platform), *files.simulated(platform))
    inspected = run("attest", "inspect", files.words(platform)[0])
    for page in (verified, inspected):
        assert max(len(line) for line in page.splitlines()) <= columns
    assert verified.startswith("SIMULATED, nobody has said what to expect")
    assert "Not checked" in verified


def test_hex_is_broken_where_people_can_compare_it(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    told = verify(*files.words("tdx"), *files.simulated("tdx"))
    value = told["evidence"][0]["measurements"]["MRTD"]
    page = run("attest", "verify", *files.words("tdx"), *files.simulated("tdx"))
    assert value[:48] in page
    assert value[48:] in page
    assert "48 zero bytes" in page


def test_every_patch_level_has_words() -> None:
    assert set(TCB_WORDS) == set(TcbStatus)
