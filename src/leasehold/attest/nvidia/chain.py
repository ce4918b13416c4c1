"""A device's certificate chain up to NVIDIA's identity root, and whether its key signed a report.

Source: NVIDIA device identity chains (nvtrust); TCG DICE Attestation Architecture, 6.1 (TcbInfo), and
its forerunner in Hopper's certificates. Refuses to know what a report should say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from leasehold.attest.certificate import (
    DerCertificate,
    check_issued,
    check_valid_at,
    read_certificates,
)
from leasehold.attest.der import Tag, children, content, octets, parse_der, sequence
from leasehold.attest.nvidia.report import SIGNATURE_BYTES, SWITCH, Opaque, Report
from leasehold.attest.reference import Simulated
from leasehold.attest.signatures import Scheme, ecdsa_der, is_signed
from leasehold.attest.verdict import Trust
from leasehold.core.units import Instant
from leasehold.errors import BadEvidence, CertificateRejected, QuoteForged, UntrustedRoot

CHAIN_LENGTH: Final = 5
CHAIN_BYTES_MAX: Final = 16 * 1024  # NVML's buffer has 5 KiB
DEVICE_ROOT_SPKI_SHA256: Final = "a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4"
_ROLES: Final = (
    ("device key", r"({chip}) [A-Z0-9]+ [GF]SP FMC LF"),
    ("device", r"({chip}) [A-Z0-9]+ [GF]SP BROM"),
    ("provisioner", r"{vendor} ({chip}) Provisioner ICA [0-9]+"),
    ("family", r"{vendor} ({chip}) Identity"),
    ("root", r"{vendor} Device Identity CA"),
)
_CHIP: Final = r"[A-Z]{2}_?[0-9]{2,3}"
_MAY_BE_CRITICAL: Final = frozenset({bytes.fromhex("551d0f"), bytes.fromhex("551d13")})
_DICE: Final = bytes.fromhex("678105050401")  # 2.23.133.5.4.1, Hopper
_DICE_TCB_INFO: Final = bytes.fromhex("67810505040101")  # ...1.1, Blackwell
_FWIDS: Final = 0xA6
_KEPT: Final = 64  # devices come back with every attestation
_SHA384: Final = bytes.fromhex("608648016503040202")


@dataclass(frozen=True, slots=True)
class DeviceChain:
    """A chain that was checked, device key first. `chip` is its name for it: `GH100`, `GB100`, `LS10`.

    `firmware` is the SHA-384 of the firmware that the device key was made for, None where it names none.
    """

    certificates: tuple[DerCertificate, ...]
    trust: Trust
    chip: str
    firmware: bytes | None

    @property
    def identity(self) -> str:
        """The device key's serial number in hex, which NVIDIA calls UEID; firmware updates may change it."""
        return f"{self.certificates[0].serial:040x}"

    @property
    def hardware(self) -> str:
        """The serial number of the certificate burnt into the device, in hex."""
        return f"{self.certificates[1].serial:018x}"

    @property
    def ends(self) -> Instant:
        """When the first of its certificates ends."""
        return min(one.ends for one in self.certificates)

    @property
    def revocable(self) -> tuple[tuple[DerCertificate, DerCertificate], ...]:
        """Each certificate between device key and root, with its issuer: those that OCSP answers for."""
        return tuple(zip(self.certificates[1:-1], self.certificates[2:], strict=True))


def read_device_chain(
    pem: bytes, kind: str, *, simulated: Simulated | None, now: Instant
) -> DeviceChain:
    """D-3: a device's five certificates, each for its role, up to a trusted root.

    Raises BadEvidence, UntrustedRoot, CertificateRejected.
    """
    root = None if simulated is None else simulated.nvidia_root_sha256
    chain = _read(pem, kind, root)
    for one in chain.certificates:
        check_valid_at(one, now=now)
    return chain


@lru_cache(maxsize=_KEPT)
def _read(pem: bytes, kind: str, simulated_sha256: str | None) -> DeviceChain:
    """All of D-3 but the time, which depends on these values alone."""
    if len(pem) > CHAIN_BYTES_MAX:
        raise BadEvidence(about="chain", got=len(pem), expected=f"<= {CHAIN_BYTES_MAX} bytes")
    chain = read_certificates(pem, count_max=CHAIN_LENGTH)
    if len(chain) != CHAIN_LENGTH:
        raise BadEvidence(about="chain", got=f"{len(chain)} certificates", expected=CHAIN_LENGTH)
    trust = decide_root(chain[-1], DEVICE_ROOT_SPKI_SHA256, simulated_sha256)
    chip = _check_roles(chain, kind, trust)
    check_path(tuple(one.der for one in chain))
    return DeviceChain(chain, trust, chip, firmware_id(chain[0]))


def decide_root(root: DerCertificate, pin: str, simulated_sha256: str | None) -> Trust:
    """NVIDIA's root by its key, or the very certificate that the manifest names. Raises UntrustedRoot."""
    if root.spki_sha256 == pin:
        return Trust.PRODUCTION
    if simulated_sha256 is not None and root.sha256 == simulated_sha256:
        return Trust.SIMULATION
    expected = "NVIDIA's root" + ("" if simulated_sha256 is None else f" or {simulated_sha256}")
    raise UntrustedRoot(about=root.name, got=root.sha256, expected=expected)


def _check_roles(chain: tuple[DerCertificate, ...], kind: str, trust: Trust) -> str:
    """D-3: common names say what each certificate is for; tells the chip."""
    vendor = "NVIDIA" if trust is Trust.PRODUCTION else "SIMULATED"
    prefix = "" if trust is Trust.PRODUCTION else "SIMULATED "
    chips: list[str] = []
    for at, (one, (role, pattern)) in enumerate(zip(chain, _ROLES, strict=True)):
        wanted = (prefix if at < 2 else "") + pattern.format(chip=_CHIP, vendor=vendor)
        found = re.fullmatch(wanted, one.name)
        if found is None:
            raise CertificateRejected(about=role, got=one.name, expected=wanted)
        if one.is_authority != (at > 0):
            raise CertificateRejected(about=role, got="an authority", expected="none but above it")
        if not one.critical <= _MAY_BE_CRITICAL:
            raise CertificateRejected(about=role, got="an unknown critical extension")
        chips += found.groups()
    chip = chips[0].replace("_", "")
    if len(set(chips[:3])) != 1 or (kind == SWITCH) != chip.startswith("LS"):
        raise CertificateRejected(about="chip", got=", ".join(chips), expected=f"one {kind}'s")
    return chip


@lru_cache(maxsize=_KEPT)
def check_path(chain: tuple[bytes, ...]) -> None:
    """Each certificate (DER) is signed by the next, the last by itself. Raises CertificateRejected.

    Depends on these bytes alone, so it is done once for each chain.
    """
    certificates = [one for der in chain for one in read_certificates(der, count_max=1)]
    for one, issuer in zip(certificates, [*certificates[1:], certificates[-1]], strict=True):
        check_issued(one, issuer)


def check_report_signed(report: Report, chain: DeviceChain) -> None:
    """D-4: the device key signed the report, and vouches for the firmware that the report names.

    Raises QuoteForged, CertificateRejected, BadEvidence.
    """
    half = SIGNATURE_BYTES // 2
    r, s = (
        int.from_bytes(part, "big") for part in (report.signature[:half], report.signature[half:])
    )
    leaf = chain.certificates[0]
    if not is_signed(leaf.spki, Scheme.ECDSA_SHA384, report.signed, ecdsa_der(r, s)):
        raise QuoteForged(about=report.kind, got="a bad signature", expected=f"one by {leaf.name}")
    told = report.opaque.get(Opaque.FWID)
    if told is not None and told != chain.firmware:
        raise CertificateRejected(about="FWID", got=chain.firmware, expected=told)


def firmware_id(leaf: DerCertificate) -> bytes | None:
    """The SHA-384 of the firmware that a device key was made for; None where it names none.

    Raises BadEvidence.
    """
    if _DICE in leaf.extensions:
        parts = sequence(parse_der(leaf.extensions[_DICE]))
        fwids = parts[-1:]
    elif _DICE_TCB_INFO in leaf.extensions:
        parts = sequence(parse_der(leaf.extensions[_DICE_TCB_INFO]))
        lists = [part.content for part in parts if part.tag == _FWIDS]
        fwids = tuple(one for data in lists for one, _ in children(data))
    else:
        return None
    if not fwids:
        return None
    pair = sequence(fwids[0])
    if len(pair) != 2 or content(pair[0], Tag.OBJECT_IDENTIFIER) != _SHA384:
        raise BadEvidence(about="FWID", got=f"{len(pair)} parts", expected="SHA-384 and its value")
    return octets(pair[1], 48)
