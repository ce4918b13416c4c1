"""Several devices as one platform: presence, identity, policy, and the bond with the processor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from leasehold.attest.collateral import Document, HeldCollateral, parse_collateral
from leasehold.attest.manifest import read_policy, render
from leasehold.attest.nvidia.device import check_measurements, golden_values, observe_device
from leasehold.attest.nvidia.reference import Nvidia
from leasehold.attest.nvidia.report import parse_report
from leasehold.attest.nvidia.rim import read_rim
from leasehold.attest.reference import Machine as Listed
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import Device, FindingCode, Trust, Verdict
from leasehold.attest.verify import verify
from leasehold.core.binding import Binding, Purpose
from leasehold.core.crypto import SigningKey, TlsKey
from leasehold.core.evidence import DeviceEvidence, Evidence
from leasehold.core.units import DAY, Instant
from leasehold.enclave.prover import InstanceKeys, Prover
from leasehold.enclave.settings import Settings
from leasehold.errors import (
    BadEvidence,
    BadManifest,
    CertificateRejected,
    CertificateRevoked,
    CollateralMismatch,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    LeaseholdError,
    PlatformNotAllowed,
    QuoteForged,
    Unavailable,
    UnsupportedEvidence,
    UntrustedRoot,
    WrongAttributes,
    WrongBinding,
    WrongDevices,
    WrongMeasurement,
)
from leasehold.testing.time import START, run_simulated
from leasehold.testing.world import World
from leasehold_simtee.nvidia import (
    BLACKWELL,
    HOPPER,
    LS10,
    PPCIE,
    Model,
    NvidiaVendor,
    SimulatedDevice,
    SimulatedDevices,
)
from leasehold_simtee.nvidia_ocsp import ocsp_response, responder
from leasehold_simtee.nvidia_rim import sign_tag

from .bench import NOW, make_bench, seeded
from .nvidia_bench import (
    LATER,
    NONCE,
    NvidiaBench,
    make_nvidia_bench,
    one_gpu,
    protected_pcie,
    reference_values,
    vendor,
)

DRIVER, VBIOS = HOPPER.rim_names
YEAR = 365 * DAY


def bench_of(*models: Model) -> NvidiaBench:
    return make_nvidia_bench(
        vendor(), [vendor().device(model) for model in models], make_bench("nvidia")
    )


# What passes ---------------------------------------------------------------------------------------


def test_one_gpu_passes_with_all_its_facts() -> None:
    found = one_gpu().appraise()
    serial = one_gpu().devices[0].serial
    assert found.devices == (Device("nvidia-gpu", serial, "GH100", "550.90.07", "96.00.9F.00.01"),)
    assert found.trust is Trust.SIMULATION
    assert [finding.code for finding in found.findings] == [FindingCode.SIMULATED]
    assert found.ends == NOW + DAY  # of the OCSP answers


def test_a_blackwell_passes() -> None:
    assert bench_of(BLACKWELL).appraise().devices[0].model == "GB100"


def test_gpus_and_switches_pass_together_in_any_order() -> None:
    held = protected_pcie()
    assert [one.kind for one in held.appraise().devices] == ["nvidia-gpu"] * 2 + [
        "nvidia-switch"
    ] * 2
    turned = replace(held, evidence=held.evidence[::-1])
    assert len(turned.appraise().devices) == 4


def test_a_device_may_be_listed_by_its_hardware() -> None:
    held = protected_pcie()
    listed = tuple(one.hardware for one in held.devices)
    assert len(replace(held, listed=listed).appraise().devices) == 4
    mixed = (held.devices[0].serial, *listed[1:])
    assert len(replace(held, listed=mixed).appraise().devices) == 4


def test_without_devices_nothing_is_asked() -> None:
    held = replace(one_gpu(), evidence=(), listed=())
    bare = replace(held, bench=held.bench.policy(nvidia=None))
    assert bare.appraise().devices == ()
    assert bare.appraise().trust is Trust.PRODUCTION


# D-1: presence -------------------------------------------------------------------------------------


def test_devices_without_a_table_are_refused() -> None:
    bare = replace(one_gpu(), bench=one_gpu().bench.policy(nvidia=None))
    bare.refused(PlatformNotAllowed)
    replace(bare, evidence=()).refused(PlatformNotAllowed)
    replace(bare, listed=()).refused(PlatformNotAllowed)


def test_a_table_without_devices_is_refused() -> None:
    assert "no devices listed" in str(replace(one_gpu(), listed=()).refused(WrongDevices))
    replace(one_gpu(), evidence=()).refused(WrongDevices)
    replace(one_gpu(), evidence=one_gpu().evidence * 33).refused(WrongDevices)


# D-2 to D-4 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "error"), [("nvidia-switch", BadEvidence), ("amd-gpu", UnsupportedEvidence)]
)
def test_the_kind_is_the_report_s(kind: str, error: type[LeaseholdError]) -> None:
    one = msgspec.structs.replace(one_gpu().evidence[0], kind=kind)
    replace(one_gpu(), evidence=(one,)).refused(error)


def test_forged_reports_and_chains_are_refused() -> None:
    held = one_gpu()
    flipped = bytearray(held.evidence[0].report)
    flipped[60] ^= 1
    held.report(bytes(flipped)).refused(QuoteForged)
    held.chain(vendor().device(HOPPER).pem).refused(QuoteForged)
    replace(held, now=Instant(NOW - 2 * DAY)).refused(CertificateRejected)


# Roots: one for each role --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"nvidia_root_sha256": None},
        {"nvidia_root_sha256": "00" * 32},
        {"nvidia_rim_root_sha256": None},
        {
            "nvidia_root_sha256": vendor().rim_root_sha256,
            "nvidia_rim_root_sha256": vendor().root_sha256,
        },
    ],
    ids=["no device root", "another", "no manifest root", "exchanged"],
)
def test_a_simulated_root_is_trusted_for_its_role_alone(said: dict[str, str | None]) -> None:
    one_gpu().simulated(**said).refused(UntrustedRoot)


def test_a_simulated_processor_does_not_make_a_simulated_gpu_trusted() -> None:
    held = one_gpu()
    only = Simulated(held.bench.machine.root_sha256)
    replace(held, bench=held.bench.policy(simulated=only)).refused(UntrustedRoot)


# D-5: manifests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [DRIVER, VBIOS])
def test_both_manifests_are_needed(name: str) -> None:
    error = one_gpu().document(name, None).refused(CollateralMissing)
    assert name in str(error)


def test_a_manifest_that_the_store_no_longer_vouches_for_is_refused() -> None:
    held = one_gpu()
    ended = [
        msgspec.structs.replace(one, good_until=LATER) if one.kind == "nvidia-rim" else one
        for one in held.documents
    ]
    replace(held, documents=tuple(ended)).refused(CollateralNotCurrent)


def test_a_broken_manifest_is_refused() -> None:
    one_gpu().rim(DRIVER, lambda data: data[:-1]).refused(CollateralRejected)


def tag_of(model: Model, at: int, **said: Any) -> Callable[[bytes], bytes]:
    return lambda _: sign_tag(replace(model.tags[at], **said), vendor().rim_chain)


@pytest.mark.parametrize(
    ("name", "at", "said"),
    [
        (DRIVER, 0, {"version": "550.90.08"}),
        (DRIVER, 0, {"product": "GB100"}),
        (DRIVER, 0, {"edition": "SWITCH"}),
        (DRIVER, 1, {}),
        (VBIOS, 0, {}),
        (VBIOS, 1, {"version": "96.00.9F.00.02"}),
    ],
)
def test_a_validly_signed_manifest_for_something_else_is_refused(
    name: str, at: int, said: dict[str, str]
) -> None:
    one_gpu().rim(name, tag_of(HOPPER, at, **said)).refused(CollateralMismatch)


def test_a_blackwell_without_its_chip_is_refused_by_the_hopper_s_manifest() -> None:
    """NVIDIA's service answers with a validly signed manifest of the other chip."""
    silent = replace(BLACKWELL, chip_info=None, driver=HOPPER.driver)
    held = bench_of(silent)
    wrong = Document(
        "nvidia-rim",
        f"NV_GPU_DRIVER_GH100_{HOPPER.driver}",
        sign_tag(HOPPER.tags[0], vendor().rim_chain),
        Instant(NOW + DAY),
    )
    replace(held, documents=(*held.documents, wrong)).refused(CollateralMismatch)


def test_expired_signers_need_the_switch_and_are_a_finding() -> None:
    held = one_gpu()
    later = Instant(NOW + 2 * YEAR + DAY)
    late = replace(
        held,
        now=later,
        documents=held.vendor.documents(held.devices, later),
        bench=held.bench.policy(not_after=held.bench.manifest.not_after.replace(year=2040)),
    )
    late.refused(CollateralNotCurrent)
    table = reference_values(*held.devices, unsafe_accept_expired_rim_signers=True)
    found = replace(late, bench=late.bench.policy(nvidia=table)).appraise()
    codes = [finding.code for finding in found.findings]
    assert codes == [FindingCode.SIMULATED, FindingCode.SIGNER_EXPIRED, FindingCode.SIGNER_EXPIRED]
    assert DRIVER in found.findings[1].text


def test_an_expired_signer_that_was_revoked_is_refused_with_the_switch_too() -> None:
    held = one_gpu().reference(unsafe_accept_expired_rim_signers=True)
    later = Instant(NOW + 2 * YEAR + DAY)
    late = replace(held, now=later, documents=held.vendor.documents(held.devices, later))
    signer, authority = held.vendor.rim_chain[:2]
    revoked(late, signer, authority, later).refused(CertificateRevoked)


# D-6: revocation -----------------------------------------------------------------------------------


def revoked(held: NvidiaBench, one: Any, issuer: Any, now: Instant = NOW) -> NvidiaBench:
    signer = responder(issuer, entropy=seeded("revoking"), now=now)
    answer = ocsp_response(one, issuer, signer, now=now, status="revoked", reason=6)
    return held.document(sha256(one.der).hexdigest(), answer)


def all_pairs(held: NvidiaBench) -> list[tuple[Any, Any]]:
    device, rims = held.devices[0].chain, held.vendor.rim_chain
    return [*pairwise(device[1:]), *pairwise(rims)]


@pytest.mark.parametrize("at", range(6))
def test_every_certificate_on_hold_is_a_revoked_one(at: int) -> None:
    revoked(one_gpu(), *all_pairs(one_gpu())[at]).refused(CertificateRevoked)


@pytest.mark.parametrize("at", range(6))
def test_every_certificate_needs_an_answer(at: int) -> None:
    name = sha256(all_pairs(one_gpu())[at][0].der).hexdigest()
    one_gpu().document(name, None).refused(CollateralMissing)


def test_answers_end_after_a_day() -> None:
    replace(one_gpu(), now=Instant(NOW + DAY)).refused(CollateralNotCurrent)


# D-7: measurements ---------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 7, 12, 21, 40])
def test_a_wrong_measurement_is_named(index: int) -> None:
    error = one_gpu().first(measurements={index: b"\x01" * 48}).refused(WrongMeasurement)
    assert f"RIM index {index}" in str(error)
    assert "01" * 48 in str(error)


def test_all_wrong_measurements_are_named() -> None:
    wrong = dict.fromkeys((3, 30), b"\x01" * 48)
    error = one_gpu().first(measurements=wrong).refused(WrongMeasurement)
    assert "RIM index 3, 30" in str(error)


def test_each_alternative_passes_and_what_nobody_lists_is_not_judged() -> None:
    assert one_gpu().first(measurements={7: bytes(48), 21: bytes(48)}).appraise()
    assert one_gpu().first(measurements=dict.fromkeys((13, 63), b"\x01" * 48)).appraise()


def test_a_rim_s_index_is_one_lower_than_spdm_s() -> None:
    """Measurements that are moved by one are other measurements."""
    values = HOPPER.measurements
    moved = {index: values[index + 1] for index in range(63)}
    one_gpu().first(measurements=moved).refused(WrongMeasurement)


def test_index_35_counts_only_while_the_decoder_is_on() -> None:
    wrong = {35: b"\x01" * 48}
    assert one_gpu().first(measurements=wrong).appraise()
    for status in (b"\xaa", b"\x00", None):
        held = one_gpu().first(measurements=wrong, opaque={11: status})
        held.refused(WrongMeasurement)


def test_an_index_in_both_manifests_is_refused() -> None:
    twice = dict(HOPPER.tags[1].golden) | {7: HOPPER.tags[0].golden[7]}
    error = one_gpu().rim(VBIOS, tag_of(HOPPER, 1, golden=twice)).refused(CollateralRejected)
    assert "[7]" in str(error)


def test_a_manifest_in_which_nothing_counts_is_refused() -> None:
    one_gpu().rim(DRIVER, tag_of(HOPPER, 0, golden={})).refused(CollateralRejected)


def test_an_index_that_no_device_measures_is_a_mismatch() -> None:
    switch = protected_pcie().devices[2]
    beyond = dict(LS10.tags[0].golden) | {40: (bytes(48),)}
    rim = read_rim(sign_tag(replace(LS10.tags[0], golden=beyond), vendor().rim_chain))
    report = parse_report(switch.report(NONCE))
    golden = golden_values(report, "LS10", [rim])
    with pytest.raises(WrongMeasurement, match=r"RIM index 40.*not measured"):
        check_measurements(report, golden)


def test_an_older_issue_that_fits_does_not_pass_for_the_newest() -> None:
    """The store has one manifest for each name: the newest that it saw."""
    newest = dict(HOPPER.tags[1].golden) | {9: (b"\x02" * 48,)}
    one_gpu().rim(VBIOS, tag_of(HOPPER, 1, golden=newest)).refused(WrongMeasurement)


# D-8: identity -------------------------------------------------------------------------------------


def test_a_report_over_another_nonce_is_refused() -> None:
    old = one_gpu().devices[0].report(NONCE[::-1])
    one_gpu().report(old).refused(WrongBinding)
    held = protected_pcie()
    last = msgspec.structs.replace(held.evidence[3], report=held.devices[3].report(bytes(32)))
    replace(held, evidence=(*held.evidence[:3], last)).refused(WrongBinding)


def test_a_device_that_is_not_listed_is_refused() -> None:
    stranger = vendor().device(HOPPER)
    held = one_gpu()
    error = replace(held, evidence=(stranger.evidence(NONCE),)).refused(WrongDevices)
    assert stranger.serial in str(error)
    assert held.devices[0].serial in str(error)
    replace(held, evidence=(*held.evidence, stranger.evidence(NONCE))).refused(WrongDevices)


def test_a_device_that_is_missing_is_refused() -> None:
    held = protected_pcie()
    error = replace(held, evidence=held.evidence[1:]).refused(WrongDevices)
    assert held.devices[0].serial in str(error)


def test_one_device_twice_is_not_two() -> None:
    held = one_gpu()
    twice = replace(held, evidence=held.evidence * 2)
    assert "twice" in str(twice.refused(WrongDevices))
    replace(twice, listed=held.listed * 2).refused(WrongDevices)
    both_names = (held.devices[0].serial, held.devices[0].hardware)
    replace(twice, listed=both_names).refused(WrongDevices)
    replace(held, listed=both_names).refused(WrongDevices)
    replace(held, listed=held.listed * 2).refused(WrongDevices)


# D-9: policy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "about"),
    [
        ({"models": ("GB100",)}, "model"),
        ({"driver_versions": ("550.90.08", "550.90")}, "driver"),
        ({"vbios_versions": ("96.00.9F.00.02",)}, "VBIOS"),
    ],
)
def test_models_and_versions_are_the_manifest_s(said: dict[str, Any], about: str) -> None:
    assert f"About: {about}" in str(one_gpu().reference(**said).refused(WrongMeasurement))


def test_the_switch_s_bios_is_the_manifest_s() -> None:
    said = {"switch_bios_versions": ("96.10.6D.00.02",)}
    error = protected_pcie().reference(**said).refused(WrongMeasurement)
    assert "switch BIOS" in str(error)


@pytest.mark.parametrize(
    "opaque",
    [{36: b"\x01\x00"}, {36: None, 21: None}, {21: b"\xaa"}, {36: b"\x02\x00", 21: b"\xaa"}],
    ids=str,
)
def test_the_mode_is_the_manifest_s(opaque: dict[int, bytes | None]) -> None:
    one_gpu().first(opaque=opaque).refused(WrongAttributes)


def test_gpus_with_encrypted_nvlink_pass_where_the_manifest_expects_them() -> None:
    held = bench_of(replace(HOPPER, feature=1), replace(HOPPER, feature=1))
    held.refused(WrongAttributes)
    assert len(held.reference(mode="multi-gpu").appraise().devices) == 2


def test_there_are_as_many_switches_as_the_manifest_says() -> None:
    protected_pcie().reference(switches=3).refused(WrongDevices)
    protected_pcie().reference(switches=1).refused(WrongDevices)


def test_switches_alone_are_no_platform() -> None:
    switch = vendor().device(LS10)
    held = replace(
        protected_pcie(),
        devices=(switch,),
        listed=(switch.serial,),
        evidence=(switch.evidence(NONCE),),
        documents=vendor().documents([switch], NOW),
    )
    table = reference_values(*protected_pcie().devices, switches=1)
    error = replace(held, bench=held.bench.policy(nvidia=table)).refused(WrongDevices)
    assert "0 GPUs" in str(error)


def wired(gpu_links: int, switch_links: int) -> NvidiaBench:
    """Two GPUs and two switches whose reports name so many of the others."""
    pdis = [bytes((number,)) * 8 for number in range(1, 5)]
    held: list[SimulatedDevice] = [
        *(vendor().device(PPCIE, pdi=pdi, links=tuple(pdis[2:])[:gpu_links]) for pdi in pdis[:2]),
        *(vendor().device(LS10, pdi=pdi, links=tuple(pdis[:2])[:switch_links]) for pdi in pdis[2:]),
    ]
    return make_nvidia_bench(vendor(), held, make_bench("nvidia"))


def test_links_end_in_attested_devices() -> None:
    assert wired(2, 2).appraise()
    assert "a GPU's links" in str(wired(1, 2).refused(WrongDevices))
    assert "a GPU's links" in str(wired(0, 2).refused(WrongDevices))
    assert "a switch's links" in str(wired(2, 1).refused(WrongDevices))


def test_a_gpu_behind_a_switch_that_nobody_attested_is_refused() -> None:
    held = protected_pcie()
    links = held.devices[0].opaque()
    assert held.devices[2].pdi in links
    foreign = {22: held.devices[2].pdi + b"\x07" * 8}
    held.first(opaque=foreign).refused(WrongDevices)
    more = {22: held.devices[2].pdi + held.devices[3].pdi + b"\x07" * 8}
    held.first(opaque=more).refused(WrongDevices)


@pytest.mark.parametrize(
    "said",
    [
        {"models": ()},
        {"driver_versions": ()},
        {"vbios_versions": ()},
        {"vbios_versions": ("96.00.9f.00.01",)},
        {"driver_versions": ("550 .90",)},
        {"mode": "off"},
        {"mode": "protected-pcie"},
        {"switches": 1},
        {"mode": "protected-pcie", "switches": 2},
        {"switch_bios_versions": ("96.10.6D.00.01",)},
        {"mode": "multi-gpu", "switches": 1, "switch_bios_versions": ("96.10.6D.00.01",)},
        {"switches": 17},
        {"switches": -1},
        {"allow_everything": True},
    ],
    ids=str,
)
def test_a_table_that_says_too_little_is_refused(said: dict[str, object]) -> None:
    text = render(one_gpu().bench.manifest).decode()
    table = msgspec.to_builtins(reference_values(*one_gpu().devices)) | said
    lines = [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in table.items()]
    head = text[: text.index("[nvidia]")]
    tail = text[text.index("[nvidia]") :].partition("\n\n")[2]
    with pytest.raises(BadManifest):
        read_policy(("\n".join([head, "[nvidia]", *lines, "", tail])).encode())


@pytest.mark.parametrize("name", ["models", "driver_versions", "vbios_versions", "mode"])
def test_every_field_is_mandatory(name: str) -> None:
    table = msgspec.to_builtins(reference_values(*one_gpu().devices))
    del table[name]
    with pytest.raises(msgspec.ValidationError, match=name):
        msgspec.convert(table, Nvidia)


def test_a_manifest_with_devices_survives_being_written_and_read() -> None:
    for held in (one_gpu(), protected_pcie()):
        assert read_policy(render(held.bench.manifest)) == held.bench.manifest


# Without a policy ----------------------------------------------------------------------------------


def observed(held: NvidiaBench, documents: tuple[Document, ...] | None = None) -> Any:
    return observe_device(
        held.evidence[0],
        HeldCollateral((), held.documents if documents is None else documents),
        simulated=held.bench.manifest.simulated,
        now=held.now,
    )


def test_a_device_can_be_looked_at_without_a_policy() -> None:
    found = observed(one_gpu())
    assert found.device.identity == one_gpu().devices[0].serial
    assert found.report.nonce == NONCE
    assert [finding.code for finding in found.findings] == [FindingCode.SIMULATED]
    assert found.ends == NOW + DAY


def test_what_no_collateral_is_there_for_is_a_finding() -> None:
    found = observed(one_gpu(), ())
    assert [finding.code for finding in found.findings] == [
        FindingCode.SIMULATED,
        FindingCode.REVOCATION_UNKNOWN,
        FindingCode.NOT_COMPARED,
    ]
    assert DRIVER in found.findings[2].text
    late = observed(replace(one_gpu(), now=Instant(NOW + DAY)))
    assert [finding.code for finding in late.findings][1:] == [
        FindingCode.REVOCATION_UNKNOWN,
        FindingCode.NOT_COMPARED,
    ]


def test_an_expired_signer_is_a_finding_without_a_policy() -> None:
    later = Instant(NOW + 2 * YEAR + DAY)
    held = one_gpu()
    documents = held.vendor.documents(held.devices, later)
    found = observed(replace(held, now=later), documents)
    assert FindingCode.SIGNER_EXPIRED in [finding.code for finding in found.findings]


def test_what_is_wrong_is_refused_without_a_policy_too() -> None:
    with pytest.raises(WrongMeasurement):
        observed(one_gpu().first(measurements={7: b"\x01" * 48}))
    with pytest.raises(CertificateRevoked):
        observed(revoked(one_gpu(), *all_pairs(one_gpu())[0]))
    with pytest.raises(UntrustedRoot):
        observed(one_gpu().simulated(nvidia_root_sha256=None))


# The bond with the processor -----------------------------------------------------------------------


async def in_place(work: Callable[[], Any]) -> Any:
    return work()


def settings_of(held: NvidiaBench) -> Settings:
    bench = held.bench
    return Settings(
        file=bench.binding.configuration,
        version=1,
        loan="loan",
        engine="fake",
        attester="simulated",
        custodian_root=bench.key.public,
        custodian_ca="",
        custodian_name="",
        dead_man_seconds=60,
        context_tokens=1,
        slots=1,
        threads=1,
        block_tokens=1,
        queue_max=1,
        concurrency_max=1,
        body_bytes_max=1,
    )


class Instance:
    """An enclave's prover with devices, and what a verifier knows of the instance."""

    def __init__(self, held: NvidiaBench, seed: str = "instance") -> None:
        self.held = held
        entropy = seeded(seed)
        self.keys = InstanceKeys(TlsKey.make(entropy), "", SigningKey.make(entropy))
        self.prover = Prover(
            held.bench.machine.attester(held.bench.enclave),
            settings_of(held),
            self.keys,
            in_place,
            SimulatedDevices(held.devices),
        )

    def prove(self, nonce: bytes = NONCE) -> Evidence:
        return asyncio.run(self.prover.for_custodian(nonce, b"kem"))

    def binding(self, nonce: bytes = NONCE) -> Binding:
        return Binding(
            Purpose.CUSTODIAN,
            nonce,
            self.keys.tls.spki,
            self.keys.statement.public,
            b"kem",
            self.held.bench.key.public,
            self.held.bench.binding.configuration,
        )

    def verify(self, evidence: Evidence, nonce: bytes = NONCE) -> Verdict:
        store = HeldCollateral(
            [parse_collateral(self.held.bench.machine.collateral)], self.held.documents
        )
        return verify(
            evidence, self.binding(nonce), self.held.bench.manifest, store, now=self.held.now
        )

    def refused(self, evidence: Evidence, error: type[LeaseholdError]) -> None:
        with pytest.raises(LeaseholdError) as caught:
            self.verify(evidence)
        assert type(caught.value) is error, caught.value


@pytest.mark.parametrize("make", [one_gpu, protected_pcie], ids=["one GPU", "GPUs and switches"])
def test_an_enclave_with_devices_is_verified_end_to_end(make: Callable[[], NvidiaBench]) -> None:
    instance = Instance(make())
    verdict = instance.verify(instance.prove())
    assert [one.identity for one in verdict.devices] == [one.serial for one in make().devices]
    assert verdict.trust is Trust.SIMULATION
    assert verdict.valid_until == NOW + DAY
    codes = [finding.code for finding in verdict.findings]
    assert codes == [FindingCode.SIMULATED, FindingCode.SIMULATED]


def test_a_window_s_consumers_get_devices_too() -> None:
    instance = Instance(one_gpu())
    found = asyncio.run(instance.prover.for_consumer(NONCE))
    binding = replace(instance.binding(found.root), purpose=Purpose.CONSUMER, kem_key=b"")
    assert parse_report(found.evidence.devices[0].report).nonce == binding.device_nonce()


def with_devices(evidence: Evidence, devices: tuple[DeviceEvidence, ...]) -> Evidence:
    return msgspec.structs.replace(evidence, devices=devices)


def test_devices_of_another_nonce_or_instance_are_refused() -> None:
    instance, other = Instance(one_gpu()), Instance(one_gpu(), "other")
    evidence = instance.prove()
    old = instance.prove(NONCE[::-1])
    instance.refused(with_devices(evidence, old.devices), WrongBinding)
    instance.refused(with_devices(evidence, other.prove().devices), WrongBinding)
    instance.refused(with_devices(old, evidence.devices), WrongBinding)
    instance.refused(old, WrongBinding)


def test_the_processor_vouches_for_exactly_these_reports() -> None:
    """Another report over the right nonce, by the right device, was not in the report data."""
    instance = Instance(protected_pcie())
    evidence = instance.prove()
    nonce = instance.binding().device_nonce()
    again = instance.held.devices[0].report(nonce, opaque={14: b"\x01\x00\x00\x00"})
    first = msgspec.structs.replace(evidence.devices[0], report=again)
    instance.refused(with_devices(evidence, (first, *evidence.devices[1:])), WrongBinding)
    instance.refused(with_devices(evidence, evidence.devices[::-1]), WrongBinding)
    space = msgspec.structs.replace(evidence.devices[0], chain=evidence.devices[0].chain + b"\n")
    instance.refused(with_devices(evidence, (space, *evidence.devices[1:])), WrongBinding)


def test_devices_that_are_left_out_are_missed() -> None:
    instance = Instance(protected_pcie())
    evidence = instance.prove()
    instance.refused(with_devices(evidence, ()), WrongDevices)
    instance.refused(with_devices(evidence, evidence.devices[:3]), WrongDevices)


def test_a_genuine_gpu_of_somebody_else_s_is_refused() -> None:
    """A relay: the borrower's processor speaks of a GPU in another machine."""
    held = one_gpu()
    stranger = vendor().device(HOPPER)
    relay = Instance(replace(held, devices=(stranger,)))
    relay.refused(relay.prove(), WrongDevices)


def test_a_machine_that_lists_no_devices_is_refused_with_the_table() -> None:
    instance = Instance(one_gpu())
    bare = Listed(instance.held.bench.machine.platform_id, "no GPU")
    instance.held = replace(instance.held, bench=instance.held.bench.policy(machines=(bare,)))
    instance.refused(instance.prove(), WrongDevices)


def test_a_simulated_device_attester_takes_32_bytes() -> None:
    with pytest.raises(Unavailable):
        SimulatedDevices(one_gpu().devices).attest_devices(bytes(31))


# The governor --------------------------------------------------------------------------------------


class GpuWorld(World):
    """A world whose machine has one GPU, which its manifest lists."""

    lists_it = True

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        maker = NvidiaVendor.create(seeded("world"), START)
        self.gpu = maker.device(HOPPER)
        self.maker = maker
        self.documents = maker.documents([self.gpu], START)

    def make_manifest(self, **changed: Any) -> bytes:
        if not self.lists_it:
            return super().make_manifest(**changed)
        return super().make_manifest(
            nvidia=reference_values(self.gpu),
            machines=(Listed(self.machine.platform_id, "with a GPU", (self.gpu.serial,)),),
            simulated=Simulated(
                self.machine.root_sha256,
                nvidia_root_sha256=self.maker.root_sha256,
                nvidia_rim_root_sha256=self.maker.rim_root_sha256,
            ),
            **changed,
        )


class OtherWorld(GpuWorld):
    """The same with a manifest that knows nothing of it."""

    lists_it = False


def test_gpus_take_work_once_the_custodian_accepted_them() -> None:
    async def story() -> None:
        world = await GpuWorld.make()
        assert isinstance(world, GpuWorld)
        devices = SimulatedDevices((world.gpu,))
        box = world.enclave(devices=devices)
        assert devices.accepted == []
        await box.serving()
        assert devices.accepted == [1]
        await world.end()

    run_simulated(story)


def test_gpus_that_were_refused_take_no_work() -> None:
    async def story() -> None:
        world = await OtherWorld.make()
        assert isinstance(world, OtherWorld)
        devices = SimulatedDevices((world.gpu,))
        box = world.enclave(devices=devices)
        with pytest.raises(PlatformNotAllowed):
            await box.life
        assert devices.accepted == []
        await world.end()

    run_simulated(story)
