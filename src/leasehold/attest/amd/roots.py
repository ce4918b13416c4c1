"""AMD's root keys that are compiled in, one for each product.

Pins are SHA-256 of the DER SubjectPublicKeyInfo of the ARK; each was found equal in several
independent repositories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from leasehold.attest.amd.report import PRODUCTS
from leasehold.attest.certificate import DerCertificate
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import Trust
from leasehold.errors import UntrustedRoot

ARK_SPKI_SHA256: Final[Mapping[str, str]] = {
    "Milan": "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
    "Genoa": "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
    "Turin": "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
}
_SIMULATED: Final = "SIMULATED "


@dataclass(frozen=True, slots=True)
class Anchor:
    """The ARK that a chain ends in. `prefix` stands before every role's name in a simulation."""

    trust: Trust
    product: str
    prefix: str


def decide_anchor(ark: DerCertificate, simulated: Simulated | None) -> Anchor:
    """E-4: AMD's root for a product by its key, or the very certificate that the manifest names.

    Raises UntrustedRoot.
    """
    for product, pin in ARK_SPKI_SHA256.items():
        if ark.spki_sha256 == pin:
            return Anchor(Trust.PRODUCTION, product, "")
    named = None if simulated is None else simulated.amd_root_sha256
    if named is not None and ark.sha256 == named:
        for product in PRODUCTS:
            if ark.name == f"{_SIMULATED}ARK-{product}":
                return Anchor(Trust.SIMULATION, product, _SIMULATED)
    expected = "an ARK of AMD's" if named is None else f"an ARK of AMD's or {named}"
    raise UntrustedRoot(about=ark.name, got=ark.sha256, expected=expected)
