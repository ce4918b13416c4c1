"""SGX quotes, version 3, and the enclave report inside: bytes in, fields out, nothing believed.

Source: Intel SGX ECDSA Quote Library Reference (sgx_quote_3.h) and Intel SDM vol. 3D, REPORT. All
integers are little-endian. Every length is checked before anything is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from leasehold.core.units import KIB
from leasehold.errors import BadEvidence, UnsupportedEvidence

QUOTE_BYTES_MAX: Final = (
    32 * KIB
)  # a v3 quote is ~5 KiB; some clouds pad theirs with zeros to 8,000
INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
REPORT_BYTES: Final = 384
_HEADER_BYTES: Final = 48
_LENGTH_AT: Final = _HEADER_BYTES + REPORT_BYTES
_AUTH_AT: Final = _LENGTH_AT + 4
_VERSION: Final = 3
_ECDSA_P256: Final = 2
_PEM_CHAIN: Final = 5
_KEY_BYTES: Final = 64
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Report:
    """What the processor says of an enclave; `flags` and `xfrm` are the two halves of ATTRIBUTES."""

    cpu_svn: bytes
    misc_select: int
    isv_ext_prod_id: bytes
    flags: int
    xfrm: int
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes


@dataclass(frozen=True, slots=True)
class Quote:
    """A parsed quote. `data` is all of it without padding, `report_bytes` the 384 bytes of `report`."""

    version: int
    key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor: bytes
    user_data: bytes
    report: Report
    report_bytes: bytes
    chain_pem: bytes
    data: bytes


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def parse_report(data: bytes) -> Report:
    """The fields of a 384-byte enclave report body. Raises BadEvidence."""
    if len(data) != REPORT_BYTES:
        raise BadEvidence(about="enclave report", got=len(data), expected=f"{REPORT_BYTES} bytes")
    return Report(
        cpu_svn=data[0:16],
        misc_select=_u32(data, 16),
        isv_ext_prod_id=data[32:48],
        flags=_u64(data, 48),
        xfrm=_u64(data, 56),
        mr_enclave=data[64:96],
        mr_signer=data[128:160],
        config_id=data[192:256],
        isv_prod_id=_u16(data, 256),
        isv_svn=_u16(data, 258),
        config_svn=_u16(data, 260),
        isv_family_id=data[304:320],
        report_data=data[320:384],
    )


def parse_quote(data: bytes) -> Quote:
    """V-3: the fields of an SGX quote v3 that carries its certificate chain.

    Zero padding is cut off; anything else after the end is refused. Raises BadEvidence, and
    UnsupportedEvidence for other versions, key types, platforms, vendors and certification data.
    """
    if not _AUTH_AT <= len(data) <= QUOTE_BYTES_MAX:
        raise BadEvidence(
            about="quote size", got=len(data), expected=f"{_AUTH_AT} to {QUOTE_BYTES_MAX} bytes"
        )
    _check_header(data)
    end = _AUTH_AT + _u32(data, _LENGTH_AT)
    if end > len(data):
        raise BadEvidence(about="quote", got=f"{len(data)} bytes", expected=f"{end} bytes")
    if any(data[end:]):
        raise BadEvidence(about="quote", got="bytes after the end", expected="nothing but zeros")
    report_bytes = data[_HEADER_BYTES:_LENGTH_AT]
    return Quote(
        version=_u16(data, 0),
        key_type=_u16(data, 2),
        tee_type=_u32(data, 4),
        qe_svn=_u16(data, 8),
        pce_svn=_u16(data, 10),
        qe_vendor=data[12:28],
        user_data=data[28:48],
        report=parse_report(report_bytes),
        report_bytes=report_bytes,
        chain_pem=_chain(data[_AUTH_AT:end]),
        data=data[:end],
    )


def _check_header(data: bytes) -> None:
    for about, got, expected in (
        ("quote version", _u16(data, 0), _VERSION),
        ("attestation key type", _u16(data, 2), _ECDSA_P256),
        ("platform type", _u32(data, 4), 0),
        ("QE vendor", data[12:28].hex(), INTEL_QE_VENDOR.hex()),
    ):
        if got != expected:
            raise UnsupportedEvidence(about=about, got=got, expected=expected)


def _chain(auth: bytes) -> bytes:
    """The PEM chain at the end of the authentication data: signature, key, QE report, QE data, chain."""
    at = _SIGNATURE_BYTES + _KEY_BYTES + REPORT_BYTES + _SIGNATURE_BYTES
    if len(auth) < at + 2:
        raise BadEvidence(about="authentication data", got=len(auth), expected=f"> {at} bytes")
    at += 2 + _u16(auth, at)
    if len(auth) < at + 6:
        raise BadEvidence(about="QE authentication data", got=len(auth), expected=f"> {at} bytes")
    kind, size = _u16(auth, at), _u32(auth, at + 2)
    if kind != _PEM_CHAIN:
        raise UnsupportedEvidence(about="certification data", got=kind, expected=_PEM_CHAIN)
    if len(auth) != at + 6 + size:
        raise BadEvidence(about="certification data", got=len(auth) - at - 6, expected=size)
    return auth[at + 6 :].rstrip(b"\0")
