"""What a file is: taken out of its wrapping, then recognised by its content, whatever platform it is of.

A table of the vendors' `explain` modules, and a few kinds that belong to no vendor. Nothing here is
verified. Refuses to know what a file is called.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from leasehold.attest.amd import explain as amd
from leasehold.attest.certificate import DerCertificate, read_certificates
from leasehold.attest.describe import Description, Field, Recognise, Section, plain, utc
from leasehold.attest.ear import Ear, tier_of, unchecked_ear
from leasehold.attest.intel import explain as intel
from leasehold.attest.manifest import KIND as MANIFEST_KIND
from leasehold.attest.nvidia import explain as nvidia
from leasehold.attest.ratls import explain as ratls
from leasehold.attest.tpm import explain as tpm
from leasehold.attest.tpm.tpm import read_key
from leasehold.attest.x509 import read_crl, read_ocsp
from leasehold.core.crypto import sha256
from leasehold.core.encoding import from_json
from leasehold.core.evidence import Evidence
from leasehold.core.statements import Signed
from leasehold.core.units import MIB, SECOND, Instant
from leasehold.errors import BadEvidence, BadMessage, LeaseholdError, UnsupportedEvidence

FILE_BYTES_MAX: Final = 4 * MIB  # eight GPUs' evidence in base64 takes ~1 MiB
LAYERS_MAX: Final = 4  # base64 around JSON around base64, and one to spare
CERTIFICATES_MAX: Final = 8
_TEXT_MIN: Final = 32  # characters that are taken for an encoding, and not for a word
_PADDING_MIN: Final = 16
_HEX: Final = re.compile(rb"\A(?:0[xX])?(?:[0-9a-fA-F]{2})+\Z")
_BASE64: Final = re.compile(rb"\A[A-Za-z0-9+/]+={0,2}\Z")
_BASE64URL: Final = re.compile(rb"\A[A-Za-z0-9_-]+={0,2}\Z")
_SPACE: Final = re.compile(rb"\s+")
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s(.+?)-----END \1-----", re.DOTALL)
_JWS: Final = re.compile(rb"\A[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")


class Kind(StrEnum):
    """What a recognised file is for."""

    EVIDENCE = "evidence"
    DEVICE = "device"
    CERTIFICATE_WITH_EVIDENCE = "ra-tls"
    ENDORSEMENT = "endorsement"
    INTEL_COLLATERAL = "intel-collateral"
    REFERENCE_MANIFEST = "nvidia-rim"
    REVOCATION_LIST = "crl"
    OCSP_ANSWER = "ocsp"
    BUNDLE = "bundle"
    MANIFEST = "manifest"
    RESULT = "result"
    CERTIFICATE = "certificate"


class Row(NamedTuple):
    """One kind of thing that files can be. `beside` is what it is for where it is no evidence itself."""

    name: str
    recognise: Recognise
    beside: Kind


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a file is. `data` is what lay inside the `wrapping` (outermost first)."""

    kind: Kind
    description: Description
    data: bytes
    wrapping: tuple[str, ...] = ()


# Kinds of no vendor ------------------------------------------------------------------------------


def _evidence(data: bytes) -> Description | None:
    """Leasehold's own record of evidence, as the wire has it."""
    if data[:1] != b"{" or b'"platform"' not in data:
        return None
    try:
        evidence = from_json(data, Evidence)
    except BadMessage:
        return None
    inside = describe(evidence.quote)
    fields = [
        Field("platform", plain(evidence.platform), "which verifier it asks for"),
        *(
            Field(f"endorsement {at}", f"{len(one)} bytes", "handed out beside the quote")
            for at, one in enumerate(evidence.endorsements, 1)
        ),
        *(
            Field(f"device {at}", plain(one.kind), f"a report of {len(one.report)} bytes")
            for at, one in enumerate(evidence.devices, 1)
        ),
    ]
    what = f"Leasehold evidence: {inside.description.what}"
    sections = (Section("Record", tuple(fields)), *inside.description.sections)
    return Description(what, evidence.platform, sections)


def _bundle(data: bytes) -> Description | None:
    """A bundle of collateral that a custodian signed, or another signed statement."""
    if data[:1] != b"{" or b'"kind"' not in data:
        return None
    try:
        signed = from_json(data, Signed)
    except BadMessage:
        return None
    fields = (
        Field("kind", plain(signed.kind), "what the signer says it is"),
        Field("payload", f"{len(signed.payload)} bytes", "what is signed"),
        Field("signature", signed.signature.hex(), "Ed25519; not checked here"),
    )
    return Description("Statement signed by a custodian", "", (Section("Statement", fields),))


def _manifest(data: bytes) -> Description | None:
    """A manifest: its own commands say more of it."""
    mark = f"# leasehold-signature: {MANIFEST_KIND} ".encode()
    if mark not in data and b"custodian_root" not in data:
        return None
    signed = "its signature is not checked here" if mark in data else "it is NOT SIGNED"
    lines = data.count(b"\n")
    field = Field("size", f"{len(data)} bytes, {lines} lines", signed)
    return Description("Leasehold manifest", "", (Section("Manifest", (field,)),))


def _result(data: bytes) -> Description | None:
    """An EAT Attestation Result."""
    if not _JWS.match(data):
        return None
    try:
        ear = unchecked_ear(data.decode())
    except BadMessage:
        return None
    by = f"{ear.ear_verifier_id.developer} {ear.ear_verifier_id.build}"
    token = (
        Field("ear_status", ear.ear_status.value, "the verifier's word on all of it together"),
        Field(
            "ear_verifier_id", plain(by), "who says so: check the signature before you believe it"
        ),
        Field("iat", utc(Instant(ear.iat * SECOND)), "when it was said"),
        Field("exp", utc(Instant(ear.exp * SECOND)), "until when it counts"),
        Field("eat_nonce", plain(ear.eat_nonce or "none"), "the asker's nonce"),
    )
    return Description(
        "EAT Attestation Result: a verifier's signed word about evidence",
        "",
        (Section("Token", token), *_submodules(ear)),
    )


def _submodules(ear: Ear) -> tuple[Section, ...]:
    sections = []
    for label, one in ear.submods.items():
        vector = msgspec.to_builtins(one.ear_trustworthiness_vector)
        fields = [Field("ear_status", one.ear_status.value, "the worst of what follows")]
        fields += [Field(name, str(value), tier_of(value).value) for name, value in vector.items()]
        fields += [
            Field("policy", plain(name), "what it was judged by")
            for name in one.ear_appraisal_policy_ids
        ]
        sections.append(Section(plain(label), tuple(fields)))
    return tuple(sections)


def _certificates(data: bytes) -> Description | None:
    """Certificates that no vendor's module knows."""
    if data[:1] != b"\x30" and b"-----BEGIN CERTIFICATE-----" not in data:
        return None
    try:
        found = read_certificates(data, count_max=CERTIFICATES_MAX)
    except LeaseholdError:
        return None
    what = "X.509 certificate" if len(found) == 1 else f"Chain of {len(found)} X.509 certificates"
    titles = (f"Certificate {at}" for at in range(1, len(found) + 1))
    sections = (Section(title, _facts(one)) for title, one in zip(titles, found, strict=True))
    return Description(what, "", tuple(sections))


def _facts(one: DerCertificate) -> tuple[Field, ...]:
    return (
        Field("subject", plain(one.name), "what it is for, as its issuer calls it"),
        Field("issuer", plain(one.issuer_name), "who has to have signed it: not checked"),
        Field("valid", f"{utc(one.starts)} to {utc(one.ends)}", "refused outside this"),
        Field("serial", f"{one.serial:x}", "its issuer's number for it"),
        Field("key SHA-256", one.spki_sha256, "names the key"),
    )


def _revocation_list(data: bytes) -> Description | None:
    """A CRL: what a vendor revoked."""
    if data[:1] != b"\x30":
        return None
    try:
        crl = read_crl(data, about="CRL", error=BadEvidence)
    except LeaseholdError:
        return None
    fields = (
        Field("issuer", plain(crl.issuer), "who has to have signed it: not checked"),
        Field("number", str(crl.number), "grows with every issue"),
        Field("until", utc(crl.ends), "refused after this"),
    )
    return Description("Certificate revocation list", "", (Section("List", fields),))


def _ocsp_answer(data: bytes) -> Description | None:
    """What a vendor says of one certificate."""
    if data[:1] != b"\x30":
        return None
    try:
        answer = read_ocsp(data)
    except LeaseholdError:
        return None
    fields = (
        Field("serial", f"{answer.serial:x}", "the certificate that was asked about"),
        Field("status", plain(f"{answer.status} {answer.reason}".strip()), "what its issuer says"),
        Field("valid", f"{utc(answer.starts)} to {utc(answer.ends)}", "refused outside this"),
    )
    return Description("OCSP answer about one certificate", "", (Section("Answer", fields),))


def _public_key(data: bytes) -> Description | None:
    """A SubjectPublicKeyInfo, such as a TPM's attestation key."""
    if data[:1] != b"\x30":
        return None
    try:
        spki = read_key(data)
    except LeaseholdError:
        return None
    field = Field("SHA-256", sha256(spki).hex(), "names the key: a manifest lists it")
    return Description("Public key", "", (Section("SubjectPublicKeyInfo", (field,)),))


ROWS: Final = (
    Row("an SGX or TDX quote, or Intel's collateral", intel.recognise, Kind.INTEL_COLLATERAL),
    Row("a TPM quote or signature, or an Azure HCL report", tpm.recognise, Kind.ENDORSEMENT),
    Row("an SNP report, certificate table, VCEK or VLEK", amd.recognise, Kind.ENDORSEMENT),
    Row(
        "an NVIDIA GPU or switch report, or reference manifest",
        nvidia.recognise,
        Kind.REFERENCE_MANIFEST,
    ),
    Row("an RA-TLS certificate", ratls.recognise, Kind.CERTIFICATE_WITH_EVIDENCE),
    Row("Leasehold evidence", _evidence, Kind.EVIDENCE),
    Row("a signed bundle of collateral", _bundle, Kind.BUNDLE),
    Row("a manifest", _manifest, Kind.MANIFEST),
    Row("an attestation result", _result, Kind.RESULT),
    Row("another X.509 certificate", _certificates, Kind.CERTIFICATE),
    Row("a revocation list", _revocation_list, Kind.REVOCATION_LIST),
    Row("an OCSP answer", _ocsp_answer, Kind.OCSP_ANSWER),
    Row("a public key", _public_key, Kind.ENDORSEMENT),
)
_DEVICES: Final = ("nvidia-gpu", "nvidia-switch")


# Wrappings ---------------------------------------------------------------------------------------


def _pem(data: bytes) -> bytes | None:
    """One PEM block; several are a chain, which is a thing of its own."""
    if data.count(b"-----BEGIN ") != 1:
        return None
    found = _PEM.search(data)
    return None if found is None else _decoded(found[2], _BASE64, base64.b64decode)


def _hex(data: bytes) -> bytes | None:
    text = _SPACE.sub(b"", data)
    if len(text) < _TEXT_MIN or not _HEX.match(text):
        return None
    return bytes.fromhex(text.decode().lower().removeprefix("0x"))


def _base64(data: bytes) -> bytes | None:
    if len(data) < _TEXT_MIN:
        return None
    standard = _decoded(data, _BASE64, base64.b64decode)
    return _decoded(data, _BASE64URL, base64.urlsafe_b64decode) if standard is None else standard


def _decoded(
    data: bytes, form: re.Pattern[bytes], decode: Callable[[bytes], bytes]
) -> bytes | None:
    text = _SPACE.sub(b"", data)
    if not form.match(text):
        return None
    try:
        return decode(text.rstrip(b"=") + b"=" * (-len(text.rstrip(b"=")) % 4))
    except (binascii.Error, ValueError):
        return None


class _RimAnswer(msgspec.Struct, frozen=True):
    """What NVIDIA's RIM service answers."""

    rim: str


def _rim_answer(data: bytes) -> bytes | None:
    if data[:1] != b"{" or b'"rim"' not in data:
        return None
    try:
        return _base64(from_json(data, _RimAnswer).rim.encode())
    except BadMessage:
        return None


def _space(data: bytes) -> bytes | None:
    """Text with space around it; binary data may begin or end with octets that only look like space."""
    stripped = data.strip()
    return stripped if stripped != data else None


def _padding(data: bytes) -> bytes | None:
    stripped = data.rstrip(b"\0")
    return stripped if len(data) - len(stripped) >= _PADDING_MIN else None


UNWRAP: Final = (
    ("PEM", _pem),
    ("NVIDIA RIM service's JSON", _rim_answer),
    ("hex", _hex),
    ("base64", _base64),
    ("white space", _space),
    ("zero padding", _padding),
)


def describe(data: bytes) -> Recognised:
    """What these bytes are, and what they say. Believes nothing.

    Raises UnsupportedEvidence where they are nothing known, which lists what was tried; BadEvidence and
    CollateralRejected where they are a known thing that is malformed.
    """
    return _describe(data, LAYERS_MAX)


def _describe(data: bytes, layers: int) -> Recognised:
    if len(data) > FILE_BYTES_MAX:
        raise UnsupportedEvidence(
            about="this file", got=f"{len(data)} bytes", expected=f"at most {FILE_BYTES_MAX}"
        )
    broken: LeaseholdError | None = None
    for row in ROWS:
        try:
            found = row.recognise(data)
        except LeaseholdError as error:
            broken = broken or error
            continue
        if found is not None:
            return Recognised(_kind(row, found), found, data)
    if broken is None and layers:
        for name, unwrap in UNWRAP:
            inner = unwrap(data)
            if inner:
                found_inside = _describe(inner, layers - 1)
                return replace(found_inside, wrapping=(name, *found_inside.wrapping))
    if broken is not None:
        raise broken
    raise UnsupportedEvidence(
        about="this file",
        got=f"{len(data)} bytes that begin {data[:16].hex(' ') or 'and end nowhere'}",
        expected="; ".join(row.name for row in ROWS),
    )


def _kind(row: Row, found: Description) -> Kind:
    if found.platform in _DEVICES:
        return Kind.DEVICE
    return Kind.EVIDENCE if found.platform else row.beside
