"""Taking collateral in: authentic first, then no older than before, then kept with its age.

Spec: docs/spec/collateral.md, K-3 to K-6. Refuses to know where the bytes came from; it notes what it is
told.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from leasehold.attest.certificate import read_certificates
from leasehold.attest.collateral import Collateral, DatedSet, Document, Kind
from leasehold.attest.intel.pcs import Ca, Tee, read_facts
from leasehold.attest.nvidia.ocsp import ocsp_name
from leasehold.attest.nvidia.rim import read_rim
from leasehold.attest.origin import Pair, chain_for, document_origin, set_origin
from leasehold.attest.reference import Simulated
from leasehold.core.units import DAY, Duration, Instant, after
from leasehold.custodian.collateral.folder import (
    FolderCollateral,
    KeptDocument,
    KeptSet,
    document_name,
)
from leasehold.errors import (
    BadEvidence,
    CollateralMismatch,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
)

AGE_MAX: Final = DAY  # K-4: what the custodian took in counts no longer than this
CHAIN_MAX: Final = 8  # certificates in a file


@dataclass(frozen=True, slots=True)
class Family:
    """What a set of Intel's is of: the processor family (6 bytes in hex), PCK authority, platform."""

    fmspc: str
    ca: Ca
    tee: Tee


@dataclass(frozen=True, slots=True)
class Intake:
    """A folder, and what may come in: under which simulated roots, and for how long it then counts.

    `by_hand` says that a person vouches for where it came from: then SIMULATED collateral may come under
    a root of its own. `until` replaces the age where a signed bundle says when it ends.
    """

    folder: FolderCollateral
    simulated: Simulated | None = None
    age: Duration = AGE_MAX
    by_hand: bool = False
    until: Instant | None = None

    def set(
        self, collateral: Collateral, *, source: str, now: Instant, wanted: Family | None = None
    ) -> KeptSet:
        """K-4: keep a set of Intel's. Raises as `set_origin` and `FolderCollateral.add` do."""
        facts = read_facts(collateral)
        simulated = self.simulated
        if self.by_hand:
            simulated = Simulated(root_sha256=facts.tcb_chain[-1].sha256)
        origin = set_origin(facts, simulated=simulated, now=now)
        dated = DatedSet(facts.collateral, self._until(now, origin.ends))
        kept = KeptSet(dated, source, now, origin, facts.fmspc, facts.ca, facts.tee)
        if wanted is not None and wanted != Family(kept.fmspc, kept.ca, kept.tee):
            raise CollateralMismatch(about=source, got=kept.name, expected=wanted)
        self.folder.add(kept)
        return kept

    def document(
        self,
        kind: Kind,
        name: str,
        data: bytes,
        *,
        source: str,
        now: Instant,
        pair: Pair | None = None,
    ) -> KeptDocument:
        """K-4: keep a document. Raises as `document_origin` and `FolderCollateral.add` do."""
        draft = Document(kind, name, data, now)
        document_name(kind, name)  # before it leads to any other file
        chain = self._chain(draft, now)
        if kind == "nvidia-ocsp" and pair is None:
            pair = self._pair(name)
        origin = document_origin(
            draft,
            chain=chain,
            pair=pair,
            simulated=self._own_root(chain or draft) if self.by_hand else self.simulated,
            now=now,
        )
        document = Document(kind, name, data, self._until(now, origin.ends))
        kept = KeptDocument(document, source, now, origin, pair)
        self.folder.add(kept)
        return kept

    def _until(self, now: Instant, ends: Instant) -> Instant:
        """Whoever configures the age may shorten it only."""
        aged = after(now, min(self.age, AGE_MAX))
        return Instant(min(aged if self.until is None else self.until, ends))

    def _own_root(self, document: Document) -> Simulated | None:
        """The root that a document itself ends in. Raises CollateralRejected."""
        match document.kind:
            case "amd-chain":
                try:
                    found = read_certificates(document.data, count_max=CHAIN_MAX)
                except BadEvidence as cause:
                    raise CollateralRejected(about=document.name, got=cause.message) from cause
                return Simulated(amd_root_sha256=found[-1].sha256)
            case "nvidia-rim":
                root = read_rim(document.data).certificates[-1]
                return Simulated(nvidia_rim_root_sha256=root.sha256)
            case _:
                return None

    def _chain(self, document: Document, now: Instant) -> Document | None:
        """The kept chain that a document hangs on, if it still counts."""
        name = chain_for(document)
        if name is None:
            return None
        chain = self.folder.document("amd-chain", name)
        if now >= chain.good_until:
            raise CollateralNotCurrent(about=f"amd-chain {name}", got=chain.good_until)
        return chain

    def _pair(self, name: str) -> Pair | None:
        """The certificate of this SHA-256 and its issuer's, of a manifest or an answer that is kept."""
        for kept in self.folder.items().values():
            if isinstance(kept, KeptDocument):
                if kept.kept.kind == "nvidia-ocsp" and kept.kept.name == name:
                    return kept.pair
                if kept.kept.kind == "nvidia-rim":
                    for one, issuer in read_rim(kept.kept.data).revocable:
                        if ocsp_name(one) == name:
                            return one.der, issuer.der
        return None


def pair_in(chain: bytes, name: str) -> Pair:
    """The certificate of this SHA-256 (hex) and its issuer's, out of a chain in PEM.

    Raises CollateralMissing.
    """
    try:
        found = read_certificates(chain, count_max=CHAIN_MAX)
    except BadEvidence as cause:
        raise CollateralMissing(about="chain", got=cause.message) from cause
    for one, issuer in pairwise(found):
        if ocsp_name(one) == name:
            return one.der, issuer.der
    raise CollateralMissing(about="chain", got=f"{len(found)} certificates", expected=name)
