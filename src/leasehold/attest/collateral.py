"""Where collateral is kept: signed bundles for consumers, a folder with high-water marks for custodians.

The only module of the verifier that touches a disk. Collateral comes from the custodian's own fetch or
from a bundle that he signed, never from the borrower. Spec: docs/spec/evidence.md, K-1 to K-4, K-5.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Protocol

import msgspec

from leasehold.attest.intel.pcs import Ca, Collateral, Facts, Tee, parse_collateral, read_facts
from leasehold.core.crypto import SigningKey
from leasehold.core.encoding import from_json, to_json
from leasehold.core.statements import Signed, check_signed, sign
from leasehold.core.units import DAY, KIB, MINUTE, Instant, after
from leasehold.errors import (
    BadMessage,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    CollateralRolledBack,
    FileTrouble,
)

__all__ = [
    "Collateral",
    "CollateralBundle",
    "CollateralStore",
    "Document",
    "FolderCollateral",
    "HeldCollateral",
    "Holdings",
    "Kind",
    "open_bundle",
    "parse_collateral",
    "sign_bundle",
]

KIND: Final = "leasehold-collateral"
BUNDLE_AGE_MAX: Final = DAY  # a revocation reaches consumers within a day
CLOCK_SKEW_MAX: Final = 5 * MINUTE  # the custodian's clock may be this far ahead of the consumer's
BUNDLE_SETS_MAX: Final = 64  # processor families among one loan's machines
BUNDLE_DOCUMENTS_MAX: Final = 512
DOCUMENT_BYTES_MAX: Final = 256 * KIB  # NVIDIA's manifests are the longest, ~100 KiB
DOCUMENT_AGE_MAX: Final = DAY
_MARKS: Final = "marks.json"
_ORDERS: Final = "orders.json"
_NAME: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_FMSPC: Final = re.compile(r"\A[0-9a-f]{12}\Z")


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
        self, collaterals: Iterable[Collateral], documents: Iterable[Document] = ()
    ) -> None:
        """Raises CollateralRejected for a set that cannot be read."""
        self._facts = tuple(read_facts(collateral) for collateral in collaterals)
        self._documents = {(one.kind, one.name): one for one in documents}

    @property
    def collaterals(self) -> tuple[Collateral, ...]:
        """The sets, in the order given."""
        return tuple(facts.collateral for facts in self._facts)

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


# Bundles for consumers ---------------------------------------------------------------------------


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """K-2: a bundle as it is signed. `issued` and `not_after` are milliseconds since the epoch."""

    issued: Instant
    not_after: Instant
    collaterals: Annotated[tuple[Collateral, ...], msgspec.Meta(max_length=BUNDLE_SETS_MAX)]
    documents: Annotated[tuple[Document, ...], msgspec.Meta(max_length=BUNDLE_DOCUMENTS_MAX)] = ()


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
    key: SigningKey,
    collaterals: Iterable[Collateral],
    documents: Iterable[Document] = (),
    *,
    now: Instant,
    lifetime: int = DAY,
) -> Signed:
    """K-2: a bundle issued now, good for `lifetime` milliseconds but never past a day."""
    until = after(now, min(lifetime, BUNDLE_AGE_MAX))
    return sign(key, KIND, to_json(_Payload(now, until, tuple(collaterals), tuple(documents))))


def open_bundle(signed: Signed, public: bytes, *, now: Instant) -> CollateralBundle:
    """K-2: the bundle that this custodian signed at most a day ago.

    Raises BadSignature, BadMessage, CollateralNotCurrent, CollateralRejected.
    """
    bundle = from_json(check_signed(signed, kind=KIND, public=public), _Payload)
    if bundle.issued > now + CLOCK_SKEW_MAX:
        raise CollateralNotCurrent(about="bundle from the future", got=bundle.issued, expected=now)
    if now >= min(bundle.not_after, bundle.issued + BUNDLE_AGE_MAX):
        raise CollateralNotCurrent(about="bundle", got=bundle.issued, expected="at most a day old")
    return CollateralBundle(
        bundle.issued, bundle.not_after, HeldCollateral(bundle.collaterals, bundle.documents)
    )


# A folder for the custodian ----------------------------------------------------------------------


class _Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """K-3: the highest numbers and dates ever accepted for one family; nothing lower comes back."""

    evaluation: int
    qe_evaluation: int
    tcb_issued: Instant
    qe_issued: Instant
    root_crl: int
    pck_crl: int


def _mark(facts: Facts) -> _Mark:
    return _Mark(
        evaluation=facts.evaluation,
        qe_evaluation=facts.qe_evaluation,
        tcb_issued=facts.tcb_issued,
        qe_issued=facts.qe_issued,
        root_crl=facts.root_crl.number,
        pck_crl=facts.pck_crl.number,
    )


def _check_mark(facts: Facts, mark: _Mark) -> None:
    """K-3: raise CollateralRolledBack where anything is lower than it once was."""
    got = _mark(facts)
    for field in _Mark.__struct_fields__:
        if getattr(got, field) < getattr(mark, field):
            raise CollateralRolledBack(
                about=field, got=getattr(got, field), expected=f">= {getattr(mark, field)}"
            )


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """K-3: a document as it is kept, with what its vendor counts upwards."""

    order: int
    document: Document


class Holdings(NamedTuple):
    """All that a custodian has of the vendors, for his consumers."""

    collaterals: tuple[Collateral, ...]
    documents: tuple[Document, ...] = ()


class FolderCollateral:
    """K-3: one JSON file per processor family, and the high-water marks beside them.

    Only `add` raises the marks: call it with what the custodian fetched himself.
    """

    __slots__ = ("_path", "_read")

    def __init__(self, path: Path) -> None:
        """Nothing is read before the first use, and a missing folder is an empty one."""
        self._path = path
        self._read: dict[str, tuple[bytes, Facts]] = {}

    def add(self, collateral: Collateral) -> None:
        """Keep a set. Raises CollateralRejected, CollateralRolledBack, FileTrouble."""
        facts = read_facts(collateral)
        name = _file_name(fmspc=facts.fmspc, ca=facts.ca, tee=facts.tee)
        marks = self._marks()
        if name in marks:
            _check_mark(facts, marks[name])
        marks[name] = _mark(facts)
        self._make_folder()
        # Marks first: a crash between the two refuses the old set instead of accepting it again.
        _write(self._path / _MARKS, to_json(marks))
        _write(self._path / name, to_json(collateral))

    def find(self, *, fmspc: str, ca: Ca, tee: Tee) -> Facts:
        """The kept set for this family. Raises CollateralMissing, CollateralRolledBack, FileTrouble."""
        return self._load(_file_name(fmspc=fmspc, ca=ca, tee=tee), self._marks())

    def add_document(self, document: Document, *, order: int) -> None:
        """Keep a document whose `order` is not below that of any before it of this kind and name.

        Raises CollateralRejected, CollateralRolledBack, FileTrouble.
        """
        name = _document_file(document.kind, document.name)
        if len(document.data) > DOCUMENT_BYTES_MAX:
            raise CollateralRejected(
                about=name, got=len(document.data), expected=f"<= {DOCUMENT_BYTES_MAX} bytes"
            )
        orders = self._orders()
        if order < orders.get(name, order):
            raise CollateralRolledBack(about=name, got=order, expected=f">= {orders[name]}")
        self._make_folder()
        # The order first, for the reason that marks are.
        _write(self._path / _ORDERS, to_json({**orders, name: order}))
        _write(self._path / name, to_json(_Kept(order, document)))

    def document(self, kind: Kind, name: str) -> Document:
        """The kept document of this kind and name.

        Raises CollateralMissing, CollateralRolledBack, CollateralRejected, FileTrouble.
        """
        return self._load_document(_document_file(kind, name), self._orders())

    def documents(self) -> tuple[Document, ...]:
        """Every kept document, to be signed as a bundle. Raises as `document` does."""
        orders = self._orders()
        return tuple(self._load_document(name, orders) for name in sorted(orders))

    def holdings(self) -> Holdings:
        """All that is kept. Raises as `find` and `document` do."""
        return Holdings(self.all(), self.documents())

    def _load_document(self, name: str, orders: dict[str, int]) -> Document:
        data = _read(self._path / name)
        if name not in orders or data is None:
            raise CollateralMissing(about=name.removesuffix(".json"))
        try:
            kept = from_json(data, _Kept)
        except BadMessage as cause:
            raise CollateralRejected(about=name, got=cause.got) from cause
        if kept.order < orders[name]:
            raise CollateralRolledBack(about=name, got=kept.order, expected=f">= {orders[name]}")
        return kept.document

    def _orders(self) -> dict[str, int]:
        data = _read(self._path / _ORDERS)
        try:
            return {} if data is None else from_json(data, dict[str, int])
        except BadMessage as cause:
            raise CollateralRejected(about=self._path / _ORDERS, got=cause.got) from cause

    def _make_folder(self) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise FileTrouble(about=self._path) from cause

    def all(self) -> tuple[Collateral, ...]:
        """Every kept set, to be signed as a bundle. Raises as `find` does."""
        marks = self._marks()
        return tuple(self._load(name, marks).collateral for name in sorted(marks))

    def _load(self, name: str, marks: dict[str, _Mark]) -> Facts:
        data = _read(self._path / name)
        if name not in marks or data is None:
            raise CollateralMissing(about=name)
        kept = self._read.get(name)
        if kept is None or kept[0] != data:
            kept = (data, read_facts(parse_collateral(data)))
            self._read[name] = kept
        _check_mark(kept[1], marks[name])
        return kept[1]

    def _marks(self) -> dict[str, _Mark]:
        data = _read(self._path / _MARKS)
        try:
            return {} if data is None else from_json(data, dict[str, _Mark])
        except BadMessage as cause:
            raise CollateralRejected(about=self._path / _MARKS, got=cause.got) from cause


def _document_file(kind: str, name: str) -> str:
    """The file of one document; refuses anything that could leave the folder."""
    if not _NAME.match(name):
        raise CollateralRejected(about=kind, got=name, expected="letters, digits, '.', '_' and '-'")
    return f"{kind}-{name}.json"


def _file_name(*, fmspc: str, ca: str, tee: str) -> str:
    """The file of one family; refuses anything that could leave the folder."""
    if not _FMSPC.match(fmspc):
        raise CollateralRejected(about="fmspc", got=fmspc, expected="6 bytes in lower-case hex")
    return f"{tee}-{fmspc}-{ca}.json"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise FileTrouble(about=path) from cause


def _write(path: Path, data: bytes) -> None:
    """Replace a file at once: readers see the old bytes or the new ones, also after a crash."""
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as cause:
        raise FileTrouble(about=path) from cause
