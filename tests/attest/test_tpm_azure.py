"""A whole Azure machine, simulated: chip, paravisor, vTPM, judged by `verify` from end to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import pytest

from leasehold.attest.amd.reference import Snp
from leasehold.attest.collateral import HeldCollateral
from leasehold.attest.intel.reference import Tdx
from leasehold.attest.reference import Machine as Listed
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import FindingCode, TcbStatus, Trust, Verdict
from leasehold.attest.verify import observe, verify
from leasehold.core.crypto import sha256
from leasehold.core.evidence import Evidence
from leasehold.errors import (
    BadEvidence,
    CollateralMissing,
    LeaseholdError,
    PlatformNotAllowed,
    QuoteForged,
    TcbNotCurrent,
    UnknownMachine,
    UntrustedRoot,
    WrongAttributes,
    WrongBinding,
    WrongMeasurement,
)
from leasehold_simtee.hcl import SimulatedParavisor
from leasehold_simtee.snp import Chip, Guest
from leasehold_simtee.tdx import SimulatedTdxAttester, TrustDomain
from leasehold_simtee.tpm import SimulatedTpm, rsa_key

from .bench import NOW, Bench, seeded
from .tdx_bench import TdxBench, make_tdx_bench
from .test_tpm import table
from .test_tpm_hcl import td_report

TPM = SimulatedTpm(rsa_key())
GUEST = Guest()


@dataclass(frozen=True)
class Azure:
    """A simulated chip and a bench whose manifest accepts it."""

    chip: Chip
    bench: Bench

    def evidence(self, guest: Guest = GUEST, tpm: SimulatedTpm = TPM) -> Evidence:
        def hardware(data: bytes) -> tuple[bytes, tuple[bytes, ...]]:
            made = self.chip.attester(guest).attest(data)
            return made.quote, made.endorsements

        paravisor = SimulatedParavisor("azure-snp", tpm, hardware)
        return paravisor.attest(self.bench.binding.report_data())

    def policy(self, **fields: object) -> Azure:
        return replace(self, bench=self.bench.policy(**fields))

    def snp(self, **fields: object) -> Azure:
        return self.policy(snp=msgspec.structs.replace(self.bench.manifest.snp, **fields))

    def verify(self, evidence: Evidence | None = None) -> Verdict:
        return verify(
            self.evidence() if evidence is None else evidence,
            self.bench.binding,
            self.bench.manifest,
            self.bench.collateral,
            now=NOW,
        )


@pytest.fixture(scope="module")
def azure(bench: Bench) -> Azure:
    return make_azure(bench)


def make_azure(bench: Bench) -> Azure:
    chip = Chip.create(seeded("azure"), NOW)
    accepting = bench.policy(
        sgx=None,
        tpm=table(),
        snp=msgspec.convert(GUEST.reference_values("Milan"), Snp),
        machines=(Listed(chip.machine_id, "simulated"),),
        simulated=Simulated(amd_root_sha256=chip.amd.root_sha256),
    )
    return Azure(chip, replace(accepting, collateral=HeldCollateral((), chip.amd.documents(NOW))))


def refused(error: type[LeaseholdError], run: Callable[..., object], *args: object) -> str:
    """The message of a refusal that must be of exactly this class."""
    with pytest.raises(LeaseholdError) as caught:
        run(*args)
    assert type(caught.value) is error, caught.value
    return str(caught.value)


def test_an_honest_machine_passes(azure: Azure) -> None:
    verdict = azure.verify()
    assert (verdict.platform, verdict.trust) == ("azure-snp", Trust.SIMULATION)
    assert verdict.tcb_status is TcbStatus.UP_TO_DATE
    assert verdict.machine == azure.chip.machine_id
    assert verdict.platform_instance == TPM.platform_id
    assert verdict.measurement == GUEST.measurement.hex()
    assert dict(verdict.measurements)["PCR7"] == TPM.pcrs[7].hex()
    assert verdict.report_data == sha256(azure.bench.binding.report_data())
    codes = [finding.code for finding in verdict.findings]
    assert FindingCode.SIMULATED in codes
    assert codes[-1] is FindingCode.HYPERVISOR_TRUSTED


def test_the_machine_list_may_name_the_vtpm_s_key(azure: Azure) -> None:
    by_key = azure.policy(machines=(Listed(TPM.platform_id, "by key"),))
    assert by_key.verify().machine == azure.chip.machine_id
    elsewhere = azure.policy(machines=(Listed("ab" * 32, "another"),))
    refused(UnknownMachine, elsewhere.verify)


def test_observation_needs_the_simulated_root(azure: Azure) -> None:
    evidence, store = azure.evidence(), azure.bench.collateral
    simulated = azure.bench.manifest.simulated
    seen = observe(evidence, store, simulated=simulated, now=NOW)
    assert seen.trust is Trust.SIMULATION
    with pytest.raises(UntrustedRoot):
        observe(evidence, store, simulated=None, now=NOW)


def test_every_table_is_needed(azure: Azure) -> None:
    refused(PlatformNotAllowed, azure.policy(tpm=None).verify)
    refused(PlatformNotAllowed, azure.policy(snp=None, sgx=azure.bench.manifest.sgx).verify)
    distrusting = azure.policy(tpm=table(unsafe_trust_hypervisor_owner=False))
    refused(PlatformNotAllowed, distrusting.verify)
    refused(UntrustedRoot, azure.policy(simulated=None).verify)
    empty = replace(azure, bench=replace(azure.bench, collateral=HeldCollateral(())))
    refused(CollateralMissing, empty.verify)


def test_the_hardware_is_judged_by_its_own_table(azure: Azure) -> None:
    assert "MEASUREMENT" in refused(WrongMeasurement, azure.snp(measurement=("ab" * 48,)).verify)
    floor = msgspec.structs.replace(azure.bench.manifest.snp.milan, microcode=255)  # type: ignore[union-attr,type-var]
    refused(TcbNotCurrent, azure.snp(milan=floor).verify)


def test_the_registers_are_judged(azure: Azure) -> None:
    booted = replace(TPM, pcrs={**TPM.pcrs, 4: b"\x01" * 32})
    assert "PCR 4" in refused(WrongMeasurement, azure.verify, azure.evidence(tpm=booted))


def test_a_guest_cannot_vouch_for_a_vtpm_of_its_own(azure: Azure) -> None:
    """A report that the guest had made, over runtime data with a key that it holds itself."""
    above = azure.snp(vmpl_max=3)
    assert "paravisor" in refused(
        WrongAttributes, above.verify, azure.evidence(replace(GUEST, vmpl=2))
    )


def test_a_forged_hardware_report_is_refused(azure: Azure) -> None:
    evidence = azure.evidence()
    quote = bytearray(evidence.quote)
    quote[32 + 0x90] ^= 1  # the launch measurement
    forged = msgspec.structs.replace(evidence, quote=bytes(quote))
    refused(QuoteForged, azure.verify, forged)


def test_parts_of_two_machines_make_none(azure: Azure) -> None:
    """Another machine's vTPM answers the nonce; this one's hardware vouches for its own vTPM."""
    evidence = azure.evidence()
    other = replace(TPM, clock=1)
    attest = other.attest(sha256(azure.bench.binding.report_data()))
    mixed = (attest, evidence.endorsements[1], *evidence.endorsements[2:])
    refused(QuoteForged, azure.verify, msgspec.structs.replace(evidence, endorsements=mixed))


def test_old_evidence_is_refused(azure: Azure) -> None:
    stale = azure.evidence()
    later = replace(azure.bench, binding=replace(azure.bench.binding, nonce=bytes(32)))
    refused(WrongBinding, replace(azure, bench=later).verify, stale)


def test_one_platform_s_evidence_is_not_another_s(azure: Azure) -> None:
    evidence = azure.evidence()
    for name in ("azure-tdx", "tpm", "snp"):
        refused(BadEvidence, azure.verify, msgspec.structs.replace(evidence, platform=name))


# TDX behind the vTPM -----------------------------------------------------------------------------


def tdx_machine(domain: TrustDomain) -> tuple[TdxBench, Evidence]:
    """A simulated TDX machine behind a paravisor, and a bench whose manifest accepts it."""
    bench = make_tdx_bench()
    values = msgspec.convert(TrustDomain().reference_values(), Tdx)
    accepting = replace(bench, domain=domain).policy(tpm=table(), tdx=values)

    def hardware(data: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        quote = SimulatedTdxAttester(bench.machine, seeded("azure"), domain).attest(data).quote
        return td_report(data), (quote,)

    paravisor = SimulatedParavisor("azure-tdx", TPM, hardware)
    return accepting, paravisor.attest(accepting.binding.report_data())


def test_a_whole_tdx_machine_passes() -> None:
    bench, evidence = tdx_machine(TrustDomain())
    verdict = bench.verify(evidence)
    assert verdict.platform == "azure-tdx"
    assert verdict.trust is Trust.SIMULATION
    assert verdict.machine == bench.machine.platform_id
    assert verdict.measurement == TrustDomain().mr_td.hex()
    assert FindingCode.HYPERVISOR_TRUSTED in {finding.code for finding in verdict.findings}


@pytest.mark.parametrize(
    ("domain", "error"),
    [
        (TrustDomain(td_attributes=0), WrongAttributes),  # as Azure's machines are
        (TrustDomain(mr_td=bytes(48)), WrongMeasurement),
    ],
)
def test_a_tdx_machine_is_judged_by_its_own_table(
    domain: TrustDomain, error: type[LeaseholdError]
) -> None:
    bench, evidence = tdx_machine(domain)
    refused(error, bench.verify, evidence)


def test_a_td_quote_over_other_runtime_data_is_refused() -> None:
    bench, evidence = tdx_machine(TrustDomain())
    other = SimulatedTdxAttester(bench.machine, seeded("azure"), TrustDomain()).attest(bytes(64))
    swapped = (*evidence.endorsements[:3], other.quote)
    refused(WrongBinding, bench.verify, msgspec.structs.replace(evidence, endorsements=swapped))
