"""Intel's quotes: SGX version 3, TDX versions 4 and 5. Bytes in, fields out, nothing believed.

Source: Intel DCAP, sgx_quote_3.h, sgx_quote_4.h, sgx_quote_5.h. All integers are little-endian. Every
length is checked before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from leasehold.attest.intel.report import (
    REPORT_BYTES,
    TD10_BYTES,
    TD15_BYTES,
    TD15EX_BYTES,
    Report,
    TdReport,
    parse_report,
    parse_td_report,
    u16,
    u32,
)
from leasehold.core.units import KIB
from leasehold.errors import BadEvidence, UnsupportedEvidence

QUOTE_BYTES_MAX: Final = 32 * KIB  # a quote is ~5 KiB; some clouds pad theirs with zeros to 8,000
INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
SGX: Final = 0
TDX: Final = 0x81
_HEADER_BYTES: Final = 48
_ECDSA_P256: Final = 2
_PEM_CHAIN: Final = 5
_QE_REPORT_CERTIFICATION: Final = 6
_KEY_BYTES: Final = 64
_SIGNATURE_BYTES: Final = 64
_TD_BODIES: Final = {2: TD10_BYTES, 3: TD15_BYTES, 4: TD15EX_BYTES}

R = TypeVar("R", Report, TdReport)


@dataclass(frozen=True, slots=True)
class Quote(Generic[R]):
    """A parsed quote. `data` is all of it without padding, `report_bytes` the bytes of `report`.

    `body_type` is version 5's own field, None before. The first `signed` bytes are what the
    attestation key signs. `qe_report` is the quoting enclave's.
    """

    version: int
    key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor: bytes
    user_data: bytes
    body_type: int | None
    report: R
    report_bytes: bytes
    signed: int
    qe_report: Report
    chain_pem: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where one version of a quote keeps its body."""

    body_type: int | None
    body: int
    end: int
    is_nested: bool  # from version 4 on the QE report is itself certification data


def parse_quote(data: bytes) -> Quote[Report]:
    """V-3: the fields of an SGX quote, version 3, that carries its certificate chain.

    Zero padding is cut off; anything else after the end is refused. Raises BadEvidence, and
    UnsupportedEvidence for other versions, key types, platforms, vendors and certification data.
    """
    _check_header(data, versions=(3,), tee_type=SGX)
    layout = _Layout(None, _HEADER_BYTES, _HEADER_BYTES + REPORT_BYTES, is_nested=False)
    return _parse(data, layout, parse_report)


def parse_td_quote(data: bytes) -> Quote[TdReport]:
    """X-1: the fields of a TDX quote, version 4 or 5, that carries its certificate chain.

    Raises as `parse_quote` does.
    """
    _check_header(data, versions=(4, 5), tee_type=TDX)
    return _parse(data, _td_layout(data), parse_td_report)


def tee_type_of(data: bytes) -> int:
    """The platform that a quote's header names, unchecked; SGX for what is too short to name one."""
    return u32(data, 4) if data[:2] in (b"\x04\0", b"\x05\0") else SGX


def _check_header(data: bytes, *, versions: tuple[int, ...], tee_type: int) -> None:
    if not _HEADER_BYTES <= len(data) <= QUOTE_BYTES_MAX:
        raise BadEvidence(
            about="quote size",
            got=len(data),
            expected=f"{_HEADER_BYTES} to {QUOTE_BYTES_MAX} bytes",
        )
    if u16(data, 0) not in versions:
        expected = " or ".join(map(str, versions))
        raise UnsupportedEvidence(about="quote version", got=u16(data, 0), expected=expected)
    for about, got, wanted in (
        ("attestation key type", u16(data, 2), _ECDSA_P256),
        ("platform type", u32(data, 4), tee_type),
        ("QE vendor", data[12:28].hex(), INTEL_QE_VENDOR.hex()),
    ):
        if got != wanted:
            raise UnsupportedEvidence(about=about, got=got, expected=wanted)


def _td_layout(data: bytes) -> _Layout:
    """Version 4 has one body; version 5 says which, and how long it is."""
    if u16(data, 0) == 4:
        return _Layout(None, _HEADER_BYTES, _HEADER_BYTES + TD10_BYTES, is_nested=True)
    kind, size, at = u16(data, 48), u32(data, 50), _HEADER_BYTES + 6
    if kind not in _TD_BODIES:
        raise UnsupportedEvidence(
            about="quote body type", got=kind, expected=" or ".join(map(str, _TD_BODIES))
        )
    if size != _TD_BODIES[kind]:
        raise BadEvidence(about="quote body", got=size, expected=f"{_TD_BODIES[kind]} bytes")
    return _Layout(kind, at, at + size, is_nested=True)


def _parse(data: bytes, layout: _Layout, parse_body: Callable[[bytes], R]) -> Quote[R]:
    auth = layout.end + 4
    if len(data) < auth:
        raise BadEvidence(about="quote size", got=len(data), expected=f"at least {auth} bytes")
    end = auth + u32(data, layout.end)
    if end > len(data):
        raise BadEvidence(about="quote", got=f"{len(data)} bytes", expected=f"{end} bytes")
    if any(data[end:]):
        raise BadEvidence(about="quote", got="bytes after the end", expected="nothing but zeros")
    report_bytes = data[layout.body : layout.end]
    qe_report, chain_pem = _certification(data[auth:end], is_nested=layout.is_nested)
    is_old = u16(data, 0) == 3
    return Quote(
        version=u16(data, 0),
        key_type=u16(data, 2),
        tee_type=u32(data, 4),
        qe_svn=u16(data, 8) if is_old else 0,
        pce_svn=u16(data, 10) if is_old else 0,
        qe_vendor=data[12:28],
        user_data=data[28:48],
        body_type=layout.body_type,
        report=parse_body(report_bytes),
        report_bytes=report_bytes,
        signed=layout.end,
        qe_report=parse_report(qe_report),
        chain_pem=chain_pem,
        data=data[:end],
    )


def _certification(auth: bytes, *, is_nested: bool) -> tuple[bytes, bytes]:
    """The QE report and the PEM chain in the authentication data.

    Version 3: signature, key, QE report, its signature, QE data, chain. Later versions put all from the
    QE report on into certification data of a type of its own.
    """
    at = _SIGNATURE_BYTES + _KEY_BYTES
    if is_nested:
        auth, at = _certification_data(auth, at, _QE_REPORT_CERTIFICATION), 0
    report_end = at + REPORT_BYTES
    qe_data = report_end + _SIGNATURE_BYTES
    if len(auth) < qe_data + 2:
        raise BadEvidence(about="authentication data", got=len(auth), expected=f"> {qe_data} bytes")
    chain_at = qe_data + 2 + u16(auth, qe_data)
    chain = _certification_data(auth, chain_at, _PEM_CHAIN)
    return auth[at:report_end], chain.rstrip(b"\0")


def _certification_data(data: bytes, at: int, kind: int) -> bytes:
    """The certification data of this type at `at`, which must be the last thing in `data`."""
    if len(data) < at + 6:
        raise BadEvidence(about="certification data", got=len(data), expected=f"> {at + 6} bytes")
    if u16(data, at) != kind:
        raise UnsupportedEvidence(about="certification data", got=u16(data, at), expected=kind)
    size = u32(data, at + 2)
    if len(data) != at + 6 + size:
        raise BadEvidence(about="certification data", got=len(data) - at - 6, expected=size)
    return data[at + 6 :]
