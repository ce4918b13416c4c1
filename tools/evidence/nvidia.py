"""Replay of NVIDIA cases: reports, device chains, reference manifests, OCSP responses, several devices.

The cases name no time, so devices are judged at `NOW`, manifests and responses on the day of their issue.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.x509 import ocsp

from leasehold.attest.certificate import DerCertificate
from leasehold.attest.collateral import HeldCollateral
from leasehold.attest.nvidia.chain import DeviceChain, firmware_id, read_device_chain
from leasehold.attest.nvidia.device import check_measurements, mismatches, observe_device
from leasehold.attest.nvidia.ocsp import check_ocsp
from leasehold.attest.nvidia.report import Mode, Opaque, Report, parse_report, rim_ids
from leasehold.attest.nvidia.rim import Rim, check_signers, read_rim
from leasehold.attest.verdict import Trust
from leasehold.attest.x509 import read_ocsp
from leasehold.core.evidence import DeviceEvidence
from leasehold.core.units import Instant
from leasehold.errors import BadEvidence, CollateralMismatch, QuoteForged
from tools.evidence.common import Check, compare, instant, judge

NOW: Final = instant("2025-08-21T12:00:00+00:00")
SUBJECT_CHARS: Final = 60  # recorded names are cut
RESPONDER_CHARS: Final = 70
_PARTS: Final = frozenset(
    {
        "parse",
        "expected_rim_ids",
        "chain",
        "chain_ends_at_pinned_root",
        "certificate_fwid_matches_report",
        "device_serial",
    }
)


def replay(case: Path, expected: Mapping[str, Any]) -> Iterator[Check]:
    """Every check of one case."""
    parts = {name: value for name, value in expected.items() if name in _PARTS}
    if parts:
        yield from _check_device(case, parts)
    for name, value in expected.items():
        if name == "devices":
            for number, told in enumerate(value):
                yield from _check_device(case / f"dev{number}", told)
        elif name == "verdicts":
            for verdict in value:
                yield from _check_verdict(case, verdict)
        elif name not in _PARTS:
            yield Check(name, ("recorded, and nothing compares it",))


# Devices -----------------------------------------------------------------------------------------


def _report(folder: Path, file: str = "report.bin") -> Report:
    return parse_report((folder / file).read_bytes())


def _chain(folder: Path, report: Report) -> DeviceChain:
    pem = (folder / "cert_chain.pem").read_bytes()
    return read_device_chain(pem, report.kind, simulated=None, now=NOW)


def _check_device(folder: Path, told: Mapping[str, Any]) -> Iterator[Check]:
    report = _report(folder)
    chain = _chain(folder, report)
    firmware = report.opaque.get(Opaque.FWID)
    got = {
        "parse": _parsed(report),
        "expected_rim_ids": [] if report.kind == "nvidia-switch" else list(rim_ids(report)),
        "chain": [_subject(one) for one in chain.certificates],
        "chain_ends_at_pinned_root": chain.trust is Trust.PRODUCTION,
        "certificate_fwid_matches_report": None
        if firmware is None
        else firmware_id(chain.certificates[0]) == firmware,
        "device_serial": chain.identity.upper(),
    }
    yield compare(folder.name, told, got)


def _subject(certificate: DerCertificate) -> str:
    read = x509.load_der_x509_certificate(certificate.der)
    return read.subject.rfc4514_string()[:SUBJECT_CHARS]


def _parsed(report: Report) -> dict[str, Any]:
    def value(kind: Opaque) -> str | None:
        found = report.opaque.get(kind)
        return None if found is None else found.hex()

    flag = report.opaque.get(Opaque.FEATURE_FLAG)
    ordered = [report.measurements[index] for index in sorted(report.measurements)]
    kinds = list(Opaque)
    return {
        "spdm_version": report.data[0],
        "nonce": report.nonce.hex(),
        "responder_nonce": report.responder_nonce.hex(),
        "measurement_count": len(ordered),
        "measurements_sha384_of_concatenation": hashlib.sha384(b"".join(ordered)).hexdigest(),
        "measurement_1": ordered[0].hex(),
        "measurement_8": ordered[7].hex(),
        "driver_version": report.driver,
        "vbios_version": report.firmware,
        "project": report.project,
        "project_sku": report.project_sku,
        "chip_sku": report.chip_sku,
        "chip_info": report.chip_info,
        "board_id": value(Opaque.BOARD_ID) or "",
        "nvdec0_status": value(Opaque.NVDEC0_STATUS),
        "protected_pcie_status": value(Opaque.PROTECTED_PCIE_STATUS),
        "feature_flag": None if flag is None else Mode(int.from_bytes(flag, "little")).name,
        "fwid": value(Opaque.FWID),
        "opaque_fields": sorted(
            # the recorder had no name for this one
            Opaque(kind).name if kind in kinds and kind != Opaque.SWITCH_GPU_PDIS else str(kind)
            for kind in report.opaque
        ),
        "signed_length": len(report.signed),
    }


# Verdicts ----------------------------------------------------------------------------------------


def _check_verdict(case: Path, told: Mapping[str, Any]) -> Iterator[Check]:
    if "ocsp_responses" in told:
        yield _check_ocsp(case, told)
    elif "rims" in told:
        golden = _golden(case, told["rims"])
        report = _report(case)
        yield judge(
            "measurements", told, lambda: _measured(report, golden), ignored=_MEASURED | {"rims"}
        )
        facts = {name: told[name] for name in _MEASURED}
        yield compare(
            "golden values",
            facts,
            {
                "golden_values_compared": len(golden),
                "mismatching_indexes_zero_based": mismatches(report, golden),
            },
        )
    elif "distinct_devices" in told:
        yield judge("all devices", told, lambda: _together(case))
    elif "active_indexes" in told:
        yield judge(
            told["file"], told, lambda: _manifest(case / told["file"]), ignored=frozenset({"file"})
        )
    else:
        yield from _check_signed(case, told)


_MEASURED: Final = frozenset({"golden_values_compared", "mismatching_indexes_zero_based"})
_FACTS: Final = frozenset(
    {
        "nonce",
        "report_signature_valid",
        "rim_measurements_compared",
        "rim_mismatching_indexes_zero_based",
    }
)


def _check_signed(case: Path, told: Mapping[str, Any]) -> Iterator[Check]:
    """A report and its chain; what is recorded beside the outcome holds for a refused one, too."""
    file = told.get("file", "report.bin")
    yield judge(file, told, lambda: _observed(case, file), ignored=_FACTS | {"file"})
    facts = {name: value for name, value in told.items() if name in _FACTS}
    if facts:
        report = _report(case, file)
        golden = _golden(case, sorted(path.name for path in case.glob("rim-*.xml")))
        got = {
            "nonce": report.nonce.hex(),
            "report_signature_valid": _is_signed(case, file),
            "rim_measurements_compared": len(golden),
            "rim_mismatching_indexes_zero_based": mismatches(report, golden),
        }
        yield compare(f"{file}, facts", facts, got)


def _evidence(folder: Path, file: str) -> DeviceEvidence:
    report = (folder / file).read_bytes()
    kind = parse_report(report).kind
    return DeviceEvidence(kind, report, (folder / "cert_chain.pem").read_bytes())


def _observed(folder: Path, file: str) -> Mapping[str, Any]:
    """The verifier's own word, without collateral: what that leaves open are findings."""
    observe_device(_evidence(folder, file), HeldCollateral(()), simulated=None, now=NOW)
    return {"outcome": "verified"}


def _is_signed(folder: Path, file: str) -> bool:
    try:
        _observed(folder, file)
    except QuoteForged:
        return False
    return True


def _together(case: Path) -> Mapping[str, Any]:
    seen = [
        observe_device(_evidence(folder, "report.bin"), HeldCollateral(()), simulated=None, now=NOW)
        for folder in sorted(case.glob("dev*"))
    ]
    return {
        "outcome": "verified",
        "same_nonce": len({one.report.nonce for one in seen}) == 1,
        "distinct_devices": len({one.device.identity for one in seen}),
    }


# Manifests ---------------------------------------------------------------------------------------


def _rim(path: Path) -> Rim:
    """A manifest whose signers are trusted on the day of its issue."""
    rim = read_rim(path.read_bytes())
    check_signers(
        rim, simulated=None, accept_expired=False, now=max(one.starts for one in rim.certificates)
    )
    return rim


def _manifest(path: Path) -> Mapping[str, Any]:
    rim = _rim(path)
    signer = rim.certificates[0]
    return {
        "outcome": "verified",
        "version": rim.version,
        "product": rim.product,
        "leaf_valid": [_day(signer.starts), _day(signer.ends)],
        "active_indexes": sorted(rim.golden),
    }


def _day(when: Instant) -> str:
    return datetime.fromtimestamp(when // 1000, UTC).date().isoformat()


def _golden(case: Path, names: list[str]) -> dict[int, frozenset[bytes]]:
    """The values of these manifests, each of which is for this report."""
    report = _report(case)
    golden: dict[int, frozenset[bytes]] = {}
    for name in names:
        rim = _rim(case / name)
        if rim.version not in (report.driver, report.firmware) or golden.keys() & rim.golden.keys():
            raise CollateralMismatch(about=name, got=rim.version)
        golden |= rim.golden
    return golden


def _measured(report: Report, golden: dict[int, frozenset[bytes]]) -> Mapping[str, Any]:
    check_measurements(report, golden)
    return {"outcome": "verified"}


# OCSP --------------------------------------------------------------------------------------------


def _check_ocsp(case: Path, told: Mapping[str, Any]) -> Check:
    """Each response is authentic for one of this case's certificates, and good on its day."""
    chains = [_chain(case, _report(case)).certificates]
    chains += [_rim(path).certificates for path in sorted(case.glob("rim-*.xml"))]
    pairs = [pair for chain in chains for pair in pairwise(chain)]
    got = {name: _response(case / name, pairs) for name in told["ocsp_responses"]}
    return compare("OCSP", told, {"ocsp_responses": got})


def _response(path: Path, pairs: list[tuple[DerCertificate, DerCertificate]]) -> dict[str, Any]:
    data = path.read_bytes()
    answer = read_ocsp(data)
    for certificate, issuer in pairs:
        if certificate.serial == answer.serial:
            check_ocsp(data, certificate, issuer, now=answer.starts)
            break
    else:
        raise BadEvidence(about=path.name, got=answer.serial, expected="a certificate of this case")
    response = ocsp.load_der_ocsp_response(data)
    responder = response.certificates[0].subject.rfc4514_string()
    return {
        "serial": hex(answer.serial),
        "status": answer.status.upper(),
        "this_update": _time(answer.starts),
        "next_update": _time(answer.ends),
        "responder": responder[:RESPONDER_CHARS],
        "nonce_extension": any(
            isinstance(one.value, x509.OCSPNonce) for one in response.extensions
        ),
    }


def _time(when: Instant) -> str:
    return datetime.fromtimestamp(when // 1000, UTC).isoformat()
