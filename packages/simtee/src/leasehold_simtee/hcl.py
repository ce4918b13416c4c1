"""A SIMULATED paravisor as on Azure: an HCL report around a hardware report, and a vTPM's quotes.

Layout: Microsoft, "Azure confidential VM guest attestation design". All integers are little-endian.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from leasehold.core.crypto import sha256
from leasehold.core.evidence import Evidence
from leasehold_simtee.tpm import SimulatedTpm

SNP: Final = 2
TDX: Final = 4
HARDWARE_BYTES: Final = 1184
NV_BYTES: Final = 2600  # the size of the vTPM's NV index; what follows the report is zero

Hardware = Callable[[bytes], tuple[bytes, tuple[bytes, ...]]]
"""For 64 bytes of report data: the hardware report (padded to 1,184 bytes), and what goes beside it."""


def _text(number: int) -> str:
    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


def runtime_data(key: rsa.RSAPrivateKey) -> bytes:
    """The JSON that the hardware report vouches for."""
    public = key.public_key().public_numbers()
    jwk = {"kty": "RSA", "e": _text(public.e), "n": _text(public.n)}
    told = {
        "keys": [
            {"kid": "HCLAkPub", "key_ops": ["sign"], **jwk},
            {"kid": "HCLEkPub", "key_ops": ["encrypt"], **jwk},
        ],
        "vm-configuration": {"secure-boot": True, "vmUniqueId": "SIMULATED"},
        "user-data": "00" * 64,
    }
    return json.dumps(told, separators=(",", ":")).encode()


def report(
    hardware: bytes, runtime: bytes, *, kind: int, version: int = 2, hashed: int = 1
) -> bytes:
    """An HCL report as the vTPM's NV index holds it."""
    data = b"".join(
        (
            (20 + len(runtime)).to_bytes(4, "little"),
            (1).to_bytes(4, "little"),
            kind.to_bytes(4, "little"),
            hashed.to_bytes(4, "little"),
            len(runtime).to_bytes(4, "little"),
            runtime,
        )
    )
    size = 32 + HARDWARE_BYTES + len(data)
    head = (version, size, 2, 0, 0, 0, 0)
    header = b"HCLA" + b"".join(number.to_bytes(4, "little") for number in head)
    return (header + hardware + data).ljust(NV_BYTES, b"\0")


@dataclass(frozen=True)
class SimulatedParavisor:
    """A VM's paravisor: it has one hardware report made at boot, and answers nonces with its vTPM.

    The vTPM's key is an RSA key. `platform` is `azure-snp` or `azure-tdx`.
    """

    platform: str
    tpm: SimulatedTpm
    hardware: Hardware

    @property
    def simulated(self) -> bool:
        """Always true."""
        return True

    @property
    def kind(self) -> int:
        """The hardware's number in HCL reports."""
        return SNP if self.platform == "azure-snp" else TDX

    def attest(self, report_data: bytes) -> Evidence:
        """Evidence whose nonce is the SHA-256 of these 64 bytes."""
        if not isinstance(self.tpm.key, rsa.RSAPrivateKey):
            raise TypeError("Azure's attestation keys are RSA keys")
        runtime = runtime_data(self.tpm.key)
        hardware, beside = self.hardware(sha256(runtime) + bytes(32))
        attest = self.tpm.attest(sha256(report_data))
        return Evidence(
            self.platform,
            report(hardware, runtime, kind=self.kind),
            (attest, self.tpm.sign(attest), self.tpm.values, *beside),
        )
