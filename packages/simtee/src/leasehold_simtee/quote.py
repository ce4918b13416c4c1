"""Builds SGX quotes, version 3, and TDX quotes, 4 and 5, byte for byte as hardware would.

Layout: Intel DCAP, sgx_quote_3.h to sgx_quote_5.h; all integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from leasehold.core.crypto import sha256
from leasehold_simtee.certificates import Key, sign_raw

SIMULATED_SIGNER: Final = sha256(b"leasehold SIMULATED enclave signer")
SIMULATED_QE_SIGNER: Final = sha256(b"leasehold SIMULATED quoting enclave signer")
QE_PRODUCT: Final = 1
TD_QE_PRODUCT: Final = 2
QE_SVN: Final = 8
QE_FLAGS: Final = 0x15  # INIT, MODE64, PROVISION_KEY: as Intel's quoting enclave has them
PCE_SVN: Final = 13
CPU_SVN: Final = bytes([2] * 16)
_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_PEM_CHAIN: Final = 5
_QE_REPORT_CERTIFICATION: Final = 6


@dataclass(frozen=True, slots=True)
class Enclave:
    """What a simulated enclave's report says of it. The defaults are an honest release build."""

    mr_enclave: bytes
    mr_signer: bytes = SIMULATED_SIGNER
    isv_prod_id: int = 1
    isv_svn: int = 1
    flags: int = 0x05  # INIT, MODE64
    xfrm: int = 0x03
    misc_select: int = 0
    config_id: bytes = bytes(64)
    config_svn: int = 0
    isv_family_id: bytes = bytes(16)
    isv_ext_prod_id: bytes = bytes(16)
    cpu_svn: bytes = CPU_SVN

    def report(self, report_data: bytes) -> bytes:
        """The 384-byte report body (Intel SDM vol. 3D, REPORT)."""
        return b"".join(
            (
                self.cpu_svn,
                self.misc_select.to_bytes(4, "little"),
                bytes(12),
                self.isv_ext_prod_id,
                self.flags.to_bytes(8, "little"),
                self.xfrm.to_bytes(8, "little"),
                self.mr_enclave,
                bytes(32),
                self.mr_signer,
                bytes(32),
                self.config_id,
                self.isv_prod_id.to_bytes(2, "little"),
                self.isv_svn.to_bytes(2, "little"),
                self.config_svn.to_bytes(2, "little"),
                bytes(42),
                self.isv_family_id,
                report_data,
            )
        )

    def reference_values(self) -> dict[str, object]:
        """The `[sgx]` table of a manifest that accepts exactly this enclave, in that table's order."""
        return {
            "mr_enclave": [self.mr_enclave.hex()],
            "mr_signer": self.mr_signer.hex(),
            "isv_prod_id": self.isv_prod_id,
            "isv_svn_min": self.isv_svn,
            "attributes_flags_hex": f"{self.flags:016x}",
            "attributes_mask_flags_hex": "f" * 16,
            "attributes_xfrm_hex": f"{self.xfrm:016x}",
            "attributes_mask_xfrm_hex": "f" * 16,
            "misc_select_hex": f"{self.misc_select:08x}",
            "misc_mask_hex": "f" * 8,
            "config_id": self.config_id.hex(),
            "config_svn": self.config_svn,
            "isv_family_id": self.isv_family_id.hex(),
            "isv_ext_prod_id": self.isv_ext_prod_id.hex(),
            "tcb_status": ["UpToDate"],
        }


@dataclass(frozen=True, slots=True)
class QuotingEnclave:
    """The attestation key and what certifies it, made once per machine."""

    key: Key
    user_data: bytes
    certification: bytes  # the attestation key, then the QE report and all that follows it

    @classmethod
    def certify(
        cls,
        key: Key,
        *,
        pck_key: Key,
        auth: bytes,
        user_data: bytes,
        chain_pem: str,
        product: int = QE_PRODUCT,
    ) -> QuotingEnclave:
        """Have the machine's PCK key vouch for `key`; `auth` (32 bytes) goes into the QE's report."""
        public = _point(key)
        report = Enclave(
            mr_enclave=sha256(b"leasehold SIMULATED quoting enclave"),
            mr_signer=SIMULATED_QE_SIGNER,
            isv_prod_id=product,
            isv_svn=QE_SVN,
            flags=QE_FLAGS,
        ).report(sha256(public + auth) + bytes(32))
        chain = chain_pem.encode() + b"\0"
        certification = b"".join(
            (
                public,
                report,
                sign_raw(pck_key, report),
                len(auth).to_bytes(2, "little"),
                auth,
                _PEM_CHAIN.to_bytes(2, "little"),
                len(chain).to_bytes(4, "little"),
                chain,
            )
        )
        return cls(key, user_data, certification)

    def quote(self, report: bytes) -> bytes:
        """A whole quote over a report body."""
        signed = b"".join(
            (
                (3).to_bytes(2, "little"),  # version
                (2).to_bytes(2, "little"),  # ECDSA P-256
                bytes(4),
                QE_SVN.to_bytes(2, "little"),
                PCE_SVN.to_bytes(2, "little"),
                _QE_VENDOR,
                self.user_data,
                report,
            )
        )
        auth = sign_raw(self.key, signed) + self.certification
        return signed + len(auth).to_bytes(4, "little") + auth

    def td_quote(self, body: bytes, *, version: int, body_type: int) -> bytes:
        """A whole TDX quote over a TD report; `body_type` is written from version 5 on."""
        signed = b"".join(
            (
                version.to_bytes(2, "little"),
                (2).to_bytes(2, "little"),  # ECDSA P-256
                (0x81).to_bytes(4, "little"),
                bytes(4),
                _QE_VENDOR,
                self.user_data,
            )
        )
        if version >= 5:
            signed += body_type.to_bytes(2, "little") + len(body).to_bytes(4, "little")
        signed += body
        public, inner = self.certification[:64], self.certification[64:]
        auth = b"".join(
            (
                sign_raw(self.key, signed),
                public,
                _QE_REPORT_CERTIFICATION.to_bytes(2, "little"),
                len(inner).to_bytes(4, "little"),
                inner,
            )
        )
        return signed + len(auth).to_bytes(4, "little") + auth


def _point(key: Key) -> bytes:
    """A public key as x ‖ y, 32 bytes each, big-endian."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
