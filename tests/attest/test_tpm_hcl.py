"""Azure's report: what vouches for what, with hardware that says what the test wants.

The rows are given a hardware platform of the tests' own; `test_tpm_azure.py` has the real one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.attest.collateral import CollateralStore, HeldCollateral
from leasehold.attest.manifest import Manifest
from leasehold.attest.platform import Platform
from leasehold.attest.reference import Simulated, Waiver
from leasehold.attest.tpm import hcl
from leasehold.attest.verdict import (
    Appraisal,
    FindingCode,
    Measurement,
    TcbStatus,
    Trust,
)
from leasehold.core.crypto import TlsKey, sha256
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    EvidenceRejected,
    LeaseholdError,
    PlatformNotAllowed,
    QuoteForged,
    TcbNotCurrent,
    UnsupportedEvidence,
    WrongAttributes,
    WrongBinding,
    WrongMeasurement,
)
from leasehold_simtee.hcl import SimulatedParavisor, report, runtime_data
from leasehold_simtee.tpm import SimulatedTpm, rsa_key

from .bench import NOW, Bench, seeded
from .test_tpm import table

TPM = SimulatedTpm(rsa_key())
REPORT_DATA = bytes(range(64))
RUNTIME = runtime_data(rsa_key())
BOUND = sha256(RUNTIME) + bytes(32)
EMPTY = HeldCollateral(())
ENDS = Instant(NOW + 1000)


def snp_report(data: bytes, *, vmpl: int = 0) -> bytes:
    """1,184 bytes with report data and privilege level where an SNP report has them."""
    body = bytearray(hcl.HARDWARE_BYTES)
    body[0x30:0x34] = vmpl.to_bytes(4, "little")
    body[0x50:0x90] = data
    return bytes(body)


def td_report(data: bytes) -> bytes:
    """1,184 bytes with report data where a TDREPORT has it."""
    return (bytes(128) + data).ljust(hcl.HARDWARE_BYTES, b"\0")


@dataclass
class Hardware:
    """A hardware platform that believes everything and remembers what it was asked."""

    name: str
    data_at: int
    seen: list[Evidence] = field(default_factory=list)

    def observe(
        self,
        evidence: Evidence,
        collateral: CollateralStore,
        *,
        simulated: Simulated | None,
        now: Instant,
    ) -> Appraisal:
        del collateral, simulated, now
        self.seen.append(evidence)
        return Appraisal(
            platform=self.name,
            trust=Trust.SIMULATION,
            tcb_status=TcbStatus.UP_TO_DATE,
            advisories=(),
            measurements=(Measurement("LAUNCH", "ab" * 48),),
            machine="cd" * 64,
            platform_instance=None,
            report_data=evidence.quote[self.data_at : self.data_at + 64],
            ends=ENDS,
            findings=(),
        )

    def appraise(
        self, evidence: Evidence, manifest: Manifest, collateral: CollateralStore, *, now: Instant
    ) -> Appraisal:
        if manifest.sgx is None:  # which stands for this hardware's table
            raise PlatformNotAllowed(got=self.name)
        return self.observe(evidence, collateral, simulated=manifest.simulated, now=now)

    @property
    def row(self) -> Platform:
        kind = hcl.SNP if self.name == "snp" else hcl.TDX
        return hcl.azure(
            f"azure-{self.name}", kind, Platform(self.name, self.observe, self.appraise)
        )


def snp() -> Hardware:
    return Hardware("snp", 0x50)


def tdx() -> Hardware:
    return Hardware("tdx", 10)


SNP = SimulatedParavisor("azure-snp", TPM, lambda data: (snp_report(data), (b"VCEK",)))
TDX = SimulatedParavisor("azure-tdx", TPM, lambda data: (td_report(data), (b"TD quote: " + data,)))


def manifest_of(bench: Bench, **fields: object) -> Manifest:
    return bench.policy(tpm=table(**fields)).manifest


def appraised(
    bench: Bench,
    evidence: Evidence,
    *,
    hardware: Hardware | None = None,
    manifest: Manifest | None = None,
) -> Appraisal:
    return (hardware or snp()).row.appraise(
        evidence, manifest_of(bench) if manifest is None else manifest, EMPTY, now=NOW
    )


def refused(
    bench: Bench, error: type[LeaseholdError], evidence: Evidence, **more: Any
) -> LeaseholdError:
    with pytest.raises(LeaseholdError) as caught:
        appraised(bench, evidence, **more)
    assert type(caught.value) is error, caught.value
    return caught.value


def wrapped(
    runtime: bytes = RUNTIME, hardware: bytes | None = None, *, tpm: SimulatedTpm = TPM, **more: Any
) -> Evidence:
    """Evidence around other runtime data or another hardware report, whose report data fits by default."""
    hardware = snp_report(sha256(runtime) + bytes(32)) if hardware is None else hardware
    attest = tpm.attest(sha256(REPORT_DATA))
    quote = report(hardware, runtime, **{"kind": hcl.SNP, **more})
    return Evidence("azure-snp", quote, (attest, tpm.sign(attest), tpm.values, b"VCEK"))


# What passes ---------------------------------------------------------------------------------------


def test_hardware_and_vtpm_make_one_appraisal(bench: Bench) -> None:
    hardware = snp()
    found = appraised(bench, SNP.attest(REPORT_DATA), hardware=hardware)
    assert found.platform == "azure-snp"
    assert found.measurements[0] == ("LAUNCH", "ab" * 48)
    assert found.measurements[1] == ("PCRDIGEST", sha256(TPM.values).hex())
    assert found.report_data == sha256(REPORT_DATA)
    assert (found.machine, found.platform_instance) == ("cd" * 64, TPM.platform_id)
    assert (found.trust, found.ends) == (Trust.SIMULATION, ENDS)
    assert [one.code for one in found.findings] == [FindingCode.HYPERVISOR_TRUSTED]
    assert hardware.seen == [Evidence("snp", snp_report(BOUND), (b"VCEK",))]


def test_a_td_quote_stands_for_the_report_that_cannot_be_checked(bench: Bench) -> None:
    hardware = tdx()
    found = appraised(bench, TDX.attest(REPORT_DATA), hardware=hardware)
    assert found.platform == "azure-tdx"
    assert hardware.seen == [Evidence("tdx", b"TD quote: " + BOUND)]


def test_observation_needs_no_policy() -> None:
    row = snp().row
    found = row.observe(SNP.attest(REPORT_DATA), EMPTY, simulated=None, now=NOW)
    assert found.platform_instance == TPM.platform_id
    assert row.commitment(REPORT_DATA) == found.report_data


# H-7, H-8, H-12: policy ----------------------------------------------------------------------------


def test_both_tables_and_the_switch_are_needed(bench: Bench) -> None:
    evidence = SNP.attest(REPORT_DATA)
    for manifest in (
        msgspec.structs.replace(manifest_of(bench), tpm=None),
        msgspec.structs.replace(manifest_of(bench), sgx=None),
        manifest_of(bench, unsafe_trust_hypervisor_owner=False),
    ):
        refused(bench, PlatformNotAllowed, evidence, manifest=manifest)


def test_registers_and_firmware_are_judged(bench: Bench) -> None:
    evidence = SNP.attest(REPORT_DATA)
    refused(
        bench,
        WrongMeasurement,
        evidence,
        manifest=manifest_of(bench, pcrs={"7": ["ab" * 32]}),
    )
    old = manifest_of(bench, firmware_versions=["00" * 8])
    refused(bench, TcbNotCurrent, evidence, manifest=old)
    waiver = Waiver("OutOfDate", (), "laboratory", datetime(2027, 6, 1, tzinfo=UTC))
    found = appraised(bench, evidence, manifest=msgspec.structs.replace(old, waivers=(waiver,)))
    assert found.tcb_status is TcbStatus.OUT_OF_DATE
    assert found.findings[-1].code is FindingCode.WAIVED


# H-11: the vTPM's quote ----------------------------------------------------------------------------


def test_a_quote_of_another_key_is_refused(bench: Bench) -> None:
    other = SimulatedTpm(TlsKey.make(seeded("another")).private)
    attest = other.attest(sha256(REPORT_DATA))
    theirs = msgspec.structs.replace(
        SNP.attest(REPORT_DATA), endorsements=(attest, other.sign(attest), other.values, b"VCEK")
    )
    refused(bench, QuoteForged, theirs)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_missing_parts_are_refused(bench: Bench, count: int) -> None:
    evidence = SNP.attest(REPORT_DATA)
    short = msgspec.structs.replace(evidence, endorsements=evidence.endorsements[:count])
    refused(bench, BadEvidence, short)


@pytest.mark.parametrize("beside", [(), (b"one", b"two")])
def test_there_is_exactly_one_td_quote(bench: Bench, beside: tuple[bytes, ...]) -> None:
    evidence = TDX.attest(REPORT_DATA)
    other = msgspec.structs.replace(evidence, endorsements=(*evidence.endorsements[:3], *beside))
    refused(bench, BadEvidence, other, hardware=tdx())


def told(**changes: object) -> bytes:
    return json.dumps({**json.loads(RUNTIME), **changes}).encode()


KEY = json.loads(RUNTIME)["keys"][0]


@pytest.mark.parametrize(
    "runtime",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"{" * 900,
        b'{"a":' * 700,
        b'{"keys":[],"vm-configuration":{"a":' + b"[" * 1200,
        told(keys=[]),
        told(keys={}),
        told(keys=[KEY, KEY]),
        told(keys=[KEY] * 17),
        told(keys=[{**KEY, "kid": "HCLEkPub"}]),
        told(keys=[{**KEY, "kty": "EC"}]),
        told(keys=[{**KEY, "n": ""}]),
        told(keys=[{**KEY, "n": "A" * 5}]),
        told(keys=[{**KEY, "n": "+" * 344}]),
        told(keys=[{**KEY, "n": KEY["n"] + "="}]),
        told(keys=[{**KEY, "n": KEY["n"][:300]}]),
        told(keys=[{**KEY, "n": "A" * 344}]),
        told(keys=[{**KEY, "n": "_" * 900}]),
        told(keys=[{**KEY, "e": "Aw"}]),
        told(keys=[{**KEY, "e": ""}]),
        told(keys=[{**KEY, "e": "_" * 16}]),
    ],
)
def test_runtime_data_without_one_good_key_is_refused(bench: Bench, runtime: bytes) -> None:
    refused(bench, BadEvidence, wrapped(runtime))


def test_claims_that_nobody_knows_are_passed_over(bench: Bench) -> None:
    appraised(bench, wrapped(told(**{"new-claim": {"deep": [1, 2.5, None]}})))


def test_a_short_attestation_key_is_refused(bench: Bench) -> None:
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - too short on purpose
    refused(bench, BadEvidence, wrapped(runtime_data(short), tpm=SimulatedTpm(short)))


# H-13: the fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        bytes(64),
        sha256(RUNTIME) + bytes(31) + b"\x01",
        sha256(RUNTIME + b" ") + bytes(32),
        bytes(32) + sha256(RUNTIME),
    ],
)
def test_hardware_that_vouches_for_something_else_is_refused(bench: Bench, data: bytes) -> None:
    refused(bench, WrongBinding, wrapped(hardware=snp_report(data)))


def test_a_guest_s_own_report_is_refused(bench: Bench) -> None:
    """Above the paravisor, a guest may have any JSON reported, with a key of its own."""
    for vmpl in (1, 2, 3, 1 << 24):
        refused(bench, WrongAttributes, wrapped(hardware=snp_report(BOUND, vmpl=vmpl)))


def test_the_report_inside_agrees_with_the_td_quote(bench: Bench) -> None:
    evidence = TDX.attest(REPORT_DATA)
    other = report(td_report(bytes(64)), RUNTIME, kind=hcl.TDX)
    refused(bench, EvidenceRejected, msgspec.structs.replace(evidence, quote=other), hardware=tdx())


def test_a_td_quote_for_other_runtime_data_is_refused(bench: Bench) -> None:
    evidence = TDX.attest(REPORT_DATA)
    other = (*evidence.endorsements[:3], b"TD quote: " + bytes(64))
    refused(
        bench, WrongBinding, msgspec.structs.replace(evidence, endorsements=other), hardware=tdx()
    )


# H-10: the format ----------------------------------------------------------------------------------


def test_every_part_of_a_report_is_found() -> None:
    found = hcl.parse_hcl(report(snp_report(BOUND), RUNTIME, kind=hcl.SNP, version=1))
    assert (found.version, found.request, found.kind) == (1, 2, hcl.SNP)
    assert found.hardware == snp_report(BOUND)
    assert found.runtime_bytes == RUNTIME
    assert found.hardware_data == BOUND
    settings = {name: bytes(value) for name, value in found.runtime.vm_configuration.items()}
    assert settings == {"secure-boot": b"true", "vmUniqueId": b'"SIMULATED"'}
    assert found.runtime.user_data == "00" * 64


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0, b"HCLB", BadEvidence),
        (4, b"\x00", UnsupportedEvidence),
        (4, b"\x03", UnsupportedEvidence),
        (8, b"\x00", BadEvidence),
        (8, b"\xff\xff\xff\xff", BadEvidence),
        (1216, b"\x00", BadEvidence),
        (1216, b"\xff\xff\xff\xff", BadEvidence),
        (1224, b"\x03", UnsupportedEvidence),  # VBS
        (1224, b"\x05", UnsupportedEvidence),
        (1224, b"\x04", BadEvidence),  # TDX under the name azure-snp
        (1228, b"\x02", UnsupportedEvidence),  # SHA-384
        (1232, b"\x00\x00\x00\x00", BadEvidence),
        (1232, b"\xff\xff\xff\xff", BadEvidence),
        (2599, b"\x01", BadEvidence),
    ],
)
def test_fields_and_lengths_that_do_not_fit_are_refused(
    bench: Bench, at: int, value: bytes, error: type[LeaseholdError]
) -> None:
    evidence = SNP.attest(REPORT_DATA)
    quote = evidence.quote[:at] + value + evidence.quote[at + len(value) :]
    refused(bench, error, msgspec.structs.replace(evidence, quote=quote))


def test_truncation_passes_only_where_it_cuts_padding(bench: Bench) -> None:
    evidence = SNP.attest(REPORT_DATA)
    end = 1236 + len(RUNTIME)
    whole = appraised(bench, evidence)
    for size in (*range(0, end, 7), end - 1, end, end + 1):
        cut = msgspec.structs.replace(evidence, quote=evidence.quote[:size])
        if size < end:
            refused(bench, BadEvidence, cut)
        else:
            assert appraised(bench, cut) == whole


def test_a_huge_report_is_refused(bench: Bench) -> None:
    evidence = SNP.attest(REPORT_DATA)
    padded = evidence.quote.ljust(hcl.HCL_BYTES_MAX + 1, b"\0")
    refused(bench, BadEvidence, msgspec.structs.replace(evidence, quote=padded))


def test_every_flipped_bit_of_header_and_runtime_data_is_refused_or_unread(bench: Bench) -> None:
    """Request type, reserved words and the data's version say nothing that anybody relies on."""
    evidence = SNP.attest(REPORT_DATA)
    whole = appraised(bench, evidence)
    unread = {*range(12, 32), *range(1220, 1224)}
    for at in (*range(32), *range(1216, len(evidence.quote))):
        quote = bytearray(evidence.quote)
        quote[at] ^= 1 << at % 8
        flipped = msgspec.structs.replace(evidence, quote=bytes(quote))
        if at in unread:
            assert appraised(bench, flipped) == whole
            continue
        with pytest.raises((BadEvidence, WrongBinding, QuoteForged)):
            appraised(bench, flipped)


@settings(max_examples=200, deadline=None)
@given(runtime=st.binary(max_size=300), junk=st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(runtime: bytes, junk: bytes) -> None:
    for candidate in (junk, report(bytes(1184), runtime, kind=hcl.TDX), b"HCLA" + runtime):
        try:
            hcl.attestation_key(hcl.parse_hcl(candidate).runtime)
        except BadEvidence:
            continue


def test_the_simulated_paravisor_s_vtpm_has_an_rsa_key() -> None:
    odd = replace(SNP, tpm=SimulatedTpm(TlsKey.make(seeded("x")).private))
    assert odd.simulated
    with pytest.raises(TypeError):
        odd.attest(REPORT_DATA)
