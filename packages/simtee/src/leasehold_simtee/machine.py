"""A simulated machine: a PCK key with its certificate, an attestation key, and the vendor behind it.

It works in memory; `save` and `load` keep it in a folder. The folder's secrets protect nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from leasehold.core.binding import REPORT_DATA_BYTES
from leasehold.core.crypto import Entropy, TlsKey, sha256
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold.errors import BadSetting, FileTrouble, Unavailable
from leasehold_simtee import der as asn1
from leasehold_simtee.certificates import Key, der, key_pem, load_key, pem
from leasehold_simtee.hierarchy import FMSPC, GOOD, PCE_ID, Situation, Vendor
from leasehold_simtee.quote import CPU_SVN, PCE_SVN, Enclave, QuotingEnclave

MACHINE_FILE: Final = "machine.json"
COLLATERAL_FILE: Final = "collateral.json"
ROOT_FILE: Final = "root.der"
PLATFORM: Final = "sgx"  # it has SGX's shape, and the verifier that runs is SGX's


class SimulatedAttester:
    """Quotes under a home-made root. It proves logic, not secrecy."""

    __slots__ = ("_enclave", "_quoting")

    def __init__(self, quoting: QuotingEnclave, enclave: Enclave) -> None:
        self._quoting = quoting
        self._enclave = enclave

    @property
    def simulated(self) -> bool:
        """Always true."""
        return True

    @property
    def enclave(self) -> Enclave:
        """What the reports say of the enclave."""
        return self._enclave

    def attest(self, report_data: bytes) -> Evidence:
        """Evidence over exactly these 64 bytes. Raises Unavailable for any other number of bytes."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise Unavailable(about="report data", got=len(report_data), expected=REPORT_DATA_BYTES)
        return Evidence(PLATFORM, self._quoting.quote(self._enclave.report(report_data)))


@dataclass(frozen=True, slots=True)
class Machine:
    """A simulated machine. `ppid` and `instance` have 16 bytes; `instance` only with a Platform CA."""

    vendor: Vendor
    pck_key: Key
    pck: x509.Certificate
    ppid: bytes
    quoting: QuotingEnclave
    collateral: bytes

    @classmethod
    def create(
        cls,
        entropy: Entropy,
        now: Instant,
        *,
        vendor: Vendor | None = None,
        situation: Situation = GOOD,
        fmspc: bytes = FMSPC,
    ) -> Machine:
        """A new machine, of a new vendor where none is given; `collateral` is what holds at `now`."""
        maker = Vendor.create(entropy, now) if vendor is None else vendor
        pck_key, ppid = TlsKey.make(entropy).private, entropy(16)
        instance = entropy(16) if maker.ca == "platform" else None
        extension = pck_extension(ppid=ppid, instance=instance, fmspc=fmspc)
        pck = maker.issue_pck(pck_key, extension=extension, entropy=entropy, now=now)
        quoting = QuotingEnclave.certify(
            TlsKey.make(entropy).private,
            pck_key=pck_key,
            auth=entropy(32),
            user_data=entropy(16) + bytes(4),
            chain_pem=pem(pck, maker.authority, maker.root),
        )
        return cls(maker, pck_key, pck, ppid, quoting, maker.collateral(now, situation))

    @property
    def platform_id(self) -> str:
        """What a manifest's `[[machines]]` lists: the PPID in hex."""
        return self.ppid.hex()

    @property
    def root(self) -> bytes:
        """The simulated vendor's root certificate, DER."""
        return der(self.vendor.root)

    @property
    def root_sha256(self) -> str:
        """What a manifest's `[simulated]` names: the SHA-256 of the root certificate in hex."""
        return sha256(self.root).hex()

    def attester(self, enclave: Enclave | bytes) -> SimulatedAttester:
        """An attester for an enclave on this machine; bytes are the MRENCLAVE of an honest one."""
        inside = Enclave(enclave) if isinstance(enclave, bytes) else enclave
        return SimulatedAttester(self.quoting, inside)

    def save(self, folder: Path) -> None:
        """Write machine.json (keys), collateral.json and root.der. Raises FileTrouble."""
        kept = {
            "warning": "SIMULATED machine: proves logic, not secrecy",
            "vendor": self.vendor.dump(),
            "pck_key": key_pem(self.pck_key),
            "pck": pem(self.pck),
            "ppid": self.ppid.hex(),
            "quoting_key": key_pem(self.quoting.key),
            "user_data": self.quoting.user_data.hex(),
            "certification": self.quoting.certification.hex(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            secret = folder / MACHINE_FILE
            with os.fdopen(
                os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
            ) as file:
                json.dump(kept, file, indent=1)
            (folder / COLLATERAL_FILE).write_bytes(self.collateral)
            (folder / ROOT_FILE).write_bytes(self.root)
        except OSError as cause:
            raise FileTrouble(about=folder) from cause

    @classmethod
    def load(cls, folder: Path) -> Machine:
        """The machine that `save` wrote. Raises FileTrouble, BadSetting."""
        try:
            kept = json.loads((folder / MACHINE_FILE).read_text())
            collateral = (folder / COLLATERAL_FILE).read_bytes()
        except OSError as cause:
            raise FileTrouble(about=folder) from cause
        except ValueError as cause:
            raise BadSetting(about=folder / MACHINE_FILE, got=str(cause)) from cause
        try:
            quoting = QuotingEnclave(
                load_key(kept["quoting_key"]),
                bytes.fromhex(kept["user_data"]),
                bytes.fromhex(kept["certification"]),
            )
            return cls(
                Vendor.load(kept["vendor"]),
                load_key(kept["pck_key"]),
                x509.load_pem_x509_certificate(kept["pck"].encode()),
                bytes.fromhex(kept["ppid"]),
                quoting,
                collateral,
            )
        except (KeyError, TypeError, ValueError) as cause:
            raise BadSetting(about=folder / MACHINE_FILE, got=str(cause)) from cause


def pck_extension(
    *,
    ppid: bytes,
    instance: bytes | None,
    fmspc: bytes = FMSPC,
    pce_id: bytes = PCE_ID,
    cpu_svn: bytes = CPU_SVN,
) -> bytes:
    """Intel's SGX extension of a PCK certificate, DER; `instance` makes it a Platform CA's."""
    components = {n + 1: asn1.integer(svn) for n, svn in enumerate(cpu_svn)}
    tcb = {**components, 17: asn1.integer(PCE_SVN), 18: asn1.octets(cpu_svn)}
    values = {
        1: asn1.octets(ppid),
        2: asn1.intel_pairs(tcb, below=(2,)),
        3: asn1.octets(pce_id),
        4: asn1.octets(fmspc),
        5: asn1.enumerated(0 if instance is None else 1),
    }
    if instance is not None:
        flags = {n: asn1.boolean(False) for n in (1, 2, 3)}
        values |= {6: asn1.octets(instance), 7: asn1.intel_pairs(flags, below=(7,))}
    return asn1.intel_pairs(values)
