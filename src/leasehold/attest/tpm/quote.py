"""TPM 2.0 quotes: bytes in, fields out, and whether one key signed exactly these register values.

Source: TPM 2.0 Library, Part 2, 10.12.12 (TPMS_ATTEST), 11.3.4 (TPMT_SIGNATURE), 10.6.3 (PCR
selection). All integers are big-endian. Refuses to know whose key it is and what the registers
should hold.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from leasehold.attest.signatures import Scheme, ecdsa_der, is_signed
from leasehold.errors import BadEvidence, QuoteForged, UnsupportedEvidence

ATTEST_BYTES_MAX: Final = 1024  # a real one has 117 to 177
SIGNATURE_BYTES_MAX: Final = 1024  # RSA-4096 has 518
PCRS: Final = 24
PCR_BYTES: Final = 32  # of the SHA-256 bank
MAGIC: Final = 0xFF544347  # TPM_GENERATED_VALUE: a restricted key signs nothing foreign that has it
QUOTE: Final = 0x8018  # TPM_ST_ATTEST_QUOTE
SHA256: Final = 0x000B
HASHES: Final = {0x0004: "sha1", SHA256: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
RSASSA: Final = 0x0014
ECDSA: Final = 0x0018
_ATTEST: Final = "TPMS_ATTEST"
_SIGNATURE: Final = "TPMT_SIGNATURE"
_HEAD: Final = struct.Struct(">IH")  # magic, type
_STATE: Final = struct.Struct(">QIIBQI")  # clock, two counts, safe, firmware version, selections
_RAW_RSA_BYTES: Final = (256, 384, 512)
_BANKS_MAX: Final = 16  # TPM2_MAX_PCRS' HASH_COUNT in every TPM
_SELECT_BYTES_MAX: Final = 4
_SCHEMES: Final = {
    (RSASSA, SHA256): Scheme.RSA_SHA256,
    (RSASSA, 0x000C): Scheme.RSA_SHA384,
    (RSASSA, 0x000D): Scheme.RSA_SHA512,
    (ECDSA, SHA256): Scheme.ECDSA_SHA256,
    (ECDSA, 0x000C): Scheme.ECDSA_SHA384,
    (ECDSA, 0x000D): Scheme.ECDSA_SHA512,
}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which registers of one bank a quote covers; `bank` is the hash algorithm's TPM_ALG_ID."""

    bank: int
    pcrs: tuple[int, ...]

    @property
    def bank_name(self) -> str:
        """The bank's usual name, or its number in hex."""
        return HASHES.get(self.bank, hex(self.bank))


@dataclass(frozen=True, slots=True)
class Attest:
    """A parsed TPMS_ATTEST of a quote; `data` is all of it, which is what the signature covers.

    `clock` is in milliseconds. Reset count, restart count and firmware version are obscured by the TPM
    where the attestation key is not of the endorsement hierarchy (Part 1, 36.7).
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    selections: tuple[Selection, ...]
    pcr_digest: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and how it was made; `data` is the RSA number, or ECDSA in DER. `hash` is a TPM_ALG_ID."""

    scheme: Scheme
    hash: int
    data: bytes


def _sized(data: bytes, at: int, about: str) -> tuple[bytes, int]:
    """The TPM2B (u16 size, bytes) at an offset, and the offset after it. Raises BadEvidence."""
    end = at + 2 + int.from_bytes(data[at : at + 2], "big")
    if at + 2 > len(data) or end > len(data):
        raise BadEvidence(about=about, got=f"{len(data)} bytes", expected=f">= {max(end, at + 2)}")
    return data[at + 2 : end], end


def _check_end(data: bytes, end: int, about: str) -> None:
    if end != len(data):
        raise BadEvidence(about=about, got=f"{len(data) - end} bytes more", expected="no more")


def parse_attest(data: bytes) -> Attest:
    """H-1: the fields of a quote's TPMS_ATTEST. Raises BadEvidence; UnsupportedEvidence for other types."""
    if not _HEAD.size <= len(data) <= ATTEST_BYTES_MAX:
        raise BadEvidence(about=_ATTEST, got=len(data), expected=f"<= {ATTEST_BYTES_MAX} bytes")
    magic, kind = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise BadEvidence(about="TPMS_ATTEST magic", got=f"{magic:08x}", expected=f"{MAGIC:08x}")
    if kind != QUOTE:
        raise UnsupportedEvidence(about="TPMS_ATTEST type", got=f"{kind:04x}", expected="8018")
    signer, at = _sized(data, _HEAD.size, _ATTEST)
    extra, at = _sized(data, at, _ATTEST)
    if at + _STATE.size > len(data):
        raise BadEvidence(
            about=_ATTEST, got=f"{len(data)} bytes", expected=f">= {at + _STATE.size}"
        )
    clock, resets, restarts, safe, firmware, count = _STATE.unpack_from(data, at)
    if safe > 1:  # TPMI_YES_NO (Part 2, 9.2)
        raise BadEvidence(about="TPMS_ATTEST safe", got=safe, expected="0 or 1")
    selections, at = _selections(data, at + _STATE.size, count)
    digest, at = _sized(data, at, _ATTEST)
    _check_end(data, at, _ATTEST)
    return Attest(
        qualified_signer=signer,
        extra_data=extra,
        clock=clock,
        reset_count=resets,
        restart_count=restarts,
        safe=safe == 1,
        firmware_version=firmware,
        selections=selections,
        pcr_digest=digest,
        data=data,
    )


def _selections(data: bytes, at: int, count: int) -> tuple[tuple[Selection, ...], int]:
    """So many TPMS_PCR_SELECTIONs from an offset on, and the offset after them."""
    if count > _BANKS_MAX:
        raise BadEvidence(about="PCR selection", got=count, expected=f"<= {_BANKS_MAX} banks")
    found = []
    for _ in range(count):
        size = int.from_bytes(data[at + 2 : at + 3], "big")
        end = at + 3 + size
        if size > _SELECT_BYTES_MAX or end > len(data):
            raise BadEvidence(
                about="PCR selection", got=size, expected=f"<= {_SELECT_BYTES_MAX} bytes, all there"
            )
        bank = int.from_bytes(data[at : at + 2], "big")
        found.append(Selection(bank, _indices(data[at + 3 : end])))
        at = end
    return tuple(found), at


@lru_cache(maxsize=256)
def _indices(bitmap: bytes) -> tuple[int, ...]:
    """PCR n is bit n % 8 of octet n / 8."""
    number = int.from_bytes(bitmap, "little")
    return tuple(n for n in range(8 * len(bitmap)) if number >> n & 1)


def parse_signature(data: bytes) -> Signature:
    """H-2: a TPMT_SIGNATURE, or a bare RSA number (RSASSA with SHA-256), told apart by size.

    Raises BadEvidence, UnsupportedEvidence for other algorithms.
    """
    if not 0 < len(data) <= SIGNATURE_BYTES_MAX:
        raise BadEvidence(about="TPM signature", got=f"{len(data)} bytes", expected="a signature")
    if len(data) in _RAW_RSA_BYTES:
        return Signature(Scheme.RSA_SHA256, SHA256, data)
    kind, digest = int.from_bytes(data[0:2], "big"), int.from_bytes(data[2:4], "big")
    scheme = _SCHEMES.get((kind, digest))
    if scheme is None:
        raise UnsupportedEvidence(
            about="TPM signature",
            got=f"algorithm {kind:04x}, hash {digest:04x}",
            expected="RSASSA or ECDSA with SHA-2",
        )
    first, at = _sized(data, 4, _SIGNATURE)
    if kind == ECDSA:
        second, at = _sized(data, at, _SIGNATURE)
        first = ecdsa_der(int.from_bytes(first, "big"), int.from_bytes(second, "big"))
    _check_end(data, at, _SIGNATURE)
    return Signature(scheme, digest, first)


def check_signed(attest: Attest, signature: Signature, spki: bytes) -> None:
    """H-4: raise QuoteForged unless this key (DER SubjectPublicKeyInfo) signed the quote."""
    if not is_signed(spki, signature.scheme, attest.data, signature.data):
        raise QuoteForged(
            about="TPM quote", got="a bad signature", expected="the attestation key's"
        )


def check_form(attest: Attest) -> tuple[int, ...]:
    """H-5: the quote answers a nonce and covers registers of the SHA-256 bank alone; which ones.

    Raises BadEvidence for an empty nonce, UnsupportedEvidence for other banks.
    """
    if not attest.extra_data:
        raise BadEvidence(about="TPM quote's nonce", got="none", expected="the verifier's")
    if [selection.bank for selection in attest.selections] != [SHA256]:
        banks = ", ".join(selection.bank_name for selection in attest.selections)
        raise UnsupportedEvidence(about="PCR banks", got=banks or "none", expected="sha256 alone")
    selected = attest.selections[0].pcrs
    if not selected or selected[-1] >= PCRS:
        raise BadEvidence(about="PCR selection", got=selected, expected=f"some of 0 to {PCRS - 1}")
    return selected


def check_pcrs(attest: Attest, signature: Signature, values: bytes) -> dict[int, bytes]:
    """H-5: the values (32 bytes each, in index order, nothing else) are those that were quoted.

    The digest over them is made with the signature's hash (Part 3, 18.4). Returns them by index. Raises
    BadEvidence, UnsupportedEvidence, QuoteForged.
    """
    selected = check_form(attest)
    if len(values) != PCR_BYTES * len(selected):
        raise BadEvidence(
            about="PCR values", got=f"{len(values)} bytes", expected=PCR_BYTES * len(selected)
        )
    digest = hashlib.new(HASHES[signature.hash], values).digest()
    if digest != attest.pcr_digest:
        raise QuoteForged(about="PCR digest", got=digest, expected=attest.pcr_digest)
    return {
        pcr: values[PCR_BYTES * place : PCR_BYTES * (place + 1)]
        for place, pcr in enumerate(selected)
    }
