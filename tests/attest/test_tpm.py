"""TPM evidence by the manifest: off until it is switched on, and then every field for its own reason."""

from __future__ import annotations

import base64
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from leasehold.attest.collateral import HeldCollateral
from leasehold.attest.manifest import read_policy, render
from leasehold.attest.reference import Machine as Listed
from leasehold.attest.reference import Simulated, Waiver
from leasehold.attest.tpm.reference import Tpm
from leasehold.attest.tpm.tpm import NEVER, decide_trust, read_key
from leasehold.attest.verdict import FindingCode, TcbStatus, Trust, Verdict
from leasehold.attest.verify import observe, verify
from leasehold.core.binding import Purpose
from leasehold.core.crypto import TlsKey, sha256
from leasehold.core.evidence import Evidence
from leasehold.errors import (
    BadEvidence,
    BadManifest,
    LeaseholdError,
    PlatformNotAllowed,
    QuoteForged,
    TcbNotCurrent,
    UnknownMachine,
    UnsupportedEvidence,
    UntrustedRoot,
    WrongBinding,
    WrongMeasurement,
)
from leasehold_simtee.ratls import certificate
from leasehold_simtee.tpm import SimulatedTpm, SimulatedTpmAttester, rsa_key, spki

from .bench import NOW, Bench, seeded

RSA = SimulatedTpm(rsa_key())
EC = SimulatedTpm(TlsKey.make(seeded("attestation key")).private)
LATER = datetime(2027, 6, 1, tzinfo=UTC)
EMPTY = HeldCollateral(())


def table(**fields: object) -> Tpm:
    return msgspec.convert({**RSA.reference_values(), **fields}, Tpm)


def with_tpm(bench: Bench, tpm: SimulatedTpm = RSA, **fields: object) -> Bench:
    """A bench whose manifest accepts this TPM alone."""
    return bench.policy(
        sgx=None,
        tpm=table(**fields),
        machines=(Listed(tpm.platform_id, "simulated"),),
        simulated=Simulated(tpm_key_sha256=tpm.platform_id),
    )


def evidence_of(bench: Bench, tpm: SimulatedTpm = RSA) -> Evidence:
    return SimulatedTpmAttester(tpm).attest(bench.binding.report_data())


def judged(bench: Bench, evidence: Evidence | None = None) -> Verdict:
    return verify(
        evidence_of(bench) if evidence is None else evidence,
        bench.binding,
        bench.manifest,
        EMPTY,
        now=NOW,
    )


def refused(
    bench: Bench, error: type[LeaseholdError], evidence: Evidence | None = None
) -> LeaseholdError:
    """A refusal that must be of exactly this class."""
    with pytest.raises(LeaseholdError) as caught:
        judged(bench, evidence)
    assert type(caught.value) is error, caught.value
    return caught.value


@pytest.mark.parametrize("tpm", [RSA, EC], ids=["RSA", "ECDSA"])
def test_a_trusted_key_s_quote_passes_with_all_its_facts(bench: Bench, tpm: SimulatedTpm) -> None:
    bench = with_tpm(bench, tpm)
    verdict = judged(bench, evidence_of(bench, tpm))
    assert verdict.platform == "tpm"
    assert verdict.trust is Trust.SIMULATION
    assert verdict.tcb_status is TcbStatus.UP_TO_DATE
    assert verdict.machine == tpm.platform_id
    assert verdict.platform_instance is None
    assert verdict.report_data == sha256(bench.binding.report_data())
    assert verdict.measurement == sha256(tpm.values).hex()
    names = [measurement.name for measurement in verdict.measurements]
    assert names == ["PCRDIGEST", *(f"PCR{pcr}" for pcr in range(24)), "TPMFIRMWARE"]
    assert dict(verdict.measurements)["PCR7"] == tpm.pcrs[7].hex()
    assert [finding.code for finding in verdict.findings] == [
        FindingCode.SIMULATED,
        FindingCode.HYPERVISOR_TRUSTED,
    ]
    assert verdict.valid_until == bench.manifest.expires


def test_a_listed_key_is_production_unless_it_is_named_as_simulated(bench: Bench) -> None:
    listed = with_tpm(bench, attestation_keys=[RSA.platform_id])
    assert judged(listed).trust is Trust.SIMULATION
    verdict = judged(listed.policy(simulated=None))
    assert verdict.trust is Trust.PRODUCTION
    assert [finding.code for finding in verdict.findings] == [FindingCode.HYPERVISOR_TRUSTED]


# H-7: permission -----------------------------------------------------------------------------------


def test_without_its_table_the_platform_is_refused(bench: Bench) -> None:
    assert "[tpm]" in str(refused(bench, PlatformNotAllowed))


def test_without_trust_in_the_hypervisor_s_owner_the_platform_is_refused(bench: Bench) -> None:
    error = refused(with_tpm(bench, unsafe_trust_hypervisor_owner=False), PlatformNotAllowed)
    assert "whatever the owner of the hypervisor wants" in str(error)


def test_the_switch_has_no_default() -> None:
    fields = RSA.reference_values()
    del fields["unsafe_trust_hypervisor_owner"]
    with pytest.raises(msgspec.ValidationError, match="unsafe_trust_hypervisor_owner"):
        msgspec.convert(fields, Tpm)


# H-3 to H-6: parts, key, registers -----------------------------------------------------------------


def parts(bench: Bench, place: int, value: bytes) -> Evidence:
    evidence = evidence_of(bench)
    endorsements = list(evidence.endorsements)
    endorsements[place] = value
    return msgspec.structs.replace(evidence, endorsements=tuple(endorsements))


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_there_are_exactly_three_parts(bench: Bench, count: int) -> None:
    evidence = evidence_of(bench)
    endorsements = (*evidence.endorsements, b"collateral of my own")[:count]
    refused(
        with_tpm(bench), BadEvidence, msgspec.structs.replace(evidence, endorsements=endorsements)
    )


def test_no_signature_is_refused(bench: Bench) -> None:
    refused(with_tpm(bench), BadEvidence, parts(bench, 0, b""))


def test_a_forged_signature_is_refused(bench: Bench) -> None:
    forged = bytearray(evidence_of(bench).endorsements[0])
    forged[100] ^= 1
    refused(with_tpm(bench), QuoteForged, parts(bench, 0, bytes(forged)))


def test_other_values_than_those_quoted_are_refused(bench: Bench) -> None:
    values = bytearray(RSA.values)
    values[0] ^= 1
    refused(with_tpm(bench), QuoteForged, parts(bench, 2, bytes(values)))


def test_a_key_that_nobody_vouches_for_is_refused(bench: Bench) -> None:
    theirs = evidence_of(bench, EC)
    error = refused(with_tpm(bench), UntrustedRoot, theirs)
    assert EC.platform_id in str(error)
    refused(with_tpm(bench, attestation_keys=["ab" * 32]), UntrustedRoot, theirs)


def test_trust_is_decided_by_the_key_s_hash_alone() -> None:
    name, other = RSA.platform_id, EC.platform_id
    assert decide_trust(name, (name,), None) is Trust.PRODUCTION
    assert decide_trust(name, (), Simulated(tpm_key_sha256=name)) is Trust.SIMULATION
    for keys, simulated in (((), None), ((other,), None), ((), Simulated(tpm_key_sha256=other))):
        with pytest.raises(UntrustedRoot):
            decide_trust(name, keys, simulated)
    with pytest.raises(UntrustedRoot):
        decide_trust(name, (), Simulated(root_sha256=name))


def test_another_machine_s_key_is_refused_though_it_is_trusted(bench: Bench) -> None:
    elsewhere = with_tpm(bench).policy(machines=(Listed(EC.platform_id, "another"),))
    refused(elsewhere, UnknownMachine)


def test_observation_trusts_the_simulated_key_alone(bench: Bench) -> None:
    evidence = evidence_of(bench)
    seen = observe(evidence, EMPTY, simulated=Simulated(tpm_key_sha256=RSA.platform_id), now=NOW)
    assert (seen.trust, seen.tcb_status) == (Trust.SIMULATION, TcbStatus.NOT_JUDGED)
    assert seen.ends == NEVER
    with pytest.raises(UntrustedRoot):
        observe(evidence, EMPTY, simulated=None, now=NOW)


def pem(kind: str, der: bytes) -> bytes:
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n".encode()


def test_a_key_comes_bare_or_in_a_certificate_in_der_or_pem(bench: Bench) -> None:
    inside = certificate(RSA.key, {})
    for form in (
        RSA.spki,
        pem("PUBLIC KEY", RSA.spki),
        inside,
        pem("CERTIFICATE", inside),
    ):
        assert read_key(form) == RSA.spki
        judged(with_tpm(bench), parts(bench, 1, form))


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"\x30\x00",
        b"\x04\x00",
        b"-----BEGIN PUBLIC KEY-----\nA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        pem("PRIVATE KEY", RSA.spki),
        pem("PUBLIC KEY", RSA.spki) + b"more",
        RSA.spki + b"\0",
        RSA.spki[:-1],
    ],
)
def test_what_is_no_key_is_refused(bench: Bench, form: bytes) -> None:
    refused(with_tpm(bench), BadEvidence, parts(bench, 1, form))


def test_a_short_key_has_signed_nothing(bench: Bench) -> None:
    weak = SimulatedTpm(rsa.generate_private_key(65537, 1024))  # noqa: S505 - too short on purpose
    refused(with_tpm(bench, weak), QuoteForged, evidence_of(bench, weak))


# H-8: policy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pcr", [0, 4, 7, 9])
def test_another_value_in_a_listed_register_is_refused(bench: Bench, pcr: int) -> None:
    booted = replace(RSA, pcrs={**RSA.pcrs, pcr: b"\x01" * 32})
    error = refused(with_tpm(bench), WrongMeasurement, evidence_of(bench, booted))
    assert f"PCR {pcr}" in str(error)


def test_any_listed_value_passes(bench: Bench) -> None:
    values = ["ab" * 32, RSA.pcrs[7].hex()]
    assert judged(with_tpm(bench, pcrs={"7": values})).measurements


def test_a_listed_register_that_was_not_quoted_is_refused(bench: Bench) -> None:
    few = replace(RSA, pcrs={pcr: RSA.pcrs[pcr] for pcr in (0, 4, 9)})
    error = refused(with_tpm(bench), WrongMeasurement, evidence_of(bench, few))
    assert "not quoted" in str(error)


def test_registers_that_are_not_listed_are_not_judged(bench: Bench) -> None:
    other = replace(RSA, pcrs={**RSA.pcrs, 10: b"\x02" * 32})
    judged(with_tpm(bench), evidence_of(bench, other))


def test_another_firmware_is_out_of_date_unless_it_is_waived(bench: Bench) -> None:
    old = with_tpm(bench, firmware_versions=["00" * 8])
    refused(old, TcbNotCurrent)
    waived = old.policy(waivers=(Waiver("OutOfDate", (), "laboratory", LATER),))
    verdict = judged(waived)
    assert verdict.tcb_status is TcbStatus.OUT_OF_DATE
    assert verdict.findings[-1].code is FindingCode.WAIVED
    assert verdict.valid_until == LATER.timestamp() * 1000


# H-9: binding --------------------------------------------------------------------------------------


def test_evidence_for_another_nonce_or_leg_is_refused(bench: Bench) -> None:
    evidence = evidence_of(bench)
    for field in ({"nonce": bytes(32)}, {"purpose": Purpose.CONSUMER}, {"tls_spki": b"another"}):
        other = replace(with_tpm(bench), binding=replace(bench.binding, **field))  # type: ignore[arg-type]
        refused(other, WrongBinding, evidence)


@pytest.mark.parametrize("extra", [b"x" * 64, b"x" * 32, b"x"])
def test_the_nonce_is_the_hash_and_nothing_else(bench: Bench, extra: bytes) -> None:
    attest = RSA.attest(extra)
    evidence = Evidence("tpm", attest, (RSA.sign(attest), RSA.spki, RSA.values))
    refused(with_tpm(bench), WrongBinding, evidence)


def test_the_bare_report_data_is_not_its_hash(bench: Bench) -> None:
    attest = RSA.attest(bench.binding.report_data())
    evidence = Evidence("tpm", attest, (RSA.sign(attest), RSA.spki, RSA.values))
    refused(with_tpm(bench), WrongBinding, evidence)


def test_a_quote_of_the_sha_1_bank_is_refused(bench: Bench) -> None:
    attest = RSA.attest(
        sha256(bench.binding.report_data()), selections=(b"\x00\x04\x03\xff\xff\xff",)
    )
    evidence = Evidence("tpm", attest, (RSA.sign(attest), RSA.spki, RSA.values))
    refused(with_tpm(bench), UnsupportedEvidence, evidence)


# The manifest's table ------------------------------------------------------------------------------


def test_the_table_is_written_and_read_again(bench: Bench) -> None:
    pcrs = {"14": ["ab" * 32], "7": ["cd" * 32, "ef" * 32], "0": ["01" * 32]}
    manifest = with_tpm(bench, pcrs=pcrs, attestation_keys=[RSA.platform_id]).manifest
    text = render(manifest)
    assert b"{ 0 = [" in text
    assert read_policy(text) == manifest
    typed: Any = tomllib.loads(text.decode())
    assert list(typed["tpm"]["pcrs"]) == ["0", "7", "14"]
    other_order = with_tpm(
        bench, pcrs=dict(reversed(pcrs.items())), attestation_keys=[RSA.platform_id]
    ).manifest
    assert other_order.digest() == manifest.digest()


@pytest.mark.parametrize(
    "pcrs", [{"16": ["ab" * 32]}, {"7": ["ab" * 32], "23": ["00" * 32]}, {"17": ["ff" * 32]}]
)
def test_registers_that_say_nothing_of_the_boot_are_refused(pcrs: dict[str, list[str]]) -> None:
    with pytest.raises(BadManifest):
        table(pcrs=pcrs)


@pytest.mark.parametrize(
    "fields",
    [
        {"pcrs": {}},
        {"pcrs": {"7": []}},
        {"pcrs": {"24": ["ab" * 32]}},
        {"pcrs": {"07": ["ab" * 32]}},
        {"pcrs": {"7": ["ab" * 20]}},
        {"pcrs": None},
        {"firmware_versions": []},
        {"firmware_versions": ["1"]},
        {"attestation_keys": ["ab"]},
        {"unsafe_trust_hypervisor_owner": 1},
        {"pcr": {}},
    ],
)
def test_incomplete_or_odd_tables_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        table(**fields)


def test_the_attester_makes_no_evidence_over_anything_else() -> None:
    attester = SimulatedTpmAttester(RSA)
    assert attester.simulated
    with pytest.raises(LeaseholdError):
        attester.attest(b"short")
    assert spki(RSA.key) == RSA.spki
