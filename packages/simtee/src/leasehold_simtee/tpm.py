"""A SIMULATED TPM: an attestation key, registers, and quotes over them. It proves logic, not secrecy.

Structures: TPM 2.0 Library, Part 2, 10.12 and 11.3. All integers are big-endian.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from leasehold.core.binding import REPORT_DATA_BYTES
from leasehold.core.crypto import sha256
from leasehold.core.evidence import Evidence
from leasehold.errors import Unavailable

AttestationKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PCRS: Final = 24
FIRMWARE: Final = 0x5349_4D55_4C41_0001  # "SIMULA", version 1
_MAGIC: Final = 0xFF544347
_QUOTE: Final = 0x8018
_SHA256: Final = 0x000B
_RSASSA: Final = 0x0014
_ECDSA: Final = 0x0018
# Published, so that every simulation's RSA key is the same: it keeps nothing secret.
_P: Final = int(
    "f61b9fb5b18722051da100427a8edfb2f3020c6834fd16e3a7c8ba5c9154b2a2"
    "184a7894d6c61cc693c5a2ce92f95b867a2661b901ab4d1f7fea67f62c33ad51"
    "c505fe9428a2842d4043620d66a13e516332d7bbc68cc73896964de20c9a5f43"
    "dd96591374d63b23ae4227307126c58c9e5765ab1e94b0273948630cb6f09409",
    16,
)
_Q: Final = int(
    "dac3aad28f4ab67fa39c1d8a2c877c5e8d33852031c222ba9b8ac3c14d439821"
    "7a54c1a6403eb25eddb67100f54ad55554ab071c6e08554169b6a164acc4866a"
    "a8e9184b84ed6bad609bb60e0df3e3eb67acda6e3edceae446169237d76ddc7a"
    "77e087b5392585093abc1b5f1fb030a6b1abe6e89c9fc209b26cb68c3b487921",
    16,
)
_E: Final = 65537


def rsa_key() -> rsa.RSAPrivateKey:
    """The RSA-2048 key that all simulations share."""
    d = pow(_E, -1, (_P - 1) * (_Q - 1))
    return rsa.RSAPrivateNumbers(
        p=_P,
        q=_Q,
        d=d,
        dmp1=d % (_P - 1),
        dmq1=d % (_Q - 1),
        iqmp=pow(_Q, -1, _P),
        public_numbers=rsa.RSAPublicNumbers(_E, _P * _Q),
    ).private_key()


def spki(key: AttestationKey) -> bytes:
    """A key's public half as DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def honest_pcrs() -> dict[int, bytes]:
    """All 24 registers after an honest boot: 0 to 15 extended, 17 to 22 never used."""
    booted = {pcr: sha256(b"leasehold SIMULATED boot, PCR %d" % pcr) for pcr in range(16)}
    return {**booted, 16: bytes(32), **dict.fromkeys(range(17, 23), b"\xff" * 32), 23: bytes(32)}


def sized(data: bytes) -> bytes:
    """A TPM2B."""
    return len(data).to_bytes(2, "big") + data


def selection(pcrs: tuple[int, ...], *, bank: int = _SHA256, size: int = 3) -> bytes:
    """A TPMS_PCR_SELECTION."""
    bitmap = sum(1 << pcr for pcr in pcrs).to_bytes(size, "little")
    return bank.to_bytes(2, "big") + bytes((size,)) + bitmap


@dataclass(frozen=True)
class SimulatedTpm:
    """A TPM's key and state; `pcrs` are the registers that it quotes, 32 bytes each."""

    key: AttestationKey
    pcrs: Mapping[int, bytes] = field(default_factory=honest_pcrs)
    firmware: int = FIRMWARE
    clock: int = 3_513_262
    resets: int = 2
    restarts: int = 0

    @property
    def spki(self) -> bytes:
        """The attestation key, DER SubjectPublicKeyInfo."""
        return spki(self.key)

    @property
    def platform_id(self) -> str:
        """What `[[machines]]`, `attestation_keys` and `tpm_key_sha256` name: the key's hash in hex."""
        return sha256(self.spki).hex()

    @property
    def values(self) -> bytes:
        """The quoted registers' values in index order."""
        return b"".join(self.pcrs[pcr] for pcr in sorted(self.pcrs))

    def attest(
        self,
        extra: bytes,
        *,
        selections: tuple[bytes, ...] | None = None,
        digest: bytes | None = None,
        hash_name: str = "sha256",
    ) -> bytes:
        """A TPMS_ATTEST of a quote over the registers; the other arguments make one that is wrong."""
        if selections is None:
            selections = (selection(tuple(sorted(self.pcrs))),)
        if digest is None:
            digest = hashlib.new(hash_name, self.values).digest()
        return b"".join(
            (
                _MAGIC.to_bytes(4, "big"),
                _QUOTE.to_bytes(2, "big"),
                sized(_SHA256.to_bytes(2, "big") + sha256(self.spki)),
                sized(extra),
                self.clock.to_bytes(8, "big"),
                self.resets.to_bytes(4, "big"),
                self.restarts.to_bytes(4, "big"),
                b"\x01",
                self.firmware.to_bytes(8, "big"),
                len(selections).to_bytes(4, "big"),
                *selections,
                sized(digest),
            )
        )

    def sign(
        self, attest: bytes, *, digest: hashes.HashAlgorithm | None = None, number: int = _SHA256
    ) -> bytes:
        """A TPMT_SIGNATURE; `number` is the TPM_ALG_ID of `digest`."""
        hashed = hashes.SHA256() if digest is None else digest
        if isinstance(self.key, rsa.RSAPrivateKey):
            signature = self.key.sign(attest, padding.PKCS1v15(), hashed)
            return _RSASSA.to_bytes(2, "big") + number.to_bytes(2, "big") + sized(signature)
        scheme = ec.ECDSA(hashed, deterministic_signing=True)
        size = (self.key.curve.key_size + 7) // 8
        r, s = decode_dss_signature(self.key.sign(attest, scheme))
        return b"".join(
            (
                _ECDSA.to_bytes(2, "big"),
                number.to_bytes(2, "big"),
                sized(r.to_bytes(size, "big")),
                sized(s.to_bytes(size, "big")),
            )
        )

    def reference_values(self) -> dict[str, object]:
        """The `[tpm]` table of a manifest that accepts exactly these registers, by listed key."""
        return {
            "unsafe_trust_hypervisor_owner": True,
            "pcrs": {str(pcr): [self.pcrs[pcr].hex()] for pcr in (0, 4, 7, 9)},
            "firmware_versions": [f"{self.firmware:016x}"],
            "attestation_keys": [],
        }


class SimulatedTpmAttester:
    """Evidence of the platform `tpm`. It proves logic, not secrecy."""

    __slots__ = ("_tpm",)

    def __init__(self, tpm: SimulatedTpm) -> None:
        self._tpm = tpm

    @property
    def simulated(self) -> bool:
        """Always true."""
        return True

    def attest(self, report_data: bytes) -> Evidence:
        """Evidence whose nonce is the SHA-256 of these 64 bytes. Raises Unavailable for other sizes."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise Unavailable(about="report data", got=len(report_data), expected=REPORT_DATA_BYTES)
        attest = self._tpm.attest(sha256(report_data))
        parts = (self._tpm.sign(attest), self._tpm.spki, self._tpm.values)
        return Evidence("tpm", attest, parts)
