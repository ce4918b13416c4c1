"""A simulated AMD: ARK, ASK and ASVK, chips with VCEKs, a cloud with a VLEK, and SEV-SNP reports.

Layout: AMD 56860, ATTESTATION_REPORT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from leasehold.attest.collateral import Document, Kind
from leasehold.core.binding import REPORT_DATA_BYTES
from leasehold.core.crypto import Entropy, sha256
from leasehold.core.encoding import frame
from leasehold.core.evidence import Evidence
from leasehold.core.units import DAY, Instant, after
from leasehold.errors import Unavailable
from leasehold_simtee import der as asn1
from leasehold_simtee.amd_certificates import (
    CSP_ID,
    PSS,
    Product,
    Signer,
    Tcb,
    authority,
    certificate_table,
    endorse,
    p384_key,
    rsa_key,
    to_pem,
)
from leasehold_simtee.certificates import der, moment

GOOD: Final = Tcb()
MEASUREMENT: Final = sha256(b"leasehold SIMULATED guest") + bytes(16)
CPUID: Final[dict[Product, tuple[int, int, int]]] = {
    "Milan": (0x19, 0x01, 1),
    "Genoa": (0x19, 0x11, 1),
    "Turin": (0x1A, 0x02, 1),
}


@dataclass(frozen=True, slots=True)
class Guest:
    """What a simulated report says of a guest and its machine. The defaults are an honest release."""

    version: int = 3
    guest_svn: int = 1
    policy: int = 0x30000
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    vmpl: int = 0
    algorithm: int = 1
    platform_info: int = 0x25  # SMT, ECC, alias check complete
    flags: int = 0
    measurement: bytes = MEASUREMENT
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    current_tcb: Tcb = GOOD
    reported_tcb: Tcb = GOOD
    committed_tcb: Tcb = GOOD
    launch_tcb: Tcb = GOOD
    cpuid: tuple[int, int, int] | None = None
    chip_id: bytes | None = None

    def reference_values(self, product: Product) -> dict[str, object]:
        """The `[snp]` table of a manifest that accepts exactly this guest, in that table's order."""
        tcb = self.reported_tcb
        return {
            "measurement": [self.measurement.hex()],
            "host_data": self.host_data.hex(),
            "id_key_digest": self.id_key_digest.hex(),
            "author_key_digest": self.author_key_digest.hex(),
            "family_id": self.family_id.hex(),
            "image_id": self.image_id.hex(),
            "guest_svn_min": self.guest_svn,
            "vmpl_max": self.vmpl,
            "policy_hex": f"{self.policy:016x}",
            "policy_mask_hex": "f" * 16,
            "platform_info_hex": f"{self.platform_info:016x}",
            "platform_info_mask_hex": "f" * 16,
            "tcb_status": ["UpToDate"],
            product.lower(): {
                "bootloader": tcb.bootloader,
                "tee": tcb.tee,
                "snp": tcb.snp,
                "microcode": tcb.microcode,
                "fmc": tcb.fmc,
            },
        }


@dataclass(frozen=True, slots=True)
class Amd:
    """The simulated vendor of one product: root, the authorities below it, and what it says of them."""

    product: Product
    ark: x509.Certificate
    ask: x509.Certificate
    asvk: x509.Certificate

    @classmethod
    def create(cls, entropy: Entropy, now: Instant, product: Product = "Milan") -> Amd:
        """A vendor with certificates valid from a day before `now`."""
        ark = f"SIMULATED ARK-{product}"
        return cls(
            product,
            authority("ark", ark, "ark", ark, entropy, now),
            authority("ask", f"SIMULATED SEV-{product}", "ark", ark, entropy, now),
            authority("asvk", f"SIMULATED SEV-VLEK-{product}", "ark", ark, entropy, now),
        )

    @property
    def root_sha256(self) -> str:
        """What a manifest's `[simulated]` names: `amd_root_sha256`."""
        return sha256(der(self.ark)).hex()

    def crl(self, now: Instant, *, revoked: tuple[int, ...] = (), number: int = 1) -> bytes:
        """The root's list of revoked authorities, good for 30 days, DER."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ark.subject)
            .last_update(moment(now))
            .next_update(moment(after(now, 30 * DAY)))
            .add_extension(x509.CRLNumber(number), False)
        )
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each)
            builder = builder.add_revoked_certificate(entry.revocation_date(moment(now)).build())
        crl = builder.sign(rsa_key("ark"), hashes.SHA384(), rsa_padding=PSS)
        return crl.public_bytes(serialization.Encoding.DER)

    def documents(self, now: Instant, *, revoked: tuple[int, ...] = ()) -> tuple[Document, ...]:
        """What a collateral store holds of this vendor: two chains, and the list for each."""
        until, crl = after(now, DAY), self.crl(now, revoked=revoked)
        chains = {
            f"vcek-{self.product}": der(self.ask),
            f"vlek-{self.product}": der(self.asvk),
        }
        found: list[Document] = []
        for label, certificate in chains.items():
            chain = to_pem(certificate) + to_pem(der(self.ark))
            kinds: tuple[tuple[Kind, bytes], ...] = (("amd-chain", chain), ("amd-crl", crl))
            found += [Document(kind, label, data, until) for kind, data in kinds]
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Chip:
    """A simulated machine of AMD's: a key that signs reports, and the certificate for it (DER)."""

    amd: Amd
    signer: Signer
    key: ec.EllipticCurvePrivateKey
    chip_id: bytes
    certificate: bytes
    tcb: Tcb = GOOD

    @classmethod
    def create(
        cls,
        entropy: Entropy,
        now: Instant,
        *,
        amd: Amd | None = None,
        signer: Signer = "VCEK",
        tcb: Tcb | None = None,
        masked: bool = False,
        wrapped: bool = False,
    ) -> Chip:
        """A chip; `masked` hides its id (VLEK), `wrapped` puts it into one more OCTET STRING."""
        vendor = Amd.create(entropy, now) if amd is None else amd
        key, level = p384_key(entropy), tcb or Tcb()
        chip_id = entropy(8) + bytes(56) if vendor.product == "Turin" else entropy(64)
        hardware = chip_id[:8] if vendor.product == "Turin" else chip_id
        certificate = endorse(
            vendor.ask if signer == "VCEK" else vendor.asvk,
            "ask" if signer == "VCEK" else "asvk",
            key,
            signer=signer,
            hardware_id=asn1.octets(hardware) if wrapped else hardware,
            tcb=level,
            product=vendor.product,
            now=now,
        )
        return cls(vendor, signer, key, bytes(64) if masked else chip_id, certificate, level)

    @property
    def machine_id(self) -> str:
        """What a manifest's `[[machines]]` lists: the chip id in hex, or the cloud's where it hides it."""
        if not any(self.chip_id):
            return sha256(frame("leasehold/vlek-csp/1", CSP_ID.encode())).hex()
        return self.chip_id[: 8 if self.amd.product == "Turin" else 64].hex()

    def table(self, *, chain: bool = True) -> bytes:
        """The certificate table that a host hands out beside a report."""
        middle = self.amd.ask if self.signer == "VCEK" else self.amd.asvk
        rows: dict[str, bytes] = {self.signer: self.certificate}
        if chain:
            rows |= {"ASK": der(middle), "ARK": der(self.amd.ark)}
        return certificate_table(rows)

    def report(self, report_data: bytes, guest: Guest) -> bytes:
        """A signed report of 1,184 bytes."""
        body = self.body(report_data, guest)
        signature = self.key.sign(body, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
        r, s = decode_dss_signature(signature)
        return body + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)

    def body(self, report_data: bytes, guest: Guest) -> bytes:
        """The 672 bytes that are signed."""
        product = self.amd.product
        body = bytearray(0x2A0)
        cpuid = CPUID[product] if guest.cpuid is None else guest.cpuid
        flags = guest.flags | (0 if self.signer == "VCEK" else 1) << 2
        for at, size, value in (
            (0x00, 4, guest.version),
            (0x04, 4, guest.guest_svn),
            (0x08, 8, guest.policy),
            (0x30, 4, guest.vmpl),
            (0x34, 4, guest.algorithm),
            (0x40, 8, guest.platform_info),
            (0x48, 4, flags),
        ):
            body[at : at + size] = value.to_bytes(size, "little")
        for at, data in (
            (0x10, guest.family_id),
            (0x20, guest.image_id),
            (0x38, guest.current_tcb.pack(product)),
            (0x50, report_data),
            (0x90, guest.measurement),
            (0xC0, guest.host_data),
            (0xE0, guest.id_key_digest),
            (0x110, guest.author_key_digest),
            (0x140, sha256(guest.measurement)),
            (0x160, b"\xff" * 32),
            (0x180, guest.reported_tcb.pack(product)),
            (0x188, bytes(cpuid) if guest.version >= 3 else bytes(3)),
            (0x1A0, self.chip_id if guest.chip_id is None else guest.chip_id),
            (0x1E0, guest.committed_tcb.pack(product)),
            (0x1E8, bytes((29, 55, 1, 0, 29, 55, 1, 0))),
            (0x1F0, guest.launch_tcb.pack(product)),
        ):
            body[at : at + len(data)] = data
        return bytes(body)

    def attester(self, guest: Guest | None = None, *, chain: bool = True) -> SimulatedSnpAttester:
        """An attester for a guest on this chip; an honest one by default."""
        tcb = self.tcb
        inside = guest or Guest(
            current_tcb=tcb, reported_tcb=tcb, committed_tcb=tcb, launch_tcb=tcb
        )
        return SimulatedSnpAttester(self, inside, self.table(chain=chain))


class SimulatedSnpAttester:
    """Reports under a home-made root. It proves logic, not secrecy."""

    __slots__ = ("_chip", "_table", "guest")

    def __init__(self, chip: Chip, guest: Guest, table: bytes) -> None:
        self._chip, self.guest, self._table = chip, guest, table

    @property
    def simulated(self) -> bool:
        """Always true."""
        return True

    def attest(self, report_data: bytes) -> Evidence:
        """Evidence over exactly these 64 bytes. Raises Unavailable for any other number of bytes."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise Unavailable(about="report data", got=len(report_data), expected=REPORT_DATA_BYTES)
        return Evidence("snp", self._chip.report(report_data, self.guest), (self._table,))
