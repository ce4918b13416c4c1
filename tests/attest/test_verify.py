"""Every verdict, and every field wrong: each refusal for exactly its own reason."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from leasehold.attest.collateral import HeldCollateral, parse_collateral
from leasehold.attest.intel.roots import INTEL_SGX_ROOT_DER, INTEL_SGX_ROOT_SPKI_SHA256
from leasehold.attest.reference import Machine as Listed
from leasehold.attest.reference import Simulated, Waiver
from leasehold.attest.verdict import TcbStatus, Trust
from leasehold.attest.x509 import read_chain
from leasehold.core.binding import Purpose
from leasehold.core.crypto import sha256
from leasehold.core.evidence import EVIDENCE_BYTES_MAX, Evidence
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    CertificateRevoked,
    CollateralMismatch,
    CollateralMissing,
    CollateralNotCurrent,
    DebugEnclave,
    EnclaveTooOld,
    EvidenceRejected,
    LeaseholdError,
    ManifestExpired,
    PlatformNotAllowed,
    TcbNotCurrent,
    TcbRevoked,
    UnknownMachine,
    UnsupportedEvidence,
    UntrustedRoot,
    WrongAttributes,
    WrongBinding,
    WrongConfigId,
    WrongConfiguration,
    WrongCustodian,
    WrongMeasurement,
    WrongSigner,
)
from leasehold_simtee.certificates import der

from .bench import NOW, YEAR, Bench, make_bench

DAY = timedelta(days=1)
TODAY = datetime.fromtimestamp(NOW / 1000, UTC)


def refused(bench: Bench, error: type[LeaseholdError], evidence: Evidence | None = None) -> str:
    """The message of a refusal that must be of exactly this class."""
    with pytest.raises(LeaseholdError) as caught:
        bench.verify(evidence)
    assert type(caught.value) is error, caught.value
    return str(caught.value)


# What passes -------------------------------------------------------------------------------------


def test_an_honest_enclave_passes_with_all_its_facts(bench: Bench) -> None:
    verdict = bench.verify()
    assert verdict.trust is Trust.SIMULATION
    assert verdict.is_simulated
    assert verdict.platform == "sgx"
    assert verdict.tcb_status is TcbStatus.UP_TO_DATE
    assert verdict.advisories == ()
    assert verdict.measurement == bench.enclave.mr_enclave.hex()
    assert verdict.measurements == (
        ("MRENCLAVE", bench.enclave.mr_enclave.hex()),
        ("MRSIGNER", bench.enclave.mr_signer.hex()),
        ("ISVPRODID", "1"),
        ("ISVSVN", "1"),
    )
    assert verdict.devices == ()
    assert verdict.machine == bench.machine.platform_id
    assert verdict.platform_instance is None
    assert verdict.report_data == bench.binding.report_data()
    assert verdict.policy == bench.manifest.digest().hex()
    assert verdict.findings == (("simulated", "SIMULATED: no hardware protects this enclave"),)


def test_the_platform_authority_gives_an_instance_id_that_the_list_may_name(
    platform_bench: Bench,
) -> None:
    verdict = platform_bench.verify()
    assert verdict.platform_instance is not None
    by_instance = platform_bench.policy(machines=(Listed(verdict.platform_instance, "x"),))
    assert by_instance.verify().machine == platform_bench.machine.platform_id


def test_zero_padding_is_cut_off(bench: Bench) -> None:
    evidence = bench.evidence
    padded = msgspec.structs.replace(evidence, quote=evidence.quote + bytes(3000))
    assert bench.verify(padded) == bench.verify(evidence)


def test_the_verdict_ends_with_the_first_thing_that_ends(bench: Bench) -> None:
    collateral_ends = NOW + 30 * 86_400_000
    assert bench.verify().valid_until == collateral_ends
    week = bench.situation(lifetime=7 * 86_400_000)
    assert week.verify().valid_until == NOW + 7 * 86_400_000
    assert bench.policy(not_after=TODAY + DAY).verify().valid_until == NOW + 86_400_000


# V-1 to V-4: form --------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["", "SGX", "simulated", "sev", "nitro"])
def test_unlisted_platforms_are_refused(bench: Bench, platform: str) -> None:
    evidence = msgspec.structs.replace(bench.evidence, platform=platform)
    refused(bench, UnsupportedEvidence, evidence)


def test_oversized_evidence_is_refused(bench: Bench) -> None:
    endorsements = (bytes(EVIDENCE_BYTES_MAX),)
    refused(bench, BadEvidence, msgspec.structs.replace(bench.evidence, endorsements=endorsements))


def test_endorsements_beside_an_sgx_quote_are_refused(bench: Bench) -> None:
    evidence = msgspec.structs.replace(bench.evidence, endorsements=(b"collateral of my own",))
    refused(bench, UnsupportedEvidence, evidence)


def test_a_platform_without_reference_values_is_refused(bench: Bench) -> None:
    refused(bench.policy(sgx=None), PlatformNotAllowed)


def test_an_expired_manifest_judges_nothing(bench: Bench) -> None:
    refused(bench.policy(not_after=TODAY), ManifestExpired)


# V-5: the root -----------------------------------------------------------------------------------


def test_the_pinned_root_is_intels() -> None:
    body = base64.b64encode(INTEL_SGX_ROOT_DER)
    pem = b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n" % body
    (root,) = read_chain(pem, count=1, about="root", error=BadEvidence)
    assert root.spki_sha256 == INTEL_SGX_ROOT_SPKI_SHA256
    assert root.sha256 == "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
    assert (root.name, root.issuer) == ("Intel SGX Root CA", "Intel SGX Root CA")


def test_simulation_is_refused_where_the_manifest_does_not_name_it(bench: Bench) -> None:
    refused(bench.policy(simulated=None), UntrustedRoot)


def test_another_simulated_root_is_refused(bench: Bench) -> None:
    refused(bench.policy(simulated=Simulated("00" * 32)), UntrustedRoot)
    other = make_bench("another vendor")
    refused(replace(bench, machine=other.machine, collateral=other.collateral), UntrustedRoot)


def test_collateral_of_another_root_is_refused(bench: Bench) -> None:
    # The processor family is the same: only keys tell the two vendors apart.
    other = make_bench("another vendor")
    refused(replace(bench, collateral=other.collateral), CollateralMismatch)


# V-6 to V-9: chains and collateral ---------------------------------------------------------------


def test_an_expired_machine_certificate_is_refused(bench: Bench) -> None:
    late = Instant(NOW + 8 * YEAR)
    lasting = bench.policy(not_after=TODAY + 3000 * DAY)
    refused(replace(lasting.situation(lifetime=9 * YEAR), now=late), CertificateRejected)


def test_a_machine_certificate_from_the_future_is_refused(bench: Bench) -> None:
    refused(replace(bench, now=Instant(NOW - 2 * 86_400_000)), CertificateRejected)


def test_missing_collateral_is_refused(bench: Bench) -> None:
    refused(replace(bench, collateral=HeldCollateral(())), CollateralMissing)
    refused(bench.situation(fmspc=b"OTHERS"), CollateralMissing)
    refused(bench.situation(tee="TDX"), CollateralMissing)


def test_expired_collateral_is_refused(bench: Bench) -> None:
    assert replace(bench, now=Instant(NOW + 30 * 86_400_000 - 1)).verify()
    late = replace(bench, now=Instant(NOW + 30 * 86_400_000))
    refused(late, CollateralNotCurrent)


def test_collateral_from_the_future_is_refused(bench: Bench) -> None:
    refused(replace(bench, now=Instant(NOW - 10_000)), CollateralNotCurrent)


def test_another_pce_is_refused(bench: Bench) -> None:
    message = refused(bench.situation(pce_id=b"\x01\x00"), CollateralMismatch)
    assert "PCE id" in message


def test_a_revoked_machine_is_refused(bench: Bench) -> None:
    revoked = bench.situation(revoked=(bench.machine.pck.serial_number,))
    assert "PCK Certificate" in refused(revoked, CertificateRevoked)


def test_a_revoked_authority_is_refused(bench: Bench) -> None:
    serial = bench.machine.vendor.authority.serial_number
    assert "Processor CA" in refused(
        bench.situation(revoked_authorities=(serial,)), CertificateRevoked
    )


def test_a_revoked_tcb_signer_is_refused(bench: Bench) -> None:
    serial = bench.machine.vendor.tcb.serial_number
    assert "TCB Signing" in refused(
        bench.situation(revoked_authorities=(serial,)), CertificateRevoked
    )


def test_a_foreign_quoting_enclave_is_refused(bench: Bench) -> None:
    message = refused(bench.situation(qe_signer=bytes(32)), EvidenceRejected)
    assert "MRSIGNER" in message


# V-11: the patch level ---------------------------------------------------------------------------


WAIVABLE = [
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]


@pytest.mark.parametrize("status", WAIVABLE)
def test_only_up_to_date_passes_without_a_waiver(bench: Bench, status: str) -> None:
    advisories = ("INTEL-SA-00001", "INTEL-SA-00002")
    old = bench.situation(status=status, advisories=advisories)
    assert "INTEL-SA-00002" in refused(old, TcbNotCurrent)
    exact = Waiver(status, advisories, "lab machine", TODAY + DAY)  # type: ignore[arg-type]
    verdict = old.policy(waivers=(exact,)).verify()
    assert verdict.tcb_status.value == status
    assert verdict.advisories == advisories
    assert verdict.valid_until == NOW + 86_400_000
    assert any(
        finding.code == "waived" and "lab machine" in finding.text for finding in verdict.findings
    )


@pytest.mark.parametrize(
    "waiver",
    [
        Waiver("OutOfDate", ("INTEL-SA-00001",), "one advisory short", TODAY + DAY),
        Waiver("OutOfDate", ("INTEL-SA-00001", "INTEL-SA-00002"), "over", TODAY),
        Waiver(
            "SWHardeningNeeded", ("INTEL-SA-00001", "INTEL-SA-00002"), "another status", TODAY + DAY
        ),
    ],
    ids=lambda waiver: waiver.reason,
)
def test_a_waiver_covers_no_more_than_it_says(bench: Bench, waiver: Waiver) -> None:
    old = bench.situation(status="OutOfDate", advisories=("INTEL-SA-00001", "INTEL-SA-00002"))
    refused(old.policy(waivers=(waiver,)), TcbNotCurrent)


def test_revoked_cannot_be_waived(bench: Bench) -> None:
    waivers = tuple(
        Waiver(status, (), "no", TODAY + DAY)  # type: ignore[arg-type]
        for status in (*WAIVABLE, "Revoked")
    )
    refused(bench.situation(status="Revoked").policy(waivers=waivers), TcbRevoked)


def test_a_machine_below_every_level_is_refused(bench: Bench) -> None:
    refused(bench.situation(svn=255), TcbNotCurrent)


# V-12 to V-15: the enclave -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("flags", 0x07, DebugEnclave),
        ("flags", 0x04, WrongAttributes),
        ("flags", 0x15, WrongAttributes),
        ("xfrm", 0x07, WrongAttributes),
        ("misc_select", 1, WrongAttributes),
        ("mr_enclave", bytes(32), WrongMeasurement),
        ("mr_signer", bytes(32), WrongSigner),
        ("isv_prod_id", 2, WrongSigner),
        ("isv_svn", 0, EnclaveTooOld),
        ("config_id", b"\x01" * 64, WrongConfigId),
        ("config_svn", 1, WrongConfigId),
        ("isv_family_id", b"\x01" * 16, WrongConfigId),
        ("isv_ext_prod_id", b"\x01" * 16, WrongConfigId),
    ],
)
def test_each_wrong_field_of_the_report_has_its_own_refusal(
    bench: Bench, field: str, value: object, error: type[LeaseholdError]
) -> None:
    refused(replace(bench, enclave=replace(bench.enclave, **{field: value})), error)  # type: ignore[arg-type]


def test_a_newer_enclave_version_passes(bench: Bench) -> None:
    assert replace(bench, enclave=replace(bench.enclave, isv_svn=9)).verify().measurements[3] == (
        "ISVSVN",
        "9",
    )


def test_masks_say_which_bits_count(bench: Bench) -> None:
    wide = replace(bench, enclave=replace(bench.enclave, xfrm=0xE7))
    refused(wide, WrongAttributes)
    masked = wide.sgx(attributes_mask_xfrm_hex="0000000000000003")
    assert masked.verify().trust is Trust.SIMULATION


def test_empty_lists_allow_nothing(bench: Bench) -> None:
    refused(bench.sgx(mr_enclave=()), WrongMeasurement)
    refused(bench.policy(machines=()), UnknownMachine)
    refused(bench.policy(configurations=()), WrongConfiguration)


# V-16, V-17: machine and binding -----------------------------------------------------------------


def test_a_genuine_machine_that_is_not_listed_is_refused(bench: Bench) -> None:
    refused(bench.policy(machines=(Listed("ab" * 16, "another"),)), UnknownMachine)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("purpose", Purpose.CONSUMER),
        ("nonce", bytes(32)),
        ("tls_spki", b"another key"),
        ("statement_key", bytes(32)),
        ("kem_key", b""),
    ],
)
def test_evidence_for_anything_else_is_refused(bench: Bench, field: str, value: object) -> None:
    relayed = bench.evidence
    other = replace(bench, binding=replace(bench.binding, **{field: value}))  # type: ignore[arg-type]
    refused(other, WrongBinding, relayed)


def test_a_short_nonce_is_refused(bench: Bench) -> None:
    refused(replace(bench, binding=replace(bench.binding, nonce=b"short")), WrongBinding)


def test_another_custodians_enclave_is_refused(bench: Bench) -> None:
    foreign = replace(bench, binding=replace(bench.binding, custodian_root=bytes(32)))
    refused(foreign, WrongCustodian)


def test_another_configuration_is_refused(bench: Bench) -> None:
    other = replace(bench, binding=replace(bench.binding, configuration=b"other"))
    refused(other, WrongConfiguration)
    listed = other.policy(configurations=(sha256(b"other").hex(),))
    refused(listed, WrongBinding, bench.evidence)


def test_devices_that_the_report_data_does_not_cover_are_not_believed(bench: Bench) -> None:
    """The binding's hash is of the evidence that came, whatever the instance claims."""
    evidence = bench.evidence
    claimed = replace(bench, binding=replace(bench.binding, gpu_evidence=bytes(32)))
    assert claimed.verify(evidence) == bench.verify(evidence)
    refused(claimed, WrongBinding)


# Damage ------------------------------------------------------------------------------------------


def test_no_flipped_bit_passes(bench: Bench) -> None:
    """Every 23rd bit of the quote, so that all parts and all bit positions are hit."""
    evidence, honest = bench.evidence, bench.verify()
    quote = evidence.quote
    end = quote.rindex(b"-----BEGIN CERTIFICATE-----")  # the root at the end is replaced by the pin
    for bit in range(0, end * 8, 23):
        damaged = bytearray(quote)
        damaged[bit // 8] ^= 1 << bit % 8
        mutant = msgspec.structs.replace(evidence, quote=bytes(damaged))
        try:
            verdict = bench.verify(mutant)
        except LeaseholdError:
            continue
        # PEM is text: white space, line ends and the letters outside base64 carry no meaning.
        assert verdict == honest
        assert quote[bit // 8 : bit // 8 + 1] in b"\r\n -"


def test_no_truncation_passes(bench: Bench) -> None:
    evidence = bench.evidence
    for size in range(0, len(evidence.quote), 97):
        cut = msgspec.structs.replace(evidence, quote=evidence.quote[:size])
        refused(bench, BadEvidence, cut)


def test_bytes_after_the_end_are_refused(bench: Bench) -> None:
    evidence = bench.evidence
    refused(bench, BadEvidence, msgspec.structs.replace(evidence, quote=evidence.quote + b"x"))


def test_a_report_signed_by_another_machine_is_refused(bench: Bench) -> None:
    """The right header and report over another machine's signature and chain."""
    vendor = bench.machine.vendor
    other = make_bench("second machine").machine
    twin = type(other).create(lambda size: bytes(range(size)), NOW, vendor=vendor)
    ours, theirs = bench.evidence.quote, twin.attester(bench.enclave).attest(bytes(64)).quote
    with pytest.raises(EvidenceRejected):
        bench.verify(Evidence("sgx", ours[:432] + theirs[432:]))


def test_the_root_in_the_quote_is_named_byte_for_byte(bench: Bench) -> None:
    assert sha256(der(bench.machine.vendor.root)).hex() == bench.machine.root_sha256


def test_collateral_that_was_changed_is_refused(bench: Bench) -> None:
    """Every 101st byte of every field of the collateral."""
    told = msgspec.json.decode(bench.machine.collateral)
    for field, text in told.items():
        for at in range(0, len(text), 101):
            changed = text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]
            try:
                fresh = HeldCollateral(
                    [parse_collateral(msgspec.json.encode({**told, field: changed}))]
                )
                verdict = replace(bench, collateral=fresh).verify()
            except LeaseholdError:
                continue
            # What may change unseen: the roots that end each chain, which the decided root replaces.
            assert field.endswith("_chain"), (field, at)
            assert verdict.trust is Trust.SIMULATION
