"""Replay of TPM cases: parsed fields, Azure's HCL report, signatures and what they cover."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from leasehold.attest.amd.authentic import check_endorsement
from leasehold.attest.amd.endorsement import parse_endorsement
from leasehold.attest.amd.report import SIGNED_BYTES, parse_report
from leasehold.attest.amd.roots import Anchor
from leasehold.attest.certificate import read_certificates
from leasehold.attest.intel.quote import parse_td_quote
from leasehold.attest.signatures import Scheme, is_signed
from leasehold.attest.tpm import hcl
from leasehold.attest.tpm.quote import (
    ECDSA,
    MAGIC,
    QUOTE,
    RSASSA,
    parse_attest,
    parse_signature,
)
from leasehold.attest.tpm.tpm import authenticate, check_quoted, read_key
from leasehold.attest.verdict import Trust
from leasehold.core.evidence import Evidence
from leasehold.errors import BadEvidence
from tools.evidence.common import Check, compare, judge

_HARDWARE: Final = {hcl.SNP: "snp", hcl.TDX: "tdx"}
_SIGNATURES: Final = ("quote.sig", "quote.tpmt_signature")
_TD_QUOTE: Final = "see td_quote.bin (a TDREPORT cannot be checked remotely; the TD quote is)"
_SCHEMES: Final = {Scheme.RSA_SHA256: "RSASSA-PKCS1-v1_5 SHA-256"}


def replay(case: Path, expected: Mapping[str, Any]) -> Iterator[Check]:
    """Every check of one case."""
    for part, value in expected.items():
        if part == "parse":
            yield check_parse(case, value)
        elif part == "signature":
            yield check_signature(case, value)
        elif part == "hcl":
            yield check_hcl(case, value)
        elif part == "verdicts":
            for verdict in value:
                yield check_verdict(case, verdict)
        else:
            yield Check(part, ("recorded, and nothing compares it",))


def check_parse(case: Path, expected: Mapping[str, Any]) -> Check:
    """Our parser reads the recorded fields; it refuses bytes after the end, so none are left."""
    data = (case / "quote.msg").read_bytes()
    attest = parse_attest(data)
    got = {
        "magic": hex(MAGIC),
        "type": hex(QUOTE),
        "qualified_signer": attest.qualified_signer.hex(),
        "extra_data": attest.extra_data.hex(),
        "clock": attest.clock,
        "reset_count": attest.reset_count,
        "restart_count": attest.restart_count,
        "safe": int(attest.safe),
        "firmware_version": hex(attest.firmware_version),
        "pcr_select": [[one.bank_name, list(one.pcrs)] for one in attest.selections],
        "pcr_digest": attest.pcr_digest.hex(),
        "rest": len(data) - len(attest.data),
    }
    return compare("parse", expected, got)


def check_signature(case: Path, expected: Mapping[str, Any]) -> Check:
    """The algorithms that the TPMT_SIGNATURE names."""
    signature = parse_signature(_signature(case))
    got = {
        "sig_alg": hex(ECDSA if signature.scheme.value[0] == "ECDSA" else RSASSA),
        "hash_alg": hex(signature.hash),
    }
    return compare("signature", expected, got)


def check_hcl(case: Path, expected: Mapping[str, Any]) -> Check:
    """The parts of the HCL report, which are byte for byte those recorded beside it."""
    report = hcl.parse_hcl((case / "hcl_report.bin").read_bytes())
    for name, part in (
        ("hw_report.bin", report.hardware),
        ("runtime_data.json", report.runtime_bytes),
    ):
        if part != (case / name).read_bytes():
            return Check("hcl", (f"not {name}",))
    got = {
        "signature": hcl.MAGIC.decode(),
        "header_version": report.version,
        "hardware_type": _HARDWARE[report.kind],
        "hash_type": "sha256",
        "runtime_data_sha256": report.runtime_sha256.hex(),
        "hardware_report_data": report.hardware_data.hex(),
        "vm_configuration": {
            name: json.loads(bytes(value))
            for name, value in report.runtime.vm_configuration.items()
        },
        "user_data": report.runtime.user_data,
    }
    return compare("hcl", expected, got)


def check_verdict(case: Path, expected: Mapping[str, Any]) -> Check:
    """The verdict on one quote with everything that lies beside it."""
    file = expected.get("file", "quote.msg")
    azure = (case / "hcl_report.bin").exists()
    return judge(
        file,
        expected,
        lambda: _azure(case, file) if azure else _plain(case, file),
        ignored=frozenset({"file"}),
    )


def _plain(case: Path, file: str) -> dict[str, Any]:
    """A bare TPM's quote by the key that lies beside it, which nobody vouches for."""
    data = (case / file).read_bytes()
    parts: tuple[bytes, ...] = ()
    if any((case / name).exists() for name in _SIGNATURES):
        parts = (_signature(case), (case / "ak_pub.pem").read_bytes(), _values(case, data))
    quoted = authenticate(Evidence("tpm", data, parts))
    return {"outcome": "verified", "pcr_digest_matches": len(quoted.pcrs) > 0}


def _azure(case: Path, file: str) -> dict[str, Any]:
    report = hcl.parse_hcl((case / "hcl_report.bin").read_bytes())
    key = hcl.attestation_key(report.runtime)
    if key != read_key((case / "ak_pub.pem").read_bytes()):
        raise BadEvidence(about="ak_pub.pem", expected="HCLAkPub")
    data = (case / file).read_bytes()
    quoted = check_quoted(data, _signature(case), _values(case, data), key)
    hcl.check_bound(report, report.hardware_data)
    if report.kind == hcl.TDX:
        # A TDREPORT cannot be checked remotely: its TD quote must vouch for the same runtime data.
        quote = parse_td_quote((case / "td_quote.bin").read_bytes())
        hcl.check_bound(report, quote.report.report_data)
        hardware: object = _TD_QUOTE
    else:
        hardware = _is_authentic(report.hardware, (case / "vcek.der").read_bytes())
    scheme = _SCHEMES.get(quoted.signature.scheme, quoted.signature.scheme.name)
    return {
        "outcome": "verified",
        "quote_signature": f"{scheme} by {hcl.AK_NAME}",
        "pcr_digest_matches": len(quoted.pcrs) > 0,
        "runtime_data_bound_to_hardware_report": True,
        "hardware_report_signature_valid": hardware,
    }


def _is_authentic(data: bytes, vcek: bytes) -> bool:
    """Whether the chip that a VCEK is for signed an SNP report, at the patch level that it is for.

    The case has no chain above the VCEK; those of the platform `snp` have.
    """
    snp, (leaf,) = parse_report(data), read_certificates(vcek, count_max=1)
    said = parse_endorsement(leaf)
    check_endorsement(snp, said, Anchor(Trust.PRODUCTION, said.product, ""))
    return is_signed(leaf.spki, Scheme.ECDSA_SHA384, snp.data[:SIGNED_BYTES], snp.signature)


def _signature(case: Path) -> bytes:
    """The one signature of a case."""
    return next((case / name).read_bytes() for name in _SIGNATURES if (case / name).exists())


def _values(case: Path, attest: bytes) -> bytes:
    """The recorded registers (a list of all 24 in hex) that a quote selects, in index order.

    A tampered quote may select nothing; whatever its values then are, its signature does not fit.
    """
    recorded = json.loads((case / "pcrs.json").read_text())
    selections = parse_attest(attest).selections
    pcrs = selections[0].pcrs if selections else ()
    return b"".join(bytes.fromhex(recorded[pcr]) for pcr in pcrs)
