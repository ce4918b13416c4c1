"""A folder of collateral with high-water marks: nothing that a vendor has replaced ever comes back.

One file for each item and `marks.json` beside them. One process writes at a time, any number read. Refuses
to know networks, and whether an item is authentic: whoever adds one shows its `Origin`. Spec:
docs/spec/collateral.md, K-3.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from leasehold.attest.collateral import DatedSet, Document, Kind
from leasehold.attest.intel.pcs import COLLATERAL_BYTES_MAX, Ca, Facts, Tee, read_facts
from leasehold.attest.origin import Origin, Pair
from leasehold.core.encoding import from_json, to_json
from leasehold.core.units import KIB, Instant
from leasehold.errors import (
    BadMessage,
    CollateralMissing,
    CollateralRejected,
    CollateralRolledBack,
    FileTrouble,
    LeaseholdError,
    UntrustedRoot,
)

DOCUMENT_BYTES_MAX: Final = 256 * KIB  # NVIDIA's manifests are the longest, ~100 KiB
ITEMS_MAX: Final = 2048
_MARKS: Final = "marks.json"
_LOCK: Final = "lock"
_REFRESH: Final = "refresh.json"
_FMSPC: Final = re.compile(r"\A[0-9a-f]{12}\Z")
_NAME: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_PATH_MODE: Final = 0o700


class KeptSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="set"):
    """One of Intel's sets: what, where it came from (an address or a file), when, and what it is."""

    kept: DatedSet
    source: str
    fetched: Instant
    origin: Origin
    fmspc: str
    ca: Ca
    tee: Tee

    @property
    def name(self) -> str:
        """What it is called here."""
        return set_name(fmspc=self.fmspc, ca=self.ca, tee=self.tee)

    @property
    def good_until(self) -> Instant:
        """When it counts no more."""
        return Instant(min(self.kept.good_until, self.origin.ends))


class KeptDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="document"):
    """A document of another vendor. `pair` (OCSP): the certificate that it is about, and its issuer's."""

    kept: Document
    source: str
    fetched: Instant
    origin: Origin
    pair: Pair | None = None

    @property
    def name(self) -> str:
        """What it is called here."""
        return document_name(self.kept.kind, self.kept.name)

    @property
    def good_until(self) -> Instant:
        """When it counts no more."""
        return Instant(min(self.kept.good_until, self.origin.ends))


Kept = KeptSet | KeptDocument
K = TypeVar("K", KeptSet, KeptDocument)


class _Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """K-3: the highest numbers ever accepted for one item, and the root that they were said under."""

    root: str
    simulated: bool
    numbers: dict[str, int]


class Failure(NamedTuple):
    """One item that could not be fetched again; what was kept of it stays until its age ends it."""

    name: str
    why: LeaseholdError


class Problem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A failure as it is noted for people."""

    item: str
    code: str
    message: str


class LastRefresh(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of the last refresh in the background."""

    at: Instant
    failed: tuple[Problem, ...] = ()


class _Marks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`marks.json`: the marks by item, and how often anything new was taken in."""

    changes: int = 0
    marks: dict[str, _Mark] = {}


def set_name(*, fmspc: str, ca: str, tee: str) -> str:
    """The name of one family's set. Raises CollateralRejected for what could leave the folder."""
    if not _FMSPC.match(fmspc):
        raise CollateralRejected(about="fmspc", got=fmspc, expected="6 bytes in lower-case hex")
    return f"{tee}-{fmspc}-{ca}"


def document_name(kind: str, name: str) -> str:
    """The name of one document. Raises CollateralRejected for what could leave the folder."""
    if not _NAME.match(name):
        raise CollateralRejected(about=kind, got=name, expected="letters, digits, '.', '_' and '-'")
    return f"{kind}-{name}"


class FolderCollateral:
    """K-3: a `CollateralStore` on disk. A missing folder is an empty one."""

    __slots__ = ("_path", "_read")

    def __init__(self, path: Path) -> None:
        """Nothing is read before the first use."""
        self._path = path
        self._read: dict[str, tuple[bytes, Kept, Facts | None]] = {}

    # Reading -------------------------------------------------------------------------------------

    def find(self, *, fmspc: str, ca: Ca, tee: Tee) -> Facts:
        """The kept set for this family; it ends when the vendor says so or when its age ends it.

        Raises CollateralMissing, CollateralRolledBack, CollateralRejected, FileTrouble.
        """
        name = set_name(fmspc=fmspc, ca=ca, tee=tee)
        kept, facts = self._load(name)
        if not isinstance(kept, KeptSet) or facts is None:
            raise CollateralRejected(about=name, got="a document", expected="a set")
        return facts

    def document(self, kind: Kind, name: str) -> Document:
        """The kept document of this kind and name. Raises as `find` does."""
        where = document_name(kind, name)
        kept, _ = self._load(where)
        if not isinstance(kept, KeptDocument) or kept.name != where:
            raise CollateralRejected(about=where, got="another item", expected="a document")
        return kept.kept

    def items(self) -> dict[str, Kept | None]:
        """Every item ever accepted by its name; None where it is not there (any more) as it should be."""
        found: dict[str, Kept | None] = {}
        for name in sorted(self._marks().marks):
            try:
                found[name] = self._load(name)[0]
            except (CollateralMissing, CollateralRejected):
                found[name] = None
        return found

    def note(self, failed: Iterable[Failure], *, now: Instant) -> None:
        """Note how a refresh ended, for `last_refresh`. Raises FileTrouble."""
        found = tuple(Problem(one.name, one.why.code, one.why.message) for one in failed)
        if self._path.is_dir():
            _write(self._path / _REFRESH, to_json(LastRefresh(now, found)))

    def last_refresh(self) -> LastRefresh | None:
        """How the last refresh ended; None where there was none. Raises FileTrouble."""
        data = _read(self._path / _REFRESH)
        try:
            return None if data is None else from_json(data, LastRefresh)
        except BadMessage:  # only people read it
            return None

    def version(self) -> int:
        """Grows whenever anything new was taken in, by whomever. Raises FileTrouble, CollateralRejected."""
        return self._marks().changes

    def _load(self, name: str) -> tuple[Kept, Facts | None]:
        try:
            return self._look(name)
        except (CollateralMissing, CollateralRolledBack):
            if not self._path.is_dir():
                raise
        with self._locked():  # perhaps it was between a new mark and its item
            return self._look(name)

    def _look(self, name: str) -> tuple[Kept, Facts | None]:
        mark, data = self._marks().marks.get(name), _read(self._path / f"{name}.json")
        if mark is None or data is None:
            raise CollateralMissing(about=name)
        known = self._read.get(name)
        if known is None or known[0] != data:
            known = self._read[name] = (data, *_parse(name, data))
        _check_mark(name, mark, known[1].origin)
        return known[1], known[2]

    def _marks(self) -> _Marks:
        data = _read(self._path / _MARKS)
        try:
            return _Marks() if data is None else from_json(data, _Marks)
        except BadMessage as cause:
            raise CollateralRejected(about=self._path / _MARKS, got=cause.got) from cause

    # Writing -------------------------------------------------------------------------------------

    def add(self, kept: Kept) -> bool:
        """Keep an item, unless one that says the same and counts longer is there; tells whether it says
        anything new.

        Raises CollateralRejected, CollateralRolledBack, UntrustedRoot, FileTrouble.
        """
        name = kept.name
        if isinstance(kept, KeptDocument) and len(kept.kept.data) > DOCUMENT_BYTES_MAX:
            got = len(kept.kept.data)
            raise CollateralRejected(about=name, got=got, expected=f"<= {DOCUMENT_BYTES_MAX} bytes")
        try:
            self._path.mkdir(mode=_PATH_MODE, parents=True, exist_ok=True)
        except OSError as cause:
            raise FileTrouble(about=self._path) from cause
        with self._locked():
            kept_marks = self._marks()
            marks = dict(kept_marks.marks)
            if name in marks:
                _check_mark(name, marks[name], kept.origin)
            elif len(marks) >= ITEMS_MAX:
                raise CollateralRejected(about=name, got=f"{len(marks)} items", expected="fewer")
            known = self._known(name)
            is_new = known is None or _said(known) != _said(kept)
            if known is not None and not is_new and known.good_until >= kept.good_until:
                return False
            if is_new:
                origin = kept.origin
                marks[name] = _Mark(origin.root, origin.simulated, origin.numbers)
                # Marks first: a crash between the two refuses the old item instead of accepting it again.
                _write(self._path / _MARKS, to_json(_Marks(kept_marks.changes + 1, marks)))
            _write(self._path / f"{name}.json", to_json(kept))
        return is_new

    def _known(self, name: str) -> Kept | None:
        try:
            return self._look(name)[0]
        except (CollateralMissing, CollateralRejected):
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; held for as long as two small files take."""
        try:
            handle = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as cause:
            raise FileTrouble(about=self._path / _LOCK, got=cause.strerror) from cause
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _check_mark(name: str, mark: _Mark, got: Origin) -> None:
    """K-3: nothing is lower than it once was. Simulation never replaces the vendor; other roots start anew."""
    if got.root != mark.root:
        if got.simulated and not mark.simulated:
            raise UntrustedRoot(about=name, got=got.root, expected=mark.root)
        return
    for field, least in mark.numbers.items():
        if got.numbers.get(field, -1) < least:
            raise CollateralRolledBack(
                about=f"{field} of {name}", got=got.numbers.get(field), expected=f">= {least}"
            )


def _said(kept: Kept) -> object:
    """What the vendor said, without when it was fetched."""
    return kept.kept.collateral if isinstance(kept, KeptSet) else kept.kept.data


def _parse(name: str, data: bytes) -> tuple[Kept, Facts | None]:
    """An item as it was written here. Raises CollateralRejected."""
    try:
        kept: Kept = from_json(data, Kept)
    except BadMessage as cause:
        raise CollateralRejected(about=name, got=cause.got) from cause
    if kept.name != name or len(data) > 4 * max(COLLATERAL_BYTES_MAX, DOCUMENT_BYTES_MAX):
        raise CollateralRejected(about=name, got=kept.name, expected="the item of this name")
    if isinstance(kept, KeptDocument):
        return kept, None
    facts = read_facts(kept.kept.collateral)
    if set_name(fmspc=facts.fmspc, ca=facts.ca, tee=facts.tee) != name:
        raise CollateralRejected(about=name, got=facts.fmspc, expected="the family of this name")
    return kept, replace(facts, ends=min(facts.ends, kept.kept.good_until))


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
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as cause:
        raise FileTrouble(about=path) from cause
