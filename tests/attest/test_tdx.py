"""TDX: every version and body, and every field wrong, each refusal for exactly its own reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from leasehold.attest.intel.quote import QUOTE_BYTES_MAX, parse_td_quote
from leasehold.attest.intel.reference import Tdx
from leasehold.attest.intel.report import TdReport, parse_td_report
from leasehold.attest.intel.tdx import check_attributes
from leasehold.attest.reference import Machine as Listed
from leasehold.attest.reference import Waiver
from leasehold.attest.verdict import TcbStatus, Trust
from leasehold.core.evidence import Evidence
from leasehold.errors import (
    BadEvidence,
    BadManifest,
    CertificateRevoked,
    CollateralMismatch,
    CollateralMissing,
    DebugEnclave,
    EnclaveTooOld,
    EvidenceRejected,
    LeaseholdError,
    PlatformNotAllowed,
    QuoteForged,
    TcbNotCurrent,
    TcbRevoked,
    UnknownMachine,
    UnsupportedEvidence,
    UntrustedRoot,
    WrongAttributes,
    WrongBinding,
    WrongConfigId,
    WrongMeasurement,
)
from leasehold_simtee.tdx import Body, TrustDomain

from .bench import NOW, make_bench
from .tdx_bench import TdxBench, make_tdx_bench

TODAY = datetime.fromtimestamp(NOW / 1000, UTC)
FORMS: list[tuple[int, Body]] = [(4, "1.0"), (5, "1.0"), (5, "1.5"), (5, "1.5ex")]
SEPT = 1 << 28


@pytest.fixture(scope="module")
def bench() -> TdxBench:
    return make_tdx_bench()


def refused(bench: TdxBench, error: type[LeaseholdError], evidence: Evidence | None = None) -> str:
    """The message of a refusal that must be of exactly this class."""
    with pytest.raises(LeaseholdError) as caught:
        bench.verify(evidence)
    assert type(caught.value) is error, caught.value
    return str(caught.value)


# What passes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "body"), FORMS)
def test_every_form_passes_with_all_its_facts(bench: TdxBench, version: int, body: Body) -> None:
    verdict = bench.says(version=version, body=body).verify()
    assert verdict.platform == "tdx"
    assert verdict.trust is Trust.SIMULATION
    assert verdict.tcb_status is TcbStatus.UP_TO_DATE
    assert verdict.measurement == bench.domain.mr_td.hex()
    assert [name for name, _ in verdict.measurements] == [
        "MRTD",
        "RTMR0",
        "RTMR1",
        "RTMR2",
        "RTMR3",
        "MRSEAM",
        "MRCONFIGID",
        "MROWNER",
        "MROWNERCONFIG",
    ]
    assert verdict.machine == bench.machine.platform_id
    assert verdict.report_data == bench.binding.report_data()
    assert [finding.code for finding in verdict.findings] == ["simulated"]


def test_zero_padding_is_cut_off_and_nothing_else(bench: TdxBench) -> None:
    """Google's machines deliver 8,000 bytes."""
    evidence = bench.evidence
    padded = msgspec.structs.replace(evidence, quote=evidence.quote.ljust(8000, b"\0"))
    assert bench.verify(padded) == bench.verify(evidence)
    refused(bench, BadEvidence, msgspec.structs.replace(evidence, quote=evidence.quote + b"x"))


def test_a_platform_authority_gives_an_instance_id() -> None:
    bench = make_tdx_bench(ca="platform")
    verdict = bench.verify()
    assert verdict.platform_instance is not None
    assert bench.policy(machines=(Listed(verdict.platform_instance, "x"),)).verify()


# form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_truncation_is_refused(bench: TdxBench, form: tuple[int, Body]) -> None:
    quote = bench.says(version=form[0], body=form[1]).evidence.quote
    for size in [*range(0, 900, 3), *range(900, len(quote), 41), len(quote) - 1]:
        with pytest.raises(BadEvidence):
            parse_td_quote(quote[:size])


def lie(quote: bytes, at: int, value: int, size: int) -> bytes:
    return quote[:at] + value.to_bytes(size, "little") + quote[at + size :]


def test_lengths_that_lie_are_refused(bench: TdxBench) -> None:
    """Of the body, the authentication data, the nested certification data, the QE's data, the chain."""
    v4, v5 = bench.evidence.quote, bench.says(version=5, body="1.5").evidence.quote
    nested = 636 + 128
    for quote, at, size in (
        (v5, 50, 4),
        (v4, 632, 4),
        (v4, nested + 2, 4),
        (v4, nested + 6 + 448, 2),
        (v4, nested + 6 + 448 + 2 + 32 + 2, 4),
    ):
        held = int.from_bytes(quote[at : at + size], "little")
        for value in (0, 1, held - 1, held + 1, (1 << 8 * size) - 1):
            with pytest.raises(BadEvidence):
                parse_td_quote(lie(quote, at, value, size))


@pytest.mark.parametrize(
    ("at", "value", "size"),
    [
        (0, 3, 2),  # an SGX version
        (0, 6, 2),
        (2, 3, 2),  # ECDSA P-384
        (4, 0, 4),  # an SGX enclave
        (4, 0x82, 4),
        (12, 0, 1),  # another vendor's quoting enclave
        (636 + 128, 5, 2),  # a chain where the QE report should be
        (636 + 128, 4, 2),
    ],
)
def test_kinds_that_this_version_does_not_read(
    bench: TdxBench, at: int, value: int, size: int
) -> None:
    with pytest.raises(UnsupportedEvidence):
        parse_td_quote(lie(bench.evidence.quote, at, value, size))


@pytest.mark.parametrize("kind", [0, 1, 5, 0xFFFF])
def test_bodies_that_are_no_domains_are_refused(bench: TdxBench, kind: int) -> None:
    with pytest.raises(UnsupportedEvidence):
        parse_td_quote(lie(bench.says(version=5).evidence.quote, 48, kind, 2))


def test_a_body_of_another_kinds_length_is_refused(bench: TdxBench) -> None:
    with pytest.raises(BadEvidence):
        parse_td_quote(lie(bench.says(version=5).evidence.quote, 48, 3, 2))
    for size in (0, 583, 585, 647, 649, 884, 886):
        with pytest.raises(BadEvidence):
            parse_td_report(bytes(size))


def test_an_oversized_quote_is_refused(bench: TdxBench) -> None:
    quote = bench.evidence.quote.ljust(QUOTE_BYTES_MAX + 1, b"\0")
    refused(bench, BadEvidence, msgspec.structs.replace(bench.evidence, quote=quote))


def test_an_sgx_quote_is_no_tdx_quote_and_the_other_way_round(bench: TdxBench) -> None:
    other = make_bench()
    refused(bench, UnsupportedEvidence, Evidence("tdx", other.evidence.quote))
    refused(
        bench.policy(sgx=other.manifest.sgx),
        UnsupportedEvidence,
        Evidence("sgx", bench.evidence.quote),
    )


def test_endorsements_beside_a_quote_are_refused(bench: TdxBench) -> None:
    evidence = msgspec.structs.replace(bench.evidence, endorsements=(b"collateral of my own",))
    refused(bench, UnsupportedEvidence, evidence)


# authenticity --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [FORMS[0], FORMS[3]])
def test_no_flipped_bit_passes_with_another_verdict(
    bench: TdxBench, form: tuple[int, Body]
) -> None:
    """One bit of every octet. PEM noise and the unused root may change; the verdict then does not."""
    one = bench.says(version=form[0], body=form[1])
    evidence, honest = one.evidence, one.verify()
    quote, signed = evidence.quote, parse_td_quote(evidence.quote).signed
    chain_at = quote.index(b"-----BEGIN")
    tolerated = 0
    for at in [*range(chain_at), *range(chain_at, len(quote), 13)]:
        flipped = lie(quote, at, quote[at] ^ 1 << at % 8, 1)
        try:
            verdict = one.verify(msgspec.structs.replace(evidence, quote=flipped))
        except LeaseholdError as error:
            assert not (at < signed and isinstance(error, CollateralMissing)), at  # noqa: PT017
            continue
        assert verdict == honest
        assert at >= chain_at, at
        tolerated += 1
    assert tolerated < 40


def test_collateral_of_the_other_platform_is_refused(bench: TdxBench) -> None:
    refused(bench.situation(tee="SGX"), CollateralMissing)


class Anything:
    """A store that gives what it has, whatever is asked for."""

    def __init__(self, facts: object) -> None:
        self._facts = facts

    def find(self, **asked: object) -> object:
        del asked
        return self._facts

    def document(self, kind: str, name: str) -> object:
        raise CollateralMissing(about=f"{kind} {name}")


def test_collateral_is_looked_at_and_not_only_looked_up(bench: TdxBench) -> None:
    held = make_bench("tdx").collateral.find(fmspc=b"SIMULA".hex(), ca="processor", tee="sgx")
    refused(replace(bench, collateral=Anything(held)), CollateralMismatch)  # type: ignore[arg-type]


def test_the_module_is_part_of_the_patch_level(bench: TdxBench) -> None:
    refused(bench.situation(tdx_svn=bytes((4, 0, 2)) + bytes(13)), TcbNotCurrent)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"status": "OutOfDate"}, TcbNotCurrent),
        ({"status": "Revoked"}, TcbRevoked),
        ({"svn": 255}, TcbNotCurrent),
        ({"qe_signer": bytes(32)}, EvidenceRejected),
    ],
)
def test_what_the_vendor_says_counts(
    bench: TdxBench, said: dict[str, object], error: type[LeaseholdError]
) -> None:
    refused(bench.situation(**said), error)


def test_a_revoked_machine_is_refused(bench: TdxBench) -> None:
    serial = bench.machine.pck.serial_number
    refused(bench.situation(revoked=(serial,)), CertificateRevoked)


@pytest.mark.parametrize("status", ["OutOfDate", "SWHardeningNeeded", "ConfigurationNeeded"])
def test_a_waiver_covers_what_it_names(bench: TdxBench, status: str) -> None:
    bad = bench.situation(status=status, advisories=("INTEL-SA-1",))
    refused(bad, TcbNotCurrent)
    waiver = Waiver(status, ("INTEL-SA-1",), "lab machine", TODAY + timedelta(hours=1))  # type: ignore[arg-type]
    verdict = bad.policy(waivers=(waiver,)).verify()
    assert verdict.valid_until == NOW + 3_600_000
    refused(bad.policy(waivers=(msgspec.structs.replace(waiver, advisories=()),)), TcbNotCurrent)


def test_the_root_has_to_be_named(bench: TdxBench) -> None:
    refused(bench.policy(simulated=None), UntrustedRoot)


# never ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"td_attributes": SEPT | 1}, DebugEnclave),
        ({"td_attributes": 0}, WrongAttributes),
        ({"td_attributes": SEPT | 1 << 29}, WrongAttributes),
        ({"td_attributes": SEPT | 1 << 1}, WrongAttributes),
        ({"td_attributes": SEPT | 1 << 62}, WrongAttributes),
        ({"version": 5, "body": "1.5", "mr_service_td": b"x" * 48}, WrongAttributes),
    ],
)
def test_domains_that_never_pass(
    bench: TdxBench, fields: dict[str, object], error: type[LeaseholdError]
) -> None:
    refused(bench.says(**fields), error)


def test_the_same_is_refused_by_our_own_check() -> None:
    """dcap-qvl refuses most of it first; should it stop to, this is what stands."""

    def report(domain: TrustDomain) -> TdReport:
        return parse_td_report(domain.report(bytes(64)))

    good = TrustDomain()
    check_attributes(report(good))
    for bit in range(8):
        with pytest.raises(DebugEnclave):
            check_attributes(report(replace(good, td_attributes=SEPT | 1 << bit)))
    tail = bytearray(237)
    tail[829 - 648] = 1
    for wrong in (
        replace(good, td_attributes=0),
        replace(good, td_attributes=SEPT | 1 << 29),
        replace(good, body="1.5", mr_service_td=b"x" * 48),
        replace(good, body="1.5ex", tail=bytes(tail)),
    ):
        with pytest.raises(WrongAttributes):
            check_attributes(report(wrong))


# reference values ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"td_attributes": SEPT | 1 << 30}, WrongAttributes),
        ({"xfam": 0x602E3}, WrongAttributes),
        ({"mr_td": bytes(48)}, WrongMeasurement),
        ({"mr_seam": bytes(48)}, WrongMeasurement),
        ({"rtmr": (bytes(48), *TrustDomain().rtmr[1:])}, WrongMeasurement),
        (
            {"rtmr": (TrustDomain().rtmr[0], bytes(48), *TrustDomain().rtmr[2:])},
            WrongMeasurement,
        ),
        ({"rtmr": (*TrustDomain().rtmr[:2], bytes(48), bytes(48))}, WrongMeasurement),
        ({"rtmr": (*TrustDomain().rtmr[:3], b"x" * 48)}, WrongMeasurement),
        ({"mr_config_id": b"x" * 48}, WrongConfigId),
        ({"mr_owner": b"x" * 48}, WrongConfigId),
        ({"mr_owner_config": b"x" * 48}, WrongConfigId),
    ],
)
def test_every_field_that_the_manifest_names(
    bench: TdxBench, fields: dict[str, object], error: type[LeaseholdError]
) -> None:
    refused(bench.says(**fields), error)


def test_an_old_module_is_refused(bench: TdxBench) -> None:
    floor = bytes((3, 0, 3)) + bytes(13)
    refused(bench.tdx(tee_tcb_svn_min=floor.hex()), EnclaveTooOld)


def test_masks_leave_out_what_they_leave_out(bench: TdxBench) -> None:
    loose = bench.tdx(xfam_mask_hex=f"{0xFFFFFFFFFFFFFFFB:016x}", xfam_hex=f"{0x602E3:016x}")
    assert loose.says(xfam=0x602E3).verify()
    assert loose.verify()


def test_everything_else_is_as_for_every_platform(bench: TdxBench) -> None:
    refused(bench.policy(tdx=None), PlatformNotAllowed)
    refused(bench.policy(machines=(Listed("00" * 16, "x"),)), UnknownMachine)
    other = replace(bench, binding=replace(bench.binding, nonce=bytes(32)))
    refused(other, WrongBinding, bench.evidence)
    flipped = bytearray(bench.evidence.quote)
    flipped[200] ^= 1
    refused(bench, QuoteForged, Evidence("tdx", bytes(flipped)))


# The manifest's table -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"td_attributes_hex": "0" * 16},
        {"td_attributes_hex": f"{SEPT | 1:016x}"},
        {"td_attributes_hex": f"{SEPT | 0x80:016x}"},
        {"td_attributes_hex": f"{SEPT | 1 << 29:016x}"},
        {"td_attributes_mask_hex": f"{SEPT:016x}"},
        {"td_attributes_mask_hex": "fffffffffffffffe"},
        {"td_attributes_mask_hex": f"{(1 << 64) - 1 - SEPT:016x}"},
        {"td_attributes_mask_hex": f"{(1 << 64) - 1 - (1 << 29):016x}"},
        {"xfam_mask_hex": "0" * 16},
    ],
)
def test_tables_that_hide_what_must_be_seen(bench: TdxBench, change: dict[str, object]) -> None:
    with pytest.raises(BadManifest):
        Tdx(**(msgspec.structs.asdict(bench.manifest.tdx) | change))  # type: ignore[type-var]


def test_every_field_of_the_table_is_needed(bench: TdxBench) -> None:
    values = bench.domain.reference_values()
    for name in values:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({k: v for k, v in values.items() if k != name}, Tdx)
        if isinstance(values[name], list):
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert(values | {name: []}, Tdx)
