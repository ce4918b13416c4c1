"""Azure's confidential VMs: a hardware report that vouches for the key of a vTPM, which vouches for the rest.

Steps H-10 to H-14 of docs/spec/tpm.md. Azure's paravisor (HCL) hands out one report of the hardware,
made at boot; what is fresh is the vTPM's quote. Source: Microsoft, "Azure confidential VM guest
attestation design". All integers are little-endian. The hardware's own evidence is judged by its own
platform module, as if it had come alone.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Final

import msgspec

from leasehold.attest.collateral import CollateralStore
from leasehold.attest.manifest import Manifest
from leasehold.attest.platform import Platform
from leasehold.attest.reference import Simulated
from leasehold.attest.signatures import rsa_spki
from leasehold.attest.tcb import check_tcb, with_waiver
from leasehold.attest.tpm.tpm import (
    HYPERVISOR_TRUSTED,
    Quoted,
    check_allowed,
    check_quoted,
    check_reference,
    measurements,
    status_of,
)
from leasehold.attest.verdict import Appraisal, TcbStatus
from leasehold.core.crypto import is_equal, sha256
from leasehold.core.evidence import Evidence
from leasehold.core.units import KIB, Instant
from leasehold.errors import (
    BadEvidence,
    EvidenceRejected,
    UnsupportedEvidence,
    WrongAttributes,
    WrongBinding,
)

HCL_BYTES_MAX: Final = 8 * KIB  # the vTPM's NV index holds 2,600
MAGIC: Final = b"HCLA"
AK_NAME: Final = "HCLAkPub"
HARDWARE_BYTES: Final = 1184
SNP: Final = 2
TDX: Final = 4
_VERSIONS: Final = (1, 2)
_HEADER_BYTES: Final = 32
_DATA_AT: Final = _HEADER_BYTES + HARDWARE_BYTES
_DATA_HEADER_BYTES: Final = 20
_JSON_AT: Final = _DATA_AT + _DATA_HEADER_BYTES
_SHA256: Final = 1
_RSA_BYTES: Final = (256, 512)  # RSA-2048 to RSA-4096
_EXPONENT: Final = 65537
_BASE64URL: Final = re.compile(r"\A[A-Za-z0-9_-]+\Z")
_SNP_VMPL: Final = slice(0x30, 0x34)
_SNP_REPORT_DATA: Final = slice(0x50, 0x90)
_TDREPORT_DATA: Final = slice(128, 192)  # Intel TDX Module ABI, REPORTMACSTRUCT


class Jwk(msgspec.Struct, frozen=True):
    """A JSON Web Key (RFC 7517); `n` and `e` in base64url."""

    kid: Annotated[str, msgspec.Meta(max_length=64)]
    kty: Annotated[str, msgspec.Meta(max_length=16)] = ""
    n: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    e: Annotated[str, msgspec.Meta(max_length=16)] = ""


class Runtime(msgspec.Struct, frozen=True, rename="kebab"):
    """What the paravisor says of this VM; other claims are passed over, and settings are left as they came."""

    keys: Annotated[tuple[Jwk, ...], msgspec.Meta(max_length=16)]
    vm_configuration: dict[str, msgspec.Raw] = {}
    user_data: str = ""


@dataclass(frozen=True, slots=True)
class HclReport:
    """A parsed report: `kind` is `SNP` or `TDX`; `runtime_bytes` is what the hardware report vouches for."""

    version: int
    request: int
    kind: int
    hardware: bytes
    runtime: Runtime
    runtime_bytes: bytes

    @property
    def runtime_sha256(self) -> bytes:
        """What the first half of the hardware's report data must be."""
        return sha256(self.runtime_bytes)

    @property
    def hardware_data(self) -> bytes:
        """The report data, 64 bytes, in the hardware report as it lies here: not yet believed."""
        return self.hardware[_SNP_REPORT_DATA if self.kind == SNP else _TDREPORT_DATA]


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def parse_hcl(data: bytes) -> HclReport:
    """H-10: the parts of an HCL report. Raises BadEvidence, UnsupportedEvidence."""
    if not _JSON_AT < len(data) <= HCL_BYTES_MAX:
        raise BadEvidence(
            about="HCL report", got=f"{len(data)} bytes", expected=f"{_JSON_AT} to {HCL_BYTES_MAX}"
        )
    if data[:4] != MAGIC:
        raise BadEvidence(about="HCL report", got=data[:4], expected=MAGIC)
    version, size, request = (_u32(data, at) for at in (4, 8, 12))
    if version not in _VERSIONS:
        raise UnsupportedEvidence(about="HCL report version", got=version, expected="1 or 2")
    room, _, kind, hashed, length = (_u32(data, _DATA_AT + at) for at in range(0, 20, 4))
    if kind not in (SNP, TDX) or hashed != _SHA256:
        raise UnsupportedEvidence(
            about="HCL report",
            got=f"hardware {kind}, hash {hashed}",
            expected="2 or 4, 1 (SHA-256)",
        )
    end = _JSON_AT + length
    if room != _DATA_HEADER_BYTES + length or size != _DATA_AT + room or end > len(data):
        raise BadEvidence(
            about="HCL report's lengths", got=f"{size}, {room}, {length}", expected="the same end"
        )
    if any(data[end:]):
        raise BadEvidence(about="HCL report", got="bytes after the end", expected="only zeros")
    body = data[_JSON_AT:end]
    return HclReport(version, request, kind, data[_HEADER_BYTES:_DATA_AT], _runtime(body), body)


def _runtime(body: bytes) -> Runtime:
    try:
        return msgspec.json.decode(body, type=Runtime)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise BadEvidence(about="HCL runtime data", got=str(cause)) from cause


def attestation_key(runtime: Runtime) -> bytes:
    """H-11: the one key called HCLAkPub as DER SubjectPublicKeyInfo. Raises BadEvidence."""
    found = [key for key in runtime.keys if key.kid == AK_NAME]
    if len(found) != 1 or found[0].kty != "RSA":
        raise BadEvidence(about="HCL runtime data", got=len(found), expected=f"one RSA {AK_NAME}")
    modulus, exponent = _base64url(found[0].n), _base64url(found[0].e)
    low, high = _RSA_BYTES
    spki = None
    if low <= len(modulus) <= high and int.from_bytes(exponent, "big") == _EXPONENT:
        spki = rsa_spki(int.from_bytes(modulus, "big"), _EXPONENT)
    if spki is None:
        raise BadEvidence(about=AK_NAME, got=f"{len(modulus)} bytes", expected="RSA-2048 to 4096")
    return spki


def _base64url(text: str) -> bytes:
    """RFC 7515, 2: without padding."""
    if not _BASE64URL.match(text) or len(text) % 4 == 1:
        raise BadEvidence(about=AK_NAME, got=text, expected="base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True, slots=True)
class _Hardware:
    """What stands behind one row: how the report says it, who judges it, and the name it then has."""

    name: str
    kind: int
    platform: Platform

    def inner(self, report: HclReport, beside: tuple[bytes, ...]) -> Evidence:
        """H-12: the hardware's own evidence. SNP: the report itself; TDX: a TD quote beside it."""
        if self.kind == SNP:
            return Evidence(self.platform.name, report.hardware, beside)
        if len(beside) != 1:
            raise BadEvidence(about=self.name, got=len(beside), expected="one TD quote")
        return Evidence(self.platform.name, beside[0])


def _appraise(
    hardware: _Hardware, evidence: Evidence, judge: Callable[[Evidence], Appraisal]
) -> tuple[Quoted, Appraisal]:
    """H-10 to H-13: the vTPM's quote, the hardware's appraisal, and that the one vouches for the other."""
    report = parse_hcl(evidence.quote)  # H-10
    if report.kind != hardware.kind:
        raise BadEvidence(about="HCL hardware", got=report.kind, expected=hardware.kind)
    if len(evidence.endorsements) < 3:
        raise BadEvidence(
            about=f"{hardware.name} evidence",
            got=f"{len(evidence.endorsements)} endorsements",
            expected="TPM quote, its signature, PCR values, and what the hardware hands out",
        )
    attest, signature, values, *beside = evidence.endorsements
    quoted = check_quoted(attest, signature, values, attestation_key(report.runtime))  # H-11
    found = judge(hardware.inner(report, tuple(beside)))  # H-12
    check_bound(report, found.report_data)  # H-13
    return quoted, found


def check_bound(report: HclReport, report_data: bytes) -> None:
    """H-13: the verified hardware vouches for this runtime data, and the guest could not have asked it to.

    A guest gets SNP reports over data of its own, at its own privilege level; only the paravisor runs at
    level 0. Raises WrongBinding, WrongAttributes, EvidenceRejected.
    """
    expected = report.runtime_sha256 + bytes(32)
    if not is_equal(report_data, expected):
        raise WrongBinding(about="HCL runtime data", got=report_data, expected=expected)
    if not is_equal(report.hardware_data, report_data):
        raise EvidenceRejected(
            about="two hardware reports", got=report.hardware_data, expected=report_data
        )
    if report.kind == SNP and any(report.hardware[_SNP_VMPL]):
        raise WrongAttributes(
            about="VMPL", got=_u32(report.hardware, _SNP_VMPL.start), expected="0, the paravisor's"
        )


def _observed(name: str, quoted: Quoted, found: Appraisal) -> Appraisal:
    """H-14: one appraisal of both. The machine is the hardware, the instance is the vTPM's key."""
    return replace(
        found,
        platform=name,
        measurements=(*found.measurements, *measurements(quoted)),
        platform_instance=quoted.key_sha256,
        report_data=quoted.attest.extra_data,
        findings=(*found.findings, HYPERVISOR_TRUSTED),
    )


def observe(
    hardware: _Hardware,
    evidence: Evidence,
    collateral: CollateralStore,
    *,
    simulated: Simulated | None,
    now: Instant,
) -> Appraisal:
    """H-10 to H-14 without a policy: authentic Azure evidence and what it says."""
    judge = partial(hardware.platform.observe, collateral=collateral, simulated=simulated, now=now)
    quoted, found = _appraise(hardware, evidence, judge)
    return _observed(hardware.name, quoted, found)


def appraise(
    hardware: _Hardware,
    evidence: Evidence,
    manifest: Manifest,
    collateral: CollateralStore,
    *,
    now: Instant,
) -> Appraisal:
    """H-10 to H-14: judge Azure evidence by the manifest's `[tpm]` and by the hardware's own table."""
    expected = check_allowed(manifest.tpm, platform=hardware.name)  # H-7
    judge = partial(hardware.platform.appraise, manifest=manifest, collateral=collateral, now=now)
    quoted, found = _appraise(hardware, evidence, judge)
    status = status_of(quoted, expected)  # H-8
    waiver = check_tcb(status, (), manifest.waivers, now=now)
    check_reference(quoted, expected)
    if status is not TcbStatus.UP_TO_DATE:
        found = replace(found, tcb_status=status)
    return with_waiver(_observed(hardware.name, quoted, found), waiver)


def azure(name: str, kind: int, platform: Platform) -> Platform:
    """The row of Azure VMs whose hardware (`SNP` or `TDX`) is verified by this platform's row."""
    hardware = _Hardware(name, kind, platform)
    return Platform(
        name, partial(observe, hardware), partial(appraise, hardware), commitment=sha256
    )
