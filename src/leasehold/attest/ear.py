"""The EAT Attestation Result: what this verifier found out, signed, for relying parties that are not Leasehold.

Spec: docs/spec/attestation-result.md. Sources: draft-ietf-rats-ear-04 (claims), draft-ietf-rats-ar4si
(trustworthiness vector), RFC 7515 (compact JWS), RFC 8037 (EdDSA), RFC 9782 (`eat+jwt`). Nothing of
Leasehold's own trust rests on it. Refuses to know how the evidence was verified.
"""

from __future__ import annotations

import base64
import binascii
import re
from enum import IntEnum, StrEnum
from typing import Annotated, Final, Literal

import msgspec

from leasehold.attest.verdict import Appraisal, Device, FindingCode, TcbStatus, Trust, Verdict
from leasehold.core.crypto import SigningKey, check_signature, sha256
from leasehold.core.units import DAY, KIB, MINUTE, SECOND, Instant
from leasehold.errors import BadMessage, EvidenceExpired

PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"
DEVELOPER: Final = "Leasehold"
MEDIA_TYPE: Final = "eat+jwt"
TOKEN_BYTES_MAX: Final = 256 * KIB  # a machine with eight GPUs takes ~10 KiB
LIFE_MAX: Final = DAY  # a revocation reaches relying parties within a day, as it does consumers
CLOCK_SKEW_MAX: Final = 5 * MINUTE
NONCE_BYTES: Final = (8, 64)  # RFC 9711, 4.1
_BASE64URL: Final = re.compile(r"\A[A-Za-z0-9_-]+\Z")


class Claim(IntEnum):
    """AR4SI, 2.3.4: what is said of one aspect; positive numbers are the draft's, with its reasons."""

    NONE = 0
    UNKNOWN_ELEMENTS = 1
    AFFIRMED = 2
    APPROVED_AT_BOOT = 3
    VULNERABLE = 32
    NOT_ENCRYPTED = 32
    UNAVAILABLE = 36
    CONTRAINDICATED = 96
    NOT_RECOGNISED = 97


class Tier(StrEnum):
    """AR4SI, 3.2."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


class VerifierId(msgspec.Struct, frozen=True):
    """AR4SI, 3.3: whose verifier, and which build of it."""

    developer: str
    build: str


class Vector(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """AR4SI, 2.3.5. An aspect that nothing is said of is left out."""

    instance_identity: Annotated[int, msgspec.Meta(ge=-128, le=127)] = 0
    configuration: Annotated[int, msgspec.Meta(ge=-128, le=127)] = 0
    executables: Annotated[int, msgspec.Meta(ge=-128, le=127)] = 0
    file_system: Annotated[int, msgspec.Meta(ge=-128, le=127)] = 0
    hardware: Annotated[int, msgspec.Meta(ge=-128, le=127)] = 0
    runtime_opaque: Annotated[int, msgspec.Meta(ge=-128, le=127)] = 0
    storage_opaque: Annotated[int, msgspec.Meta(ge=-128, le=127)] = 0
    sourced_data: Annotated[int, msgspec.Meta(ge=-128, le=127)] = 0


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """F-6: the verdict in Leasehold's own words; hex, and milliseconds since the epoch, as everywhere."""

    trust: Trust
    platform: str = ""
    tcb_status: TcbStatus | None = None
    advisories: tuple[str, ...] = ()
    measurements: dict[str, str] = {}
    machine: str = ""
    platform_instance: str | None = None
    report_data: str = ""
    is_bound: bool = False
    findings: tuple[dict[str, str], ...] = ()
    valid_until: Instant | None = None
    device: Device | None = None


class Submodule(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attester's appraisal (draft-ietf-rats-ear, 3.1)."""

    ear_status: Tier
    ear_trustworthiness_vector: Vector
    ear_appraisal_policy_ids: tuple[str, ...] = ()
    ear_leasehold_verdict: Said | None = None


class Ear(msgspec.Struct, frozen=True, omit_defaults=True):
    """The claims-set (draft-ietf-rats-ear, 3); `iat` and `exp` are seconds since the epoch."""

    eat_profile: Literal["tag:ietf.org,2026:rats/ear#04"]
    ear_status: Tier
    iat: int
    exp: int
    ear_verifier_id: VerifierId
    submods: Annotated[dict[str, Submodule], msgspec.Meta(min_length=1, max_length=64)]
    eat_nonce: str | None = None


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """RFC 7515, 4: only what `sign_ear` writes; in particular no `crit`, no `jwk`, no `jku`."""

    alg: Literal["EdDSA"]
    typ: Literal["eat+jwt", "application/eat+jwt"]
    kid: str = ""


# F-4: what each patch level and each finding says of which aspect; the worst thing said counts.
_HARDWARE: Final = {
    TcbStatus.UP_TO_DATE: Claim.AFFIRMED,
    TcbStatus.NOT_JUDGED: Claim.UNKNOWN_ELEMENTS,
    TcbStatus.REVOKED: Claim.CONTRAINDICATED,
}
SAYS: Final[dict[FindingCode, dict[str, Claim]]] = {
    FindingCode.SIMULATED: {},  # F-3 says it all
    FindingCode.WAIVED: {"hardware": Claim.VULNERABLE},
    FindingCode.ADVISORIES: {"hardware": Claim.VULNERABLE},
    FindingCode.DYNAMIC_PLATFORM: {},
    FindingCode.CACHED_KEYS: {},
    FindingCode.SMT: {},
    FindingCode.HYPERVISOR_TRUSTED: {"runtime_opaque": Claim.NOT_ENCRYPTED},
    FindingCode.SHARED_SIGNING_KEY: {},
    FindingCode.MASKED_CHIP: {"instance_identity": Claim.UNKNOWN_ELEMENTS},
    FindingCode.PLATFORM_DEFENCE_OFF: {"configuration": Claim.VULNERABLE},
    FindingCode.MIGRATABLE: {"configuration": Claim.VULNERABLE},
    FindingCode.SIGNER_EXPIRED: {"executables": Claim.VULNERABLE},
    FindingCode.UNSAFE_SETTING: {"configuration": Claim.VULNERABLE},
    FindingCode.DEBUG: {
        "configuration": Claim.CONTRAINDICATED,
        "runtime_opaque": Claim.CONTRAINDICATED,
    },
    FindingCode.REVOCATION_UNKNOWN: {"hardware": Claim.UNKNOWN_ELEMENTS},
    FindingCode.LOW_PRIVILEGE: {},
    FindingCode.NOT_COMPARED: {"executables": Claim.UNKNOWN_ELEMENTS},
}
_OF_DEVICES: Final = (
    FindingCode.SIGNER_EXPIRED,
    FindingCode.REVOCATION_UNKNOWN,
    FindingCode.NOT_COMPARED,
)
_SIMULATED: Final = Vector(
    instance_identity=Claim.CONTRAINDICATED,
    hardware=Claim.NOT_RECOGNISED,
    runtime_opaque=Claim.CONTRAINDICATED,
)


def tier_of(claim: int) -> Tier:
    """AR4SI, 2.3.2: which tier a value belongs to."""
    if claim in (-1, 0, 1):
        return Tier.NONE
    size = claim if claim > 0 else -claim - 1  # -2 to -32 are a verifier's own, like 2 to 31
    if size <= 31:
        return Tier.AFFIRMING
    return Tier.WARNING if size <= 95 else Tier.CONTRAINDICATED


_TRUST_ORDER: Final = (Tier.CONTRAINDICATED, Tier.WARNING, Tier.NONE, Tier.AFFIRMING)


def status_of(vector: Vector) -> Tier:
    """F-5: the worst tier of anything said; where something could not be judged, nothing is affirmed."""
    said = [tier_of(value) for name in Vector.__struct_fields__ if (value := getattr(vector, name))]
    return min(said, key=_TRUST_ORDER.index, default=Tier.NONE)


def vector_of(
    trust: Trust, status: TcbStatus, codes: frozenset[FindingCode], *, is_judged: bool
) -> Vector:
    """F-3, F-4: the trustworthiness vector; without a policy, code is what nobody could judge."""
    if trust is Trust.SIMULATION:
        return _SIMULATED
    said: dict[str, int] = {
        "hardware": _HARDWARE.get(status, Claim.VULNERABLE),
        "runtime_opaque": Claim.AFFIRMED,
        "executables": Claim.UNKNOWN_ELEMENTS,
    }
    if is_judged:
        said |= {
            "instance_identity": Claim.AFFIRMED,
            "configuration": Claim.AFFIRMED,
            "executables": Claim.APPROVED_AT_BOOT,
        }
    for code in codes:
        for aspect, claim in SAYS[code].items():
            said[aspect] = _worse(said.get(aspect, Claim.NONE), claim)
    return Vector(**said)


def _worse(one: int, other: int) -> int:
    """What counts where two things are said of one aspect; anything beats silence."""
    said = [value for value in (one, other) if value]
    return min(said, key=lambda value: _TRUST_ORDER.index(tier_of(value)), default=0)


def _details(found: Verdict | Appraisal, ends: Instant, *, is_bound: bool) -> Said:
    return Said(
        trust=found.trust,
        platform=found.platform,
        tcb_status=found.tcb_status,
        advisories=found.advisories,
        measurements=dict(found.measurements),
        machine=found.machine,
        platform_instance=found.platform_instance,
        report_data=found.report_data.hex(),
        is_bound=is_bound,
        findings=tuple({"code": one.code.value, "text": one.text} for one in found.findings),
        valid_until=ends,
    )


def make_ear(
    found: Verdict | Appraisal,
    *,
    now: Instant,
    build: str,
    policy: str | None = None,
    devices: tuple[Device, ...] = (),
    nonce: bytes | None = None,
) -> Ear:
    """F-1, F-2, F-3 to F-6: the claims for a verdict, or for an appraisal that no connection was bound to.

    A verdict brings its policy and devices along; an appraisal was judged by the manifest whose digest
    (hex) is `policy`, or by nobody. `nonce` is the relying party's, 8 to 64 bytes. Raises BadMessage.
    """
    is_bound = isinstance(found, Verdict)
    if isinstance(found, Verdict):
        policy, devices, ends = found.policy, found.devices, found.valid_until
    else:
        ends = found.ends
    if nonce is not None and not NONCE_BYTES[0] <= len(nonce) <= NONCE_BYTES[1]:
        raise BadMessage(about="nonce", got=f"{len(nonce)} bytes", expected="8 to 64 bytes")
    codes = frozenset(finding.code for finding in found.findings)
    policies = () if policy is None else (f"leasehold-manifest:sha256:{policy}",)
    is_judged = policy is not None
    vector = vector_of(found.trust, found.tcb_status, codes, is_judged=is_judged)
    submods = {
        found.platform: Submodule(
            status_of(vector), vector, policies, _details(found, ends, is_bound=is_bound)
        )
    }
    for device in devices:
        beside = vector_of(
            found.trust, TcbStatus.UP_TO_DATE, codes & set(_OF_DEVICES), is_judged=is_judged
        )
        submods[f"{device.kind}/{device.identity}"] = Submodule(
            status_of(beside), beside, policies, Said(found.trust, device=device)
        )
    return Ear(  # F-2
        eat_profile="tag:ietf.org,2026:rats/ear#04",
        ear_status=min((one.ear_status for one in submods.values()), key=_TRUST_ORDER.index),
        iat=now // SECOND,
        exp=min(ends, now + LIFE_MAX) // SECOND,
        ear_verifier_id=VerifierId(DEVELOPER, build),
        submods=submods,
        eat_nonce=None if nonce is None else _encode(nonce),
    )


# The token ---------------------------------------------------------------------------------------


def public_jwk(public: bytes) -> dict[str, str]:
    """F-7: the verifier's public key for other people's tools (RFC 8037, 2), with its thumbprint."""
    return {"kty": "OKP", "crv": "Ed25519", "x": _encode(public), "kid": thumbprint(public)}


def thumbprint(public: bytes) -> str:
    """RFC 7638 with RFC 8037, appendix A.3."""
    text = f'{{"crv":"Ed25519","kty":"OKP","x":"{_encode(public)}"}}'
    return _encode(sha256(text.encode()))


def sign_ear(ear: Ear, key: SigningKey) -> str:
    """F-7: a compact JWS. It never begins like a frame (B-1), so neither is taken for the other."""
    header = _Header("EdDSA", "eat+jwt", thumbprint(key.public))
    signed = ".".join(_encode(msgspec.json.encode(part)) for part in (header, ear))
    return f"{signed}.{_encode(key.sign(signed.encode()))}"


def unchecked_ear(token: str) -> Ear:
    """The claims of a token that nobody checked, for inspection. Raises BadMessage."""
    return _split(token)[1]


def read_ear(token: str, public: bytes, *, now: Instant) -> Ear:
    """F-8: the claims of a token that this verifier signed and that counts now.

    Raises BadMessage, BadSignature, EvidenceExpired.
    """
    signed, ear, signature = _split(token)
    check_signature(public, signed.encode(), signature)
    if ear.iat * SECOND > now + CLOCK_SKEW_MAX or now >= ear.exp * SECOND:
        raise EvidenceExpired(
            about="attestation result", got=now, expected=f"{ear.iat} to {ear.exp} s"
        )
    for label, one in ear.submods.items():
        honest = status_of(one.ear_trustworthiness_vector)
        for status in (one.ear_status, ear.ear_status):
            if _TRUST_ORDER.index(status) > _TRUST_ORDER.index(honest):
                raise BadMessage(about=f"ear_status of {label}", got=status, expected=honest)
    return ear


def _split(token: str) -> tuple[str, Ear, bytes]:
    """What is signed, the claims, and the signature."""
    if len(token) > TOKEN_BYTES_MAX:
        raise BadMessage(about="EAR", got=len(token), expected=f"<= {TOKEN_BYTES_MAX} bytes")
    signed, _, signature = token.rpartition(".")
    header, dot, claims = signed.partition(".")
    if not dot:
        raise BadMessage(about="EAR", expected="three parts with dots between them")
    try:
        msgspec.json.decode(_decode(header), type=_Header)
        return signed, msgspec.json.decode(_decode(claims), type=Ear), _decode(signature)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise BadMessage(about="EAR", got=str(cause)) from cause


def _encode(data: bytes) -> str:
    """RFC 7515, 2: base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    """The same back, in its one canonical spelling."""
    try:
        if _BASE64URL.match(text):
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            if _encode(data) == text:
                return data
    except (binascii.Error, ValueError):
        pass
    raise BadMessage(about="EAR", got=text, expected="base64url without padding")
