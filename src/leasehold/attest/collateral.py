"""Collateral as verifiers use it: found by what it is of, and carried to consumers in signed bundles.

It comes from the custodian's own store or from a bundle that he signed, never from the borrower. Refuses
to know disks and networks. Spec: docs/spec/collateral.md, K-1 and K-2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, Protocol

import msgspec

from leasehold.attest.intel.pcs import Ca, Collateral, Facts, Tee, parse_collateral, read_facts
from leasehold.core.crypto import SigningKey
from leasehold.core.encoding import from_json, to_json
from leasehold.core.statements import Signed, check_signed, sign
from leasehold.core.units import DAY, MINUTE, Instant, after
from leasehold.errors import CollateralMissing, CollateralNotCurrent

__all__ = [
    "Collateral",
    "CollateralBundle",
    "CollateralStore",
    "DatedSet",
    "Document",
    "HeldCollateral",
    "Holdings",
    "Kind",
    "UsedCollateral",
    "open_bundle",
    "parse_collateral",
    "sign_bundle",
]

KIND: Final = "leasehold-collateral"
BUNDLE_AGE_MAX: Final = DAY  # a revocation reaches consumers within a day
CLOCK_SKEW_MAX: Final = 5 * MINUTE  # the custodian's clock may be this far ahead of the consumer's
SETS_MAX: Final = 64  # processor families
DOCUMENTS_MAX: Final = 512  # a machine with 8 GPUs and 4 switches needs about 60


Kind = Literal["amd-chain", "amd-crl", "amd-vcek", "nvidia-rim", "nvidia-ocsp"]


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something else that a vendor says, in the vendor's own format.

    `name` says of what: `amd-chain` and `amd-crl`: `vcek-Milan` or `vlek-Milan` (PEM: ASK, ARK; DER);
    `amd-vcek`: the report's own key, as `amd.kds` names it (DER); `nvidia-rim`: the RIM id (XML);
    `nvidia-ocsp`: SHA-256 in hex of the certificate asked about (DER response). It counts until
    `good_until`, and never longer than it says itself.
    """

    kind: Kind
    name: str
    data: bytes
    good_until: Instant


class DatedSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of Intel's sets, which counts until `good_until`, and never longer than it says itself."""

    collateral: Collateral
    good_until: Instant


class Holdings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that somebody holds, or needs."""

    sets: Annotated[tuple[DatedSet, ...], msgspec.Meta(max_length=SETS_MAX)] = ()
    documents: Annotated[tuple[Document, ...], msgspec.Meta(max_length=DOCUMENTS_MAX)] = ()


class CollateralStore(Protocol):
    """Finds what the vendors say; nothing in it ever comes from the borrower."""

    def find(self, *, fmspc: str, ca: Ca, tee: Tee) -> Facts:
        """Intel's set for this family (6 bytes in hex) and PCK authority. Raises CollateralMissing."""

    def document(self, kind: Kind, name: str) -> Document:
        """The document of this kind and name. Raises CollateralMissing."""


class HeldCollateral:
    """Collateral held in memory, read once."""

    __slots__ = ("_documents", "_facts")

    def __init__(
        self, collaterals: Iterable[Collateral | DatedSet], documents: Iterable[Document] = ()
    ) -> None:
        """A set without a date counts as long as it says itself. Raises CollateralRejected (unreadable)."""
        self._facts = tuple(_dated(one) for one in collaterals)
        self._documents = {(one.kind, one.name): one for one in documents}

    def find(self, *, fmspc: str, ca: Ca, tee: Tee) -> Facts:
        """The first set that fits. Raises CollateralMissing."""
        for facts in self._facts:
            if (facts.fmspc, facts.ca, facts.tee) == (fmspc, ca, tee):
                return facts
        raise CollateralMissing(about=f"{tee} {fmspc} {ca}")

    def document(self, kind: Kind, name: str) -> Document:
        """The document of this kind and name. Raises CollateralMissing."""
        found = self._documents.get((kind, name))
        if found is None:
            raise CollateralMissing(about=f"{kind} {name}")
        return found


def _dated(one: Collateral | DatedSet) -> Facts:
    if isinstance(one, Collateral):
        return read_facts(one)
    facts = read_facts(one.collateral)
    return replace(facts, ends=min(facts.ends, one.good_until))


class UsedCollateral:
    """A store that remembers what was found in it: what a consumer of the same evidence needs as well."""

    __slots__ = ("_documents", "_sets", "_store")

    def __init__(self, store: CollateralStore) -> None:
        self._store = store
        self._sets: dict[tuple[str, Ca, Tee], DatedSet] = {}
        self._documents: dict[tuple[Kind, str], Document] = {}

    def find(self, *, fmspc: str, ca: Ca, tee: Tee) -> Facts:
        """What the store has. Raises CollateralMissing."""
        facts = self._store.find(fmspc=fmspc, ca=ca, tee=tee)
        self._sets[fmspc, ca, tee] = DatedSet(facts.collateral, facts.ends)
        return facts

    def document(self, kind: Kind, name: str) -> Document:
        """What the store has. Raises CollateralMissing."""
        found = self._store.document(kind, name)
        self._documents[kind, name] = found
        return found

    @property
    def holdings(self) -> Holdings:
        """Everything that was found."""
        return Holdings(tuple(self._sets.values()), tuple(self._documents.values()))


# Bundles for consumers ---------------------------------------------------------------------------


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """K-2: a bundle as it is signed. `issued` and `not_after` are milliseconds since the epoch."""

    issued: Instant
    not_after: Instant
    holdings: Holdings


@dataclass(frozen=True, slots=True)
class CollateralBundle:
    """K-2: what the custodian vouches for, checked. `issued`, `not_after`: ms since the epoch."""

    issued: Instant
    not_after: Instant
    held: HeldCollateral

    def find(self, *, fmspc: str, ca: Ca, tee: Tee) -> Facts:
        """The first set that fits. Raises CollateralMissing."""
        return self.held.find(fmspc=fmspc, ca=ca, tee=tee)

    def document(self, kind: Kind, name: str) -> Document:
        """The document of this kind and name. Raises CollateralMissing."""
        return self.held.document(kind, name)


def sign_bundle(
    key: SigningKey, holdings: Holdings, *, now: Instant, lifetime: int = DAY
) -> Signed:
    """K-2: a bundle issued now, good for `lifetime` milliseconds but never past a day."""
    until = after(now, min(lifetime, BUNDLE_AGE_MAX))
    return sign(key, KIND, to_json(_Payload(now, until, holdings)))


def open_bundle(signed: Signed, public: bytes, *, now: Instant) -> CollateralBundle:
    """K-2: the bundle that this custodian signed at most a day ago.

    Raises BadSignature, BadMessage, CollateralNotCurrent, CollateralRejected.
    """
    bundle = from_json(check_signed(signed, kind=KIND, public=public), _Payload)
    if bundle.issued > now + CLOCK_SKEW_MAX:
        raise CollateralNotCurrent(about="bundle from the future", got=bundle.issued, expected=now)
    if now >= min(bundle.not_after, bundle.issued + BUNDLE_AGE_MAX):
        raise CollateralNotCurrent(about="bundle", got=bundle.issued, expected="at most a day old")
    held = HeldCollateral(bundle.holdings.sets, bundle.holdings.documents)
    return CollateralBundle(bundle.issued, bundle.not_after, held)
