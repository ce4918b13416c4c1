"""SEV-SNP: every verdict, and every field wrong, each refusal for exactly its own reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from leasehold.attest.amd.kds import vcek_name
from leasehold.attest.amd.reference import Floor, Snp
from leasehold.attest.amd.report import REPORT_BYTES, SIGNED_BYTES, parse_report
from leasehold.attest.collateral import Document, HeldCollateral
from leasehold.attest.reference import Machine as Listed
from leasehold.attest.reference import Simulated, Waiver
from leasehold.attest.verdict import FindingCode, TcbStatus, Trust
from leasehold.attest.verify import observe
from leasehold.core.evidence import Evidence
from leasehold.core.units import DAY, Instant
from leasehold.errors import (
    BadEvidence,
    BadManifest,
    CertificateRejected,
    CertificateRevoked,
    CollateralMismatch,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    DebugEnclave,
    EnclaveTooOld,
    LeaseholdError,
    PlatformNotAllowed,
    QuoteForged,
    TcbNotCurrent,
    UnknownMachine,
    UnsupportedEvidence,
    UntrustedRoot,
    WrongAttributes,
    WrongBinding,
    WrongConfigId,
    WrongMeasurement,
    WrongSigner,
)
from leasehold_simtee.amd_certificates import Product, Tcb, certificate_table, endorse
from leasehold_simtee.certificates import der
from leasehold_simtee.snp import Amd, Chip

from .bench import NOW, YEAR, seeded
from .snp_bench import SnpBench, make_snp_bench

TODAY = datetime.fromtimestamp(NOW / 1000, UTC)


@pytest.fixture(scope="module")
def bench() -> SnpBench:
    return make_snp_bench()


@pytest.fixture(scope="module")
def cloud() -> SnpBench:
    """A cloud that signs with a VLEK and hides the chip."""
    return make_snp_bench(signer="VLEK", masked=True)


def refused(bench: SnpBench, error: type[LeaseholdError], evidence: Evidence | None = None) -> str:
    """The message of a refusal that must be of exactly this class."""
    with pytest.raises(LeaseholdError) as caught:
        bench.verify(evidence)
    assert type(caught.value) is error, caught.value
    return str(caught.value)


# What passes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_every_version_and_product_passes_with_all_its_facts(
    product: Product, version: int
) -> None:
    bench = make_snp_bench(product, version=version)
    verdict = bench.verify()
    assert verdict.platform == "snp"
    assert verdict.trust is Trust.SIMULATION
    assert verdict.tcb_status is TcbStatus.UP_TO_DATE
    assert verdict.measurement == bench.guest.measurement.hex()
    assert verdict.machine == bench.chip.machine_id
    assert len(verdict.machine) == (16 if product == "Turin" else 128)
    assert verdict.report_data == bench.binding.report_data()
    assert [finding.code for finding in verdict.findings] == [
        FindingCode.SIMULATED,
        FindingCode.SMT,
    ]


def test_a_wrapped_hardware_id_is_the_same_chip(bench: SnpBench) -> None:
    chip = Chip.create(seeded("wrapped"), NOW, amd=bench.amd, wrapped=True)
    listed = replace(bench, chip=chip).policy(machines=(Listed(chip.machine_id, "x"),))
    assert listed.verify().machine == chip.chip_id.hex()


def test_a_cloud_key_passes_where_the_manifest_names_the_cloud(cloud: SnpBench) -> None:
    verdict = cloud.verify()
    codes = {finding.code for finding in verdict.findings}
    assert {FindingCode.SHARED_SIGNING_KEY, FindingCode.MASKED_CHIP} <= codes
    assert verdict.machine == cloud.chip.machine_id


def test_the_chain_may_come_from_the_store(bench: SnpBench) -> None:
    assert replace(bench, chain=False).verify() == bench.verify()


def test_the_verdict_ends_with_the_first_thing_that_ends(bench: SnpBench) -> None:
    assert bench.verify().valid_until == NOW + DAY


def test_without_a_policy_a_report_says_what_it_is(bench: SnpBench) -> None:
    simulated = Simulated(amd_root_sha256=bench.amd.root_sha256)
    seen = observe(bench.evidence, bench.collateral, simulated=simulated, now=NOW)
    assert seen.tcb_status is TcbStatus.NOT_JUDGED
    unasked = observe(bench.evidence, HeldCollateral(()), simulated=simulated, now=NOW)
    assert FindingCode.REVOCATION_UNKNOWN in {finding.code for finding in unasked.findings}


# E-1, E-2: form -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"version": 1}, UnsupportedEvidence),
        ({"version": 6}, UnsupportedEvidence),
        ({"algorithm": 2}, UnsupportedEvidence),
        ({"flags": 1 << 5}, BadEvidence),
        ({"flags": 7 << 2}, UnsupportedEvidence),
        ({"policy": 0}, BadEvidence),
        ({"policy": 0x30000 | 1 << 26}, BadEvidence),
        ({"cpuid": (0x1A, 0x50, 0)}, UnsupportedEvidence),
        ({"cpuid": (0x17, 0x01, 0)}, UnsupportedEvidence),
    ],
)
def test_reports_that_this_version_cannot_judge(
    bench: SnpBench, fields: dict[str, object], error: type[LeaseholdError]
) -> None:
    refused(bench.says(**fields), error)


def test_every_truncation_is_refused(bench: SnpBench) -> None:
    report = bench.evidence.quote
    for size in range(0, REPORT_BYTES, 7):
        with pytest.raises(BadEvidence):
            parse_report(report[:size])


def test_zero_padding_is_cut_off_and_nothing_else(bench: SnpBench) -> None:
    evidence = bench.evidence
    padded = msgspec.structs.replace(evidence, quote=evidence.quote + bytes(2912))
    assert bench.verify(padded) == bench.verify(evidence)
    for extra in (b"x", bytes(100) + b"x", bytes(8192)):
        refused(bench, BadEvidence, msgspec.structs.replace(evidence, quote=evidence.quote + extra))


def test_no_flipped_bit_passes(bench: SnpBench) -> None:
    """What the signature does not cover has to be zero; for what it covers it no longer holds."""
    evidence = bench.evidence
    for bit in range(REPORT_BYTES * 8):
        flipped = bytearray(evidence.quote)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(LeaseholdError) as caught:
            bench.verify(msgspec.structs.replace(evidence, quote=bytes(flipped)))
        expected = {QuoteForged}
        if bit // 8 in (*range(0x04), *range(0x34, 0x38)):  # version, algorithm
            expected = {UnsupportedEvidence, QuoteForged}  # versions 2 and 3 differ in one bit
        elif bit // 8 in range(0x48, 0x4C):  # another kind of key has no certificate here
            expected = {UnsupportedEvidence, CollateralMissing, BadEvidence, QuoteForged}
        elif bit // 8 in range(0x08, 0x10):  # the policy's reserved bits
            expected = {BadEvidence, QuoteForged}
        elif bit // 8 >= SIGNED_BYTES + 144:
            expected = {BadEvidence}
        assert type(caught.value) in expected, (bit, caught.value)


# E-3: where certificates come from ----------------------------------------------------------------


def beside(bench: SnpBench, *endorsements: bytes) -> Evidence:
    return msgspec.structs.replace(bench.evidence, endorsements=endorsements)


def test_certificates_may_stand_alone(bench: SnpBench) -> None:
    parts = (bench.chip.certificate, der(bench.amd.ask), der(bench.amd.ark))
    assert bench.verify(beside(bench, *parts)) == bench.verify()


def test_no_certificate_anywhere_is_a_refusal(bench: SnpBench) -> None:
    assert "VCEK" in refused(
        bench.says(version=2), CollateralMissing, beside(bench.says(version=2))
    )
    refused(bench, CollateralMissing, beside(bench))


def test_a_cloud_key_is_never_asked_of_amd(cloud: SnpBench) -> None:
    assert "VLEK" in refused(cloud, CollateralMissing, beside(cloud))


def test_the_key_may_come_from_the_store(bench: SnpBench) -> None:
    name = vcek_name(parse_report(bench.evidence.quote), "Milan")
    document = Document("amd-vcek", name, bench.chip.certificate, Instant(NOW + DAY))
    kept = HeldCollateral((), (*bench.amd.documents(NOW), document))
    assert replace(bench, collateral=kept).verify(beside(bench)) == bench.verify()
    old = HeldCollateral(
        (), (*bench.amd.documents(NOW), msgspec.structs.replace(document, good_until=NOW))
    )
    refused(replace(bench, collateral=old), CollateralNotCurrent, beside(bench))


@pytest.mark.parametrize(
    "table",
    [
        b"c" * 23,
        bytes(23),
        certificate_table({"VCEK": b"x" * 10})[:-1],
        certificate_table({"VCEK": b""})[:24],
        certificate_table({"VCEK": b"not a certificate"}),
        certificate_table({"VCEK": b"0"})[:24] * 17 + bytes(24),
        b"",
        b"\xff" * 48 + bytes(24),
        bytes(33 * 1024),
    ],
)
def test_broken_tables_are_refused(bench: SnpBench, table: bytes) -> None:
    refused(bench, BadEvidence, beside(bench, table))


# E-4: the chain -----------------------------------------------------------------------------------


def forged(bench: SnpBench, **changes: object) -> Evidence:
    """The evidence with another leaf for the same key."""
    fields: dict[str, object] = {
        "signer": "VCEK",
        "hardware_id": bench.chip.chip_id,
        "tcb": Tcb(),
        "product": "Milan",
        "now": NOW,
    }
    issuer, role = changes.pop("by", (bench.amd.ask, "ask"))  # type: ignore[misc]
    leaf = endorse(issuer, role, bench.chip.key, **(fields | changes))  # type: ignore[arg-type]
    above = bench.amd.asvk if role == "asvk" else bench.amd.ask
    return beside(bench, leaf, der(above), der(bench.amd.ark))


def test_the_simulated_root_has_to_be_named(bench: SnpBench) -> None:
    refused(bench.policy(simulated=None), UntrustedRoot)
    refused(bench.policy(simulated=Simulated(root_sha256="00" * 32)), UntrustedRoot)
    refused(
        bench.policy(simulated=Simulated(root_sha256=bench.amd.root_sha256)), UntrustedRoot
    )  # a root of another role


def test_another_vendor_with_the_same_names_is_no_root(bench: SnpBench) -> None:
    stranger = Amd.create(seeded("stranger"), NOW)
    chip = Chip.create(seeded("strange chip"), NOW, amd=stranger)
    refused(replace(bench, chip=chip), UntrustedRoot)


def test_a_leaf_signed_by_somebody_else_is_refused(bench: SnpBench) -> None:
    refused(bench, CertificateRejected, forged(bench, by=(bench.amd.ask, "stranger")))


def test_roles_do_not_mix(bench: SnpBench) -> None:
    """A VCEK below the authority for VLEKs, and a leaf of another name."""
    refused(bench, CertificateRejected, forged(bench, by=(bench.amd.asvk, "asvk")))
    refused(bench, CertificateRejected, forged(bench, common="SIMULATED x SEV-VCEK"))


def test_certificates_end(bench: SnpBench, cloud: SnpBench) -> None:
    for one, years in ((bench, 7), (cloud, 1)):
        late = replace(
            one,
            now=Instant(NOW + years * YEAR + DAY),
            collateral=HeldCollateral((), one.amd.documents(Instant(NOW + years * YEAR))),
        ).policy(not_after=TODAY + timedelta(days=9000))
        assert "validity" in refused(late, CertificateRejected)
    early = replace(bench, now=Instant(NOW - 2 * DAY))
    refused(early, CertificateRejected)


# E-5, E-6: what the leaf says ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"hardware_id": bytes(64)}, CertificateRejected),
        ({"hardware_id": bytes(63)}, BadEvidence),
        ({"tcb": Tcb(bootloader=3)}, CertificateRejected),
        ({"tcb": Tcb(tee=1)}, CertificateRejected),
        ({"tcb": Tcb(snp=23)}, CertificateRejected),
        ({"tcb": Tcb(microcode=220)}, CertificateRejected),
        ({"tcb": Tcb(microcode=256)}, BadEvidence),
        ({"product_name": "Genoa"}, CertificateRejected),
        ({"product_name": "Milän"}, BadEvidence),
        ({"signer": "VLEK", "common": "SIMULATED SEV-VCEK"}, CertificateRejected),
    ],
)
def test_a_certificate_for_something_else(
    bench: SnpBench, changes: dict[str, object], error: type[LeaseholdError]
) -> None:
    refused(bench, error, forged(bench, **changes))


def test_a_report_of_another_product_than_its_chain(bench: SnpBench) -> None:
    assert "product" in refused(bench.says(cpuid=(0x19, 0x11, 0)), CertificateRejected)


def test_a_turin_chip_id_ends_after_eight_bytes() -> None:
    bench = make_snp_bench("Turin")
    refused(bench.says(chip_id=bench.chip.chip_id[:8] + b"x" * 56), BadEvidence)


def test_a_report_by_another_chip_is_forged(bench: SnpBench) -> None:
    other = Chip.create(seeded("other"), NOW, amd=bench.amd)
    stolen = replace(bench.chip, key=other.key)
    refused(replace(bench, chip=stolen), QuoteForged)


# E-8: revocation ----------------------------------------------------------------------------------


def test_a_revoked_authority_is_refused(bench: SnpBench) -> None:
    revoked = bench.amd.documents(NOW, revoked=(bench.amd.ask.serial_number,))
    refused(replace(bench, collateral=HeldCollateral((), revoked)), CertificateRevoked)
    other = bench.amd.documents(NOW, revoked=(bench.amd.asvk.serial_number,))
    assert replace(bench, collateral=HeldCollateral((), other)).verify()


def test_a_policy_never_takes_unknown_revocation_for_a_no(bench: SnpBench) -> None:
    assert "amd-crl" in refused(replace(bench, collateral=HeldCollateral(())), CollateralMissing)


def changed_crl(bench: SnpBench, data: bytes, until: int = NOW + DAY) -> SnpBench:
    document = Document("amd-crl", "vcek-Milan", data, Instant(until))
    return replace(bench, collateral=HeldCollateral((), (document,)))


def test_lists_that_do_not_count(bench: SnpBench) -> None:
    crl = bench.amd.crl(NOW)
    refused(changed_crl(bench, crl, until=NOW), CollateralNotCurrent)
    refused(changed_crl(bench, bench.amd.crl(Instant(NOW - 31 * DAY))), CollateralNotCurrent)
    refused(changed_crl(bench, crl[:-1] + bytes((crl[-1] ^ 1,))), CollateralRejected)
    refused(changed_crl(bench, b"no list"), CollateralRejected)
    other = Amd.create(seeded("other"), NOW, "Genoa")
    refused(changed_crl(bench, other.crl(NOW)), CollateralMismatch)


# E-9: reference values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"policy": 0x30000 | 1 << 19}, DebugEnclave),
        ({"policy": 0x30000 | 1 << 18}, WrongAttributes),
        ({"policy": 0x20000}, WrongAttributes),
        ({"policy": 0x30000 | 1 << 21}, WrongAttributes),
        ({"platform_info": 0x05}, WrongAttributes),
        ({"vmpl": 1}, WrongAttributes),
        ({"measurement": bytes(48)}, WrongMeasurement),
        ({"id_key_digest": b"x" * 48}, WrongSigner),
        ({"author_key_digest": b"x" * 48}, WrongSigner),
        ({"guest_svn": 0}, EnclaveTooOld),
        ({"host_data": b"x" * 32}, WrongConfigId),
        ({"family_id": b"x" * 16}, WrongConfigId),
        ({"image_id": b"x" * 16}, WrongConfigId),
    ],
)
def test_every_field_that_the_manifest_names(
    bench: SnpBench, fields: dict[str, object], error: type[LeaseholdError]
) -> None:
    refused(bench.says(**fields), error)


def test_debug_is_refused_whatever_the_masks_say(bench: SnpBench) -> None:
    debug = bench.says(policy=0x30000 | 1 << 19)
    refused(debug.snp(policy_mask_hex=f"{3 << 18:016x}", policy_hex="0" * 16), DebugEnclave)


def test_a_platform_without_its_table_is_refused(bench: SnpBench) -> None:
    refused(bench.policy(snp=None), PlatformNotAllowed)


def test_a_machine_that_is_not_listed_is_refused(bench: SnpBench, cloud: SnpBench) -> None:
    for one in (bench, cloud):
        refused(one.policy(machines=(Listed("00" * 64, "x"),)), UnknownMachine)


def test_other_keys_are_refused(bench: SnpBench) -> None:
    other = replace(bench, binding=replace(bench.binding, kem_key=b"x"))
    refused(other, WrongBinding, bench.evidence)


# E-10: patch level --------------------------------------------------------------------------------


@pytest.mark.parametrize("component", ["bootloader", "tee", "snp", "microcode", "fmc"])
@pytest.mark.parametrize("which", ["reported", "committed", "current", "launch"])
def test_every_component_has_its_floor(which: str, component: str) -> None:
    bench = make_snp_bench("Turin")
    level = {"bootloader": 4, "tee": 1, "snp": 24, "microcode": 219, "fmc": 1}
    chip = Chip.create(seeded("current"), NOW, amd=bench.amd, tcb=Tcb(**level))
    at = replace(bench, chip=chip).policy(machines=(Listed(chip.machine_id, "x"),))
    names = ("reported_tcb", "committed_tcb", "current_tcb", "launch_tcb")
    at = at.snp(turin=Floor(**level)).says(**dict.fromkeys(names, Tcb(**level)))
    assert at.verify().tcb_status is TcbStatus.UP_TO_DATE
    below = Tcb(**(level | {component: level[component] - 1}))
    if which != "reported":
        refused(at.says(**{f"{which}_tcb": below}), TcbNotCurrent)
        return
    old = Chip.create(seeded("old"), NOW, amd=bench.amd, tcb=below)
    aged = replace(at, chip=old).says(reported_tcb=below)
    refused(aged.policy(machines=(Listed(old.machine_id, "x"),)), TcbNotCurrent)


def test_a_waiver_covers_an_old_level_until_its_day(bench: SnpBench) -> None:
    floor = Floor(bootloader=4, tee=0, snp=25, microcode=219)
    old = bench.snp(milan=floor)
    refused(old, TcbNotCurrent)
    waiver = Waiver("OutOfDate", (), "lab machine", TODAY + timedelta(hours=1))
    verdict = old.policy(waivers=(waiver,)).verify()
    assert verdict.tcb_status is TcbStatus.OUT_OF_DATE
    assert verdict.valid_until == NOW + 3_600_000
    assert FindingCode.WAIVED in {finding.code for finding in verdict.findings}


def test_a_product_without_floor_is_refused(bench: SnpBench) -> None:
    floor = Floor(bootloader=0, tee=0, snp=0, microcode=0)
    refused(bench.snp(milan=None, genoa=floor), PlatformNotAllowed)


# E-11: whose key ----------------------------------------------------------------------------------


def test_a_cloud_key_needs_the_clouds_name(cloud: SnpBench) -> None:
    refused(
        cloud.snp(vlek_csp_ids=("another cloud",), unsafe_masked_chip_id=True), PlatformNotAllowed
    )
    refused(cloud.snp(vlek_csp_ids=(), unsafe_masked_chip_id=False), PlatformNotAllowed)


def test_a_hidden_chip_needs_the_ugly_switch(cloud: SnpBench) -> None:
    message = refused(cloud.snp(unsafe_masked_chip_id=False), PlatformNotAllowed)
    assert "unsafe_masked_chip_id" in message


# The manifest's table -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"milan": None},
        {"policy_hex": f"{1 << 19:016x}"},
        {"policy_hex": f"{1 << 18:016x}"},
        {"policy_mask_hex": f"{0xFFFFFFFF ^ 1 << 19:016x}"},
        {"policy_mask_hex": f"{0xFFFFFFFF ^ 1 << 18:016x}"},
        {"platform_info_hex": "1" * 16, "platform_info_mask_hex": "0" * 16},
        {"unsafe_masked_chip_id": True},
    ],
)
def test_tables_that_hide_what_must_be_seen(bench: SnpBench, change: dict[str, object]) -> None:
    with pytest.raises(BadManifest):
        bench.snp(**change).manifest.snp.__post_init__()  # type: ignore[union-attr]


def test_every_field_of_the_table_is_needed(bench: SnpBench) -> None:
    values = bench.guest.reference_values("Milan")
    for name in values:
        if name == "milan":  # another product's floor will do
            continue
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({k: v for k, v in values.items() if k != name}, Snp)
