"""Reference values out of evidence that was verified: a manifest that accepts exactly this, and no more.

Masks compare every bit and floors are what was seen. Nothing dangerous is ever derived: switches called
`unsafe_` are for a person to set.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from leasehold.attest.amd.endorsement import parse_endorsement, read_all
from leasehold.attest.amd.report import Tcb, parse_report, parse_tcb
from leasehold.attest.assess import Assessment
from leasehold.attest.intel.quote import parse_quote, parse_td_quote
from leasehold.attest.intel.reference import Sgx, Tdx
from leasehold.attest.nvidia.reference import PROTECTED_PCIE
from leasehold.attest.nvidia.report import SWITCH, Mode
from leasehold.attest.nvidia.report import parse_report as parse_device
from leasehold.attest.reference import Machine, Simulated
from leasehold.attest.tpm.hcl import parse_hcl
from leasehold.attest.tpm.reference import STATIC_PCRS, Tpm
from leasehold.attest.verdict import Appraisal, Trust
from leasehold.cli.values import Values
from leasehold.core.evidence import DeviceEvidence, Evidence
from leasehold.errors import BadManifest, LeaseholdError, UnsupportedEvidence

_ALL64: Final = "f" * 16
_ALL32: Final = "f" * 8
_MODES: Final = {Mode.SPT: "single-gpu", Mode.MPT: "multi-gpu", Mode.PPCIE: PROTECTED_PCIE}
_ROLES: Final = {
    "sgx": ("root_sha256",),
    "tdx": ("root_sha256",),
    "azure-tdx": ("root_sha256",),
    "snp": ("amd_root_sha256",),
    "azure-snp": ("amd_root_sha256",),
    "tpm": ("tpm_key_sha256",),
}
_VCEK_PRODUCT_UNKNOWN: Final = "a version 2 report does not say which processor it is of"


def derive(
    seen: Assessment,
    evidence: Evidence | None,
    devices: tuple[DeviceEvidence, ...],
    *,
    simulated: Simulated | None,
    note: str,
    unsafe_trust_hypervisor_owner: bool,
) -> Values:
    """Tables that accept what this assessment saw. Raises BadManifest where no manifest may accept it."""
    tables: dict[str, Any] = {}
    if evidence is not None and seen.found is not None:
        tables = _platform(evidence, seen.found, unsafe_trust_hypervisor_owner)
        machine = seen.found.machine
        listed = tuple(device.identity for device in seen.devices)
        tables["machines"] = (Machine(machine, note, listed),)
    if devices:
        tables["nvidia"] = _nvidia(seen, devices)
    if seen.trust is Trust.SIMULATION and simulated is not None:
        tables["simulated"] = _roles(simulated, seen.platform, bool(devices))
    try:
        return msgspec.convert(msgspec.to_builtins(tables), Values)
    except msgspec.ValidationError as cause:
        raise BadManifest(about="what was derived", got=str(cause)) from cause


def _roles(simulated: Simulated, platform: str, with_devices: bool) -> dict[str, str]:
    """Of the roots that the user accepts, those whose role this platform has."""
    names = set(_ROLES.get(platform, ()))
    if with_devices:
        names |= {"nvidia_root_sha256", "nvidia_rim_root_sha256"}
    return {name: value for name in sorted(names) if (value := getattr(simulated, name))}


def _platform(evidence: Evidence, found: Appraisal, trust_owner: bool) -> dict[str, Any]:
    match evidence.platform:
        case "sgx":
            return {"sgx": _sgx(evidence.quote)}
        case "tdx":
            return {"tdx": _tdx(evidence.quote)}
        case "snp":
            return {"snp": _snp(evidence.quote, evidence.endorsements)}
        case "tpm":
            return {"tpm": _tpm(found, (found.machine,), trust_owner)}
        case "azure-snp":
            inner = parse_hcl(evidence.quote).hardware
            return {
                "snp": _snp(inner, evidence.endorsements[3:]),
                "tpm": _tpm(found, (), trust_owner),
            }
        case "azure-tdx":
            return {"tdx": _tdx(evidence.endorsements[3]), "tpm": _tpm(found, (), trust_owner)}
        case other:
            raise UnsupportedEvidence(about="platform", got=other)


def _sgx(quote: bytes) -> Sgx:
    report = parse_quote(quote).report
    return Sgx(
        mr_enclave=(report.mr_enclave.hex(),),
        mr_signer=report.mr_signer.hex(),
        isv_prod_id=report.isv_prod_id,
        isv_svn_min=report.isv_svn,
        attributes_flags_hex=f"{report.flags:016x}",
        attributes_mask_flags_hex=_ALL64,
        attributes_xfrm_hex=f"{report.xfrm:016x}",
        attributes_mask_xfrm_hex=_ALL64,
        misc_select_hex=f"{report.misc_select:08x}",
        misc_mask_hex=_ALL32,
        config_id=report.config_id.hex(),
        config_svn=report.config_svn,
        isv_family_id=report.isv_family_id.hex(),
        isv_ext_prod_id=report.isv_ext_prod_id.hex(),
        tcb_status=("UpToDate",),
    )


def _tdx(quote: bytes) -> Tdx:
    report = parse_td_quote(quote).report
    rtmr0, rtmr1, rtmr2, rtmr3 = ((value.hex(),) for value in report.rtmr)
    return Tdx(
        mr_td=(report.mr_td.hex(),),
        rtmr0=rtmr0,
        rtmr1=rtmr1,
        rtmr2=rtmr2,
        rtmr3=rtmr3,
        mr_seam=(report.mr_seam.hex(),),
        mr_config_id=report.mr_config_id.hex(),
        mr_owner=report.mr_owner.hex(),
        mr_owner_config=report.mr_owner_config.hex(),
        td_attributes_hex=f"{report.td_attributes:016x}",
        td_attributes_mask_hex=_ALL64,
        xfam_hex=f"{report.xfam:016x}",
        xfam_mask_hex=_ALL64,
        tee_tcb_svn_min=report.tee_tcb_svn.hex(),
        tcb_status=("UpToDate",),
    )


def _snp(report_bytes: bytes, endorsements: tuple[bytes, ...]) -> dict[str, Any]:
    report = parse_report(report_bytes)
    product, csp_ids = report.product, list[str]()
    for certificate in read_all(endorsements):
        try:
            said = parse_endorsement(certificate)
        except LeaseholdError:  # what stands above the leaf
            continue
        product = product or said.product
        csp_ids = [] if said.csp_id is None else [said.csp_id]
    if product is None:
        raise BadManifest(about="snp", got=_VCEK_PRODUCT_UNKNOWN, expected="its VCEK beside it")
    levels = (parse_tcb(raw, product) for raw in (report.reported_tcb, report.committed_tcb))
    floor = Tcb(*(min(pair) for pair in zip(*levels, strict=True)))
    return {
        "measurement": [report.measurement.hex()],
        "host_data": report.host_data.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "guest_svn_min": report.guest_svn,
        "vmpl_max": report.vmpl,
        "policy_hex": f"{report.policy:016x}",
        "policy_mask_hex": _ALL64,
        "platform_info_hex": f"{report.platform_info:016x}",
        "platform_info_mask_hex": _ALL64,
        "tcb_status": ["UpToDate"],
        product.lower(): floor._asdict(),
        "vlek_csp_ids": csp_ids,
    }


def _tpm(found: Appraisal, keys: tuple[str, ...], trust_owner: bool) -> Tpm:
    values = dict(found.measurements)
    names = {str(pcr): f"PCR{pcr}" for pcr in STATIC_PCRS}
    return Tpm(
        unsafe_trust_hypervisor_owner=trust_owner,
        pcrs={pcr: (values[name],) for pcr, name in names.items() if name in values},
        firmware_versions=(values["TPMFIRMWARE"],),
        attestation_keys=keys,
    )


def _nvidia(seen: Assessment, evidence: tuple[DeviceEvidence, ...]) -> dict[str, Any]:
    reports = [parse_device(one.report) for one in evidence]
    gpus = [report for report in reports if report.kind != SWITCH]
    switches = [report for report in reports if report.kind == SWITCH]
    modes = {report.mode for report in gpus}
    mode = modes.pop() if len(modes) == 1 else None
    if mode is None:
        raise BadManifest(
            about="nvidia.mode", got="none, or several", expected="GPUs that agree on one"
        )
    return {
        "models": _distinct(device.model for device in seen.devices),
        "driver_versions": _distinct(str(report.driver) for report in gpus),
        "vbios_versions": _distinct(report.firmware for report in gpus),
        "mode": _MODES[mode],
        "switches": len(switches),
        "switch_bios_versions": _distinct(report.firmware for report in switches),
    }


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(values))
