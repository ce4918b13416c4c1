"""Replay of SGX and TDX cases: parsed fields, and the verdict at each recorded time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from leasehold.attest.collateral import CollateralStore, Document, HeldCollateral, Kind
from leasehold.attest.intel.dcap import CHAIN_LENGTH
from leasehold.attest.intel.pck import parse_pck
from leasehold.attest.intel.pcs import Ca, Collateral, Facts, Tee, parse_collateral, read_facts
from leasehold.attest.intel.quote import Quote, parse_quote, parse_td_quote
from leasehold.attest.intel.reference import SGX_DEBUG, TD_SEPT_VE_DISABLE
from leasehold.attest.intel.report import Report, TdReport
from leasehold.attest.reference import Simulated, Waiver
from leasehold.attest.tcb import check_tcb
from leasehold.attest.verdict import Appraisal
from leasehold.attest.verify import observe
from leasehold.attest.x509 import read_chain
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    CollateralMissing,
    LeaseholdError,
    TcbNotCurrent,
    UnsupportedEvidence,
)
from tools.evidence.common import Check, compare, instant, judge


class OnlyOne:
    """Gives the one set of a case, whatever is asked for: whether it fits is the verifier's to say."""

    def __init__(self, collateral: Collateral) -> None:
        self._facts = read_facts(collateral)

    def find(self, *, fmspc: str, ca: Ca, tee: Tee) -> Facts:
        """The set of this case."""
        del fmspc, ca, tee
        return self._facts

    def document(self, kind: Kind, name: str) -> Document:
        """None: Intel's cases have no other documents. Raises CollateralMissing."""
        raise CollateralMissing(about=f"{kind} {name}")


def replay(case: Path, expected: Mapping[str, Any]) -> Iterator[Check]:
    """Every check of one case."""
    for part, value in expected.items():
        if part == "parse":
            yield check_parse(case, value)
        elif part == "verdicts":
            for verdict in value:
                yield check_verdict(case, verdict)
        else:
            yield Check(part, ("recorded, and nothing compares it",))


def check_parse(case: Path, expected: Mapping[str, Any]) -> Check:
    """Our parsers read the recorded fields out of the main file."""
    data = (case / "quote.bin").read_bytes()
    got: dict[str, Any]
    if case.parent.name == "tdx":
        td_quote = parse_td_quote(data)
        got = {"header": _header(td_quote), "report": _td_report(td_quote.report)}
        pem = td_quote.chain_pem
    else:
        quote = parse_quote(data)
        got = {"header": _header(quote), "report": _report(quote.report)}
        pem = quote.chain_pem
    chain = read_chain(pem, count=CHAIN_LENGTH, about=case.name, error=BadEvidence)
    pck = parse_pck(chain[0].sgx_extension)
    got["pck"] = {
        "fmspc": pck.fmspc.hex(),
        "ca": "platform" if "Platform" in chain[1].name else "processor",
        "ppid": pck.ppid.hex(),
        "cpu_svn": pck.cpu_svn.hex(),
        "pce_svn": pck.pce_svn,
        "pce_id": pck.pce_id.hex(),
        "sgx_type": pck.sgx_type,
        "platform_instance_id": pck.platform_instance_id and pck.platform_instance_id.hex(),
    }
    return compare("parse", expected, got)


def _header(quote: Quote[Any]) -> dict[str, Any]:
    return {
        "version": quote.version,
        "att_key_type": quote.key_type,
        "tee_type": quote.tee_type,
        "qe_vendor_id": quote.qe_vendor.hex(),
        "user_data": quote.user_data.hex(),
        "qe_svn": quote.qe_svn,
        "pce_svn": quote.pce_svn,
        "body_type": quote.body_type,
        "body_size": len(quote.report_bytes),
        "signed_len": quote.signed,
        "auth_data_len": len(quote.data) - quote.signed - 4,
        "quote_len": len(quote.data),
    }


def _report(report: Report) -> dict[str, Any]:
    return {
        "cpu_svn": report.cpu_svn.hex(),
        "misc_select": report.misc_select,
        "isv_ext_prod_id": report.isv_ext_prod_id.hex(),
        "attributes_flags": f"{report.flags:016x}",
        "attributes_xfrm": f"{report.xfrm:016x}",
        "debug": bool(report.flags & SGX_DEBUG),
        "mr_enclave": report.mr_enclave.hex(),
        "mr_signer": report.mr_signer.hex(),
        "config_id": report.config_id.hex(),
        "isv_prod_id": report.isv_prod_id,
        "isv_svn": report.isv_svn,
        "config_svn": report.config_svn,
        "isv_family_id": report.isv_family_id.hex(),
        "report_data": report.report_data.hex(),
    }


def _td_report(report: TdReport) -> dict[str, Any]:
    got: dict[str, Any] = {
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
        "mr_seam": report.mr_seam.hex(),
        "mr_signer_seam": report.mr_signer_seam.hex(),
        "seam_attributes": report.seam_attributes.to_bytes(8, "little").hex(),
        "td_attributes": report.td_attributes.to_bytes(8, "little").hex(),
        "xfam": report.xfam.to_bytes(8, "little").hex(),
        "mr_td": report.mr_td.hex(),
        "mr_config_id": report.mr_config_id.hex(),
        "mr_owner": report.mr_owner.hex(),
        "mr_owner_config": report.mr_owner_config.hex(),
        "report_data": report.report_data.hex(),
        "debug": bool(report.td_attributes & 1),
        "sept_ve_disable": bool(report.td_attributes & TD_SEPT_VE_DISABLE),
    }
    got |= {f"rtmr{at}": value.hex() for at, value in enumerate(report.rtmr)}
    if report.v15 is not None:
        got["tee_tcb_svn2"] = report.v15.tee_tcb_svn2.hex()
        got["mr_service_td"] = report.v15.mr_service_td.hex()
    return got


def check_verdict(case: Path, expected: Mapping[str, Any]) -> Check:
    """The verifier's verdict at the case's own time, then the policy's: UpToDate alone, and waivers."""
    now = instant(expected["at"])
    file = expected.get("file") or next(
        name for name in ("quote.bin", "quote.dat") if (case / name).exists()
    )
    what = f"{file} at {expected['at']}" + (
        f" with {expected['collateral']}" if "collateral" in expected else ""
    )
    if "outcome" not in expected:  # a case that only asks for a clean refusal
        return _clean_refusal(what, case, file, expected, now)
    return judge(
        what,
        expected,
        lambda: _verdict(_observe(case, file, expected, now), now),
        ignored=frozenset(
            {"at", "file", "collateral", "trust_anchor", "collateral_valid_for_verification"}
        ),
    )


def _observe(case: Path, file: str, expected: Mapping[str, Any], now: Instant) -> Appraisal:
    simulated = None
    if "trust_anchor" in expected:
        pem = (case / expected["trust_anchor"]).read_bytes()
        root = read_chain(pem, count=1, about=case.name, error=BadEvidence)
        simulated = Simulated(root[0].sha256)
    store: CollateralStore = HeldCollateral(())
    if "collateral" in expected:
        store = OnlyOne(parse_collateral((case / expected["collateral"]).read_bytes()))
    evidence = Evidence(case.parent.name, (case / file).read_bytes())
    return observe(evidence, store, simulated=simulated, now=now)


def _clean_refusal(
    what: str, case: Path, file: str, expected: Mapping[str, Any], now: Instant
) -> Check:
    try:
        _observe(case, file, expected, now)
    except UnsupportedEvidence:
        return Check(what)
    except LeaseholdError as error:
        return Check(what, (f"{error.code}, expected unsupported_evidence",))
    return Check(what, ("accepted, expected a clean refusal",))


def _verdict(seen: Appraisal, now: Instant) -> dict[str, Any]:
    """What was verified. UpToDate alone refuses it or not, and only the exact waiver lets it pass."""
    until = datetime.fromtimestamp(now / 1000).astimezone() + timedelta(days=1)
    exact = Waiver(seen.tcb_status.value, seen.advisories, "replay", until)  # type: ignore[arg-type]
    short = Waiver(seen.tcb_status.value, seen.advisories[1:], "replay", until)  # type: ignore[arg-type]
    strict = _policy(seen, (), now)
    if seen.advisories and _policy(seen, (short,), now) != strict:
        strict = "accept with a waiver that leaves out an advisory"
    if _policy(seen, (exact,), now) != "accept":
        strict = "reject with the exact waiver"
    return {
        "outcome": "verified",
        "tcb_status": seen.tcb_status.value,
        "advisory_ids": list(seen.advisories),
        "strict_uptodate_only_policy": strict,
    }


def _policy(seen: Appraisal, waivers: tuple[Waiver, ...], now: Instant) -> str:
    try:
        check_tcb(seen.tcb_status, seen.advisories, waivers, now=now)
    except TcbNotCurrent:
        return "reject"
    return "accept"
