"""The devices beside the processor: several GPUs and switches judged as one platform.

Steps D-1 to D-10 of docs/spec/devices.md. Refuses to know how the devices' nonce came about: that the
processor vouches for their evidence is `verify`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from leasehold.attest.collateral import CollateralStore
from leasehold.attest.manifest import Manifest
from leasehold.attest.nvidia.chain import DeviceChain
from leasehold.attest.nvidia.device import (
    Checked,
    authenticate,
    check_firmware,
    check_revocation,
    device_of,
    findings,
    together,
)
from leasehold.attest.nvidia.reference import PROTECTED_PCIE, Nvidia
from leasehold.attest.nvidia.report import GPU, SWITCH, Mode, Report, gpu_pdis, switch_pdis
from leasehold.attest.verdict import Device, Finding, Trust
from leasehold.core.crypto import is_equal
from leasehold.core.evidence import DeviceEvidence
from leasehold.core.units import Instant
from leasehold.errors import (
    PlatformNotAllowed,
    WrongAttributes,
    WrongBinding,
    WrongDevices,
    WrongMeasurement,
)

DEVICES_MAX: Final = 32
_MODES: Final = {"single-gpu": Mode.SPT, "multi-gpu": Mode.MPT, PROTECTED_PCIE: Mode.PPCIE}


@dataclass(frozen=True, slots=True)
class Devices:
    """All devices of one machine, verified. `ends` is the earliest end of anything used."""

    devices: tuple[Device, ...]
    trust: Trust
    ends: Instant
    findings: tuple[Finding, ...]


def appraise_devices(
    evidence: tuple[DeviceEvidence, ...],
    nonce: bytes,
    manifest: Manifest,
    collateral: CollateralStore,
    *,
    expected: tuple[str, ...],
    now: Instant,
) -> Devices:
    """D-1 to D-9: judge all devices over one `nonce` (32 bytes); they are exactly those `expected`.

    Raises BadEvidence, Unproven and their descendants.
    """
    policy = _check_wanted(evidence, manifest.nvidia, expected)  # D-1
    if policy is None:
        return Devices((), Trust.PRODUCTION, manifest.expires, ())
    simulated = manifest.simulated
    seen = [authenticate(one, simulated=simulated, now=now) for one in evidence]
    for report, _ in seen:
        if not is_equal(report.nonce, nonce):  # D-8
            raise WrongBinding(about=f"{report.kind}, nonce", got=report.nonce, expected=nonce)
    _check_listed([chain for _, chain in seen], expected)
    checked = []
    for report, chain in seen:
        ends = min(chain.ends, check_revocation(chain, collateral, now=now))
        firmware = check_firmware(
            report,
            chain,
            collateral,
            simulated=simulated,
            accept_expired=policy.unsafe_accept_expired_rim_signers,
            now=now,
        )
        check_reference(report, chain.chip, policy)  # D-9
        checked += [Checked(chain.trust, ends), firmware]
    check_together([report for report, _ in seen], policy)
    whole = together(checked)
    devices = tuple(device_of(report, chain) for report, chain in seen)
    return Devices(devices, whole.trust, whole.ends, findings(whole))


def _check_wanted(
    evidence: tuple[DeviceEvidence, ...], policy: Nvidia | None, expected: tuple[str, ...]
) -> Nvidia | None:
    """D-1: manifest, machine and evidence agree on whether there are devices at all."""
    if policy is None:
        if evidence or expected:
            raise PlatformNotAllowed(
                about="devices",
                got=f"{len(evidence)} in the evidence, {len(expected)} listed",
                expected="a table [nvidia]",
            )
        return None
    if not expected:
        raise WrongDevices(got="no devices listed for this machine", expected="its serial numbers")
    if not 1 <= len(evidence) <= DEVICES_MAX:
        raise WrongDevices(got=f"{len(evidence)} devices", expected=f"{len(expected)} listed")
    return policy


def _check_listed(chains: list[DeviceChain], expected: tuple[str, ...]) -> None:
    """D-8: exactly the devices that the manifest lists for this machine, each once."""
    found = {name for chain in chains for name in names_of(chain)}
    if len(found) != 2 * len(chains):
        raise WrongDevices(got="a device twice", expected="distinct devices")
    missing = sorted(set(expected) - found)
    unknown = [chain.identity for chain in chains if not names_of(chain) & set(expected)]
    if missing or unknown or len(expected) != len(chains):
        raise WrongDevices(
            about=f"missing: {', '.join(missing) or 'none'}",
            got=", ".join(unknown) or f"{len(chains)} devices",
            expected=", ".join(expected),
        )


def names_of(chain: DeviceChain) -> set[str]:
    """The serial numbers that a manifest may list a device by: of its key, or of its hardware."""
    return {chain.identity, chain.hardware}


def check_reference(report: Report, chip: str, policy: Nvidia) -> None:
    """D-9: model, versions and mode are the manifest's. Raises WrongMeasurement, WrongAttributes."""
    versions: tuple[tuple[str, str, tuple[str, ...]], ...]
    if report.kind == SWITCH:
        versions = (("switch BIOS", report.firmware, policy.switch_bios_versions),)
    else:
        versions = (
            ("driver", str(report.driver), policy.driver_versions),
            ("VBIOS", report.firmware, policy.vbios_versions),
        )
    for about, got, allowed in (("model", chip, policy.models), *versions):
        if got not in allowed:
            raise WrongMeasurement(about=about, got=got, expected=", ".join(allowed))
    if report.kind == GPU and report.mode is not _MODES[policy.mode]:
        got = "not said" if report.mode is None else report.mode.name
        raise WrongAttributes(about="mode of the GPUs", got=got, expected=policy.mode)


def check_together(reports: list[Report], policy: Nvidia) -> None:
    """D-9: with protected PCIe, the GPUs' links end in the attested switches, and theirs in the GPUs.

    Raises WrongDevices.
    """
    gpus = [report for report in reports if report.kind == GPU]
    switches = [report for report in reports if report.kind == SWITCH]
    if len(switches) != policy.switches or not gpus:
        raise WrongDevices(
            got=f"{len(gpus)} GPUs, {len(switches)} switches",
            expected=f"GPUs and {policy.switches} switches",
        )
    own = frozenset().union(*(switch_pdis(switch) for switch in switches))
    for gpu in gpus if switches else ():
        if switch_pdis(gpu) != own:
            got = ", ".join(sorted(pdi.hex() for pdi in switch_pdis(gpu)))
            raise WrongDevices(about="a GPU's links", got=got, expected="the attested switches")
    for switch in switches:
        if len(gpu_pdis(switch)) != len(gpus):
            raise WrongDevices(
                about="a switch's links",
                got=f"{len(gpu_pdis(switch))} GPUs",
                expected=f"{len(gpus)} attested GPUs",
            )
