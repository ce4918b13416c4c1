"""NVIDIA attestation reports: an SPDM request and the device's signed answer; bytes in, fields out.

Source: DMTF DSP0274 1.1 (SPDM), 10.11 GET_MEASUREMENTS and MEASUREMENTS; the opaque data's types are
NVIDIA's (nvtrust). All integers are little-endian but the signature's. Refuses to know whose key it is
and what was to be measured.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from leasehold.errors import BadEvidence, UnsupportedEvidence

GPU: Final = "nvidia-gpu"
SWITCH: Final = "nvidia-switch"
BLOCKS: Final[Mapping[str, int]] = MappingProxyType({GPU: 64, SWITCH: 31})
REPORT_BYTES_MAX: Final = 8192  # NVML's buffer; a real one has 2,172 to 4,274
NONCE_BYTES: Final = 32
SIGNATURE_BYTES: Final = 96
VALUE_BYTES: Final = 48
ON: Final = b"\xaa"
OFF: Final = b"\x55"
_VERSION: Final = 0x11  # SPDM 1.1
_REQUEST: Final = struct.Struct("<BBBB32sB")  # version, code, two parameters, nonce, slot
_RESPONSE: Final = struct.Struct(
    "<BBBBB3s"
)  # version, code, two parameters, blocks, record's length
_BLOCK: Final = struct.Struct("<BBHBH48s")  # index, specification, size; type, size, value
_FIELD: Final = struct.Struct("<HH")  # type, size
_FIELDS_MAX: Final = 64
_TEXT: Final = re.compile(rb"([0-9A-Za-z._-]{1,32})\0*")


class Opaque(IntEnum):
    """Types of opaque data."""

    CERT_ISSUER_NAME = 1
    CERT_AUTHORITY_KEY_IDENTIFIER = 2
    DRIVER_VERSION = 3
    GPU_INFO = 4
    SKU = 5
    VBIOS_VERSION = 6
    MANUFACTURER_ID = 7
    TAMPER_DETECTION = 8
    SMC = 9
    VPR = 10
    NVDEC0_STATUS = 11
    MSRSCNT = 12
    CPRINFO = 13
    BOARD_ID = 14
    CHIP_SKU = 15
    CHIP_SKU_MOD = 16
    PROJECT = 17
    PROJECT_SKU = 18
    PROJECT_SKU_MOD = 19
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    SWITCH_PDI = 22
    FLOORSWEPT_PORTS = 23
    POSITION_ID = 24
    LOCK_SWITCH_STATUS = 25
    SWITCH_GPU_PDIS = 26
    GPU_LINK_CONN = 32
    SYS_ENABLE_STATUS = 33
    OPAQUE_DATA_VERSION = 34
    CHIP_INFO = 35
    FEATURE_FLAG = 36


class Mode(IntEnum):
    """How the GPUs of a machine are protected together (opaque data 36)."""

    SPT = 0  # one GPU for each confidential VM
    MPT = 1  # several, with encrypted NVLink
    PPCIE = 2  # several, with protected PCIe and plain NVLink over attested switches


@dataclass(frozen=True, slots=True)
class Report:
    """A parsed report. `data` is all of it; the signature, r ‖ s big-endian, covers what precedes it.

    `measurements` maps an SPDM index (from 1) to 48 bytes, `opaque` a type to its value. Versions and
    names are the vendor's text, None where the report has none.
    """

    data: bytes
    kind: str
    slot: int
    nonce: bytes
    responder_nonce: bytes
    measurements: Mapping[int, bytes]
    opaque: Mapping[int, bytes]
    driver: str | None
    firmware: str
    project: str | None
    project_sku: str | None
    chip_sku: str | None
    chip_info: str | None
    signature: bytes

    @property
    def signed(self) -> bytes:
        """What the signature covers: the request, and the answer up to it."""
        return self.data[:-SIGNATURE_BYTES]

    @property
    def nvdec0(self) -> bool:
        """Whether a video decoder was on: index 35 then has a meaning."""
        return self.opaque.get(Opaque.NVDEC0_STATUS) != OFF

    @property
    def mode(self) -> Mode | None:
        """How several GPUs are protected together; None where the report says nothing, or two things."""
        flag = self.opaque.get(Opaque.FEATURE_FLAG)
        status = self.opaque.get(Opaque.PROTECTED_PCIE_STATUS)
        if flag is None:
            return {ON: Mode.PPCIE, OFF: Mode.SPT}.get(status or b"")
        number = int.from_bytes(flag, "little")
        said = Mode(number) if number in list(Mode) else None
        agree = status is None or (status == ON) == (said is Mode.PPCIE)
        return said if agree else None


def _refuse(about: str, got: object, expected: object) -> BadEvidence:
    return BadEvidence(about=f"NVIDIA report, {about}", got=got, expected=expected)


def _need(data: bytes, end: int, about: str) -> None:
    if len(data) < end:
        raise _refuse(about, f"{len(data)} bytes", f">= {end}")


@lru_cache(maxsize=32)
def parse_report(data: bytes) -> Report:
    """D-2: the fields of a report. Raises BadEvidence; UnsupportedEvidence for other SPDM versions."""
    if len(data) > REPORT_BYTES_MAX:
        raise _refuse("size", len(data), f"<= {REPORT_BYTES_MAX}")
    _need(data, _REQUEST.size + _RESPONSE.size, "size")
    version, code, _, first, nonce, slot = _REQUEST.unpack_from(data)
    answered, answer, _, _, count, size = _RESPONSE.unpack_from(data, _REQUEST.size)
    if (version, answered) != (_VERSION, _VERSION):
        raise UnsupportedEvidence(about="SPDM version", got=f"{version:02x}", expected="11")
    if (code, first, answer) != (0xE0, 0xFF, 0x60):
        raise _refuse("codes", f"{code:02x} {first:02x} {answer:02x}", "e0 ff 60")
    kinds = {blocks: kind for kind, blocks in BLOCKS.items()}
    if count not in kinds:
        raise _refuse("measurements", count, "64 (GPU) or 31 (switch)")
    start = _REQUEST.size + _RESPONSE.size
    end = start + int.from_bytes(size, "little")
    if end - start != count * _BLOCK.size:
        raise _refuse("measurement record", end - start, count * _BLOCK.size)
    _need(data, end + NONCE_BYTES + 2, "opaque data")
    measurements = _measurements(data[start:end])
    at = end + NONCE_BYTES + 2
    last = at + int.from_bytes(data[at - 2 : at], "little")
    if len(data) != last + SIGNATURE_BYTES:
        raise _refuse("end", f"{len(data)} bytes", last + SIGNATURE_BYTES)
    return _report(
        data,
        kinds[count],
        slot,
        nonce,
        data[end : end + NONCE_BYTES],
        measurements,
        _opaque(data[at:last]),
    )


def _report(
    data: bytes,
    kind: str,
    slot: int,
    nonce: bytes,
    responder_nonce: bytes,
    measurements: dict[int, bytes],
    opaque: dict[int, bytes],
) -> Report:
    driver = _text(opaque, Opaque.DRIVER_VERSION)
    if (driver is None) != (kind == SWITCH):
        raise _refuse("driver version", driver, f"one for {GPU}, none for {SWITCH}")
    return Report(
        data=data,
        kind=kind,
        slot=slot,
        nonce=nonce,
        responder_nonce=responder_nonce,
        measurements=MappingProxyType(measurements),
        opaque=MappingProxyType(opaque),
        driver=driver,
        firmware=_firmware(opaque.get(Opaque.VBIOS_VERSION, b""), kind),
        project=_text(opaque, Opaque.PROJECT),
        project_sku=_text(opaque, Opaque.PROJECT_SKU),
        chip_sku=_text(opaque, Opaque.CHIP_SKU),
        chip_info=_text(opaque, Opaque.CHIP_INFO),
        signature=data[-SIGNATURE_BYTES:],
    )


def _measurements(record: bytes) -> dict[int, bytes]:
    found = {}
    for number, block in enumerate(_BLOCK.iter_unpack(record), 1):
        index, specification, size, _, length, value = block
        if (index, specification, size, length) != (number, 1, 3 + VALUE_BYTES, VALUE_BYTES):
            raise _refuse(f"measurement {number}", block[:5], "its index and 48 bytes (DMTF)")
        found[index] = value
    return found


def _opaque(data: bytes) -> dict[int, bytes]:
    """Every type at most once, and nothing after the last one."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        _need(data, at + _FIELD.size, "opaque data")
        kind, size = _FIELD.unpack_from(data, at)
        at += _FIELD.size
        _need(data, at + size, "opaque data")
        if kind in found or len(found) == _FIELDS_MAX:
            raise _refuse("opaque data", f"type {kind} again", "each type once")
        found[kind] = data[at : at + size]
        at += size
    return found


def _text(opaque: Mapping[int, bytes], kind: Opaque) -> str | None:
    value = opaque.get(kind)
    if value is None:
        return None
    found = _TEXT.fullmatch(value)
    if found is None:
        raise _refuse(kind.name, value, "a word, padded with NULs")
    return found[1].decode("ascii")


def _firmware(value: bytes, kind: str) -> str:
    """`96.00.9F.00.01`: text in a switch's report, 00 9f 00 96 01 00 00 00 in a GPU's."""
    if kind == GPU and len(value) == 8 and not any(value[5:]):
        return ".".join(f"{octet:02X}" for octet in (*reversed(value[:4]), value[4]))
    text = value.rstrip(b"\0")
    if kind == SWITCH and re.fullmatch(rb"(?:[0-9A-Fa-f]{2}\.){4}[0-9A-Fa-f]{2}", text):
        return text.decode("ascii").upper()
    raise _refuse("VBIOS version", value, "8 bytes (GPU) or text (switch)")


def rim_ids(report: Report) -> tuple[str, ...]:
    """D-5: the names of the reference manifests for this report: driver and VBIOS, or a switch's BIOS.

    A Blackwell that does not name its chip gets a Hopper's name, and is refused by its product.
    """
    firmware = report.firmware.replace(".", "")
    if report.kind == SWITCH:
        return (f"NV_SWITCH_BIOS_{_SWITCH_BOARD}_{firmware}",)
    chip = report.chip_info or "GH100"
    family = "NV_GPU_DRIVER" if chip == "GH100" else "NV_GPU_CC_DRIVER"
    parts = (report.project, report.project_sku, report.chip_sku)
    board = "_".join(part or "" for part in parts).upper()
    return (f"{family}_{chip}_{report.driver}", f"NV_GPU_VBIOS_{board}_{firmware}")


_SWITCH_BOARD: Final = "5612_0002_890"  # the one board of the LS10; its reports name none


def switch_pdis(report: Report) -> frozenset[bytes]:
    """The switches (8 bytes each) that a GPU's links end in, or a switch's own number."""
    return _pdis(report.opaque.get(Opaque.SWITCH_PDI, b""))


def gpu_pdis(report: Report) -> frozenset[bytes]:
    """The GPUs (8 bytes each) that a switch's links end in: the first eight places of its list."""
    return _pdis(report.opaque.get(Opaque.SWITCH_GPU_PDIS, b"")[:64])


def _pdis(data: bytes) -> frozenset[bytes]:
    return frozenset(data[at : at + 8] for at in range(0, len(data), 8)) - {bytes(8)}
