"""What an SNP report, a certificate table and a VCEK or VLEK say, field by field, for people.

Nothing here is verified.
"""

from __future__ import annotations

from typing import Final

from leasehold.attest.amd.endorsement import (
    NAMES,
    Endorsement,
    is_table,
    parse_endorsement,
    parse_table,
)
from leasehold.attest.amd.report import (
    PADDED_BYTES_MAX,
    REPORT_BYTES,
    VERSIONS,
    Report,
    SigningKey,
    Tcb,
    parse_report,
    parse_tcb,
)
from leasehold.attest.certificate import DerCertificate, read_certificates
from leasehold.attest.describe import Description, Field, Section, utc
from leasehold.errors import BadEvidence, UnsupportedEvidence

_POLICY: Final = (
    (16, "SMT allowed", "the guest accepts simultaneous multithreading"),
    (18, "MIGRATE_MA", "a migration agent may move the guest: refused"),
    (19, "DEBUG", "the host may read and change the guest: nothing is secret, refused"),
    (20, "single socket", "only on a machine with one processor"),
    (21, "CXL allowed", "memory behind CXL devices is accepted"),
    (22, "AES-256-XTS", "memory has to be encrypted with 256-bit keys"),
    (23, "RAPL off", "power meters, which leak, have to be off"),
    (24, "ciphertext hiding", "the host must not see ciphertext either"),
    (25, "page swap off", "the host must not swap the guest's pages"),
)
_PLATFORM: Final = (
    (0, "SMT", "simultaneous multithreading is on"),
    (1, "TSME", "all memory is encrypted transparently"),
    (2, "ECC", "memory corrects errors"),
    (3, "RAPL off", "power meters are off"),
    (4, "ciphertext hiding", "the host cannot see ciphertext"),
    (5, "alias check", "the firmware looked for memory that lies about its size (BadRAM)"),
    (7, "TIO", "trusted devices may be attached"),
)
_CERTIFICATES_MAX: Final = 4


def recognise(data: bytes) -> Description | None:
    """A report, a certificate table, or a VCEK or VLEK. Raises BadEvidence where one is malformed."""
    if _is_report(data):
        return _report(parse_report(data))
    if is_table(data):
        return _table(data)
    if data[:1] == b"\x30" or data.startswith(b"-----BEGIN CERTIFICATE"):
        return _leaf(data)
    return None


def _is_report(data: bytes) -> bool:
    """A size, a version and a signature algorithm that together are nothing else's."""
    if not REPORT_BYTES <= len(data) <= PADDED_BYTES_MAX or any(data[REPORT_BYTES:]):
        return False
    return int.from_bytes(data[:4], "little") in VERSIONS and data[0x34:0x38] == b"\x01\0\0\0"


def _report(report: Report) -> Description:
    try:
        product = report.product
    except UnsupportedEvidence:
        product = "an unknown product"
    what = f"AMD SEV-SNP attestation report, version {report.version}"
    sections = (
        _guest(report),
        Section("Guest policy: what the guest's owner asked of the machine", _policy(report)),
        Section("Platform info: how the machine is set up", _bits(report.platform_info, _PLATFORM)),
        _machine(report, product),
    )
    return Description(what, "snp", sections)


def _guest(report: Report) -> Section:
    nobody = "nobody's" if not any(report.id_key_digest) else "the key that signed the identity"
    return Section(
        "The guest",
        (
            Field("MEASUREMENT", report.measurement.hex(), "hash of what was loaded at launch"),
            Field("REPORT_DATA", report.report_data.hex(), "64 bytes of the guest's own choice"),
            Field("HOST_DATA", report.host_data.hex(), "32 bytes that the host put in at launch"),
            Field(
                "GUEST_SVN", str(report.guest_svn), "the image's security version, from its owner"
            ),
            Field("VMPL", str(report.vmpl), "privilege level that asked; 0 is the highest"),
            Field("FAMILY_ID", report.family_id.hex(), "a name from the image's owner"),
            Field("IMAGE_ID", report.image_id.hex(), "a name from the image's owner"),
            Field("ID_KEY_DIGEST", report.id_key_digest.hex(), nobody),
            Field("AUTHOR_KEY_DIGEST", report.author_key_digest.hex(), "who vouched for that key"),
            Field("AUTHOR_KEY_EN", _yes(report.author_key_enabled), "whether anybody did"),
            Field("REPORT_ID", report.report_id.hex(), "names this guest until it ends"),
            Field("REPORT_ID_MA", report.report_id_ma.hex(), "its migration agent; all ones: none"),
        ),
    )


def _policy(report: Report) -> tuple[Field, ...]:
    abi = f"{report.policy >> 8 & 0xFF}.{report.policy & 0xFF}"
    least = Field("least ABI", abi, "the oldest firmware interface that the guest accepts")
    whole = Field("POLICY", f"{report.policy:#x}", "as a number")
    return (whole, least, *_bits(report.policy, _POLICY))


def _bits(value: int, table: tuple[tuple[int, str, str], ...]) -> tuple[Field, ...]:
    return tuple(
        Field(name, _yes(bool(value >> bit & 1)), f"bit {bit}: {meaning}")
        for bit, name, meaning in table
    )


def _machine(report: Report, product: str | None) -> Section:
    named = product or "not said (version 2)"
    cpuid = report.cpuid
    stepping = (
        "not said"
        if cpuid is None
        else f"family {cpuid.family:#x}, model {cpuid.model:#x}, stepping {cpuid.stepping}"
    )
    signer = (
        "the chip's own key"
        if report.signing_key is SigningKey.VCEK
        else "a key that a cloud uses on many machines"
    )
    hidden = "which chip" if any(report.chip_id) else "HIDDEN by the host"
    fields = [
        Field("product", named, "which of AMD's roots it must lead to"),
        Field("CPUID", stepping, "the processor"),
        Field("CHIP_ID", report.chip_id.hex(), hidden),
        Field("MASK_CHIP_KEY", _yes(report.chip_key_masked), "whether the host hides the key"),
        Field("SIGNING_KEY", report.signing_key.name, signer),
        Field("SIGNATURE_ALGO", str(report.signature_algorithm), "ECDSA P-384 with SHA-384"),
        *(
            Field(name, _level(raw, product), meaning)
            for name, raw, meaning in (
                ("REPORTED_TCB", report.reported_tcb, "patch level that the key stands for"),
                ("CURRENT_TCB", report.current_tcb, "what runs now"),
                ("COMMITTED_TCB", report.committed_tcb, "cannot be rolled back below this"),
                ("LAUNCH_TCB", report.launch_tcb, "what ran when the guest was started"),
            )
        ),
        Field("CURRENT_VERSION", _dotted(report.current_version), "firmware that runs now"),
        Field("COMMITTED_VERSION", _dotted(report.committed_version), "firmware's floor"),
    ]
    if report.launch_mitigation is not None:
        fields += [
            Field(
                "LAUNCH_MIT_VECTOR", f"{report.launch_mitigation:#x}", "mitigations at the launch"
            ),
            Field("CURRENT_MIT_VECTOR", f"{report.current_mitigation:#x}", "mitigations now"),
        ]
    return Section("The machine", tuple(fields))


def _level(raw: bytes, product: str | None) -> str:
    if product not in ("Milan", "Genoa", "Turin", None):
        return raw.hex()
    return _words(parse_tcb(raw, product or "Milan"), with_fmc=product == "Turin")


def _words(tcb: Tcb, *, with_fmc: bool) -> str:
    words = f"bootloader {tcb.bootloader}, TEE {tcb.tee}, SNP {tcb.snp}, microcode {tcb.microcode}"
    return f"FMC {tcb.fmc}, {words}" if with_fmc else words


def _table(data: bytes) -> Description:
    sections = []
    for entry in parse_table(data):
        kind = NAMES.get(entry.guid, "unknown")
        place = Field("bytes", f"{len(entry.data)} at {entry.offset}", f"GUID {entry.guid}")
        try:
            found = read_certificates(entry.data, count_max=_CERTIFICATES_MAX)
        except BadEvidence as error:
            sections.append(Section(kind, (place, Field("content", error.code, error.message))))
            continue
        for certificate in found:
            sections.append(Section(kind, (place, *_certificate(certificate))))
    return Description("AMD certificate table, as a host hands it out", "", tuple(sections))


def _leaf(data: bytes) -> Description | None:
    """A certificate that has AMD's extensions; other certificates are somebody else's."""
    try:
        certificate = read_certificates(data, count_max=_CERTIFICATES_MAX)[0]
        said = parse_endorsement(certificate)
    except BadEvidence:
        return None
    kind = said.kind.name
    return Description(
        f"AMD {kind}: a certificate for a key that signs SNP reports",
        "",
        (Section(kind, (*_certificate(certificate), *_endorsement(said))),),
    )


def _certificate(certificate: DerCertificate) -> tuple[Field, ...]:
    return (
        Field("subject", certificate.name, "what the certificate is for"),
        Field("issuer", certificate.issuer_name, "who has to have signed it: not checked"),
        Field(
            "valid", f"{utc(certificate.starts)} to {utc(certificate.ends)}", "refused outside this"
        ),
        Field("key SHA-256", certificate.spki_sha256, "names the key"),
    )


def _endorsement(said: Endorsement) -> tuple[Field, ...]:
    return (
        Field("product", said.product, "which processors"),
        Field(
            "patch level",
            _words(said.tcb, with_fmc=said.product == "Turin"),
            "what the key stands for: reports must name the same",
        ),
        Field("hardware id", said.hardware_id.hex(), "the one chip that has this key")
        if said.hardware_id is not None
        else Field("CSP id", said.csp_id or "", "the cloud that has this key on many machines"),
    )


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
