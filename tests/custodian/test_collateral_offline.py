"""K-6: bundles for custodians without a network: who signed, until when, and nothing goes back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.attest.bench import NOW, make_bench, seeded

from leasehold.attest.collateral import CLOCK_SKEW_MAX, Holdings, parse_collateral, sign_bundle
from leasehold.core.crypto import SigningKey
from leasehold.core.encoding import from_json, to_json
from leasehold.core.statements import Signed, sign
from leasehold.core.units import DAY, Duration, Instant
from leasehold.custodian.collateral import offline
from leasehold.custodian.collateral.folder import FolderCollateral, Kept, KeptDocument, KeptSet
from leasehold.custodian.collateral.intake import Intake
from leasehold.custodian.collateral.offline import (
    BYTES_MAX,
    KIND,
    LIFETIME_MAX,
    make_offline,
    take_offline,
)
from leasehold.errors import (
    BadMessage,
    BadSignature,
    CollateralNotCurrent,
    CollateralRejected,
    CollateralRolledBack,
)
from leasehold_simtee.hierarchy import FMSPC, Situation
from leasehold_simtee.snp import Amd

KEY = SigningKey.make(seeded("offline"))
NAME = f"sgx-{FMSPC.hex()}-processor"


@pytest.fixture
def source(tmp_path: Path) -> Intake:
    """A custodian with a network, who keeps a set, a chain and a list."""
    intake = Intake(FolderCollateral(tmp_path / "source"), by_hand=True)
    keep(intake)
    for one in Amd.create(seeded("amd"), NOW).documents(NOW):
        if one.name == "vcek-Milan":
            intake.document(one.kind, one.name, one.data, source="https://kds", now=NOW)
    return intake


@pytest.fixture
def target(tmp_path: Path) -> Intake:
    """One without."""
    return Intake(FolderCollateral(tmp_path / "target"))


def keep(intake: Intake, now: Instant = NOW, **said: object) -> KeptSet:
    told = make_bench().machine.vendor.collateral(now, Situation(**said))  # type: ignore[arg-type]
    return intake.set(parse_collateral(told), source="https://pcs", now=now)


def items(intake: Intake) -> tuple[Kept, ...]:
    return tuple(one for one in intake.folder.items().values() if one is not None)


def bundle(source: Intake, days: int = 7, now: Instant = NOW) -> bytes:
    return make_offline(KEY, items(source), now=now, lifetime=Duration(days * DAY))


def take(target: Intake, file: bytes, now: Instant = NOW) -> tuple[Kept, ...]:
    return take_offline(target, file, KEY.public, now=now)


def test_everything_arrives_and_counts_until_the_bundle_ends(
    source: Intake, target: Intake
) -> None:
    later = Instant(NOW + 6 * DAY)
    taken = take(target, bundle(source), now=later)
    assert sorted(one.name for one in taken) == sorted(one.name for one in items(source))
    for one in items(target):
        assert one.good_until == NOW + 7 * DAY
        assert one.source.startswith("bundle: https://")
    assert target.folder.find(fmspc=FMSPC.hex(), ca="processor", tee="sgx").ends == NOW + 7 * DAY


def test_nothing_in_it_counts_beyond_its_own_end(source: Intake, target: Intake) -> None:
    keep(source, Instant(NOW + 1000), lifetime=3 * DAY)
    take(target, bundle(source, days=30), now=Instant(NOW + 1000))
    kept = target.folder.items()[NAME]
    assert kept is not None
    assert kept.good_until == NOW + 3 * DAY + 1000


def test_a_bundle_lasts_thirty_days_at_most(source: Intake, target: Intake) -> None:
    file = bundle(source, days=400)
    assert take(target, file, now=Instant(NOW + LIFETIME_MAX - 1000))
    with pytest.raises(CollateralNotCurrent):
        take(target, file, now=Instant(NOW + LIFETIME_MAX))


def test_a_bundle_that_says_it_lasts_longer_does_not(source: Intake, target: Intake) -> None:
    payload = offline._Payload(NOW, Instant(NOW + 400 * DAY), items(source))
    file = to_json(sign(KEY, KIND, to_json(payload)))
    with pytest.raises(CollateralNotCurrent):
        take(target, file, now=Instant(NOW + LIFETIME_MAX))


def test_one_that_ended_or_comes_from_the_future_is_refused(source: Intake, target: Intake) -> None:
    file = bundle(source, days=1)
    with pytest.raises(CollateralNotCurrent):
        take(target, file, now=Instant(NOW + DAY))
    with pytest.raises(CollateralNotCurrent, match="future"):
        take(target, file, now=Instant(NOW - CLOCK_SKEW_MAX - 1))
    assert target.folder.items() == {}


def test_strangers_sign_nothing(source: Intake, target: Intake) -> None:
    stranger = SigningKey.make(seeded("stranger"))
    file = make_offline(stranger, items(source), now=NOW, lifetime=Duration(DAY))
    with pytest.raises(BadSignature):
        take(target, file)
    flipped = from_json(bundle(source), Signed)
    payload = flipped.payload.replace(b"https://pcs", b"https://pcz")
    with pytest.raises(BadSignature):
        take(target, to_json(msgspec.structs.replace(flipped, payload=payload)))
    with pytest.raises(BadSignature):  # a consumers' bundle of the same key is another statement
        take(target, to_json(sign_bundle(KEY, Holdings(), now=NOW)))
    assert target.folder.items() == {}


@pytest.mark.parametrize("file", [b"", b"{}", b"[]", b"\xff"])
def test_what_is_no_bundle_is_refused(target: Intake, file: bytes) -> None:
    with pytest.raises(BadMessage):
        take(target, file)


def test_one_without_end_is_refused_before_it_is_read(target: Intake) -> None:
    with pytest.raises(CollateralRejected, match="bytes"):
        take(target, bytes(BYTES_MAX + 1))


def test_a_signed_payload_of_another_form_is_refused(target: Intake) -> None:
    with pytest.raises(BadMessage):
        take(target, to_json(sign(KEY, KIND, b'{"issued":1}')))


def test_a_bundle_lowers_no_mark(source: Intake, target: Intake) -> None:
    old = bundle(source)
    keep(target_by_hand(target), Instant(NOW + 1000), evaluation=21)
    with pytest.raises(CollateralRolledBack):
        take(target, old, now=Instant(NOW + 2000))
    assert target.folder.find(fmspc=FMSPC.hex(), ca="processor", tee="sgx").evaluation == 21


def target_by_hand(target: Intake) -> Intake:
    return Intake(target.folder, by_hand=True)


def test_what_its_signer_did_not_check_is_checked_here(source: Intake, target: Intake) -> None:
    """Also where the signer's folder was forged: an origin that is only said counts for nothing."""
    forged = []
    for one in items(source):
        if isinstance(one, KeptSet):
            text = one.kept.collateral.tcb_info.replace("UpToDate", "Revokedd")
            said = msgspec.structs.replace(one.kept.collateral, tcb_info=text)
            forged.append(
                msgspec.structs.replace(
                    one, kept=msgspec.structs.replace(one.kept, collateral=said)
                )
            )
    file = make_offline(KEY, tuple(forged), now=NOW, lifetime=Duration(DAY))
    with pytest.raises(CollateralRejected, match="bad signature"):
        take(target, file)


def test_stale_items_are_not_signed(source: Intake) -> None:
    with pytest.raises(CollateralNotCurrent):
        bundle(source, now=Instant(NOW + DAY))


def test_order_in_the_file_does_not_matter(source: Intake, target: Intake) -> None:
    backwards = sorted(items(source), key=lambda one: isinstance(one, KeptDocument), reverse=True)
    crl_first = sorted(backwards, key=lambda one: "crl" not in one.name)
    file = make_offline(KEY, tuple(crl_first), now=NOW, lifetime=Duration(DAY))
    assert len(take(target, file)) == 3
