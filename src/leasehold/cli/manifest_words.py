"""What every field of a manifest means, and a manifest as a page.

`WORDS` has a sentence for each field of each table; a test asserts that none is missing, so no field can
be in force without being explained.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from leasehold.attest.amd.reference import Floor, Snp
from leasehold.attest.describe import utc
from leasehold.attest.intel.reference import Sgx, Tdx
from leasehold.attest.manifest import PLATFORM_TABLES, Manifest
from leasehold.attest.nvidia.reference import Nvidia
from leasehold.attest.reference import Machine, Simulated, Waiver
from leasehold.attest.tpm.reference import Tpm
from leasehold.cli.page import Block, Page, Row, Tone

WORDS: Final[Mapping[type[msgspec.Struct], Mapping[str, str]]] = {
    Machine: {
        "platform_id": "only machines that are listed pass, however genuine others are",
        "note": "your own note",
        "devices": "serial numbers of exactly the GPUs and switches that stand in it",
    },
    Sgx: {
        "mr_enclave": "hash of the enclave's code and first data: any of these passes",
        "mr_signer": "hash of the key that signed the enclave",
        "isv_prod_id": "the signer's number for the program, exactly",
        "isv_svn_min": "the lowest security version that passes",
        "attributes_flags_hex": "the enclave's flags under the mask below, exactly",
        "attributes_mask_flags_hex": "which flags are compared; f: all. DEBUG always is",
        "attributes_xfrm_hex": "processor state that the enclave uses, under the mask below",
        "attributes_mask_xfrm_hex": "which of that is compared",
        "misc_select_hex": "what is saved at an exception, under the mask below",
        "misc_mask_hex": "which of that is compared",
        "config_id": "configuration named at launch, exactly",
        "config_svn": "its version, exactly",
        "isv_family_id": "product family, exactly",
        "isv_ext_prod_id": "longer product number, exactly",
        "tcb_status": "the patch level has to be this, or a waiver names it",
        "allow_debug": "never: a host can read a debug enclave",
    },
    Tdx: {
        "mr_td": "hash of the domain's firmware: any of these passes",
        "rtmr0": "firmware's settings and what it loaded: any of these passes",
        "rtmr1": "boot loader and kernel: any of these passes",
        "rtmr2": "kernel command line, file system, application: any of these passes",
        "rtmr3": "what the application recorded: any of these passes",
        "mr_seam": "the TDX module that shields the domain: any of these passes",
        "mr_config_id": "configuration named at launch, exactly",
        "mr_owner": "owner named at launch, exactly",
        "mr_owner_config": "that owner's configuration, exactly",
        "td_attributes_hex": "the domain's attributes under the mask below, exactly",
        "td_attributes_mask_hex": "which are compared; debugging and migration always are",
        "xfam_hex": "processor state that the domain uses, under the mask below",
        "xfam_mask_hex": "which of that is compared",
        "tee_tcb_svn_min": "the lowest version of the TDX module, octet by octet",
        "tcb_status": "the patch level has to be this, or a waiver names it",
    },
    Snp: {
        "measurement": "hash of what is loaded at launch: any of these passes",
        "host_data": "what the host puts in at launch, exactly",
        "id_key_digest": "who signed the image's identity, exactly; zeros: nobody",
        "author_key_digest": "who vouched for that key, exactly; zeros: nobody",
        "family_id": "a name from the image's owner, exactly",
        "image_id": "a name from the image's owner, exactly",
        "guest_svn_min": "the lowest security version of the image that passes",
        "vmpl_max": "the least privileged level that may have asked; 0 is the highest",
        "policy_hex": "what the guest asked of the machine, under the mask below",
        "policy_mask_hex": "which of that is compared; debugging and migration always are",
        "platform_info_hex": "how the machine is set up, under the mask below",
        "platform_info_mask_hex": "which of that is compared",
        "tcb_status": "at or above the floors below, or a waiver names the status",
        "milan": "the lowest patch level of Milan processors (EPYC 7003)",
        "genoa": "the lowest patch level of Genoa processors (EPYC 9004)",
        "turin": "the lowest patch level of Turin processors (EPYC 9005)",
        "vlek_csp_ids": "clouds whose own key may sign instead of the chip's",
        "unsafe_masked_chip_id": "takes any machine of such a cloud for the listed one",
    },
    Floor: {
        "bootloader": "of the secure processor",
        "tee": "of the secure processor's system",
        "snp": "SNP firmware",
        "microcode": "of the processor",
        "fmc": "first mutable code; Turin and later",
    },
    Tpm: {
        "unsafe_trust_hypervisor_owner": "a vTPM says whatever the owner of the hypervisor wants: "
        "with true you trust that owner",
        "pcrs": "what boot extended: any of these values passes; registers not named are not judged",
        "firmware_versions": "versions of the TPM's firmware that are up to date",
        "attestation_keys": "keys (SHA-256) that you know to be inside a TPM",
    },
    Nvidia: {
        "models": "chips, as their certificates name them",
        "driver_versions": "exactly these drivers, with NVIDIA's measurements for them",
        "vbios_versions": "exactly this firmware, with NVIDIA's measurements for it",
        "mode": "how several GPUs are protected together",
        "switches": "how many switches attest beside them",
        "switch_bios_versions": "exactly this firmware on the switches",
        "unsafe_accept_expired_rim_signers": "takes NVIDIA's reference values although the "
        "certificate that signed them has ended",
    },
    Simulated: {
        "root_sha256": "of a home-made Intel",
        "amd_root_sha256": "of a home-made AMD",
        "nvidia_root_sha256": "of a home-made NVIDIA, for devices",
        "nvidia_rim_root_sha256": "of a home-made NVIDIA, for reference values",
        "tpm_key_sha256": "of a simulated TPM's key",
    },
    Waiver: {
        "status": "this patch level passes although it is not UpToDate",
        "advisories": "with these open advisories, or fewer",
        "reason": "why",
        "not_after": "until then and no longer",
    },
}
TITLES: Final = {
    "sgx": "Intel SGX",
    "tdx": "Intel TDX",
    "snp": "AMD SEV-SNP",
    "tpm": "TPM and vTPM",
    "nvidia": "NVIDIA devices",
}
_ABSENT: Final = {
    "milan": "refused: no floor",
    "genoa": "refused: no floor",
    "turin": "refused: no floor",
    "vlek_csp_ids": "none: only the chip's own key",
    "attestation_keys": "none",
    "switch_bios_versions": "none",
    "devices": "none",
    "advisories": "none",
}


def manifest_page(manifest: Manifest) -> Page:
    """What a manifest accepts, in words; loud where it gives something up."""
    given_up = _given_up(manifest)
    tone = Tone.DOUBT if given_up else Tone.GOOD
    named = ", ".join(TITLES[name] for name in PLATFORM_TABLES if getattr(manifest, name))
    beside = " with NVIDIA devices" if manifest.nvidia else ""
    count = f"{len(manifest.machines)} listed machine(s)"
    lead = f"Accepts {named}{beside} on {count}, until {utc(manifest.expires)}."
    head = Block(
        "",
        (
            Row("custodian", manifest.custodian_root, "whose enclaves: the key that signed this"),
            Row("digest", manifest.digest().hex(), "names this policy in receipts and results"),
            Row("good until", utc(manifest.expires), "nothing passes after this"),
            *_several("configurations", manifest.configurations, "SHA-256 of files that may run"),
        ),
    )
    blocks = [head]
    if given_up:
        blocks.append(Block("What it gives up", tuple(given_up)))
    for number, machine in enumerate(manifest.machines, 1):
        blocks.append(Block(f"Machine {number}", table_rows(machine)))
    for name, title in TITLES.items():
        table = getattr(manifest, name)
        if table is not None:
            blocks.append(Block(f"{title}: what passes, [{name}]", table_rows(table)))
    refused = [Row(t, f"there is no [{n}]") for n, t in TITLES.items() if not getattr(manifest, n)]
    blocks.append(Block("Refused", tuple(refused)))
    if manifest.simulated is not None:
        rows = table_rows(manifest.simulated)
        blocks.append(Block("SIMULATED roots: platforms that are no hardware pass", rows))
    for number, waiver in enumerate(manifest.waivers, 1):
        blocks.append(Block(f"Waiver {number}", table_rows(waiver)))
    return Page(f"Manifest '{manifest.name}'", tone, lead, tuple(blocks))


def _given_up(manifest: Manifest) -> list[Row]:
    """Simulation, unsafe settings and waivers, before anything else."""
    rows = []
    if manifest.simulated is not None:
        text = "simulated machines pass: whoever runs them can read everything"
        rows.append(Row("SIMULATED", text, tone=Tone.BAD))
    for name in TITLES:
        table = getattr(manifest, name)
        for field in () if table is None else table.__struct_fields__:
            if field.startswith("unsafe_") and getattr(table, field):
                words = WORDS[type(table)][field]
                rows.append(Row(f"{name}.{field}", words, tone=Tone.BAD))
    for waiver in manifest.waivers:
        advisories = ", ".join(waiver.advisories) or "no advisories"
        text = f"{waiver.status} with {advisories} until {utc(waiver.expires)}: {waiver.reason}"
        rows.append(Row("waiver", text, tone=Tone.DOUBT))
    return rows


def table_rows(table: msgspec.Struct) -> tuple[Row, ...]:
    """Every field of a table: its value, and what that means."""
    rows: list[Row] = []
    for name in table.__struct_fields__:
        value, words = getattr(table, name), WORDS[type(table)][name]
        unsafe = name.startswith("unsafe_") and value is True
        if isinstance(table, Simulated) and value is None:
            continue
        if value is None or value == ():
            rows.append(Row(name, _ABSENT.get(name, "not set"), words))
        elif isinstance(value, tuple):
            rows += _several(name, tuple(map(str, value)), words)
        elif isinstance(value, Mapping):
            for key, values in value.items():
                rows += _several(f"{name} {key}", values, words if key == next(iter(value)) else "")
        else:
            rows.append(Row(name, _one(value), words, Tone.BAD if unsafe else None))
    return tuple(rows)


def _several(name: str, values: tuple[str, ...], words: str) -> list[Row]:
    """One row for each value, the name and the words at the first."""
    first, *others = values
    return [Row(name, first, words), *(Row(f"{name}, or", value) for value in others)]


def _one(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case msgspec.Struct():
            return ", ".join(f"{name} {getattr(value, name)}" for name in value.__struct_fields__)
        case datetime():
            return value.isoformat()
        case _:
            return str(value)
