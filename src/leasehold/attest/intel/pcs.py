"""What Intel's certification service says of one processor family, as it is kept and passed on.

Refuses to know whether it is authentic (`dcap` checks that) and where it is kept (`collateral`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from leasehold.attest.reference import Moment, instant
from leasehold.attest.x509 import Certificate, Crl, read_chain, read_crl
from leasehold.core.crypto import sha256
from leasehold.core.encoding import frame, from_json, to_json, unhex
from leasehold.core.units import KIB, Instant
from leasehold.errors import BadMessage, CollateralRejected

COLLATERAL_BYTES_MAX: Final = 256 * KIB  # a set is ~20 KiB; a PCK CRL can grow
_SIGNATURE_BYTES: Final = 64

Ca = Literal["processor", "platform"]
Tee = Literal["sgx", "tdx"]


class Collateral(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One set for an Intel processor family: the nine fields of dcap-qvl's QuoteCollateralV3.

    Chains are PEM; CRLs are DER in hex; signatures are r ‖ s in hex over the exact text of their
    field. A simulated root is not in here: quotes carry it and the manifest names it.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str

    def digest(self) -> bytes:
        """SHA-256 over all nine fields."""
        fields = (getattr(self, name).encode() for name in self.__struct_fields__)
        return sha256(frame("leasehold/collateral/1", *fields))


class _TcbInfo(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of TCB info v3 (PCS API v4); dcap-qvl reads and verifies all of it."""

    id: Literal["SGX", "TDX"]
    fmspc: str
    pce_id: str
    issue_date: Moment
    next_update: Moment
    tcb_evaluation_data_number: int


class _QeIdentity(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of QE identity v2 (PCS API v4)."""

    id: Literal["QE", "TD_QE"]
    issue_date: Moment
    next_update: Moment
    tcb_evaluation_data_number: int


@dataclass(frozen=True, slots=True)
class Facts:
    """A set of collateral and what it says, read without believing it.

    `json` is the set as dcap-qvl takes it. `fmspc` (6 bytes) and `pce_id` (2 bytes) are lower-case hex.
    `ends` is the earliest end of anything in the set, chains and CRLs included.
    """

    collateral: Collateral
    json: str
    tee: Tee
    qe: str
    fmspc: str
    pce_id: str
    evaluation: int
    qe_evaluation: int
    tcb_issued: Instant
    qe_issued: Instant
    root_crl: Crl
    pck_crl: Crl
    tcb_chain: tuple[Certificate, ...]
    qe_chain: tuple[Certificate, ...]
    crl_chain: tuple[Certificate, ...]
    ends: Instant

    @property
    def ca(self) -> Ca:
        """Which of the two PCK authorities the set is for: what the PCK CRL's issuer is called."""
        return "platform" if self.pck_crl.issuer.endswith("Platform CA") else "processor"


def parse_collateral(data: bytes) -> Collateral:
    """A set from its JSON. Raises CollateralRejected."""
    if len(data) > COLLATERAL_BYTES_MAX:
        raise CollateralRejected(
            about="size", got=len(data), expected=f"<= {COLLATERAL_BYTES_MAX} bytes"
        )
    try:
        return from_json(data, Collateral)
    except BadMessage as cause:
        raise CollateralRejected(about="JSON", got=cause.got) from cause


def read_facts(collateral: Collateral) -> Facts:
    """Read a set; believe nothing. Raises CollateralRejected, also for chains of any length but two.

    Costs a millisecond, more than the signature checks: stores keep the result.
    """
    try:
        info = msgspec.json.decode(collateral.tcb_info, type=_TcbInfo)
        identity = msgspec.json.decode(collateral.qe_identity, type=_QeIdentity)
        root_crl = unhex(collateral.root_ca_crl, about="root CRL")
        pck_crl = unhex(collateral.pck_crl, about="PCK CRL")
        for signature in (collateral.tcb_info_signature, collateral.qe_identity_signature):
            unhex(signature, about="signature", size=_SIGNATURE_BYTES)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadMessage) as cause:
        raise CollateralRejected(got=str(cause)) from cause
    crls = (
        read_crl(root_crl, about="root CRL", error=CollateralRejected),
        read_crl(pck_crl, about="PCK CRL", error=CollateralRejected),
    )
    chains = tuple(
        read_chain(pem.encode(), count=2, about=about, error=CollateralRejected)
        for about, pem in (
            ("TCB info issuer chain", collateral.tcb_info_issuer_chain),
            ("QE identity issuer chain", collateral.qe_identity_issuer_chain),
            ("PCK CRL issuer chain", collateral.pck_crl_issuer_chain),
        )
    )
    ends = [instant(info.next_update), instant(identity.next_update), *(crl.ends for crl in crls)]
    return Facts(
        collateral=collateral,
        json=to_json(collateral).decode(),
        tee="tdx" if info.id == "TDX" else "sgx",
        qe=identity.id,
        fmspc=info.fmspc.lower(),
        pce_id=info.pce_id.lower(),
        evaluation=info.tcb_evaluation_data_number,
        qe_evaluation=identity.tcb_evaluation_data_number,
        tcb_issued=instant(info.issue_date),
        qe_issued=instant(identity.issue_date),
        root_crl=crls[0],
        pck_crl=crls[1],
        tcb_chain=chains[0],
        qe_chain=chains[1],
        crl_chain=chains[2],
        ends=min(*ends, *(certificate.ends for chain in chains for certificate in chain)),
    )
