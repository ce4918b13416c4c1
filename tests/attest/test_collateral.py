"""Sets and their facts; bundles that end."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from leasehold.attest.collateral import (
    BUNDLE_AGE_MAX,
    CLOCK_SKEW_MAX,
    Collateral,
    DatedSet,
    HeldCollateral,
    Holdings,
    UsedCollateral,
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
)
from leasehold_simtee.hierarchy import FMSPC, Situation

from .bench import NOW, Bench, seeded

FAMILY = FMSPC.hex()
LATER = Instant(NOW + 1000)


def told(bench: Bench, now: Instant = NOW, **said: object) -> Collateral:
    return parse_collateral(bench.machine.vendor.collateral(now, Situation(**said)))  # type: ignore[arg-type]


def dated(bench: Bench, until: int = 86_400_000) -> Holdings:
    return Holdings((DatedSet(told(bench), Instant(NOW + until)),))


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
    signed = sign_bundle(bench.key, dated(bench), now=NOW)
    bundle = open_bundle(signed, bench.key.public, now=NOW)
    assert replace(bench, collateral=bundle).verify().machine == bench.machine.platform_id
    with pytest.raises(CollateralMissing):
        bundle.find(fmspc="00" * 6, ca="processor", tee="sgx")


def test_only_the_custodian_signs_bundles(bench: Bench) -> None:
    thief = SigningKey.make(seeded("thief"))
    signed = sign_bundle(thief, dated(bench), now=NOW)
    with pytest.raises(BadSignature):
        open_bundle(signed, bench.key.public, now=NOW)
    renamed = msgspec.structs.replace(
        sign_bundle(bench.key, Holdings(), now=NOW), kind="leasehold-receipt"
    )
    with pytest.raises(BadSignature):
        open_bundle(renamed, bench.key.public, now=NOW)


def test_a_bundle_ends_after_a_day_whatever_it_says(bench: Bench) -> None:
    signed = sign_bundle(bench.key, dated(bench), now=NOW, lifetime=30 * BUNDLE_AGE_MAX)
    assert open_bundle(signed, bench.key.public, now=Instant(NOW + BUNDLE_AGE_MAX - 1))
    with pytest.raises(CollateralNotCurrent):
        open_bundle(signed, bench.key.public, now=Instant(NOW + BUNDLE_AGE_MAX))
    short = sign_bundle(bench.key, dated(bench), now=NOW, lifetime=60_000)
    with pytest.raises(CollateralNotCurrent):
        open_bundle(short, bench.key.public, now=Instant(NOW + 60_000))


def test_a_bundle_from_the_future_is_refused(bench: Bench) -> None:
    ahead = Instant(NOW + CLOCK_SKEW_MAX)
    assert open_bundle(sign_bundle(bench.key, Holdings(), now=ahead), bench.key.public, now=NOW)
    with pytest.raises(CollateralNotCurrent):
        open_bundle(
            sign_bundle(bench.key, Holdings(), now=Instant(ahead + 1)), bench.key.public, now=NOW
        )


def test_a_set_counts_no_longer_for_consumers_than_for_the_custodian(bench: Bench) -> None:
    signed = sign_bundle(bench.key, dated(bench, 1000), now=NOW)
    bundle = open_bundle(signed, bench.key.public, now=NOW)
    assert replace(bench, collateral=bundle).verify().valid_until == NOW + 1000
    with pytest.raises(CollateralNotCurrent):
        replace(bench, collateral=bundle, now=Instant(NOW + 1000)).verify()


def test_what_was_used_is_all_that_consumers_need(bench: Bench, platform_bench: Bench) -> None:
    used = UsedCollateral(HeldCollateral([told(platform_bench), told(bench)]))
    assert replace(bench, collateral=used).verify()
    assert used.holdings.sets == (DatedSet(told(bench), Instant(NOW + 30 * 86_400_000)),)
    held = HeldCollateral(used.holdings.sets, used.holdings.documents)
    assert replace(bench, collateral=held).verify() == bench.verify()


def test_held_collateral_finds_by_family_authority_and_platform(
    bench: Bench, platform_bench: Bench
) -> None:
    sets = (told(bench), told(platform_bench), told(bench, tee="TDX"))
    held = HeldCollateral(sets)
    for wanted, (ca, tee) in zip(
        sets, [("processor", "sgx"), ("platform", "sgx"), ("processor", "tdx")], strict=True
    ):
        assert held.find(fmspc=FAMILY, ca=ca, tee=tee).collateral == wanted  # type: ignore[arg-type]


def test_deeply_nested_collateral_is_refused(bench: Bench) -> None:
    """What is inside a field that nobody reads must not end the verifier."""
    deep = '{"x":' + "[" * 50_000 + "]" * 50_000 + "}"
    for field in ("tcb_info", "qe_identity"):
        changed = msgspec.structs.replace(told(bench), **{field: deep})
        with pytest.raises(CollateralRejected):
            HeldCollateral([changed])
