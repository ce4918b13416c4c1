"""The machine's identity: Intel's SGX extension in a PCK certificate.

Source: Intel SGX PCK Certificate and CRL Profile Specification, section 3.5 (OIDs below
1.2.840.113741.1.13.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from leasehold.attest.der import (
    Element,
    Tag,
    boolean,
    content,
    integer,
    octets,
    parse_der,
    sequence,
)
from leasehold.attest.verdict import SIMULATED, Finding, FindingCode, Trust
from leasehold.errors import BadEvidence

_NAME: Final = "1.2.840.113741.1.13.1"
_ARC: Final = bytes.fromhex("2a864886f84d010d01")  # the same, as DER content octets
_PPID, _TCB, _PCE_ID, _FMSPC, _SGX_TYPE, _INSTANCE, _CONFIGURATION = (
    bytes((n,)) for n in range(1, 8)
)
_KEPT: Final = 256  # machines come back with every attestation
_PCE_SVN, _CPU_SVN = b"\x11", b"\x12"


@dataclass(frozen=True, slots=True)
class Pck:
    """Who the machine is and how its microcode is patched; `platform_instance_id` with a Platform CA."""

    ppid: bytes
    fmspc: bytes
    pce_id: bytes
    cpu_svn: bytes
    pce_svn: int
    sgx_type: int
    platform_instance_id: bytes | None
    dynamic_platform: bool
    cached_keys: bool
    smt_enabled: bool


@lru_cache(maxsize=_KEPT)
def parse_pck(extension: bytes | None) -> Pck:
    """V-4: read the extension's DER. Raises BadEvidence; unknown OIDs below Intel's are passed over."""
    if extension is None:
        raise BadEvidence(about="PCK certificate", expected=f"the extension {_NAME}")
    fields = _fields(parse_der(extension), _ARC)
    tcb = _fields(_field(fields, _TCB), _ARC + _TCB)
    instance = fields.get(_INSTANCE)
    configuration = (
        _fields(fields[_CONFIGURATION], _ARC + _CONFIGURATION) if _CONFIGURATION in fields else {}
    )
    return Pck(
        ppid=octets(_field(fields, _PPID), 16),
        fmspc=octets(_field(fields, _FMSPC), 6),
        pce_id=octets(_field(fields, _PCE_ID), 2),
        cpu_svn=octets(_field(tcb, _CPU_SVN), 16),
        pce_svn=integer(_field(tcb, _PCE_SVN)),
        sgx_type=integer(_field(fields, _SGX_TYPE), tag=Tag.ENUMERATED),
        platform_instance_id=None if instance is None else octets(instance, 16),
        dynamic_platform=_flag(configuration, b"\x01"),
        cached_keys=_flag(configuration, b"\x02"),
        smt_enabled=_flag(configuration, b"\x03"),
    )


def _fields(element: Element, arc: bytes) -> dict[bytes, Element]:
    """The values of a SEQUENCE of SEQUENCE {OID, value} by the octets of their OID after `arc`."""
    found: dict[bytes, Element] = {}
    for pair in sequence(element):
        parts = sequence(pair)
        if len(parts) != 2:
            raise BadEvidence(about="SGX extension", got=len(parts), expected="an OID and a value")
        name = content(parts[0], Tag.OBJECT_IDENTIFIER)
        short = name[len(arc) :]
        if not name.startswith(arc) or short in found:
            raise BadEvidence(about="SGX extension", got=name, expected=f"new OIDs below {_NAME}")
        found[short] = parts[1]
    return found


def _field(fields: dict[bytes, Element], short: bytes) -> Element:
    if short not in fields:
        raise BadEvidence(about="SGX extension", expected=f"{_NAME}.x.{short[-1]}")
    return fields[short]


def _flag(fields: dict[bytes, Element], short: bytes) -> bool:
    return short in fields and boolean(fields[short])


def instance_of(pck: Pck) -> str | None:
    """The platform instance id in hex, where the machine has one."""
    return None if pck.platform_instance_id is None else pck.platform_instance_id.hex()


def platform_findings(trust: Trust, advisories: tuple[str, ...], pck: Pck) -> tuple[Finding, ...]:
    """What passed and people should still see of an Intel platform."""
    found = [SIMULATED] if trust is Trust.SIMULATION else []
    if advisories:
        found.append(Finding(FindingCode.ADVISORIES, f"advisories: {', '.join(advisories)}"))
    for is_set, code, text in (
        (
            pck.dynamic_platform,
            FindingCode.DYNAMIC_PLATFORM,
            "dynamic platform: processors can be added or replaced",
        ),
        (pck.cached_keys, FindingCode.CACHED_KEYS, "the vendor keeps this platform's root keys"),
        (pck.smt_enabled, FindingCode.SMT, "simultaneous multithreading is on"),
    ):
        if is_set:
            found.append(Finding(code, text))
    return tuple(found)
