"""The simulated vendor: root, PCK authority, TCB signing key, and the collateral they sign.

Structure: Intel SGX PCK Certificate and CRL Profile Specification; TCB info v3 and QE identity v2 of
the Intel PCS v4 API. The root is new and random in every simulation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Literal

from cryptography import x509

from leasehold.core.crypto import Entropy, TlsKey
from leasehold.core.units import DAY, Instant, after
from leasehold_simtee.certificates import (
    Key,
    issue,
    key_pem,
    load_key,
    make_crl,
    moment,
    pem,
    sign_raw,
)
from leasehold_simtee.quote import PCE_SVN, QE_PRODUCT, QE_SVN, SIMULATED_QE_SIGNER, TD_QE_PRODUCT

FMSPC: Final = b"SIMULA"  # a processor family that no vendor has
PCE_ID: Final = bytes(2)
TDX_SVN: Final = bytes((3, 0, 2)) + bytes(13)  # octet 1 is the module's major version
LIFETIME: Final = 30 * DAY  # as long as Intel's
_ROOT: Final = "SIMULATED SGX Root CA"
_TCB_SIGNING: Final = "SIMULATED SGX TCB Signing"

Ca = Literal["processor", "platform"]
_AUTHORITIES: Final[dict[Ca, str]] = {
    "processor": "SIMULATED SGX PCK Processor CA",
    "platform": "SIMULATED SGX PCK Platform CA",
}


@dataclass(frozen=True, slots=True)
class Situation:
    """What the vendor says of its machines. The defaults are good news; tests choose bad news.

    `svn` is the patch level that `status` applies to (machines have 2; 255 leaves them without a
    level), `tdx_svn` the TDX module's; `lifetime` is in milliseconds; `revoked` and
    `revoked_authorities` are serial numbers.
    """

    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    evaluation: int = 20
    crl_number: int = 1
    lifetime: int = LIFETIME
    revoked: tuple[int, ...] = ()
    revoked_authorities: tuple[int, ...] = ()
    svn: int = 2
    tee: str = "SGX"
    fmspc: bytes = FMSPC
    pce_id: bytes = PCE_ID
    qe_signer: bytes = SIMULATED_QE_SIGNER
    qe_svn: int = QE_SVN
    tdx_svn: bytes = TDX_SVN


GOOD: Final = Situation()


@dataclass(frozen=True, slots=True)
class Vendor:
    """A simulated vendor's keys and certificates."""

    ca: Ca
    root_key: Key
    root: x509.Certificate
    authority_key: Key
    authority: x509.Certificate
    tcb_key: Key
    tcb: x509.Certificate

    @classmethod
    def create(cls, entropy: Entropy, now: Instant, *, ca: Ca = "processor") -> Vendor:
        """A new vendor with a new root, valid from a day before `now`."""
        root_key, authority_key, tcb_key = (TlsKey.make(entropy).private for _ in range(3))
        root = issue(
            root_key,
            _ROOT,
            issuer_key=root_key,
            issuer=_ROOT,
            entropy=entropy,
            now=now,
            path_length=1,
            years=30,
        )
        authority = issue(
            authority_key,
            _AUTHORITIES[ca],
            issuer_key=root_key,
            issuer=_ROOT,
            entropy=entropy,
            now=now,
            path_length=0,
            years=15,
        )
        tcb = issue(
            tcb_key,
            _TCB_SIGNING,
            issuer_key=root_key,
            issuer=_ROOT,
            entropy=entropy,
            now=now,
            years=7,
        )
        return cls(ca, root_key, root, authority_key, authority, tcb_key, tcb)

    def issue_pck(
        self, key: Key, *, extension: bytes, entropy: Entropy, now: Instant
    ) -> x509.Certificate:
        """A machine's PCK certificate."""
        return issue(
            key,
            "SIMULATED SGX PCK Certificate",
            issuer_key=self.authority_key,
            issuer=_AUTHORITIES[self.ca],
            entropy=entropy,
            now=now,
            years=7,
            sgx_extension=extension,
        )

    def collateral(self, now: Instant, situation: Situation = GOOD) -> bytes:
        """Collateral issued at `now`, as the JSON of its nine fields."""
        until = after(now, situation.lifetime)
        info = _tcb_info(situation, now, until)
        identity = _qe_identity(situation, now, until)
        signer = pem(self.tcb, self.root)
        fields = {
            "pck_crl_issuer_chain": pem(self.authority, self.root),
            "root_ca_crl": make_crl(
                self.root_key,
                _ROOT,
                number=situation.crl_number,
                revoked=situation.revoked_authorities,
                now=now,
                until=until,
            ).hex(),
            "pck_crl": make_crl(
                self.authority_key,
                _AUTHORITIES[self.ca],
                number=situation.crl_number,
                revoked=situation.revoked,
                now=now,
                until=until,
            ).hex(),
            "tcb_info_issuer_chain": signer,
            "tcb_info": info,
            "tcb_info_signature": sign_raw(self.tcb_key, info.encode()).hex(),
            "qe_identity_issuer_chain": signer,
            "qe_identity": identity,
            "qe_identity_signature": sign_raw(self.tcb_key, identity.encode()).hex(),
        }
        return json.dumps(fields).encode()

    def dump(self) -> dict[str, str]:
        """Everything as text, to be kept in a file."""
        return {
            "ca": self.ca,
            "root_key": key_pem(self.root_key),
            "root": pem(self.root),
            "authority_key": key_pem(self.authority_key),
            "authority": pem(self.authority),
            "tcb_key": key_pem(self.tcb_key),
            "tcb": pem(self.tcb),
        }

    @classmethod
    def load(cls, kept: dict[str, str]) -> Vendor:
        """The vendor that `dump` wrote. Raises KeyError or ValueError for anything else."""
        ca: Ca = "platform" if kept["ca"] == "platform" else "processor"
        certificates = [
            x509.load_pem_x509_certificate(kept[field].encode())
            for field in ("root", "authority", "tcb")
        ]
        keys = [load_key(kept[field]) for field in ("root_key", "authority_key", "tcb_key")]
        return cls(ca, keys[0], certificates[0], keys[1], certificates[1], keys[2], certificates[2])


def _date(now: Instant) -> str:
    return moment(now).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tcb_info(situation: Situation, now: Instant, until: Instant) -> str:
    tcb: dict[str, object] = {
        "sgxtcbcomponents": [{"svn": situation.svn}] * 16,
        "pcesvn": PCE_SVN,
    }
    if situation.tee == "TDX":
        tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in situation.tdx_svn]
    level: dict[str, object] = {
        "tcb": tcb,
        "tcbDate": _date(now),
        "tcbStatus": situation.status,
        "advisoryIDs": list(situation.advisories),
    }
    info = {
        "id": situation.tee,
        "version": 3,
        "issueDate": _date(now),
        "nextUpdate": _date(until),
        "fmspc": situation.fmspc.hex().upper(),
        "pceId": situation.pce_id.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": situation.evaluation,
        "tcbLevels": [level],
    }
    if situation.tee == "TDX":
        info["tdxModule"] = {
            "mrsigner": "00" * 48,
            "attributes": "00" * 8,
            "attributesMask": "FF" * 8,
        }
    return json.dumps(info, separators=(",", ":"))


def _qe_identity(situation: Situation, now: Instant, until: Instant) -> str:
    identity = {
        "id": "TD_QE" if situation.tee == "TDX" else "QE",
        "version": 2,
        "issueDate": _date(now),
        "nextUpdate": _date(until),
        "tcbEvaluationDataNumber": situation.evaluation,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": situation.qe_signer.hex().upper(),
        "isvprodid": TD_QE_PRODUCT if situation.tee == "TDX" else QE_PRODUCT,
        "tcbLevels": [
            {"tcb": {"isvsvn": situation.qe_svn}, "tcbDate": _date(now), "tcbStatus": "UpToDate"}
        ],
    }
    return json.dumps(identity, separators=(",", ":"))
