"""NVIDIA reports and device chains: every field, every length, every role, for its own reason."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.attest.certificate import read_certificate
from leasehold.attest.nvidia.chain import (
    DeviceChain,
    check_report_signed,
    firmware_id,
    read_device_chain,
)
from leasehold.attest.nvidia.report import (
    Mode,
    Opaque,
    gpu_pdis,
    parse_report,
    rim_ids,
    switch_pdis,
)
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import Trust
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    LeaseholdError,
    QuoteForged,
    UnsupportedEvidence,
    UntrustedRoot,
)
from leasehold_simtee.certificates import moment, pem
from leasehold_simtee.nvidia import BLACKWELL, HOPPER, LS10, PPCIE, SimulatedDevice
from leasehold_simtee.nvidia_certificates import NOBODY_ASKS_LATER, Party, issue

from .bench import NOW, seeded
from .nvidia_bench import LATER, NONCE, one_gpu, protected_pcie, vendor

RECORD = 45
OPAQUE = RECORD + 64 * 55 + 32


def gpu() -> SimulatedDevice:
    return one_gpu().devices[0]


def honest() -> bytes:
    return one_gpu().evidence[0].report


def trusted() -> Simulated:
    return Simulated(nvidia_root_sha256=vendor().root_sha256)


def read(pem: bytes, kind: str = "nvidia-gpu", *, now: Instant = LATER) -> DeviceChain:
    return read_device_chain(pem, kind, simulated=trusted(), now=now)


# Reports -------------------------------------------------------------------------------------------


def test_all_fields_of_a_gpu_s_report() -> None:
    report = parse_report(honest())
    assert report.kind == "nvidia-gpu"
    assert report.nonce == NONCE
    assert len(report.responder_nonce) == 32
    assert list(report.measurements) == list(range(1, 65))
    assert report.measurements[8] == HOPPER.measurements[7]
    assert (report.driver, report.firmware) == (HOPPER.driver, HOPPER.firmware)
    assert (report.project, report.project_sku, report.chip_sku) == ("1010", "0200", "882")
    assert report.chip_info is None
    assert report.mode is Mode.SPT
    assert not report.nvdec0
    assert report.signed + report.signature == report.data
    assert rim_ids(report) == HOPPER.rim_names


def test_all_fields_of_a_switch_s_report() -> None:
    held = protected_pcie()
    first, switch = held.devices[0], held.devices[2]
    report = parse_report(switch.report(NONCE))
    assert report.kind == "nvidia-switch"
    assert len(report.measurements) == 31
    assert report.driver is None
    assert report.firmware == LS10.firmware
    assert rim_ids(report) == LS10.rim_names
    assert switch_pdis(report) == {switch.pdi}
    assert gpu_pdis(report) == {one.pdi for one in held.devices[:2]}
    assert switch_pdis(parse_report(first.report(NONCE))) == {one.pdi for one in held.devices[2:]}


def test_a_blackwell_names_its_chip() -> None:
    report = parse_report(vendor().device(BLACKWELL).report(NONCE))
    assert rim_ids(report) == BLACKWELL.rim_names
    assert rim_ids(report)[0] == "NV_GPU_CC_DRIVER_GB100_595.91.07"


@pytest.mark.parametrize(
    ("opaque", "mode"),
    [
        ({36: b"\x00\x00", 21: b"\x55"}, Mode.SPT),
        ({36: b"\x01\x00", 21: b"\x55"}, Mode.MPT),
        ({36: b"\x02\x00", 21: b"\xaa"}, Mode.PPCIE),
        ({36: b"\x01\x00", 21: None}, Mode.MPT),
        ({36: None, 21: b"\xaa"}, Mode.PPCIE),
        ({36: None, 21: b"\x55"}, Mode.SPT),
        ({36: None, 21: None}, None),
        ({36: None, 21: b"\x00"}, None),
        ({36: b"\x03\x00", 21: b"\x55"}, None),
        ({36: b"\x00\x00", 21: b"\xaa"}, None),
        ({36: b"\x02\x00", 21: b"\x55"}, None),
    ],
)
def test_the_mode_is_what_both_fields_say_or_none(
    opaque: dict[int, bytes | None], mode: Mode | None
) -> None:
    assert parse_report(gpu().report(NONCE, opaque=opaque)).mode is mode


def changed(at: int, new: bytes) -> Callable[[], bytes]:
    return lambda: honest()[:at] + new + honest()[at + len(new) :]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: b"", BadEvidence),
        (lambda: honest()[:44], BadEvidence),
        (lambda: honest() + b"\x00", BadEvidence),
        (lambda: honest() + bytes(8192), BadEvidence),
        (changed(0, b"\x10"), UnsupportedEvidence),
        (changed(37, b"\x12"), UnsupportedEvidence),
        (changed(1, b"\xe1"), BadEvidence),
        (changed(3, b"\x01"), BadEvidence),
        (changed(38, b"\x7f"), BadEvidence),
        (changed(41, b"\x3f"), BadEvidence),
        (changed(41, b"\x1f"), BadEvidence),
        (changed(41, b"\x00"), BadEvidence),
        (changed(42, b"\xc1\x0d\x00"), BadEvidence),
        (changed(42, b"\xff\xff\xff"), BadEvidence),
        (changed(RECORD, b"\x02"), BadEvidence),
        (changed(RECORD + 1, b"\x02"), BadEvidence),
        (changed(RECORD + 2, b"\x34\x00"), BadEvidence),
        (changed(RECORD + 5, b"\x31\x00"), BadEvidence),
        (changed(OPAQUE, b"\xff\xff"), BadEvidence),
        (changed(OPAQUE + 2, b"\x15"), BadEvidence),
        (changed(OPAQUE + 4, b"\xff\xff"), BadEvidence),
    ],
)
def test_wrong_forms_are_refused(make: Callable[[], bytes], error: type[LeaseholdError]) -> None:
    with pytest.raises(LeaseholdError) as caught:
        parse_report(make())
    assert type(caught.value) is error


@pytest.mark.parametrize(
    "opaque",
    [
        {3: None},
        {3: b""},
        {3: b"550.90.07 \x00"},
        {3: b"\x00550"},
        {3: b"x" * 33},
        {6: None},
        {6: b"\x00\x9f\x00\x96\x01\x00\x00\x01"},
        {6: b"96.00.9F.00.01"},
        {17: b"../../x\x00"},
        {35: b"\xff"},
        {99: bytes(8192)},
    ],
    ids=str,
)
def test_wrong_opaque_data_is_refused(opaque: dict[int, bytes | None]) -> None:
    with pytest.raises(BadEvidence):
        parse_report(gpu().report(NONCE, opaque=opaque))


def test_a_type_that_comes_twice_is_refused() -> None:
    device = gpu()
    data = device.opaque() + struct.pack("<HH", 11, 1) + b"\xaa"
    told = honest()[:OPAQUE] + len(data).to_bytes(2, "little") + data
    with pytest.raises(BadEvidence, match="type 11 again"):
        parse_report(device.signed(told))


def test_too_many_types_are_refused() -> None:
    with pytest.raises(BadEvidence):
        parse_report(gpu().report(NONCE, opaque=dict.fromkeys(range(100, 160), b"")))


def test_a_switch_has_no_driver_and_text_for_its_bios() -> None:
    switch = protected_pcie().devices[2]
    for opaque in ({3: b"550.90.07\x00"}, {6: bytes(8)}, {6: b"96.10.6D.00"}, {6: None}):
        with pytest.raises(BadEvidence):
            parse_report(switch.report(NONCE, opaque=opaque))


def test_every_truncation_is_refused() -> None:
    data = honest()
    for length in range(len(data)):
        with pytest.raises(BadEvidence):
            parse_report(data[:length])


def test_every_flipped_bit_is_refused() -> None:
    """Nothing in a report is unsigned; one bit in each octet, and every bit where fields end."""
    data, chain = honest(), read(one_gpu().evidence[0].chain)
    edges = (
        set(range(64)) | set(range(OPAQUE - 4, OPAQUE + 16)) | set(range(len(data) - 98, len(data)))
    )
    for at in range(len(data)):
        for bit in range(8) if at in edges else (at % 8,):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            with pytest.raises((BadEvidence, QuoteForged)):
                check_report_signed(parse_report(bytes(flipped)), chain)


@given(st.binary(max_size=200), st.integers(0, 4100))
@settings(max_examples=200, deadline=None)
def test_noise_is_refused_cleanly(noise: bytes, at: int) -> None:
    data = honest()
    mixed = data[:at] + noise + data[at + len(noise) :]
    if mixed == data:
        return
    with pytest.raises((BadEvidence, QuoteForged)):
        check_report_signed(parse_report(mixed), read(one_gpu().evidence[0].chain))


# Chains --------------------------------------------------------------------------------------------


def test_a_chain_tells_chip_and_serial_numbers() -> None:
    device = gpu()
    chain = read(device.pem)
    assert chain.trust is Trust.SIMULATION
    assert chain.chip == "GH100"
    assert (chain.identity, chain.hardware) == (device.serial, device.hardware)
    assert [one.name for one, _ in chain.revocable] == [
        "SIMULATED GH100 A01 GSP BROM",
        "SIMULATED GH100 Provisioner ICA 1",
        "SIMULATED GH100 Identity",
    ]
    check_report_signed(parse_report(honest()), chain)


@pytest.mark.parametrize("model", [HOPPER, BLACKWELL, PPCIE, LS10], ids=lambda model: model.chip)
def test_every_model_s_firmware_is_in_its_certificate(model: object) -> None:
    device = vendor().device(model)  # type: ignore[arg-type]
    chain = read(device.pem, device.model.kind)
    assert firmware_id(chain.certificates[0]) == device.fwid
    check_report_signed(parse_report(device.report(NONCE)), chain)


def test_without_a_simulated_root_it_is_refused() -> None:
    for simulated in (None, Simulated(nvidia_rim_root_sha256=vendor().root_sha256)):
        with pytest.raises(UntrustedRoot):
            read_device_chain(gpu().pem, "nvidia-gpu", simulated=simulated, now=LATER)


@pytest.mark.parametrize("kept", [range(4), range(1, 5), (0, 1, 2, 3, 4, 4), ()])
def test_exactly_five_certificates(kept: object) -> None:
    chain = gpu().chain
    data = pem(*(chain[at].certificate for at in kept)).encode()  # type: ignore[attr-defined]
    with pytest.raises(BadEvidence):
        read(data)


def test_a_long_chain_is_not_read() -> None:
    with pytest.raises(BadEvidence, match="16384"):
        read(gpu().pem + b"\n" * 16384)


@pytest.mark.parametrize("order", [(1, 0, 2, 3, 4), (0, 2, 1, 3, 4), (0, 1, 3, 2, 4)])
def test_every_certificate_has_its_place(order: tuple[int, ...]) -> None:
    chain = gpu().chain
    with pytest.raises(CertificateRejected):
        read(pem(*(chain[at].certificate for at in order)).encode())


def other(
    at: int, common: str, *, is_authority: bool | None = None, years: int | None = None
) -> bytes:
    """The chain with another certificate at one place, signed by the right issuer; the rest below is new."""
    entropy = seeded(f"other {at} {common}")
    chain: list[Party] = list(gpu().chain)
    for place in range(at, -1, -1):
        name = common if place == at else read_certificate(gpu().chain[place].der).name
        authority = place > 0
        chain[place] = issue(
            name,
            chain[place + 1],
            entropy=entropy,
            starts=moment(NOW),
            ends=NOBODY_ASKS_LATER if years is None else datetime(2027 + years, 1, 1, tzinfo=UTC),
            is_authority=authority if is_authority is None or place != at else is_authority,
        )
    return pem(*(one.certificate for one in chain)).encode()


@pytest.mark.parametrize(
    ("at", "common"),
    [
        (0, "SIMULATED GH100 A01 GSP BROM"),
        (0, "GH100 A01 GSP FMC LF"),
        (0, "SIMULATED GB100 A01 GSP FMC LF"),
        (0, ""),
        (1, "SIMULATED GH100 A01 GSP FMC LF"),
        (1, "SIMULATED OCSP Responder"),
        (2, "NVIDIA GH100 Provisioner ICA 1"),
        (2, "SIMULATED GH100 Identity"),
        (3, "SIMULATED GH100 Provisioner ICA 1"),
        (3, "SIMULATED CoRIM signing Root CA"),
    ],
)
def test_names_say_what_a_certificate_is_for(at: int, common: str) -> None:
    with pytest.raises(CertificateRejected):
        read(other(at, common or "x"))


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_rebuilt_chain_passes_and_authority_is_asked_for(at: int) -> None:
    common = [
        "SIMULATED GH100 A01 GSP FMC LF",
        "SIMULATED GH100 A01 GSP BROM",
        "SIMULATED GH100 Provisioner ICA 1",
        "SIMULATED GH100 Identity",
    ][at]
    assert read(other(at, common)).chip == "GH100"
    with pytest.raises(CertificateRejected, match="authority"):
        read(other(at, common, is_authority=at == 0))


@pytest.mark.parametrize("kind", ["nvidia-gpu", "nvidia-switch"])
def test_a_switch_is_no_gpu(kind: str) -> None:
    device = gpu() if kind == "nvidia-switch" else protected_pcie().devices[2]
    with pytest.raises(CertificateRejected, match="chip"):
        read(device.pem, kind)


def test_every_certificate_is_valid_now() -> None:
    with pytest.raises(CertificateRejected, match="validity"):
        read(gpu().pem, now=Instant(NOW - 2 * 86_400_000))
    with pytest.raises(CertificateRejected, match="validity"):
        read(other(1, "SIMULATED GH100 A01 GSP BROM", years=1), now=Instant(NOW + 400 * 86_400_000))


def test_every_certificate_is_signed_by_the_next() -> None:
    """Two devices of one vendor have the same names and other keys."""
    mine, theirs = gpu().chain, vendor().device(HOPPER).chain
    for at in range(4):
        mixed = [theirs[place] if place == at else mine[place] for place in range(5)]
        with pytest.raises(CertificateRejected):
            read(pem(*(one.certificate for one in mixed)).encode())


def test_another_device_s_chain_has_not_signed_the_report() -> None:
    with pytest.raises(QuoteForged):
        check_report_signed(parse_report(honest()), read(vendor().device(HOPPER).pem))


def test_firmware_that_the_key_was_not_made_for_is_refused() -> None:
    report = parse_report(gpu().report(NONCE, opaque={Opaque.FWID: bytes(48)}))
    with pytest.raises(CertificateRejected, match="FWID"):
        check_report_signed(report, read(gpu().pem))


def test_a_report_with_firmware_needs_a_certificate_with_it() -> None:
    leaf = replace(gpu(), leaf=gpu().leaf)
    chain = read(other(0, "SIMULATED GH100 A01 GSP FMC LF"))
    assert firmware_id(chain.certificates[0]) is None
    entropy = seeded("other 0 SIMULATED GH100 A01 GSP FMC LF")
    signer = issue(
        "SIMULATED GH100 A01 GSP FMC LF",
        gpu().chain[1],
        entropy=entropy,
        starts=moment(NOW),
        ends=NOBODY_ASKS_LATER,
        is_authority=False,
    )
    report = parse_report(replace(leaf, leaf=signer).report(NONCE))
    with pytest.raises(CertificateRejected, match="FWID"):
        check_report_signed(report, chain)
    silent = parse_report(replace(leaf, leaf=signer).report(NONCE, opaque={Opaque.FWID: None}))
    check_report_signed(silent, chain)


def test_every_flipped_octet_of_a_chain_is_refused_or_changes_nothing() -> None:
    """PEM noise aside, every bit of all five is signed, the root's by itself."""
    data, report = gpu().pem, parse_report(honest())
    for at in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 7)
        try:
            chain = read(bytes(flipped))
            check_report_signed(report, chain)
        except (BadEvidence, CertificateRejected, UntrustedRoot, QuoteForged):
            continue
        assert [one.sha256 for one in chain.certificates] == [
            one.sha256 for one in read(data).certificates
        ]
