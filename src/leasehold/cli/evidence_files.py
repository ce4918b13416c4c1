"""From files that a user names to evidence and collateral: what each is, its content says.

Refuses to know whether any of it is true.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from leasehold.attest.certificate import DerCertificate, read_certificates
from leasehold.attest.collateral import (
    Collateral,
    CollateralStore,
    Document,
    HeldCollateral,
    Kind,
    open_bundle,
    parse_collateral,
)
from leasehold.attest.intel.pcs import Ca, Facts, Tee
from leasehold.attest.nvidia.rim import Rim, read_rim
from leasehold.attest.ratls import reader as ratls
from leasehold.attest.recognise import FILE_BYTES_MAX, Recognised, describe
from leasehold.attest.recognise import Kind as FileKind
from leasehold.attest.tpm.tpm import NEVER
from leasehold.attest.x509 import OcspAnswer, read_ocsp
from leasehold.core.encoding import from_json
from leasehold.core.evidence import DeviceEvidence, Evidence
from leasehold.core.statements import Signed
from leasehold.core.units import Instant
from leasehold.custodian.collateral.folder import FolderCollateral
from leasehold.errors import (
    BadEvidence,
    CollateralMissing,
    CollateralRejected,
    FileTrouble,
    LeaseholdError,
    UnsupportedEvidence,
)

_CHAIN_MAX: Final = 8
_ALONE: Final = ("sgx", "tdx", "snp")
_RSA_BYTES: Final = (256, 384, 512)
_TPMT_RSASSA_SHA256: Final = bytes.fromhex("0014000b")


@dataclass(frozen=True, slots=True)
class Given:
    """One file: its own bytes, and what they are, if anything known."""

    path: Path
    raw: bytes
    known: Recognised | None

    @property
    def data(self) -> bytes:
        """What lay inside, where it was recognised; else the bytes as they are."""
        return self.raw if self.known is None else self.known.data

    def is_a(self, kind: FileKind) -> bool:
        """Whether it was recognised as one."""
        return self.known is not None and self.known.kind is kind


@dataclass(frozen=True, slots=True)
class Shown:
    """What the files show together: evidence, a certificate with evidence in it, or devices alone.

    `devices` are the evidence's own, too.
    """

    what: str
    evidence: Evidence | None = None
    certificate: ratls.RaTls | None = None
    devices: tuple[DeviceEvidence, ...] = ()


def read_file(path: Path) -> bytes:
    """A file of bounded size. Raises FileTrouble, UnsupportedEvidence."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause
    if len(data) > FILE_BYTES_MAX:
        raise UnsupportedEvidence(about=path, expected=f"at most {FILE_BYTES_MAX} bytes")
    return data


def read_given(path: Path) -> Given:
    """A file that may be anything. Raises FileTrouble, UnsupportedEvidence."""
    raw = read_file(path)
    try:
        return Given(path, raw, describe(raw))
    except LeaseholdError:
        return Given(path, raw, None)


# Evidence ----------------------------------------------------------------------------------------


def read_shown(files: Sequence[Path], beside: Sequence[Path], platform: str | None) -> Shown:
    """The evidence in the first file, with what the others add to it.

    Raises FileTrouble, BadEvidence, UnsupportedEvidence.
    """
    raw = read_file(files[0])
    first = Given(files[0], raw, describe(raw) if platform is None else _lenient(raw))
    others = [read_given(path) for path in (*files[1:], *beside)]
    what = platform or "" if first.known is None else first.known.description.what
    alone, _ = _devices([first, *others])
    if alone and (first.is_a(FileKind.DEVICE) or first.is_a(FileKind.CERTIFICATE)):
        return Shown(_device_words(alone), devices=alone)
    devices, parts = _devices(others)
    if platform is None and first.is_a(FileKind.CERTIFICATE_WITH_EVIDENCE):
        return Shown(what, certificate=ratls.read(first.data))
    if platform is None and first.is_a(FileKind.EVIDENCE) and first.data[:1] == b"{":
        told = from_json(first.data, Evidence)
        together = (*told.endorsements, *(_part(part) for part in parts))
        return Shown(what, Evidence(told.platform, told.quote, together, (*told.devices, *devices)))
    name = platform or _platform_of(first)
    _check_one(name, parts)
    endorsements = tuple(_part(part) for part in parts)
    return Shown(what, Evidence(name, first.data, endorsements, devices), devices=devices)


def _lenient(raw: bytes) -> Recognised | None:
    """Where the user says what it is, nothing has to be recognised."""
    try:
        return describe(raw)
    except LeaseholdError:
        return None


def _platform_of(first: Given) -> str:
    if first.known is None or first.known.kind is not FileKind.EVIDENCE:
        got = "" if first.known is None else first.known.description.what
        raise UnsupportedEvidence(
            about=first.path, got=got, expected="evidence first, what goes with it after that"
        )
    return first.known.description.platform


def _check_one(platform: str, parts: list[Given]) -> None:
    """Two quotes are two machines; only behind a vTPM is a quote part of other evidence."""
    more = [part for part in parts if part.is_a(FileKind.EVIDENCE)]
    if platform in _ALONE and more:
        raise UnsupportedEvidence(about=more[0].path, expected="one machine's evidence at a time")


def _device_words(devices: tuple[DeviceEvidence, ...]) -> str:
    kinds = [one.kind for one in devices]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def _devices(given: Iterable[Given]) -> tuple[tuple[DeviceEvidence, ...], list[Given]]:
    """Each device report with the certificate chain beside it; and what belongs to no device."""
    found: list[DeviceEvidence] = []
    rest: list[Given] = []
    report: Given | None = None
    for one in given:
        if one.known is not None and one.is_a(FileKind.DEVICE):
            _check_paired(report)
            report = one
            if not (rest and rest[-1].is_a(FileKind.CERTIFICATE)):
                continue
            chain = rest.pop()  # it came first
        elif report is not None and one.is_a(FileKind.CERTIFICATE):
            chain = one
        else:
            rest.append(one)
            continue
        if report.known is not None:
            found.append(DeviceEvidence(report.known.description.platform, report.data, chain.data))
        report = None
    _check_paired(report)
    return tuple(found), rest


def _check_paired(waiting: Given | None) -> None:
    if waiting is not None:
        raise BadEvidence(
            about=waiting.path, got="no chain", expected="the device's certificate chain beside it"
        )


def _part(given: Given) -> bytes:
    """An endorsement as platforms take it: registers in a row, a TPM's signature with its header."""
    if given.known is not None:
        return given.data
    text = given.raw.strip()
    if text[:1] == b"[":
        try:
            return b"".join(bytes.fromhex(value) for value in json.loads(text))
        except (TypeError, ValueError, RecursionError) as cause:
            raise BadEvidence(about=given.path, expected="a list of values in hex") from cause
    if len(given.raw) in _RSA_BYTES:  # what `tpm2_quote -f plain` writes
        return _TPMT_RSASSA_SHA256 + len(given.raw).to_bytes(2, "big") + given.raw
    return given.raw


# Collateral --------------------------------------------------------------------------------------


@dataclass(slots=True)
class FileCollateral:
    """Collateral in files and folders that the user names: whatever fits is found by what it says.

    A document counts as long as it says itself: its age is what the user, who chose it, answers for.
    """

    stores: list[CollateralStore] = field(default_factory=list)
    sets: list[Collateral] = field(default_factory=list)
    rims: list[tuple[Rim, bytes]] = field(default_factory=list)
    answers: list[tuple[OcspAnswer, bytes]] = field(default_factory=list)
    chains: list[bytes] = field(default_factory=list)
    lists: list[bytes] = field(default_factory=list)
    certificates: list[DerCertificate] = field(default_factory=list)

    def find(self, *, fmspc: str, ca: Ca, tee: Tee) -> Facts:
        """Intel's set for this family. Raises CollateralMissing."""
        stores = (HeldCollateral(self.sets), *self.stores)
        for at, store in enumerate(stores, 1):
            try:
                return store.find(fmspc=fmspc, ca=ca, tee=tee)
            except CollateralMissing:
                if at == len(stores):
                    raise
        raise AssertionError("there is always one store")

    def document(self, kind: Kind, name: str) -> Document:
        """The document of this kind that fits this name. Raises CollateralMissing."""
        for data in self._candidates(kind, name):
            return Document(kind, name, data, NEVER)
        for store in self.stores:
            try:
                return store.document(kind, name)
            except CollateralMissing:
                continue
        raise CollateralMissing(about=f"{kind} {name}")

    def _candidates(self, kind: Kind, name: str) -> list[bytes]:
        match kind:
            case "nvidia-rim":
                fitting = [(rim, data) for rim, data in self.rims if _fits(rim, name)]
                fitting.sort(key=lambda pair: pair[0].order, reverse=True)
                return [data for _, data in fitting]
            case "nvidia-ocsp":
                serials = {one.serial for one in self.certificates if one.sha256 == name}
                return [data for answer, data in self.answers if answer.serial in serials]
            case "amd-chain":
                product = name.partition("-")[2]
                return [data for data in self.chains if _is_amd(data, name, product)]
            case "amd-crl":
                return self.lists
            case "amd-vcek":
                return []  # given beside the report
        return []

    def knows(self, devices: Iterable[DeviceEvidence]) -> None:
        """Remember the devices' certificates: OCSP answers name them by serial number only."""
        for device in devices:
            try:
                self.certificates += read_certificates(device.chain, count_max=_CHAIN_MAX)
            except BadEvidence:  # the verifier says so with more care
                continue


def _fits(rim: Rim, name: str) -> bool:
    """Manifests do not contain the name that they are fetched by; it ends with their version."""
    return name.endswith((f"_{rim.version}", f"_{rim.version.replace('.', '')}"))


def _is_amd(data: bytes, name: str, product: str) -> bool:
    """Both certificates above the leaf, in one file, as AMD hands them out."""
    chain = read_certificates(data, count_max=_CHAIN_MAX)
    wanted = f"SEV-VLEK-{product}" if name.startswith("vlek") else f"SEV-{product}"
    return len(chain) == 2 and chain[0].name.removeprefix("SIMULATED ") == wanted


def read_collateral(
    paths: Iterable[Path], *, custodian: bytes | None, now: Instant
) -> FileCollateral:
    """What these files and folders hold; bundles must be signed by `custodian`'s root key (32 bytes).

    Raises FileTrouble, CollateralRejected, and what `open_bundle` raises.
    """
    found = FileCollateral()
    for path in paths:
        if path.is_dir():
            found.stores.append(FolderCollateral(path))
        else:
            _add(found, read_given(path), custodian=custodian, now=now)
    return found


def _add(found: FileCollateral, given: Given, *, custodian: bytes | None, now: Instant) -> None:
    data = given.data
    if given.known is None:
        parse_collateral(data)  # says what is wrong with it, unless it is something else
        raise CollateralRejected(about=given.path, expected="a vendor's document, or a bundle")
    match given.known.kind:
        case FileKind.CERTIFICATE | FileKind.ENDORSEMENT:
            found.chains.append(data)
        case FileKind.INTEL_COLLATERAL:
            found.sets.append(parse_collateral(data))
        case FileKind.REFERENCE_MANIFEST:
            rim = read_rim(data)
            found.rims.append((rim, data))
            found.certificates += rim.certificates
        case FileKind.OCSP_ANSWER:
            found.answers.append((read_ocsp(data), data))
        case FileKind.REVOCATION_LIST:
            found.lists.append(data)
        case FileKind.BUNDLE:
            if custodian is None:
                raise CollateralRejected(
                    about=given.path,
                    got="a bundle that somebody signed",
                    expected="--manifest or --root, to know whose signature to check",
                )
            found.stores.append(open_bundle(from_json(data, Signed), custodian, now=now))
        case _:
            raise CollateralRejected(
                about=given.path, got=given.known.description.what, expected="collateral"
            )
