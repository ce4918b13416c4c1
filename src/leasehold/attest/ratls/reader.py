"""What evidence a certificate carries, in each of the forms that RA-TLS has had.

Steps Q-1 to Q-6 of docs/spec/ratls.md. Sources: Interoperable RA-TLS (CCC Attestation SIG), Gramine,
rats-tls, Cosmian, Intel SGX SDK, RATS CMW. Believes nothing it reads; `binding` says what is worth
believing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from leasehold.attest.cbor import Tagged, parse_cbor
from leasehold.attest.certificate import DerCertificate, read_certificate
from leasehold.attest.der import parse_der
from leasehold.attest.intel.quote import INTEL_QE_VENDOR
from leasehold.attest.ratls.cmw import read_cmw
from leasehold.errors import BadEvidence, UnsupportedEvidence

DICE_EVIDENCE: Final = bytes.fromhex("678105050409")  # 2.23.133.5.4.9
DICE_ENDORSEMENTS: Final = bytes.fromhex("678105050402")  # 2.23.133.5.4.2
# Gramine put a whole OBJECT IDENTIFIER, tag and length included, where its content belongs.
GRAMINE: Final = bytes.fromhex("06092a864886f84d8a3906")  # read as 0.6.9.42.840.113741.1337.6
LEGACY: Final = bytes.fromhex("2a864886f84d8a3906")  # 1.2.840.113741.1337.6
COSMIAN_SNP: Final = bytes.fromhex("2a864886f84d8a3907")
COSMIAN_TDX: Final = bytes.fromhex("2a864886f84d8a3908")
INTEL_SGX: Final = bytes.fromhex(
    "2a864886f84d010d01"
)  # 1.2.840.113741.1.13.1, PCK certificates' too
CMW: Final = bytes.fromhex("2b06010505070123")  # 1.3.6.1.5.5.7.1.35

TEE_QUOTE: Final = 60000
TEE_REPORT: Final = 60001
SGX_REPORT: Final = 60002
CLAIM_BYTES_MAX: Final = 4096
_PUBKEY_HASH: Final = "pubkey-hash"
_NONCE: Final = "nonce"
_DER_SEQUENCE: Final = b"\x30"


class RaTlsScheme(StrEnum):
    """How evidence lies in a certificate; the values are what inspection shows."""

    DICE = "dice-tagged-evidence"
    GRAMINE_LEGACY = "gramine-legacy"
    LEGACY = "legacy-1337.6"
    COSMIAN = "cosmian"
    INTEL_SDK = "intel-sgx-sdk"
    CMW = "rats-cmw"


_BARE: Final[Mapping[bytes, RaTlsScheme]] = {
    GRAMINE: RaTlsScheme.GRAMINE_LEGACY,
    LEGACY: RaTlsScheme.LEGACY,
    COSMIAN_SNP: RaTlsScheme.COSMIAN,
    COSMIAN_TDX: RaTlsScheme.COSMIAN,
    INTEL_SGX: RaTlsScheme.INTEL_SDK,
}


@dataclass(frozen=True, slots=True)
class Claims:
    """Q-4: what the evidence's report data is the hash of. `algorithm` is IANA's number of the hash.

    `data` is the buffer as it came; `nonce` is the optional claim.
    """

    data: bytes
    algorithm: int
    key_hash: bytes
    nonce: bytes | None


@dataclass(frozen=True, slots=True)
class Carried:
    """One piece of evidence. `extension` is the OID in dots, `form` what the wrapping says of it.

    `platform` is the name that `verify` knows it by, recognised by content; empty where it is nothing
    that can be verified remotely.
    """

    scheme: RaTlsScheme
    extension: str
    form: str
    platform: str
    quote: bytes
    claims: Claims | None = None


@dataclass(frozen=True, slots=True)
class RaTls:
    """A certificate and all evidence in it, in the order of its extensions.

    `endorsements` is what the peer would like to be judged by: it is shown and never used.
    """

    certificate: DerCertificate
    evidence: tuple[Carried, ...]
    endorsements: bytes | None


def read(der: bytes) -> RaTls:
    """Q-1 to Q-6: a certificate and the evidence in it. Raises BadEvidence; UnsupportedEvidence for none."""
    certificate = read_certificate(der)
    evidence = _read_all(certificate)
    if not evidence:
        raise UnsupportedEvidence(
            about="certificate", got="no evidence", expected="an RA-TLS extension"
        )
    return RaTls(certificate, evidence, certificate.extensions.get(DICE_ENDORSEMENTS))


def carries_evidence(certificate: DerCertificate) -> bool:
    """Whether there is an extension that `read` takes for evidence, readable or not."""
    return any(_is_evidence(oid, value) for oid, value in certificate.extensions.items())


def _is_evidence(oid: bytes, value: bytes) -> bool:
    """Q-2: a PCK certificate has a SEQUENCE under the OID where Intel's SDK puts a quote."""
    if oid == INTEL_SGX:
        return value[:1] != _DER_SEQUENCE
    return oid in _BARE or oid in (DICE_EVIDENCE, CMW)


def _read_all(certificate: DerCertificate) -> tuple[Carried, ...]:
    found: list[Carried] = []
    dice = certificate.extensions.get(DICE_EVIDENCE)
    tagged = None if dice is None else _read_dice(dice)
    for oid, value in certificate.extensions.items():
        if not _is_evidence(oid, value):
            continue
        if oid == DICE_EVIDENCE and tagged is not None:
            found.append(tagged)
        elif oid == CMW:
            found += _read_wrapped(value)
        else:
            claims = tagged.claims if tagged is not None and oid == INTEL_SGX else None
            found.append(
                Carried(_BARE[oid], dotted(oid), "bare", platform_of(value), value, claims)
            )
    return tuple(found)


def _read_dice(value: bytes) -> Carried:
    """Q-3: tag([evidence, claims buffer])."""
    item = parse_cbor(value)
    if not isinstance(item, Tagged) or item.tag not in (TEE_QUOTE, TEE_REPORT, SGX_REPORT):
        got = item.tag if isinstance(item, Tagged) else type(item).__name__
        raise UnsupportedEvidence(
            about="DICE tagged evidence", got=got, expected="CBOR tag 60000, 60001 or 60002"
        )
    match item.value:
        case (bytes() as quote, bytes() as buffer):
            pass
        case _:
            raise BadEvidence(about="DICE tagged evidence", expected="[bytes, bytes]")
    platform = platform_of(quote) if item.tag == TEE_QUOTE else ""
    return Carried(
        RaTlsScheme.DICE,
        dotted(DICE_EVIDENCE),
        f"CBOR tag {item.tag}",
        platform,
        quote,
        _read_claims(buffer),
    )


def _read_claims(buffer: bytes) -> Claims:
    """Q-4: a map with the key's hash and perhaps a nonce; unknown claims are passed over."""
    claims = parse_cbor(buffer)
    if len(buffer) > CLAIM_BYTES_MAX or not isinstance(claims, Mapping):
        raise BadEvidence(about="claims buffer", got=f"{len(buffer)} bytes", expected="a small map")
    entry, nonce = claims.get(_PUBKEY_HASH), claims.get(_NONCE)
    if not isinstance(entry, bytes) or not isinstance(nonce, bytes | None):
        raise BadEvidence(about="claims", got=sorted(map(str, claims)), expected=_PUBKEY_HASH)
    match parse_cbor(entry):
        case (int() as algorithm, bytes() as key_hash) if not isinstance(algorithm, bool):
            return Claims(buffer, algorithm, key_hash, nonce)
        case _:
            raise BadEvidence(about=_PUBKEY_HASH, got=entry, expected="[algorithm, hash]")


def _read_wrapped(value: bytes) -> tuple[Carried, ...]:
    """Q-6: what a conceptual message wrapper holds; only evidence is ever looked into."""
    return tuple(
        Carried(
            RaTlsScheme.CMW,
            dotted(CMW),
            f"{message.label} {message.form}".strip(),
            platform_of(message.value) if message.is_evidence else "",
            message.value,
        )
        for message in read_cmw(parse_der(value))
    )


def platform_of(quote: bytes) -> str:
    """Which verifier understands these bytes, by their first fields; empty for none."""
    version = int.from_bytes(quote[0:2], "little")
    tee = int.from_bytes(quote[4:8], "little")
    if quote[12:28] == INTEL_QE_VENDOR and version in (3, 4, 5):
        return {0: "sgx", 0x81: "tdx"}.get(tee, "")
    if len(quote) == 1184 and version in (2, 3, 4, 5) and quote[2:4] == bytes(2):
        return "snp"
    return ""


def dotted(oid: bytes) -> str:
    """An OBJECT IDENTIFIER's content octets in dots (X.690, 8.19)."""
    arcs, value = [], 0
    for octet in oid:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2) if arcs else 0
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:]))) if arcs else ""
