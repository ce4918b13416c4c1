"""Bundles that end, folders that do not go back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from leasehold.attest.collateral import (
    BUNDLE_AGE_MAX,
    CLOCK_SKEW_MAX,
    Collateral,
    FolderCollateral,
    HeldCollateral,
    open_bundle,
    parse_collateral,
    sign_bundle,
)
from leasehold.attest.intel.pcs import COLLATERAL_BYTES_MAX, read_facts
from leasehold.core.crypto import SigningKey
from leasehold.core.units import Instant
from leasehold.errors import (
    BadSignature,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    CollateralRolledBack,
    FileTrouble,
)
from leasehold_simtee.hierarchy import FMSPC, Situation

from .bench import NOW, Bench, seeded

FAMILY = FMSPC.hex()
LATER = Instant(NOW + 1000)


def told(bench: Bench, now: Instant = NOW, **said: object) -> Collateral:
    return parse_collateral(bench.machine.vendor.collateral(now, Situation(**said)))  # type: ignore[arg-type]


# Facts -------------------------------------------------------------------------------------------


def test_facts_are_read_from_a_set(bench: Bench, platform_bench: Bench) -> None:
    facts = read_facts(told(bench, evaluation=7, crl_number=9))
    assert (facts.tee, facts.qe, facts.fmspc, facts.pce_id) == ("sgx", "QE", FAMILY, "0000")
    assert (facts.evaluation, facts.qe_evaluation) == (7, 7)
    assert (facts.root_crl.number, facts.pck_crl.number) == (9, 9)
    assert (facts.tcb_issued, facts.qe_issued) == (NOW, NOW)
    assert facts.ends == NOW + 30 * 86_400_000
    assert facts.ca == "processor"
    assert read_facts(told(platform_bench)).ca == "platform"
    assert read_facts(told(bench, tee="TDX")).tee == "tdx"


def test_the_digest_covers_every_field(bench: Bench) -> None:
    collateral = told(bench)
    digests = {collateral.digest()}
    for field in collateral.__struct_fields__:
        digests.add(msgspec.structs.replace(collateral, **{field: "x"}).digest())
    assert len(digests) == 1 + len(collateral.__struct_fields__)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", bytes(COLLATERAL_BYTES_MAX + 1)])
def test_what_is_no_set_is_refused(data: bytes) -> None:
    with pytest.raises(CollateralRejected):
        parse_collateral(data)


def test_a_set_with_another_field_is_refused(bench: Bench) -> None:
    fields = msgspec.json.decode(bench.machine.collateral)
    with pytest.raises(CollateralRejected):
        parse_collateral(msgspec.json.encode({**fields, "pck_certificate_chain": ""}))


# Bundles (K-2) -----------------------------------------------------------------------------------


def test_a_bundle_verifies_what_its_sets_verify(bench: Bench) -> None:
    signed = sign_bundle(bench.key, [told(bench)], now=NOW)
    bundle = open_bundle(signed, bench.key.public, now=NOW)
    assert replace(bench, collateral=bundle).verify().machine == bench.machine.platform_id
    with pytest.raises(CollateralMissing):
        bundle.find(fmspc="00" * 6, ca="processor", tee="sgx")


def test_only_the_custodian_signs_bundles(bench: Bench) -> None:
    thief = SigningKey.make(seeded("thief"))
    signed = sign_bundle(thief, [told(bench)], now=NOW)
    with pytest.raises(BadSignature):
        open_bundle(signed, bench.key.public, now=NOW)
    renamed = msgspec.structs.replace(sign_bundle(bench.key, [], now=NOW), kind="leasehold-receipt")
    with pytest.raises(BadSignature):
        open_bundle(renamed, bench.key.public, now=NOW)


def test_a_bundle_ends_after_a_day_whatever_it_says(bench: Bench) -> None:
    signed = sign_bundle(bench.key, [told(bench)], now=NOW, lifetime=30 * BUNDLE_AGE_MAX)
    assert open_bundle(signed, bench.key.public, now=Instant(NOW + BUNDLE_AGE_MAX - 1))
    with pytest.raises(CollateralNotCurrent):
        open_bundle(signed, bench.key.public, now=Instant(NOW + BUNDLE_AGE_MAX))
    short = sign_bundle(bench.key, [told(bench)], now=NOW, lifetime=60_000)
    with pytest.raises(CollateralNotCurrent):
        open_bundle(short, bench.key.public, now=Instant(NOW + 60_000))


def test_a_bundle_from_the_future_is_refused(bench: Bench) -> None:
    ahead = Instant(NOW + CLOCK_SKEW_MAX)
    assert open_bundle(sign_bundle(bench.key, [], now=ahead), bench.key.public, now=NOW)
    with pytest.raises(CollateralNotCurrent):
        open_bundle(sign_bundle(bench.key, [], now=Instant(ahead + 1)), bench.key.public, now=NOW)


def test_held_collateral_finds_by_family_authority_and_platform(
    bench: Bench, platform_bench: Bench
) -> None:
    sets = (told(bench), told(platform_bench), told(bench, tee="TDX"))
    held = HeldCollateral(sets)
    assert held.collaterals == sets
    for wanted, (ca, tee) in zip(
        sets, [("processor", "sgx"), ("platform", "sgx"), ("processor", "tdx")], strict=True
    ):
        assert held.find(fmspc=FAMILY, ca=ca, tee=tee).collateral == wanted  # type: ignore[arg-type]


# The folder (K-3) --------------------------------------------------------------------------------


def test_a_folder_keeps_what_it_was_given(bench: Bench, tmp_path: Path) -> None:
    folder = FolderCollateral(tmp_path / "collateral")
    with pytest.raises(CollateralMissing):
        folder.find(fmspc=FAMILY, ca="processor", tee="sgx")
    collateral = told(bench)
    folder.add(collateral)
    assert folder.find(fmspc=FAMILY, ca="processor", tee="sgx").collateral == collateral
    again = FolderCollateral(tmp_path / "collateral")
    assert again.all() == (collateral,)
    assert replace(bench, collateral=again).verify().machine == bench.machine.platform_id


@pytest.mark.parametrize(
    ("old", "field"),
    [
        ({"evaluation": 19}, "evaluation"),
        ({"crl_number": 0}, "crl"),
    ],
)
def test_nothing_lower_is_taken_in(
    bench: Bench, tmp_path: Path, old: dict[str, object], field: str
) -> None:
    folder = FolderCollateral(tmp_path)
    folder.add(told(bench))
    with pytest.raises(CollateralRolledBack, match=field):
        folder.add(told(bench, LATER, **old))
    assert folder.all() == (told(bench),)


def test_nothing_issued_earlier_is_taken_in(bench: Bench, tmp_path: Path) -> None:
    folder = FolderCollateral(tmp_path)
    folder.add(told(bench, LATER))
    with pytest.raises(CollateralRolledBack, match="issued"):
        folder.add(told(bench))


def test_newer_sets_replace_older_ones_at_once(bench: Bench, tmp_path: Path) -> None:
    folder = FolderCollateral(tmp_path)
    folder.add(told(bench))
    assert folder.find(fmspc=FAMILY, ca="processor", tee="sgx").evaluation == 20
    folder.add(told(bench, LATER, evaluation=21))
    assert folder.find(fmspc=FAMILY, ca="processor", tee="sgx").evaluation == 21
    assert not list(tmp_path.glob("*.part"))


def test_an_old_file_put_back_is_not_handed_out(bench: Bench, tmp_path: Path) -> None:
    folder = FolderCollateral(tmp_path)
    folder.add(told(bench))
    (kept,) = tmp_path.glob("sgx-*.json")
    old = kept.read_bytes()
    folder.add(told(bench, LATER, evaluation=21))
    kept.write_bytes(old)
    for reader in (folder, FolderCollateral(tmp_path)):
        with pytest.raises(CollateralRolledBack):
            reader.find(fmspc=FAMILY, ca="processor", tee="sgx")
        with pytest.raises(CollateralRolledBack):
            reader.all()


def test_a_file_that_nobody_took_in_is_not_handed_out(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / f"sgx-{FAMILY}-processor.json").write_bytes(bench.machine.collateral)
    with pytest.raises(CollateralMissing):
        FolderCollateral(tmp_path).find(fmspc=FAMILY, ca="processor", tee="sgx")


def test_broken_marks_refuse_rather_than_forget(bench: Bench, tmp_path: Path) -> None:
    folder = FolderCollateral(tmp_path)
    folder.add(told(bench))
    (tmp_path / "marks.json").write_bytes(b"")
    with pytest.raises(CollateralRejected):
        folder.find(fmspc=FAMILY, ca="processor", tee="sgx")
    with pytest.raises(CollateralRejected):
        folder.add(told(bench))


def test_a_family_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(CollateralRejected, match="fmspc"):
        FolderCollateral(tmp_path).find(fmspc="../../etc/pa", ca="processor", tee="sgx")


def test_a_folder_that_is_a_file_is_trouble(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileTrouble):
        FolderCollateral(tmp_path / "file").add(told(bench))


def test_deeply_nested_collateral_is_refused(bench: Bench) -> None:
    """What is inside a field that nobody reads must not end the verifier."""
    deep = '{"x":' + "[" * 50_000 + "]" * 50_000 + "}"
    for field in ("tcb_info", "qe_identity"):
        changed = msgspec.structs.replace(told(bench), **{field: deep})
        with pytest.raises(CollateralRejected):
            HeldCollateral([changed])
