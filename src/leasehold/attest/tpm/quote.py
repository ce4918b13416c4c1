"""TPM 2.0 quotes: bytes in, fields out, and whether one key signed exactly these register values.

Source: TPM 2.0 Library, Part 2, 10.12.12 (TPMS_ATTEST), 11.3.4 (TPMT_SIGNATURE), 10.6.3 (PCR
selection). All integers are big-endian. Refuses to know whose key it is and what the registers
should hold.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
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


class _Reader:
    """Takes fields off the front; raises BadEvidence where there are not enough bytes."""

    __slots__ = ("_about", "_at", "_data")

    def __init__(self, data: bytes, about: str) -> None:
        self._data, self._at, self._about = data, 0, about

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise BadEvidence(about=self._about, got=f"{len(self._data)} bytes", expected=end)
        part = self._data[self._at : end]
        self._at = end
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        """A TPM2B: u16 size, bytes."""
        return self.take(self.number(2))

    def end(self) -> None:
        if self._at != len(self._data):
            raise BadEvidence(
                about=self._about,
                got=f"{len(self._data) - self._at} bytes more",
                expected="no more",
            )


def parse_attest(data: bytes) -> Attest:
    """H-1: the fields of a quote's TPMS_ATTEST. Raises BadEvidence; UnsupportedEvidence for other types."""
    if len(data) > ATTEST_BYTES_MAX:
        raise BadEvidence(about="TPMS_ATTEST", got=len(data), expected=f"<= {ATTEST_BYTES_MAX}")
    reader = _Reader(data, "TPMS_ATTEST")
    magic, kind = reader.number(4), reader.number(2)
    if magic != MAGIC:
        raise BadEvidence(about="TPMS_ATTEST magic", got=f"{magic:08x}", expected=f"{MAGIC:08x}")
    if kind != QUOTE:
        raise UnsupportedEvidence(about="TPMS_ATTEST type", got=f"{kind:04x}", expected="8018")
    attest = Attest(
        qualified_signer=reader.sized(),
        extra_data=reader.sized(),
        clock=reader.number(8),
        reset_count=reader.number(4),
        restart_count=reader.number(4),
        safe=_flag(reader.number(1)),
        firmware_version=reader.number(8),
        selections=_selections(reader),
        pcr_digest=reader.sized(),
        data=data,
    )
    reader.end()
    return attest


def _flag(value: int) -> bool:
    """TPMI_YES_NO (Part 2, 9.2)."""
    if value > 1:
        raise BadEvidence(about="TPMS_ATTEST safe", got=value, expected="0 or 1")
    return value == 1


def _selections(reader: _Reader) -> tuple[Selection, ...]:
    count = reader.number(4)
    if count > _BANKS_MAX:
        raise BadEvidence(about="PCR selection", got=count, expected=f"<= {_BANKS_MAX} banks")
    return tuple(_selection(reader) for _ in range(count))


def _selection(reader: _Reader) -> Selection:
    bank, size = reader.number(2), reader.number(1)
    if size > _SELECT_BYTES_MAX:
        raise BadEvidence(about="PCR selection", got=size, expected=f"<= {_SELECT_BYTES_MAX} bytes")
    bitmap = int.from_bytes(reader.take(size), "little")  # PCR n is bit n % 8 of octet n / 8
    return Selection(bank, tuple(n for n in range(8 * size) if bitmap >> n & 1))


def parse_signature(data: bytes) -> Signature:
    """H-2: a TPMT_SIGNATURE, or a bare RSA number (RSASSA with SHA-256), told apart by size.

    Raises BadEvidence, UnsupportedEvidence for other algorithms.
    """
    if not 0 < len(data) <= SIGNATURE_BYTES_MAX:
        raise BadEvidence(about="TPM signature", got=f"{len(data)} bytes", expected="a signature")
    if len(data) in _RAW_RSA_BYTES:
        return Signature(Scheme.RSA_SHA256, SHA256, data)
    reader = _Reader(data, "TPMT_SIGNATURE")
    kind, digest = reader.number(2), reader.number(2)
    scheme = _SCHEMES.get((kind, digest))
    if scheme is None:
        raise UnsupportedEvidence(
            about="TPM signature",
            got=f"algorithm {kind:04x}, hash {digest:04x}",
            expected="RSASSA or ECDSA with SHA-2",
        )
    first = reader.sized()
    if kind == ECDSA:
        second = reader.sized()
        first = ecdsa_der(int.from_bytes(first, "big"), int.from_bytes(second, "big"))
    reader.end()
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
