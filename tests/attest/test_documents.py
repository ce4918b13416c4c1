"""Documents of other vendors than Intel: kept in order, handed to consumers, judged when used (K-5)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from leasehold.attest.collateral import (
    DOCUMENT_BYTES_MAX,
    Document,
    FolderCollateral,
    Kind,
    open_bundle,
    sign_bundle,
)
from leasehold.attest.documents import read_document
from leasehold.core.units import DAY, Instant
from leasehold.errors import CollateralMissing, CollateralRejected, CollateralRolledBack

from .bench import NOW, make_bench
from .nvidia_bench import one_gpu
from .snp_bench import SnpBench, make_snp_bench

LATER = Instant(NOW + 3_600_000)


@pytest.fixture(scope="module")
def snp() -> SnpBench:
    return make_snp_bench()


def crl(bench: SnpBench, number: int) -> Document:
    data = bench.amd.crl(NOW, number=number)
    return Document("amd-crl", "vcek-Milan", data, Instant(NOW + DAY))


def keep(folder: FolderCollateral, *documents: Document) -> None:
    for one in documents:
        folder.add_document(one, order=read_document(one.kind, one.data).order)


def test_every_kind_has_facts(snp: SnpBench) -> None:
    found = {
        one.kind: read_document(one.kind, one.data)
        for one in (*snp.amd.documents(NOW), *one_gpu().documents)
    }
    found["amd-vcek"] = read_document("amd-vcek", snp.chip.certificate)
    assert set(found) == {"amd-chain", "amd-crl", "amd-vcek", "nvidia-rim", "nvidia-ocsp"}
    assert found["amd-crl"] == (1, NOW + 30 * DAY)
    assert all(facts.ends > NOW for facts in found.values())


@pytest.mark.parametrize("kind", ["amd-chain", "amd-crl", "amd-vcek", "nvidia-rim", "nvidia-ocsp"])
@pytest.mark.parametrize("data", [b"", b"0", b"\xff" * 100, b"<x/>", bytes(1000)])
def test_what_is_none_of_its_kind_is_refused(kind: Kind, data: bytes) -> None:
    with pytest.raises(CollateralRejected):
        read_document(kind, data)


def test_a_folder_keeps_documents_and_a_policy_is_judged_by_them(
    snp: SnpBench, tmp_path: Path
) -> None:
    folder = FolderCollateral(tmp_path / "collateral")
    with pytest.raises(CollateralMissing):
        folder.document("amd-crl", "vcek-Milan")
    documents = snp.amd.documents(NOW)
    keep(folder, *documents)
    again = FolderCollateral(tmp_path / "collateral")
    assert set(again.documents()) == set(documents)
    assert replace(snp, collateral=again, chain=False).verify() == snp.verify()


def test_nothing_lower_is_taken_in_or_handed_out(snp: SnpBench, tmp_path: Path) -> None:
    folder = FolderCollateral(tmp_path)
    keep(folder, crl(snp, 5))
    (file,) = tmp_path.glob("amd-crl-*")
    old = file.read_bytes()
    newer = crl(snp, 6)
    keep(folder, newer)
    with pytest.raises(CollateralRolledBack):
        keep(folder, crl(snp, 5))
    assert folder.document("amd-crl", "vcek-Milan") == newer
    file.write_bytes(old)
    for act in (folder.documents, lambda: folder.document("amd-crl", "vcek-Milan")):
        with pytest.raises(CollateralRolledBack):
            act()


def test_files_that_nobody_took_in_or_that_are_broken(snp: SnpBench, tmp_path: Path) -> None:
    folder = FolderCollateral(tmp_path)
    keep(folder, crl(snp, 1))
    (file,) = tmp_path.glob("amd-crl-*")
    (tmp_path / "amd-crl-vlek-Milan.json").write_bytes(file.read_bytes())
    with pytest.raises(CollateralMissing):
        folder.document("amd-crl", "vlek-Milan")
    file.write_bytes(b"{}")
    with pytest.raises(CollateralRejected):
        folder.document("amd-crl", "vcek-Milan")
    (tmp_path / "orders.json").write_bytes(b"")
    with pytest.raises(CollateralRejected):
        folder.document("amd-crl", "vcek-Milan")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 201, "a\n"])
def test_a_name_cannot_leave_the_folder(snp: SnpBench, tmp_path: Path, name: str) -> None:
    folder = FolderCollateral(tmp_path)
    with pytest.raises(CollateralRejected):
        folder.document("amd-crl", name)
    with pytest.raises(CollateralRejected):
        folder.add_document(msgspec.structs.replace(crl(snp, 1), name=name), order=1)


def test_a_document_without_end_is_refused(tmp_path: Path) -> None:
    long = Document("nvidia-rim", "x", bytes(DOCUMENT_BYTES_MAX + 1), LATER)
    with pytest.raises(CollateralRejected):
        FolderCollateral(tmp_path).add_document(long, order=1)


def test_consumers_get_documents_in_the_bundle(snp: SnpBench) -> None:
    key = make_bench().key
    bundle = open_bundle(
        sign_bundle(key, (), snp.amd.documents(NOW), now=NOW), key.public, now=LATER
    )
    assert replace(snp, collateral=bundle).verify() == snp.verify()
