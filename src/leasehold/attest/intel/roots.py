"""The vendors' roots that are compiled in, and the names that their certificates' roles go by.

Pins are SHA-256 of the DER SubjectPublicKeyInfo: a re-issued root certificate keeps its key.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import Trust
from leasehold.attest.x509 import Certificate
from leasehold.errors import UntrustedRoot

INTEL_SGX_ROOT_SPKI_SHA256: Final = (
    "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
)

# https://certificates.trustedservices.intel.com/IntelSGXRootCA.der, valid to 2049.
INTEL_SGX_ROOT_DER: Final = base64.b64decode("""
MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIw
aDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENv
cnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJ
BgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgG
A1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0
aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT
AlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi7
1OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOB
uzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJ
MEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50
ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SV
Ur9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYI
KoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwg
AiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI=
""")


@dataclass(frozen=True, slots=True)
class Roles:
    """The common names that say what a certificate of this hierarchy is for."""

    root: str
    processor_ca: str
    platform_ca: str
    pck: str
    tcb_signing: str


INTEL_ROLES: Final = Roles(
    root="Intel SGX Root CA",
    processor_ca="Intel SGX PCK Processor CA",
    platform_ca="Intel SGX PCK Platform CA",
    pck="Intel SGX PCK Certificate",
    tcb_signing="Intel SGX TCB Signing",
)
SIMULATED_ROLES: Final = Roles(
    root="SIMULATED SGX Root CA",
    processor_ca="SIMULATED SGX PCK Processor CA",
    platform_ca="SIMULATED SGX PCK Platform CA",
    pck="SIMULATED SGX PCK Certificate",
    tcb_signing="SIMULATED SGX TCB Signing",
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """The root that this evidence is verified under, and what trusting it is worth."""

    trust: Trust
    der: bytes
    spki_sha256: str
    roles: Roles


INTEL: Final = Anchor(Trust.PRODUCTION, INTEL_SGX_ROOT_DER, INTEL_SGX_ROOT_SPKI_SHA256, INTEL_ROLES)


def decide_anchor(root: Certificate, simulated: Simulated | None) -> Anchor:
    """V-5: Intel's root by its key, or the very certificate that the manifest names as simulated.

    The returned root is the one compiled in, or the one whose fingerprint the custodian signed.
    Raises UntrustedRoot.
    """
    if root.spki_sha256 == INTEL.spki_sha256:
        return INTEL
    if simulated is not None and root.sha256 == simulated.root_sha256:
        return Anchor(Trust.SIMULATION, root.der, root.spki_sha256, SIMULATED_ROLES)
    raise UntrustedRoot(
        got=root.sha256,
        expected="Intel's root"
        if simulated is None or simulated.root_sha256 is None
        else f"Intel's root or {simulated.root_sha256}",
    )
