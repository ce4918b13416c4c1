"""SEV-SNP attestation reports, versions 2 to 5: bytes in, fields out, nothing believed.

Source: AMD 56860, SEV-SNP Firmware ABI, ATTESTATION_REPORT, GUEST_POLICY, PLATFORM_INFO, TCB_VERSION.
All integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from leasehold.attest.signatures import ecdsa_der
from leasehold.errors import BadEvidence, UnsupportedEvidence

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 0x2A0
PADDED_BYTES_MAX: Final = 8192  # some transports hand out a whole page or two
VERSIONS: Final = (2, 3, 4, 5)
POLICY_RESERVED_ONE: Final = 1 << 17
_POLICY_KNOWN: Final = (1 << 26) - 1
_ECDSA_P384_SHA384: Final = 1
_NUMBER_BYTES: Final = 72  # of a signature, little-endian
_SIGNATURE_END: Final = SIGNED_BYTES + 2 * _NUMBER_BYTES
PRODUCTS: Final = ("Milan", "Genoa", "Turin")


class SigningKey(Enum):
    """What signed a report (bits 4:2 of its flags)."""

    VCEK = 0
    VLEK = 1


class Tcb(NamedTuple):
    """A patch level; `fmc` is 0 before Turin."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int


class Cpuid(NamedTuple):
    """Which processor a report of version 3 or later is from."""

    family: int
    model: int
    stepping: int


@dataclass(frozen=True, slots=True)
class Report:
    """What the secure processor says of a guest. The four patch levels are 8 raw bytes each.

    `signature` is DER over the first 672 bytes of `data`. `launch_mitigation` and
    `current_mitigation` are None before version 5.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    platform_info: int
    author_key_enabled: bool
    chip_key_masked: bool
    signing_key: SigningKey
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    cpuid: Cpuid | None
    chip_id: bytes
    current_tcb: bytes
    reported_tcb: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    current_version: tuple[int, int, int]
    committed_version: tuple[int, int, int]
    launch_mitigation: int | None
    current_mitigation: int | None
    signature: bytes
    data: bytes

    @property
    def product(self) -> str | None:
        """AMD's name for the processor; None for version 2, which does not say. Raises as below."""
        return None if self.cpuid is None else product_of(self.cpuid)


def product_of(cpuid: Cpuid) -> str:
    """E-2: the product by family and model. Raises UnsupportedEvidence for one with no known root."""
    family, model, _ = cpuid
    if family == 0x19 and model <= 0x0F:
        return "Milan"
    if family == 0x19 and (0x10 <= model <= 0x1F or 0xA0 <= model <= 0xAF):
        return "Genoa"
    if family == 0x1A and model <= 0x11:
        return "Turin"
    raise UnsupportedEvidence(
        about="processor", got=f"family {family:#x} model {model:#x}", expected=", ".join(PRODUCTS)
    )


def parse_tcb(raw: bytes, product: str) -> Tcb:
    """A patch level from 8 bytes, whose order changed with Turin (TCB_VERSION)."""
    if product == "Turin":
        return Tcb(bootloader=raw[1], tee=raw[2], snp=raw[3], microcode=raw[7], fmc=raw[0])
    return Tcb(bootloader=raw[0], tee=raw[1], snp=raw[6], microcode=raw[7], fmc=0)


def parse_report(data: bytes) -> Report:
    """E-1: the fields of a report. Zero padding after 1,184 bytes is cut off.

    Raises BadEvidence, and UnsupportedEvidence for other versions, algorithms and signing keys.
    """
    if not REPORT_BYTES <= len(data) <= PADDED_BYTES_MAX:
        raise BadEvidence(about="SNP report", got=len(data), expected=f"{REPORT_BYTES} bytes")
    if any(data[_SIGNATURE_END:]):
        raise BadEvidence(about="SNP report", got="bytes after the signature", expected="zeros")
    data = data[:REPORT_BYTES]
    version, flags = _number(data, 0x00, 4), _number(data, 0x48, 4)
    policy = _number(data, 0x08, 8)
    _check_constants(data, version=version, flags=flags, policy=policy)
    return Report(
        version=version,
        guest_svn=_number(data, 0x04, 4),
        policy=policy,
        family_id=data[0x10:0x20],
        image_id=data[0x20:0x30],
        vmpl=_number(data, 0x30, 4),
        signature_algorithm=_number(data, 0x34, 4),
        platform_info=_number(data, 0x40, 8),
        author_key_enabled=bool(flags & 1),
        chip_key_masked=bool(flags & 2),
        signing_key=SigningKey(flags >> 2 & 7),
        report_data=data[0x50:0x90],
        measurement=data[0x90:0xC0],
        host_data=data[0xC0:0xE0],
        id_key_digest=data[0xE0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        report_id_ma=data[0x160:0x180],
        cpuid=Cpuid(data[0x188], data[0x189], data[0x18A]) if version >= 3 else None,
        chip_id=data[0x1A0:0x1E0],
        current_tcb=data[0x38:0x40],
        reported_tcb=data[0x180:0x188],
        committed_tcb=data[0x1E0:0x1E8],
        launch_tcb=data[0x1F0:0x1F8],
        current_version=(data[0x1EA], data[0x1E9], data[0x1E8]),
        committed_version=(data[0x1EE], data[0x1ED], data[0x1EC]),
        launch_mitigation=_number(data, 0x1F8, 8) if version >= 5 else None,
        current_mitigation=_number(data, 0x200, 8) if version >= 5 else None,
        signature=ecdsa_der(
            _number(data, SIGNED_BYTES, _NUMBER_BYTES),
            _number(data, SIGNED_BYTES + _NUMBER_BYTES, _NUMBER_BYTES),
        ),
        data=data,
    )


def _check_constants(data: bytes, *, version: int, flags: int, policy: int) -> None:
    """What has only one value that this version can judge."""
    if version not in VERSIONS:
        raise UnsupportedEvidence(about="SNP report version", got=version, expected="2 to 5")
    if _number(data, 0x34, 4) != _ECDSA_P384_SHA384:
        raise UnsupportedEvidence(
            about="signature algorithm", got=_number(data, 0x34, 4), expected=_ECDSA_P384_SHA384
        )
    if flags >> 2 & 7 not in (SigningKey.VCEK.value, SigningKey.VLEK.value):
        raise UnsupportedEvidence(about="signing key", got=flags >> 2 & 7, expected="VCEK or VLEK")
    if flags >> 5:
        raise BadEvidence(
            about="SNP report flags", got=f"{flags:#x}", expected="bits 5 to 31 clear"
        )
    if not policy & POLICY_RESERVED_ONE or policy & ~_POLICY_KNOWN:
        raise BadEvidence(
            about="guest policy", got=f"{policy:#x}", expected="bit 17 set, bits 26 to 63 clear"
        )


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")
