"""What a TPM quote, its signature and Azure's HCL report say, field by field, for people.

Nothing here is verified.
"""

from __future__ import annotations

from typing import Final

from leasehold.attest.describe import Description, Field, Section, plain
from leasehold.attest.tpm import hcl, quote
from leasehold.attest.tpm.quote import Attest, Selection, Signature

_ATTEST: Final = quote.MAGIC.to_bytes(4, "big")
_ALGORITHMS: Final = {quote.RSASSA: "RSASSA (PKCS#1 v1.5)", quote.ECDSA: "ECDSA"}
_SIGNATURE_STARTS: Final = tuple(
    kind.to_bytes(2, "big") + digest.to_bytes(2, "big")
    for kind in _ALGORITHMS
    for digest in quote.HASHES
)
_HARDWARE: Final = {hcl.SNP: "AMD SEV-SNP", hcl.TDX: "Intel TDX"}
_PCRS: Final = {
    0: "firmware code",
    1: "firmware settings",
    2: "option ROMs and drivers",
    3: "their settings",
    4: "boot loader",
    5: "boot loader's settings and partition table",
    6: "maker's own events",
    7: "Secure Boot: its state and keys",
    8: "commands of the boot loader (GRUB)",
    9: "kernel and initial file system as read by the boot loader",
    10: "files run by Linux (IMA)",
    11: "unified kernel image (systemd) or BitLocker",
    12: "kernel command line, systemd credentials",
    13: "systemd extensions",
    14: "keys of shim (MOK)",
    15: "systemd: machine id and volume keys",
    16: "debugging: any program can reset it",
    23: "applications: any program can reset it",
}


def recognise(data: bytes) -> Description | None:
    """A TPM quote, a TPM signature or an HCL report. Raises BadEvidence where one is malformed."""
    if data.startswith(_ATTEST):
        return _attest(quote.parse_attest(data))
    if data.startswith(hcl.MAGIC):
        return _hcl(hcl.parse_hcl(data))
    if data.startswith(_SIGNATURE_STARTS) and len(data) <= quote.SIGNATURE_BYTES_MAX:
        return _signature(quote.parse_signature(data), data)
    return None


def _attest(attest: Attest) -> Description:
    said = Section(
        "TPMS_ATTEST: what the TPM signed",
        (
            Field(
                "magic", f"{quote.MAGIC:08x}", "made inside a TPM, if a restricted key signed it"
            ),
            Field("type", f"{quote.QUOTE:04x}", "a quote of registers"),
            Field(
                "qualifiedSigner",
                attest.qualified_signer.hex(),
                "the name of the key that signed, with its parents'",
            ),
            Field(
                "extraData",
                attest.extra_data.hex(),
                "the nonce, or what the asker bound: nothing else shows that this is fresh"
                if attest.extra_data
                else "EMPTY: this answers nobody's question and may be any age",
            ),
            Field("clock", f"{attest.clock} ms", "the TPM's running time; it says no date"),
            Field(
                "resetCount", str(attest.reset_count), "how often the TPM was reset, or obscured"
            ),
            Field("restartCount", str(attest.restart_count), "resumes since then, or obscured"),
            Field("safe", "yes" if attest.safe else "no", "whether the clock never ran backwards"),
            Field(
                "firmwareVersion",
                f"{attest.firmware_version:016x}",
                "of the TPM, or obscured where the key is not an endorsement key's",
            ),
            Field("pcrDigest", attest.pcr_digest.hex(), "over all registers below, in index order"),
        ),
    )
    return Description("TPM 2.0 quote", "tpm", (said, *map(_selection, attest.selections)))


def _selection(selection: Selection) -> Section:
    weak = selection.bank != quote.SHA256
    return Section(
        f"Registers of the {selection.bank_name} bank"
        + (": refused, only sha256 is accepted" if weak else ""),
        tuple(
            Field(f"PCR {pcr}", "quoted", _PCRS.get(pcr, "launch of a measured environment"))
            for pcr in selection.pcrs
        ),
    )


def _signature(signature: Signature, data: bytes) -> Description:
    kind = int.from_bytes(data[:2], "big")
    fields = (
        Field("sigAlg", f"{kind:04x}", _ALGORITHMS[kind]),
        Field("hash", f"{signature.hash:04x}", quote.HASHES[signature.hash]),
        Field(
            "signature", signature.data.hex(), "fits a quote and a key, or does not: not checked"
        ),
    )
    return Description("TPM 2.0 signature", "", (Section("TPMT_SIGNATURE", fields),))


def _hcl(report: hcl.HclReport) -> Description:
    hardware = _HARDWARE[report.kind]
    bound = report.hardware_data == report.runtime_sha256 + bytes(32)
    header = Section(
        "Header",
        (
            Field("signature", "HCLA", "an Azure paravisor's report"),
            Field("version", str(report.version), "of the format"),
            Field("request type", str(report.request), "what the paravisor was asked for"),
            Field("hardware", hardware, "the processor whose report lies inside"),
            Field("hash", "sha256", "how the runtime data is bound to the hardware report"),
        ),
    )
    inside = Section(
        "Hardware report",
        (
            Field(
                "size",
                f"{len(report.hardware)} bytes",
                "an SNP report, which can be inspected by itself"
                if report.kind == hcl.SNP
                else "a TDREPORT, which only its own machine can check: ask for the TD quote",
            ),
            Field(
                "report data",
                report.hardware_data.hex(),
                "the SHA-256 of the runtime data: it fits"
                if bound
                else "NOT the SHA-256 of the runtime data: this report vouches for something else",
            ),
        ),
    )
    name = "azure-snp" if report.kind == hcl.SNP else "azure-tdx"
    what = f"Azure confidential VM report ({hardware} behind a vTPM)"
    return Description(what, name, (header, inside, *_runtime(report)))


def _runtime(report: hcl.HclReport) -> tuple[Section, ...]:
    runtime = report.runtime
    keys = tuple(
        Field(
            plain(key.kid),
            plain(f"{key.kty}, e {key.e}, n {key.n}"),
            "signs the vTPM's quotes" if key.kid == hcl.AK_NAME else "a key of the vTPM",
        )
        for key in runtime.keys
    )
    settings = tuple(
        Field(
            plain(name),
            plain(bytes(value).decode("utf-8", "replace")),
            _SETTINGS.get(name, "set by Azure for this VM"),
        )
        for name, value in runtime.vm_configuration.items()
    )
    return (
        Section(
            "Runtime data",
            (
                Field(
                    "SHA-256",
                    report.runtime_sha256.hex(),
                    "must be the first half of the hardware's report data",
                ),
                Field(
                    "user-data", plain(runtime.user_data), "what the guest wrote before the report"
                ),
            ),
        ),
        Section("Runtime data: keys", keys),
        Section("Runtime data: configuration of the VM", settings),
    )


_SETTINGS: Final = {
    "secure-boot": "whether only signed boot loaders start",
    "console-enabled": "whether the host sees the guest's serial console",
    "tpm-enabled": "whether the VM has a vTPM",
    "tpm-persisted": "whether the vTPM's keys outlive the VM's stop",
    "vmUniqueId": "Azure's name for the VM",
    "root-cert-thumbprint": "of the certificate that Azure's services show to the guest",
}
