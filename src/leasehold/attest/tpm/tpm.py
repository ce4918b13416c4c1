"""TPM evidence: from bytes to what the manifest asks about, steps H-1 to H-8 of docs/spec/tpm.md.

A vTPM is as honest as the owner of the hypervisor it runs in, so all of this is off until a manifest
says otherwise in so many words. Refuses to know nonces: the binding is `verify`'s.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from leasehold.attest.certificate import read_certificate
from leasehold.attest.collateral import CollateralStore
from leasehold.attest.der import Tag, children, content, parse_der
from leasehold.attest.manifest import Manifest
from leasehold.attest.platform import Platform
from leasehold.attest.reference import Simulated
from leasehold.attest.tcb import check_tcb, with_waiver
from leasehold.attest.tpm.quote import (
    PCRS,
    Attest,
    Signature,
    check_pcrs,
    check_signed,
    parse_attest,
    parse_signature,
)
from leasehold.attest.tpm.reference import Tpm
from leasehold.attest.verdict import (
    SIMULATED,
    Appraisal,
    Finding,
    FindingCode,
    Measurement,
    TcbStatus,
    Trust,
)
from leasehold.core.crypto import sha256
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    PlatformNotAllowed,
    UntrustedRoot,
    WrongMeasurement,
)

NAME: Final = "tpm"
NEVER: Final = Instant(253_402_300_799_000)  # the end of the year 9999: a bare key has no end
HYPERVISOR_TRUSTED: Final = Finding(
    FindingCode.HYPERVISOR_TRUSTED,
    "vouched for by a TPM that the hypervisor's owner may have made: it proves nothing against them",
)
_PARTS: Final = 3
_KEPT: Final = 256  # machines come back with every attestation
_PCR_NAMES: Final = tuple(f"PCR{index}" for index in range(PCRS))
_PEM: Final = re.compile(
    rb"-----BEGIN (PUBLIC KEY|CERTIFICATE)-----[ \t\r]*\n([A-Za-z0-9+/=\s]+?)-----END \1-----\s*"
)


@dataclass(frozen=True, slots=True)
class Quoted:
    """A quote that one key signed, with the registers' values by index; whose key it is, is open.

    `key_sha256` is the SHA-256 of the key's DER SubjectPublicKeyInfo, in hex.
    """

    attest: Attest
    signature: Signature
    pcrs: dict[int, bytes]
    key_sha256: str


@lru_cache(maxsize=_KEPT)
def read_key(data: bytes) -> bytes:
    """H-3: the DER SubjectPublicKeyInfo in a key or an X.509 certificate, DER or PEM. Raises BadEvidence.

    A certificate is taken for the key in it alone: nobody's signature on it is checked or believed.
    """
    if data[:1] != b"\x30":
        data = _unwrapped(data)
    parts = children(content(parse_der(data), Tag.SEQUENCE))
    if [part.tag for part, _ in parts] == [Tag.SEQUENCE, Tag.BIT_STRING]:
        return data
    return read_certificate(data).spki


def _unwrapped(data: bytes) -> bytes:
    found = _PEM.fullmatch(data)
    if found is None:
        raise BadEvidence(about="attestation key", expected="a public key or certificate")
    try:
        return base64.b64decode(b"".join(found[2].split()), validate=True)
    except binascii.Error as cause:
        raise BadEvidence(about="attestation key", got=str(cause), expected="base64") from cause


def check_quoted(attest: bytes, signature: bytes, values: bytes, spki: bytes) -> Quoted:
    """H-1, H-2, H-4, H-5: this key signed a quote, and these are the values that it covers.

    Raises BadEvidence, UnsupportedEvidence, QuoteForged.
    """
    said, signed = parse_attest(attest), parse_signature(signature)
    check_signed(said, signed, spki)
    return Quoted(said, signed, check_pcrs(said, signed, values), sha256(spki).hex())


def authenticate(evidence: Evidence) -> Quoted:
    """H-1 to H-5: evidence's quote, signed by the key that comes with it. Raises as `check_quoted` does."""
    if len(evidence.endorsements) != _PARTS:
        raise BadEvidence(
            about="TPM evidence",
            got=f"{len(evidence.endorsements)} endorsements",
            expected="signature, attestation key, PCR values",
        )
    signature, key, values = evidence.endorsements
    return check_quoted(evidence.quote, signature, values, read_key(key))


def decide_trust(key_sha256: str, keys: tuple[str, ...], simulated: Simulated | None) -> Trust:
    """H-6: a TPM has no vendor's root here: a key is trusted because the custodian named it.

    Raises UntrustedRoot.
    """
    if simulated is not None and key_sha256 == simulated.tpm_key_sha256:
        return Trust.SIMULATION
    if key_sha256 in keys:
        return Trust.PRODUCTION
    raise UntrustedRoot(
        about="attestation key, whose signature fits and for whom nobody vouches",
        got=key_sha256,
        expected="a key that the manifest's [tpm] attestation_keys names",
    )


def check_allowed(expected: Tpm | None, *, platform: str) -> Tpm:
    """H-7: the manifest has `[tpm]` and trusts the hypervisor's owner. Raises PlatformNotAllowed."""
    if expected is None:
        raise PlatformNotAllowed(got=platform, expected="a table [tpm]")
    if not expected.unsafe_trust_hypervisor_owner:
        raise PlatformNotAllowed(
            about="a vTPM, which says whatever the owner of the hypervisor wants it to say",
            got=f"{platform}, unsafe_trust_hypervisor_owner = false",
            expected="a platform that does not need this trust",
        )
    return expected


def check_reference(quoted: Quoted, expected: Tpm) -> None:
    """H-8: every register that the manifest names was quoted and holds a value it lists.

    Raises WrongMeasurement.
    """
    for index, allowed in expected.pcrs.items():
        value = quoted.pcrs.get(int(index))
        if value is None or value.hex() not in allowed:
            raise WrongMeasurement(
                about=f"PCR {index}",
                got="not quoted" if value is None else value,
                expected=", ".join(allowed),
            )


def status_of(quoted: Quoted, expected: Tpm) -> TcbStatus:
    """H-8: TPM makers publish no status; a firmware version that the manifest lists is up to date."""
    listed = f"{quoted.attest.firmware_version:016x}" in expected.firmware_versions
    return TcbStatus.UP_TO_DATE if listed else TcbStatus.OUT_OF_DATE


def measurements(quoted: Quoted) -> tuple[Measurement, ...]:
    """What the registers hold: the digest over all that were quoted, each one, and the firmware version."""
    return (
        Measurement("PCRDIGEST", quoted.attest.pcr_digest.hex()),
        *(Measurement(_PCR_NAMES[index], value.hex()) for index, value in quoted.pcrs.items()),
        Measurement("TPMFIRMWARE", f"{quoted.attest.firmware_version:016x}"),
    )


def observe(
    evidence: Evidence, collateral: CollateralStore, *, simulated: Simulated | None, now: Instant
) -> Appraisal:
    """H-1 to H-6: TPM evidence under the simulated key; without a manifest no other key is trusted."""
    del collateral, now
    quoted = authenticate(evidence)
    return _observed(quoted, decide_trust(quoted.key_sha256, (), simulated), TcbStatus.NOT_JUDGED)


def appraise(
    evidence: Evidence, manifest: Manifest, collateral: CollateralStore, *, now: Instant
) -> Appraisal:
    """H-1 to H-8: judge TPM evidence by the manifest's `[tpm]` table."""
    del collateral
    expected = check_allowed(manifest.tpm, platform=NAME)  # H-7
    quoted = authenticate(evidence)
    trust = decide_trust(quoted.key_sha256, expected.attestation_keys, manifest.simulated)
    status = status_of(quoted, expected)  # H-8
    waiver = check_tcb(status, (), manifest.waivers, now=now)
    check_reference(quoted, expected)
    return with_waiver(_observed(quoted, trust, status), waiver)


def _observed(quoted: Quoted, trust: Trust, status: TcbStatus) -> Appraisal:
    return Appraisal(
        platform=NAME,
        trust=trust,
        tcb_status=status,
        advisories=(),
        measurements=measurements(quoted),
        machine=quoted.key_sha256,
        platform_instance=None,
        report_data=quoted.attest.extra_data,
        ends=NEVER,
        findings=(*((SIMULATED,) if trust is Trust.SIMULATION else ()), HYPERVISOR_TRUSTED),
    )


PLATFORM: Final = Platform(NAME, observe, appraise, commitment=sha256)  # H-9
