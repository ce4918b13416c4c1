"""Simulated trust domains: TDX quotes of a simulated machine, versions 4 and 5, all three bodies.

Layout: Intel TDX Module ABI, TDREPORT; Intel DCAP, sgx_quote_5.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from leasehold.core.binding import REPORT_DATA_BYTES
from leasehold.core.crypto import Entropy, TlsKey, sha256
from leasehold.core.evidence import Evidence
from leasehold.errors import Unavailable
from leasehold_simtee.certificates import pem
from leasehold_simtee.hierarchy import TDX_SVN
from leasehold_simtee.machine import Machine
from leasehold_simtee.quote import TD_QE_PRODUCT, QuotingEnclave

Body = Literal["1.0", "1.5", "1.5ex"]
_BODY_TYPES: Final[dict[Body, int]] = {"1.0": 2, "1.5": 3, "1.5ex": 4}


def _hash48(text: str) -> bytes:
    return sha256(f"leasehold SIMULATED {text}".encode()) + bytes(16)


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """What a simulated TD report says. The defaults are an honest release build.

    `tail` is what a body of TDX 1.5ex adds after 648 bytes.
    """

    mr_td: bytes = _hash48("domain")
    rtmr: tuple[bytes, bytes, bytes, bytes] = (
        _hash48("rtmr0"),
        _hash48("rtmr1"),
        _hash48("rtmr2"),
        bytes(48),
    )
    mr_seam: bytes = _hash48("module")
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: int = 0
    td_attributes: int = 1 << 28
    xfam: int = 0x602E7
    mr_config_id: bytes = bytes(48)
    mr_owner: bytes = bytes(48)
    mr_owner_config: bytes = bytes(48)
    tee_tcb_svn: bytes = TDX_SVN
    mr_service_td: bytes = bytes(48)
    tail: bytes = bytes(237)
    body: Body = "1.0"
    version: int = 4

    def report(self, report_data: bytes) -> bytes:
        """The body of the quote: 584, 648 or 885 bytes."""
        base = b"".join(
            (
                self.tee_tcb_svn,
                self.mr_seam,
                self.mr_signer_seam,
                self.seam_attributes.to_bytes(8, "little"),
                self.td_attributes.to_bytes(8, "little"),
                self.xfam.to_bytes(8, "little"),
                self.mr_td,
                self.mr_config_id,
                self.mr_owner,
                self.mr_owner_config,
                *self.rtmr,
                report_data,
            )
        )
        if self.body == "1.0":
            return base
        longer = base + self.tee_tcb_svn + self.mr_service_td
        return longer if self.body == "1.5" else longer + self.tail

    def reference_values(self) -> dict[str, object]:
        """The `[tdx]` table of a manifest that accepts exactly this domain, in that table's order."""
        return {
            "mr_td": [self.mr_td.hex()],
            **{f"rtmr{at}": [value.hex()] for at, value in enumerate(self.rtmr)},
            "mr_seam": [self.mr_seam.hex()],
            "mr_config_id": self.mr_config_id.hex(),
            "mr_owner": self.mr_owner.hex(),
            "mr_owner_config": self.mr_owner_config.hex(),
            "td_attributes_hex": f"{self.td_attributes:016x}",
            "td_attributes_mask_hex": "f" * 16,
            "xfam_hex": f"{self.xfam:016x}",
            "xfam_mask_hex": "f" * 16,
            "tee_tcb_svn_min": self.tee_tcb_svn.hex(),
            "tcb_status": ["UpToDate"],
        }


class SimulatedTdxAttester:
    """TDX quotes of a simulated machine. It proves logic, not secrecy."""

    __slots__ = ("_quoting", "domain")

    def __init__(self, machine: Machine, entropy: Entropy, domain: TrustDomain) -> None:
        """The machine gets a quoting enclave for TDX, with an attestation key of its own."""
        self.domain = domain
        self._quoting = QuotingEnclave.certify(
            TlsKey.make(entropy).private,
            pck_key=machine.pck_key,
            auth=entropy(32),
            user_data=entropy(16) + bytes(4),
            chain_pem=pem(machine.pck, machine.vendor.authority, machine.vendor.root),
            product=TD_QE_PRODUCT,
        )

    @property
    def simulated(self) -> bool:
        """Always true."""
        return True

    def attest(self, report_data: bytes) -> Evidence:
        """Evidence over exactly these 64 bytes. Raises Unavailable for any other number of bytes."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise Unavailable(about="report data", got=len(report_data), expected=REPORT_DATA_BYTES)
        domain = self.domain
        quote = self._quoting.td_quote(
            domain.report(report_data),
            version=domain.version,
            body_type=_BODY_TYPES[domain.body],
        )
        return Evidence("tdx", quote)
