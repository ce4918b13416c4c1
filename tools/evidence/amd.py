"""Replay of SEV-SNP cases: parsed fields, the certificate table, and the verdict at each recorded time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from leasehold.attest.amd.authentic import authenticate, check_roles
from leasehold.attest.amd.endorsement import NAMES, parse_endorsement, parse_table
from leasehold.attest.amd.report import Report, Tcb, parse_report, parse_tcb
from leasehold.attest.amd.roots import decide_anchor
from leasehold.attest.certificate import DerCertificate, read_certificates
from leasehold.attest.collateral import HeldCollateral
from leasehold.attest.verify import observe
from leasehold.core.evidence import Evidence
from leasehold.core.units import MINUTE, Instant
from tools.evidence.common import Check, compare, instant, judge

POLICY_BITS: Final = {
    "smt_allowed": 16,
    "migrate_ma_allowed": 18,
    "debug_allowed": 19,
    "single_socket": 20,
    "cxl_allowed": 21,
    "mem_aes_256_xts": 22,
    "rapl_dis": 23,
    "ciphertext_hiding": 24,
    "page_swap_disable": 25,
}
BYTE_STRINGS: Final = (
    "family_id",
    "image_id",
    "report_data",
    "measurement",
    "host_data",
    "id_key_digest",
    "author_key_digest",
    "report_id",
    "report_id_ma",
    "chip_id",
)
PLATFORM_BITS: Final = {
    "smt_en": 0,
    "tsme_en": 1,
    "ecc_en": 2,
    "rapl_dis": 3,
    "ciphertext_hiding_en": 4,
    "alias_check_complete": 5,
    "tio_en": 7,
}


def replay(case: Path, expected: Mapping[str, Any]) -> Iterator[Check]:
    """Every check of one case."""
    for part, value in expected.items():
        if part == "parse":
            yield compare("parse", value, parsed(parse_report(_report(case).read_bytes())))
        elif part == "provider":
            got = (case / "provider").read_text()
            yield compare(part, {part: value.strip()}, {part: got.strip()})
        elif part == "auxblob_table":
            yield compare(part, {part: value}, {part: table((case / "auxblob").read_bytes())})
        elif part == "extensions":
            yield compare(part, value, extensions(_leaf(case)))
        elif part == "verdicts":
            for verdict in value:
                yield check_verdict(case, verdict)
        else:
            yield Check(part, ("recorded, and nothing compares it",))


def _report(case: Path) -> Path:
    return case / ("outblob" if (case / "outblob").exists() else "report.bin")


def _endorsements(case: Path) -> tuple[bytes, ...]:
    names = ("auxblob", "vcek.der", "vlek.der", "intermediate.pem", "ark.pem")
    return tuple((case / name).read_bytes() for name in names if (case / name).exists())


def _leaf(case: Path) -> DerCertificate:
    name = "vcek.der" if (case / "vcek.der").exists() else "vlek.der"
    return read_certificates((case / name).read_bytes(), count_max=1)[0]


# Parsing ------------------------------------------------------------------------------------------


def parsed(report: Report) -> dict[str, Any]:
    """A report in the recorded form."""
    product = report.product or "Milan"  # version 2 has the order of Milan and Genoa
    got: dict[str, Any] = {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": hex(report.policy),
        "policy_bits": {
            "abi_minor": report.policy & 0xFF,
            "abi_major": report.policy >> 8 & 0xFF,
            **{name: bool(report.policy >> bit & 1) for name, bit in POLICY_BITS.items()},
        },
        "vmpl": report.vmpl,
        "signature_algo": report.signature_algorithm,
        "platform_info": hex(report.platform_info),
        "platform_info_bits": {
            name: bool(report.platform_info >> bit & 1) for name, bit in PLATFORM_BITS.items()
        },
        "author_key_en": report.author_key_enabled,
        "mask_chip_key": report.chip_key_masked,
        "signing_key": report.signing_key.name,
        "cpuid": report.cpuid
        and {
            "family": hex(report.cpuid.family),
            "model": hex(report.cpuid.model),
            "stepping": report.cpuid.stepping,
        },
        "current_version": ".".join(map(str, report.current_version)),
        "committed_version": ".".join(map(str, report.committed_version)),
        "launch_mit_vector": report.launch_mitigation,
        "current_mit_vector": report.current_mitigation,
    }
    for name in BYTE_STRINGS:
        got[name] = getattr(report, name).hex()
    for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        raw = getattr(report, name)
        got[name], got[f"{name}_raw"] = level(parse_tcb(raw, product), product), raw.hex()
    return got


def level(tcb: Tcb, product: str) -> dict[str, int]:
    """A patch level in the recorded form."""
    got = {"bl": tcb.bootloader, "tee": tcb.tee, "snp": tcb.snp, "ucode": tcb.microcode}
    return got | ({"fmc": tcb.fmc} if product == "Turin" else {})


def table(data: bytes) -> list[dict[str, Any]]:
    """A certificate table in the recorded form."""
    return [
        {
            "guid": str(entry.guid),
            "offset": entry.offset,
            "length": len(entry.data),
            "encoding": "PEM" if entry.data.startswith(b"-----") else "DER",
            "what": NAMES[entry.guid],
        }
        for entry in parse_table(data)
    ]


def extensions(leaf: DerCertificate) -> dict[str, Any]:
    """A VCEK's extensions in the recorded form; three of them are spare and are read as they stand."""
    said = parse_endorsement(leaf)
    spare = {
        f"spl{number}": leaf.extensions[bytes.fromhex(f"2b060104019c7801030{number}")][-1]
        for number in (5, 6, 7)
    }
    return {
        "struct": leaf.extensions[bytes.fromhex("2b060104019c780101")][-1],
        "product": said.product,
        **level(said.tcb, said.product),
        **spare,
        "hwid": (said.hardware_id or b"").hex(),
    }


# Verdicts -----------------------------------------------------------------------------------------


def check_verdict(case: Path, expected: Mapping[str, Any]) -> Check:
    """The verifier's verdict at the recorded time, or an hour into the leaf's validity."""
    if not _report(case).exists():
        return judge("chain", expected, lambda: _chain_only(case))
    file = expected.get("file", _report(case).name)
    if "at" in expected:
        now = instant(expected["at"])
    else:
        given = _endorsements(case)
        now = _within(case) if given else Instant(0)
    ignored = frozenset({"at", "file"})
    what = f"{file} at {expected.get('at', 'a time within its validity')}"
    return judge(what, expected, lambda: _verdict(case, file, now), ignored=ignored)


def _within(case: Path) -> Instant:
    if (case / "auxblob").exists():
        blobs = [entry.data for entry in parse_table((case / "auxblob").read_bytes())]
    else:
        blobs = list(_endorsements(case))
    certificates = [one for blob in blobs for one in read_certificates(blob, count_max=3)]
    return Instant(max(certificate.starts for certificate in certificates) + 60 * MINUTE)


def _chain_only(case: Path) -> dict[str, Any]:
    """A case without a report: the chain alone is verified."""
    leaf, intermediate, ark = (
        read_certificates((case / name).read_bytes(), count_max=1)[0]
        for name in ("vcek.der", "intermediate.pem", "ark.pem")
    )
    check_roles(leaf, intermediate, ark, decide_anchor(ark, None), now=_within(case))
    return {"outcome": "verified"}


def _verdict(case: Path, file: str, now: Instant) -> dict[str, Any]:
    data, endorsements = (case / file).read_bytes(), _endorsements(case)
    observe(Evidence("snp", data, endorsements), HeldCollateral(()), simulated=None, now=now)
    seen = authenticate(data, endorsements, HeldCollateral(()), simulated=None, now=now)
    report, said = seen.report, seen.endorsement
    kind = said.kind.name
    middle = f"SEV-{seen.product}" if kind == "VCEK" else f"SEV-VLEK-{seen.product}"
    return {
        "outcome": "verified",
        "signing_key": kind,
        "product": seen.product,
        "chain": [f"SEV-{kind}", middle, f"ARK-{seen.product}"],
        "certificate_tcb_equals_reported_tcb": said.tcb
        == parse_tcb(report.reported_tcb, seen.product),
        "certificate_hwid_equals_chip_id": None
        if said.hardware_id is None
        else report.chip_id.startswith(said.hardware_id),
        "policy_findings": findings(report),
    }


def findings(report: Report) -> list[str]:
    """What a policy would object to, in the recorded words."""
    found = []
    if report.policy >> 19 & 1:
        found.append("policy allows debug")
    if report.vmpl:
        found.append(f"report made at VMPL {report.vmpl}, a VMPL-0-only policy refuses it")
    return found
