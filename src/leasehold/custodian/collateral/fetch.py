"""Fetching: one item, all that is kept, or whatever judging a piece of evidence asks for.

Spec: docs/spec/collateral.md, K-4 and K-7. What is fetched passes `intake` or is not kept. Refuses to know
addresses and answers' forms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from leasehold.attest.certificate import DerCertificate
from leasehold.attest.collateral import Document, Kind
from leasehold.attest.intel.pcs import Ca, Facts, Tee
from leasehold.attest.nvidia.ocsp import ocsp_name
from leasehold.attest.nvidia.rim import read_rim
from leasehold.attest.origin import Pair, chain_for
from leasehold.core.units import Clock
from leasehold.custodian.collateral.folder import (
    Failure,
    FolderCollateral,
    Kept,
    KeptDocument,
    KeptSet,
)
from leasehold.custodian.collateral.intake import Family, Intake
from leasehold.custodian.collateral.services import Services
from leasehold.custodian.collateral.vendors import Vendors
from leasehold.custodian.collateral.web import Web
from leasehold.errors import FileTrouble, LeaseholdError
from leasehold.net.tls import TlsContext, public_context

_FIRST: Final[tuple[Kind, ...]] = ("amd-chain", "nvidia-rim")  # others hang on these


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh did: items that are current again, those among them that say something new."""

    done: tuple[str, ...]
    news: tuple[str, ...]
    failed: tuple[Failure, ...]


@dataclass(slots=True)
class Fetcher:
    """A `CollateralStore` that fetches what it is asked for: judging evidence over it fetches all of it.

    `pairs` are certificates with their issuers' (DER), by the SHA-256 in hex that OCSP is asked about.
    """

    intake: Intake
    services: Services
    clock: Clock
    pairs: dict[str, Pair] = field(default_factory=dict)
    fetched: dict[str, Kept] = field(default_factory=dict)

    def set(self, family: Family) -> KeptSet:
        """Fetch one of Intel's sets and keep it. Raises VendorUnreachable and as `Intake.set` does."""
        collateral, source = self.services.intel(family)
        now = self.clock.now()
        kept = self.intake.set(collateral, source=source, now=now, wanted=family)
        self.fetched[kept.name] = kept
        return kept

    def get(self, kind: Kind, name: str) -> KeptDocument:
        """Fetch a document and keep it. Raises VendorUnreachable and as `Intake.document` does."""
        pair = self.pairs.get(name) if kind == "nvidia-ocsp" else None
        data, source = self.services.document(kind, name, pair)
        draft = Document(kind, name, data, self.clock.now())
        if (chain := chain_for(draft)) is not None:
            self.document("amd-chain", chain)
        now = self.clock.now()
        kept = self.intake.document(kind, name, data, source=source, now=now, pair=pair)
        if kind == "nvidia-rim":
            self.knows(read_rim(data).revocable)
        self.fetched[kept.name] = kept
        return kept

    def knows(self, pairs: Iterable[tuple[DerCertificate, DerCertificate]]) -> None:
        """Remember certificates and their issuers, which OCSP has to be asked about."""
        for one, issuer in pairs:
            self.pairs[ocsp_name(one)] = (one.der, issuer.der)

    # As a store ----------------------------------------------------------------------------------

    def find(self, *, fmspc: str, ca: Ca, tee: Tee) -> Facts:
        """What the service says now. Raises VendorUnreachable, and as `FolderCollateral.find` does."""
        family = Family(fmspc, ca, tee)
        if not any(
            isinstance(one, KeptSet) and Family(one.fmspc, one.ca, one.tee) == family
            for one in self.fetched.values()
        ):
            self.set(family)
        return self.intake.folder.find(fmspc=fmspc, ca=ca, tee=tee)

    def document(self, kind: Kind, name: str) -> Document:
        """What the service says now. Raises VendorUnreachable, and as `FolderCollateral.document` does."""
        known = self.fetched.get(f"{kind}-{name}")
        if isinstance(known, KeptDocument):
            return known.kept
        return self.get(kind, name).kept

    # All that is kept ----------------------------------------------------------------------------

    def refresh(self) -> Refreshed:
        """Fetch everything again that is kept and may be fetched; one failure stops no other.

        Raises FileTrouble, CollateralRejected (unreadable marks).
        """
        folder = self.intake.folder
        items = folder.items()
        kept = [one for one in items.values() if one is not None and self._may(one)]
        for one in kept:
            if isinstance(one, KeptDocument) and one.pair is not None:
                self.pairs[one.kept.name] = one.pair
        kept.sort(key=lambda one: isinstance(one, KeptDocument) and one.kept.kind not in _FIRST)
        failed = []
        for one in kept:
            try:
                if isinstance(one, KeptSet):
                    self.set(Family(one.fmspc, one.ca, one.tee))
                elif one.name not in self.fetched:  # a chain comes with what hangs on it
                    self.get(one.kept.kind, one.kept.name)
            except FileTrouble:
                raise
            except LeaseholdError as why:
                failed.append(Failure(one.name, why))
        news = [name for name, new in self.fetched.items() if _said(items.get(name)) != _said(new)]
        return Refreshed(tuple(self.fetched), tuple(news), tuple(failed))

    def _may(self, kept: Kept) -> bool:
        """A simulated vendor's is fetched only where the settings name simulated roots."""
        return not kept.origin.simulated or self.intake.simulated is not None


def _said(kept: Kept | None) -> object:
    if kept is None:
        return None
    return kept.kept.collateral if isinstance(kept, KeptSet) else kept.kept.data


@contextmanager
def open_fetcher(
    vendors: Vendors,
    folder: FolderCollateral,
    *,
    clock: Clock,
    web: Callable[[Vendors], Web] | None = None,
) -> Iterator[Fetcher]:
    """A fetcher for these settings. Raises FileTrouble, BadSetting where the CA file is none."""
    intake = Intake(folder, vendors.simulated, vendors.age)
    with (web or open_web)(vendors) as opened:
        yield Fetcher(intake, Services(vendors, opened), clock)


def open_web(vendors: Vendors) -> Web:
    """The real network. Raises FileTrouble."""
    return Web(context=_context(vendors), entropy=os.urandom, proxy=vendors.proxy)


def _context(vendors: Vendors) -> TlsContext:
    if not vendors.ca_file:
        return public_context()
    try:
        return public_context(Path(vendors.ca_file).read_text("ascii"))
    except (OSError, ValueError) as cause:
        raise FileTrouble(about=vendors.ca_file, got=type(cause).__name__) from cause
