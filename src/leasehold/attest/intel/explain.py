"""What SGX and TDX quotes and Intel's collateral say, field by field, for people.

Nothing here is verified.
"""

from __future__ import annotations

from typing import Final

from leasehold.attest.describe import Description, Field, Section, utc
from leasehold.attest.intel.dcap import CHAIN_LENGTH
from leasehold.attest.intel.pck import Pck, parse_pck
from leasehold.attest.intel.pcs import COLLATERAL_BYTES_MAX, Facts, parse_collateral, read_facts
from leasehold.attest.intel.quote import (
    INTEL_QE_VENDOR,
    Quote,
    parse_quote,
    parse_td_quote,
    tee_type_of,
)
from leasehold.attest.intel.quote import TDX as TDX_TYPE
from leasehold.attest.intel.report import Report, TdReport
from leasehold.attest.x509 import read_chain
from leasehold.errors import BadEvidence

_FLAGS: Final = (
    (0, "INIT", "the enclave is initialised"),
    (1, "DEBUG", "the host may read and change the enclave: nothing is secret, refused"),
    (2, "MODE64", "64-bit code"),
    (4, "PROVISION_KEY", "may ask for keys that name the machine"),
    (5, "EINITTOKEN_KEY", "may launch other enclaves"),
    (7, "KSS", "key separation and sharing: CONFIGID and the like count"),
)
_TD_ATTRIBUTES: Final = (
    (0, "DEBUG", "the host may read and change the domain: nothing is secret, refused"),
    (28, "SEPT_VE_DISABLE", "the host cannot inject exceptions by taking memory away: required"),
    (29, "MIGRATABLE", "the domain may be moved to another machine: refused"),
    (30, "PKS", "supervisor protection keys"),
    (31, "KL", "key locker"),
    (63, "PERFMON", "performance counters"),
)
_SGX_TYPES: Final = {
    0: "standard: memory is encrypted and protected against replay",
    1: "scalable: memory is encrypted, and not protected against replay by hardware",
    2: "scalable with integrity",
}


def recognise(data: bytes) -> Description | None:
    """An SGX or TDX quote, or a set of collateral. Raises BadEvidence where one is malformed."""
    if data[:1] == b"{" and b'"tcb_info"' in data[:COLLATERAL_BYTES_MAX]:
        return _collateral(read_facts(parse_collateral(data)))
    if data[12:28] != INTEL_QE_VENDOR:
        return None
    if tee_type_of(data) == TDX_TYPE:
        quote = parse_td_quote(data)
        sections = _td_report(quote.report)
        what = f"Intel TDX quote, version {quote.version}"
        return Description(what, "tdx", (_header(quote), *sections, *_rest(quote)))
    enclave = parse_quote(data)
    what = f"Intel SGX quote, version {enclave.version}"
    report = _report("The enclave", enclave.report, _ENCLAVE_WORDS)
    return Description(what, "sgx", (_header(enclave), report, *_rest(enclave)))


def _header(quote: Quote[Report] | Quote[TdReport]) -> Section:
    body = (
        ""
        if quote.body_type is None
        else f", body type {quote.body_type}, {len(quote.report_bytes)} bytes"
    )
    return Section(
        "Header",
        (
            Field("version", f"{quote.version}{body}", "of the quote's format"),
            Field("attestation key type", str(quote.key_type), "2: ECDSA over P-256"),
            Field("TEE type", f"{quote.tee_type:#x}", "0: SGX enclave, 0x81: TDX domain"),
            Field(
                "QE SVN, PCE SVN", f"{quote.qe_svn}, {quote.pce_svn}", "version 3 only; not judged"
            ),
            Field("QE vendor", quote.qe_vendor.hex(), "Intel's quoting enclave"),
            Field(
                "user data", quote.user_data.hex(), "the quoting enclave's own id for the machine"
            ),
            Field("signed", f"first {quote.signed} bytes", "what the attestation key signs"),
        ),
    )


_ENCLAVE_WORDS: Final = {
    "MRENCLAVE": "hash of the enclave's code and first data: names exactly what runs",
    "MRSIGNER": "hash of the key that signed the enclave: names who built it",
    "REPORTDATA": "64 bytes of the enclave's own choice",
}
_QE_WORDS: Final = {
    "MRENCLAVE": "which build of the quoting enclave",
    "MRSIGNER": "who built it: has to be Intel's",
    "REPORTDATA": "begins with the hash of the attestation key: binds it to this machine",
}


def _report(title: str, report: Report, words: dict[str, str]) -> Section:
    return Section(
        title,
        (
            Field("MRENCLAVE", report.mr_enclave.hex(), words["MRENCLAVE"]),
            Field("MRSIGNER", report.mr_signer.hex(), words["MRSIGNER"]),
            Field("ISVPRODID", str(report.isv_prod_id), "the signer's number for the program"),
            Field("ISVSVN", str(report.isv_svn), "its security version"),
            Field("ATTRIBUTES", f"{report.flags:016x}", "flags, as a number"),
            *(
                Field(name, "yes" if report.flags >> bit & 1 else "no", f"bit {bit}: {meaning}")
                for bit, name, meaning in _FLAGS
            ),
            Field("XFRM", f"{report.xfrm:016x}", "processor state that the enclave may use"),
            Field("MISCSELECT", f"{report.misc_select:08x}", "what is saved at an exception"),
            Field("CPUSVN", report.cpu_svn.hex(), "patch level of the processor, encoded"),
            Field("CONFIGID", report.config_id.hex(), "configuration named at launch (KSS)"),
            Field("CONFIGSVN", str(report.config_svn), "its version (KSS)"),
            Field("ISVFAMILYID", report.isv_family_id.hex(), "product family (KSS)"),
            Field("ISVEXTPRODID", report.isv_ext_prod_id.hex(), "longer product number (KSS)"),
            Field("REPORTDATA", report.report_data.hex(), words["REPORTDATA"]),
        ),
    )


def _td_report(report: TdReport) -> list[Section]:
    rtmr = (
        "firmware's settings and what it loaded",
        "boot loader and kernel",
        "kernel command line, initial file system, application",
        "free for the application",
    )
    domain = [
        Field("MRTD", report.mr_td.hex(), "hash of the domain's first memory: its firmware"),
        *(
            Field(f"RTMR{at}", value.hex(), f"extended at run time, by convention: {rtmr[at]}")
            for at, value in enumerate(report.rtmr)
        ),
        Field("MRCONFIGID", report.mr_config_id.hex(), "configuration named at launch"),
        Field("MROWNER", report.mr_owner.hex(), "owner named at launch"),
        Field("MROWNERCONFIG", report.mr_owner_config.hex(), "owner's configuration"),
        Field("REPORTDATA", report.report_data.hex(), "64 bytes of the domain's own choice"),
        Field("TDATTRIBUTES", f"{report.td_attributes:016x}", "attributes, as a number"),
        *(
            Field(name, "yes" if report.td_attributes >> bit & 1 else "no", f"bit {bit}: {meaning}")
            for bit, name, meaning in _TD_ATTRIBUTES
        ),
        Field("XFAM", f"{report.xfam:016x}", "processor state that the domain may use"),
    ]
    module = [
        Field("MRSEAM", report.mr_seam.hex(), "hash of the TDX module that shields the domain"),
        Field("MRSIGNERSEAM", report.mr_signer_seam.hex(), "who built it; zeros: Intel"),
        Field("SEAMATTRIBUTES", f"{report.seam_attributes:016x}", "have to be zero"),
        Field("TEE_TCB_SVN", report.tee_tcb_svn.hex(), "module's version when the domain began"),
    ]
    if report.v15 is not None:
        module += [
            Field("TEE_TCB_SVN2", report.v15.tee_tcb_svn2.hex(), "module's version now"),
            Field(
                "MRSERVICETD",
                report.v15.mr_service_td.hex(),
                "a service domain with power over this one; anything but zeros is refused",
            ),
        ]
    sections = [
        Section("The trust domain", tuple(domain)),
        Section("The TDX module", tuple(module)),
    ]
    if (more := report.v15ex) is not None:
        sections.append(
            Section(
                "Extended body: what the domain was when it was made",
                (
                    Field("VMID", str(more.vm_id), "number of the virtual machine"),
                    Field("TD_ID", more.td_id.hex(), "the domain's id"),
                    Field("DEVINFO", more.dev_info.hex(), "devices attached to it"),
                    Field(
                        "INIT_SERVTD_HASH", more.init_service_td_hash.hex(), "service domain then"
                    ),
                    Field(
                        "INIT_SERVTD_ATTR", more.init_service_td_attributes.hex(), "its attributes"
                    ),
                    Field("INIT_CPUSVN", more.init_cpu_svn.hex(), "processor's patch level then"),
                    Field("INIT_TEE_TCB_SVN", more.init_tee_tcb_svn.hex(), "module's version then"),
                    Field("INIT_FMSPC", more.init_fmspc.hex(), "processor family then"),
                    Field(
                        "CUR_SERVTD_HASH",
                        more.current_service_td_hash.hex(),
                        "service domain now; anything but zeros is refused",
                    ),
                    Field(
                        "CUR_SERVTD_ATTR",
                        more.current_service_td_attributes.hex(),
                        "its attributes",
                    ),
                ),
            )
        )
    return sections


def _rest(quote: Quote[Report] | Quote[TdReport]) -> tuple[Section, ...]:
    chain = read_chain(
        quote.chain_pem, count=CHAIN_LENGTH, about="PCK certificate chain", error=BadEvidence
    )
    certificates = tuple(
        Field(
            one.name,
            f"{utc(one.starts)} to {utc(one.ends)}",
            f"issued by {one.issuer}; serial {one.serial:x}; key {one.spki_sha256[:16]}...",
        )
        for one in chain
    )
    return (
        _machine(parse_pck(chain[0].sgx_extension)),
        Section("Certificates, from the machine up to the root: not checked here", certificates),
        _report(
            "The quoting enclave, which vouches for the attestation key", quote.qe_report, _QE_WORDS
        ),
    )


def _machine(pck: Pck) -> Section:
    fields = [
        Field("PPID", pck.ppid.hex(), "names the machine: a manifest lists it"),
        Field("FMSPC", pck.fmspc.hex(), "processor family: which collateral judges it"),
        Field("PCE id", pck.pce_id.hex(), "which certification enclave"),
        Field("PCESVN", str(pck.pce_svn), "its version"),
        Field("CPUSVN", pck.cpu_svn.hex(), "patch level, encoded"),
        Field(
            "TCB components",
            " ".join(map(str, pck.cpu_svn)),
            "patch level by component, when all are as the encoded ones say",
        ),
        Field("SGX type", str(pck.sgx_type), _SGX_TYPES.get(pck.sgx_type, "unknown")),
    ]
    if pck.platform_instance_id is not None:
        fields += [
            Field("platform instance", pck.platform_instance_id.hex(), "names the whole platform"),
            Field("dynamic platform", _yes(pck.dynamic_platform), "processors may be added"),
            Field("cached keys", _yes(pck.cached_keys), "Intel keeps the platform's root keys"),
            Field("SMT", _yes(pck.smt_enabled), "simultaneous multithreading is on"),
        ]
    return Section("The machine, from its PCK certificate", tuple(fields))


def _collateral(facts: Facts) -> Description:
    rows = (
        Field("platform", facts.tee, "which quotes it judges"),
        Field("FMSPC", facts.fmspc, "for which processor family"),
        Field("PCE id", facts.pce_id, "for which certification enclave"),
        Field("PCK authority", facts.ca, "for machines certified by this authority"),
        Field("TCB evaluation", str(facts.evaluation), "grows when Intel looks again"),
        Field("QE evaluation", str(facts.qe_evaluation), "the same for the quoting enclave"),
        Field("TCB info issued", utc(facts.tcb_issued), ""),
        Field("QE identity issued", utc(facts.qe_issued), ""),
        Field("root CRL", str(facts.root_crl.number), f"until {utc(facts.root_crl.ends)}"),
        Field("PCK CRL", str(facts.pck_crl.number), f"until {utc(facts.pck_crl.ends)}"),
        Field("good until", utc(facts.ends), "the first thing in it that ends"),
    )
    title = "What Intel says of a processor family; signatures are not checked here"
    return Description("Intel collateral", "", (Section(title, rows),))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
