"""K-3: the folder does not go back, whatever happens to it; one writes, many read."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from tests.attest.bench import NOW, Bench, make_bench, seeded
from tests.attest.snp_bench import SnpBench, make_snp_bench

from leasehold.attest.collateral import parse_collateral
from leasehold.core.units import DAY, Duration, Instant, after
from leasehold.custodian.collateral import folder as module
from leasehold.custodian.collateral.folder import FolderCollateral, KeptSet
from leasehold.custodian.collateral.intake import AGE_MAX, Family, Intake
from leasehold.errors import (
    CollateralMismatch,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    CollateralRolledBack,
    FileTrouble,
    UntrustedRoot,
)
from leasehold_simtee.hierarchy import FMSPC, Situation
from leasehold_simtee.machine import Machine

FAMILY = FMSPC.hex()
LATER = Instant(NOW + 60_000)
NAME = f"sgx-{FAMILY}-processor"


@dataclass(frozen=True)
class Shelf:
    """A folder, and a vendor whose word goes into it."""

    bench: Bench
    path: Path

    @property
    def folder(self) -> FolderCollateral:
        return FolderCollateral(self.path)

    def keep(self, now: Instant = NOW, *, age: int = AGE_MAX, **said: object) -> KeptSet:
        told = self.bench.machine.vendor.collateral(now, Situation(**said))  # type: ignore[arg-type]
        intake = Intake(self.folder, by_hand=True, age=Duration(age))
        return intake.set(parse_collateral(told), source="test", now=now)

    def find(self, folder: FolderCollateral | None = None) -> int:
        found = (folder or self.folder).find(fmspc=FAMILY, ca="processor", tee="sgx")
        return found.evaluation


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(make_bench(), tmp_path / "collateral")


def test_what_is_kept_is_found_and_judges(shelf: Shelf) -> None:
    with pytest.raises(CollateralMissing):
        shelf.find()
    kept = shelf.keep()
    assert shelf.find() == 20
    assert shelf.folder.items() == {NAME: kept}
    bench = replace(shelf.bench, collateral=shelf.folder)
    assert bench.verify().machine == bench.machine.platform_id


def test_a_set_counts_for_a_day_at_most(shelf: Shelf) -> None:
    assert shelf.keep(age=30 * DAY).good_until == NOW + DAY
    bench = replace(shelf.bench, collateral=shelf.folder)
    assert replace(bench, now=Instant(NOW + DAY - 1)).verify().valid_until == NOW + DAY
    with pytest.raises(CollateralNotCurrent):
        replace(bench, now=Instant(NOW + DAY)).verify()


def test_its_age_may_be_shortened(shelf: Shelf) -> None:
    assert shelf.keep(age=1000).good_until == NOW + 1000
    assert shelf.keep(age=DAY).good_until == NOW + DAY
    assert (
        shelf.keep(age=1000).good_until == NOW + 1000
    )  # the same word again is no longer good for more
    assert shelf.folder.items()[NAME] is not None


LOWER = [({"evaluation": 19}, "evaluation"), ({"crl_number": 0}, "root_crl")]


@pytest.mark.parametrize(("old", "field"), LOWER)
def test_nothing_lower_is_taken_in(shelf: Shelf, old: dict[str, object], field: str) -> None:
    shelf.keep()
    with pytest.raises(CollateralRolledBack, match=field):
        shelf.keep(LATER, **old)
    assert shelf.find() == 20


def test_nothing_issued_earlier_is_taken_in(shelf: Shelf) -> None:
    shelf.keep(LATER)
    with pytest.raises(CollateralRolledBack, match="issued"):
        shelf.keep(NOW)


@pytest.mark.parametrize(
    "number", ["evaluation", "qe_evaluation", "tcb_issued", "qe_issued", "root_crl", "pck_crl"]
)
def test_each_number_of_a_set_holds_by_itself(shelf: Shelf, number: str) -> None:
    kept = shelf.keep()
    numbers = kept.origin.numbers | {number: kept.origin.numbers[number] - 1}
    lower = msgspec.structs.replace(
        kept, origin=msgspec.structs.replace(kept.origin, numbers=numbers)
    )
    with pytest.raises(CollateralRolledBack, match=number):
        shelf.folder.add(lower)


def test_newer_replaces_older_and_readers_see_it_at_once(shelf: Shelf) -> None:
    reader = shelf.folder
    shelf.keep()
    assert (shelf.find(reader), reader.version()) == (20, 1)
    shelf.keep(LATER, evaluation=21)
    assert (shelf.find(reader), reader.version()) == (21, 2)
    shelf.keep(LATER, evaluation=21)
    assert reader.version() == 2
    assert not list(shelf.path.glob("*.part"))


def test_an_old_file_put_back_is_not_handed_out(shelf: Shelf) -> None:
    shelf.keep()
    file = shelf.path / f"{NAME}.json"
    old, reader = file.read_bytes(), shelf.folder
    shelf.keep(LATER, evaluation=21)
    file.write_bytes(old)
    for one in (reader, shelf.folder):
        with pytest.raises(CollateralRolledBack):
            shelf.find(one)
    assert reader.items() == {NAME: None}
    shelf.keep(LATER, evaluation=21)
    assert shelf.find(reader) == 21


def test_a_crash_between_mark_and_set_refuses_the_old_set(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.keep()
    write = module._write

    def crash(path: Path, data: bytes) -> None:
        if path.name != "marks.json":
            raise FileTrouble(about=path)
        write(path, data)

    monkeypatch.setattr(module, "_write", crash)
    with pytest.raises(FileTrouble):
        shelf.keep(LATER, evaluation=21)
    monkeypatch.undo()
    with pytest.raises(CollateralRolledBack):
        shelf.find()
    shelf.keep(LATER, evaluation=21)
    assert shelf.find() == 21


def test_files_that_nobody_took_in_or_that_are_broken(shelf: Shelf) -> None:
    shelf.keep()
    file = shelf.path / f"{NAME}.json"
    data = file.read_bytes()
    (shelf.path / f"tdx-{FAMILY}-processor.json").write_bytes(data)
    with pytest.raises(CollateralMissing):
        shelf.folder.find(fmspc=FAMILY, ca="processor", tee="tdx")
    for broken in (b"", b"{}", b"[]", data[:-1], data.replace(b'"processor"', b'"platform"')):
        file.write_bytes(broken)
        with pytest.raises(CollateralRejected):
            shelf.find()
    file.write_bytes(data)
    for broken in (b"", b"[]", b'{"marks":3}'):
        (shelf.path / "marks.json").write_bytes(broken)
        with pytest.raises(CollateralRejected):
            shelf.find()
        with pytest.raises(CollateralRejected):
            shelf.keep()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 201, "a\n"])
def test_a_name_cannot_leave_the_folder(shelf: Shelf, name: str) -> None:
    with pytest.raises(CollateralRejected):
        shelf.folder.document("amd-crl", name)
    with pytest.raises(CollateralRejected):
        Intake(shelf.folder).document("amd-crl", name, b"", source="", now=NOW)
    with pytest.raises(CollateralRejected):
        shelf.folder.find(fmspc=name, ca="processor", tee="sgx")


def test_a_folder_that_is_a_file_is_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileTrouble):
        Shelf(make_bench(), tmp_path / "file").keep()


def test_a_set_of_another_family_than_was_asked_for_is_refused(shelf: Shelf) -> None:
    told = parse_collateral(shelf.bench.machine.collateral)
    intake = Intake(shelf.folder, by_hand=True)
    with pytest.raises(CollateralMismatch):
        intake.set(told, source="", now=NOW, wanted=Family("00" * 6, "processor", "sgx"))
    assert shelf.folder.items() == {}


def test_forged_sets_raise_no_mark(shelf: Shelf) -> None:
    shelf.keep()
    thief = Machine.create(seeded("thief"), NOW)
    high = thief.vendor.collateral(LATER, Situation(evaluation=10**9, crl_number=10**9))
    simulated = shelf.bench.manifest.simulated
    with pytest.raises(UntrustedRoot):
        Intake(shelf.folder, simulated).set(parse_collateral(high), source="wire", now=LATER)
    assert shelf.folder.version() == 1
    shelf.keep(LATER, evaluation=21)


def test_simulation_never_replaces_the_vendor(shelf: Shelf) -> None:
    elsewhere = replace(shelf, path=shelf.path / "elsewhere")
    kept = elsewhere.keep()
    origin = msgspec.structs.replace(kept.origin, root="ab" * 32, simulated=False)
    shelf.folder.add(msgspec.structs.replace(kept, origin=origin))
    with pytest.raises(UntrustedRoot):
        shelf.keep(LATER, evaluation=99)


def test_another_simulated_root_starts_anew(shelf: Shelf, tmp_path: Path) -> None:
    shelf.keep(evaluation=99)
    again = Shelf(make_bench("again"), shelf.path)
    again.keep(evaluation=5)
    assert shelf.find() == 5


# Documents ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def snp() -> SnpBench:
    return make_snp_bench()


def documents(snp: SnpBench, path: Path) -> Callable[..., object]:
    intake = Intake(FolderCollateral(path), by_hand=True)
    for one in snp.amd.documents(NOW):
        if one.kind == "amd-chain":
            intake.document(one.kind, one.name, one.data, source="test", now=NOW)

    def keep(number: int, now: Instant = NOW) -> object:
        data = snp.amd.crl(now, number=number)
        return intake.document("amd-crl", "vcek-Milan", data, source="test", now=now)

    return keep


def test_documents_are_kept_and_judge(snp: SnpBench, tmp_path: Path) -> None:
    keep = documents(snp, tmp_path)
    keep(1)
    folder = FolderCollateral(tmp_path)
    assert folder.document("amd-crl", "vcek-Milan").good_until == NOW + DAY
    assert replace(snp, collateral=folder, chain=False).verify() == snp.verify()


def test_no_lower_list_and_no_earlier_list_of_the_same_number(
    snp: SnpBench, tmp_path: Path
) -> None:
    keep = documents(snp, tmp_path)
    keep(5, LATER)
    with pytest.raises(CollateralRolledBack, match="order"):
        keep(4, LATER)
    with pytest.raises(CollateralRolledBack, match="issued"):
        keep(5, NOW)
    keep(6, LATER)


def test_a_list_needs_its_chain_and_a_current_one(snp: SnpBench, tmp_path: Path) -> None:
    data = snp.amd.crl(NOW, number=1)
    intake = Intake(FolderCollateral(tmp_path / "empty"), by_hand=True)
    with pytest.raises(CollateralMissing):
        intake.document("amd-crl", "vcek-Milan", data, source="", now=NOW)
    documents(snp, tmp_path)
    intake = Intake(FolderCollateral(tmp_path), by_hand=True)
    with pytest.raises(CollateralNotCurrent):
        intake.document("amd-crl", "vcek-Milan", data, source="", now=after(NOW, DAY))


def test_a_document_without_end_is_refused(
    snp: SnpBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = documents(snp, tmp_path)
    monkeypatch.setattr(module, "DOCUMENT_BYTES_MAX", 100)
    with pytest.raises(CollateralRejected, match="100 bytes"):
        keep(1)


# Several processes -------------------------------------------------------------------------------


def _write_many(path: Path, start: int) -> None:
    shelf = Shelf(make_bench(), path)
    for number in range(start, start + 40, 2):
        try:
            shelf.keep(LATER, evaluation=number)
        except CollateralRolledBack:
            continue


def test_two_writers_and_a_reader_never_see_anything_half_done(shelf: Shelf) -> None:
    shelf.keep(LATER)
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_many, args=(shelf.path, at)) for at in (21, 22)]
    for one in writers:
        one.start()
    highest = 0
    while any(one.is_alive() for one in writers):
        found = shelf.find()
        assert found >= highest
        highest = found
    for one in writers:
        one.join()
        assert one.exitcode == 0
    assert shelf.find() == 60
