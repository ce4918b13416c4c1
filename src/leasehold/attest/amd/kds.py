"""AMD's key distribution service: what its documents are called, there and in a collateral store.

Pure names and paths; fetching is the custodian's. Source: AMD 57230, VCEK Certificate and KDS Interface
Specification, chapter 4. A VLEK is not published; the cloud that owns it hands it out.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from leasehold.attest.amd.report import PRODUCTS, Report, Tcb, parse_tcb
from leasehold.errors import CollateralRejected

Endorser = Literal["vcek", "vlek"]
CHIP_ID_BYTES: Final = 64
TURIN_CHIP_ID_BYTES: Final = 8
_CHAIN: Final = re.compile(rf"\A(vcek|vlek)-({'|'.join(PRODUCTS)})\Z")
_VCEK: Final = re.compile(
    rf"\A({'|'.join(PRODUCTS)})-([0-9a-f]{{16}}|[0-9a-f]{{128}})-([0-9a-f]{{10}})\Z"
)


def hardware_id(chip_id: bytes, product: str) -> bytes:
    """The part of a report's 64-byte chip id that names the chip: 8 bytes from Turin on."""
    return chip_id[:TURIN_CHIP_ID_BYTES] if product == "Turin" else chip_id


def chain_name(endorser: Endorser, product: str) -> str:
    """The store's name for the certificates above a VCEK or VLEK, and for the list of revoked ones."""
    return f"{endorser}-{product}"


def chain_path(name: str) -> str:
    """Where the service has the chain of this name (PEM: ASK or ASVK, then ARK)."""
    return f"{_chain(name)}/cert_chain"


def crl_path(name: str) -> str:
    """Where it has the ARK's revocation list for the chain of this name (DER)."""
    return f"{_chain(name)}/crl"


def _chain(name: str) -> str:
    found = _CHAIN.match(name)
    if found is None:
        raise CollateralRejected(about="AMD chain", got=name, expected="vcek-Milan or the like")
    return f"/{found[1]}/v1/{found[2]}"


def vcek_name(report: Report, product: str) -> str:
    """The store's name for the certificate of a report's own key: product, chip, reported patch level."""
    tcb = parse_tcb(report.reported_tcb, product)
    return key_name(product, hardware_id(report.chip_id, product), tcb)


def key_name(product: str, hardware: bytes, tcb: Tcb) -> str:
    """The store's name for the VCEK of a product's chip at a patch level."""
    level = bytes((tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode, tcb.fmc)).hex()
    return f"{product}-{hardware.hex()}-{level}"


def vcek_path(name: str) -> str:
    """Where the service has the VCEK of this name (DER)."""
    found = _VCEK.match(name)
    if found is None:
        raise CollateralRejected(about="VCEK", got=name, expected="PRODUCT-CHIP-LEVEL")
    product, chip, level = found[1], found[2], Tcb(*bytes.fromhex(found[3]))
    query = (
        f"blSPL={level.bootloader}&teeSPL={level.tee}&snpSPL={level.snp}&ucodeSPL={level.microcode}"
    )
    if product == "Turin":
        query = f"fmcSPL={level.fmc}&{query}"
    return f"/vcek/v1/{product}/{chip}?{query}"
