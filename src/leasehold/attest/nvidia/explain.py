"""What an NVIDIA report and a reference manifest say, field by field, for people.

Nothing here is verified, with one exception: a manifest that can be read at all fits its own signature.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from leasehold.attest.describe import Description, Field, Section, plain
from leasehold.attest.nvidia.report import (
    GPU,
    OFF,
    ON,
    Mode,
    Opaque,
    Report,
    gpu_pdis,
    parse_report,
    rim_ids,
    switch_pdis,
)
from leasehold.attest.nvidia.rim import Rim, read_rim
from leasehold.core.units import SECOND, Instant

_REPORT: Final = b"\x11\xe0"
_RIM: Final = b"SoftwareIdentity"
_XML_HEAD_BYTES: Final = 256
_MODES: Final = {
    Mode.SPT: "one GPU for each confidential VM",
    Mode.MPT: "several GPUs, with encrypted NVLink between them",
    Mode.PPCIE: "protected PCIe: several GPUs, NVLink in the clear over switches that must attest, too",
}
_OPAQUE: Final = {
    Opaque.DRIVER_VERSION: "of the driver in the VM; its measurements are in NVIDIA's manifest for it",
    Opaque.VBIOS_VERSION: "of the firmware on the board; NVIDIA has a manifest for it, too",
    Opaque.BOARD_ID: "the board's type",
    Opaque.CHIP_SKU: "the chip's variant",
    Opaque.PROJECT: "the board's design, part of the VBIOS manifest's name",
    Opaque.PROJECT_SKU: "the design's variant, part of that name",
    Opaque.FWID: "SHA-384 of the firmware that the device key was made for; its certificate says the same",
    Opaque.SWITCH_PDI: "the switches that this GPU's links end in, or this switch's own number",
    Opaque.SWITCH_GPU_PDIS: "the GPUs that this switch's links end in",
    Opaque.CHIP_INFO: "the chip, part of the driver manifest's name",
    Opaque.MSRSCNT: "how often each register was extended",
    Opaque.SYS_ENABLE_STATUS: "which engines are on",
    Opaque.POSITION_ID: "where the switch stands",
    Opaque.LOCK_SWITCH_STATUS: "whether the switch's settings are locked",
    Opaque.FLOORSWEPT_PORTS: "ports that are switched off for good",
}


def recognise(data: bytes) -> Description | None:
    """A GPU's or switch's report, or a manifest. Raises BadEvidence, CollateralRejected, MissingExtra."""
    if data.startswith(_REPORT):
        return _report(parse_report(data))
    if _RIM in data[:_XML_HEAD_BYTES]:
        return _rim(read_rim(data))
    return None


def _report(report: Report) -> Description:
    what = "GPU" if report.kind == GPU else "NVSwitch"
    head = Section(
        "SPDM 1.1 GET_MEASUREMENTS and its answer",
        (
            Field(
                "nonce",
                report.nonce.hex(),
                "what the asker sent: nothing else shows that this is fresh and whose it is",
            ),
            Field("responder nonce", report.responder_nonce.hex(), "random, by the device"),
            Field("slot", str(report.slot), "which of the device's chains vouches for this"),
            Field(
                "signature",
                report.signature.hex(),
                "ECDSA P-384 over all of it, by the key in cert_chain.pem: not checked here",
            ),
            Field(
                "needs",
                ", ".join(rim_ids(report)),
                "NVIDIA's manifests to compare measurements with",
            ),
        ),
    )
    measured = Section(
        "Measurements (SPDM index; a manifest counts from 0)",
        tuple(
            Field(
                str(index),
                value.hex(),
                "compared with NVIDIA's manifests" if any(value) else "empty: nothing was measured",
            )
            for index, value in report.measurements.items()
        ),
    )
    sections = (head, _mode(report), _opaque(report), measured)
    return Description(f"NVIDIA {what} attestation report", report.kind, sections)


def _mode(report: Report) -> Section:
    fields: tuple[Field, ...]
    if report.kind == GPU:
        mode = report.mode
        fields = (
            Field(
                "mode",
                "not said" if mode is None else mode.name,
                "no manifest accepts this" if mode is None else _MODES[mode],
            ),
            Field(
                "NVDEC0",
                "on" if report.nvdec0 else "off",
                "a video decoder; index 35 is compared only while it is on",
            ),
            _links("switches", switch_pdis(report), "that its links end in"),
        )
    else:
        fields = (
            _links("own number", switch_pdis(report), "that GPUs' reports name"),
            _links("GPUs", gpu_pdis(report), "that its links end in"),
        )
    return Section("How devices are protected together", fields)


def _links(name: str, pdis: frozenset[bytes], meaning: str) -> Field:
    return Field(name, ", ".join(sorted(pdi.hex() for pdi in pdis)) or "none", meaning)


def _opaque(report: Report) -> Section:
    texts = {
        Opaque.DRIVER_VERSION: report.driver,
        Opaque.VBIOS_VERSION: report.firmware,
        Opaque.PROJECT: report.project,
        Opaque.PROJECT_SKU: report.project_sku,
        Opaque.CHIP_SKU: report.chip_sku,
        Opaque.CHIP_INFO: report.chip_info,
    }
    switches = {ON: "aa, on", OFF: "55, off"}
    fields = []
    for number, value in report.opaque.items():
        kind = Opaque(number) if number in list(Opaque) else None
        shown = (None if kind is None else texts.get(kind)) or switches.get(value) or value.hex()
        name = f"type {number}" if kind is None else kind.name
        meaning = "" if kind is None else _OPAQUE.get(kind, "")
        fields.append(Field(name, shown, meaning or "NVIDIA's own; judged by nobody here"))
    return Section("Opaque data: what the device says of itself", tuple(fields))


# Manifests ---------------------------------------------------------------------------------------


def _rim(rim: Rim) -> Description:
    tag = Section(
        "SWID tag",
        (
            Field("version", plain(rim.version), "of the driver or VBIOS that it is for"),
            Field("product", plain(rim.product), "the chip"),
            Field("edition", plain(rim.edition), "GPU or SWITCH"),
            Field(
                "revision",
                plain(f"{rim.revision}, tag version {rim.tag_version}"),
                "the same in all issues seen so far; the signer's certificate tells them apart",
            ),
        ),
    )
    signers = Section(
        "Certificates, signer first: the signature fits, trust in the root is not checked here",
        tuple(
            Field(
                plain(one.name), f"{_day(one.starts)} to {_day(one.ends)}", f"SHA-256 {one.sha256}"
            )
            for one in rim.certificates
        ),
    )
    golden = Section(
        "Measurements that count (index; SPDM's is one higher)",
        tuple(
            Field(
                str(index),
                ", ".join(sorted(value.hex() for value in values)),
                "the one value that passes" if len(values) == 1 else "any of these passes",
            )
            for index, values in sorted(rim.golden.items())
        ),
    )
    return Description("NVIDIA reference integrity manifest", "", (tag, signers, golden))


def _day(when: Instant) -> str:
    return datetime.fromtimestamp(when // SECOND, UTC).date().isoformat()
