"""Replay recorded evidence of real machines through the verifier: `make evidence DIR=...`.

DIR holds one folder per case, `<platform>/<case>/case.json`, with what a correct verifier must say.
Only `sgx` is verified by this version. Prints one line per check, then 'N passed, N failed'.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from leasehold.attest.collateral import CollateralStore, HeldCollateral
from leasehold.attest.dcap import CHAIN_LENGTH
from leasehold.attest.pck import parse_pck
from leasehold.attest.pcs import Ca, Collateral, Facts, Tee, parse_collateral, read_facts
from leasehold.attest.quote import parse_quote
from leasehold.attest.reference import SGX_DEBUG, Simulated, Waiver
from leasehold.attest.sgx import authenticate, check_tcb
from leasehold.attest.x509 import read_chain
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    CertificateRevoked,
    CollateralMismatch,
    CollateralNotCurrent,
    CollateralRejected,
    DebugEnclave,
    LeaseholdError,
    QuoteForged,
    TcbNotCurrent,
    UnsupportedEvidence,
    UntrustedRoot,
)

# Which refusals count for a recorded reason; a subclass counts as its parent.
REASONS: Final[dict[str, tuple[type[LeaseholdError], ...]]] = {
    "debug-enabled": (DebugEnclave,),
    "collateral-expired": (CollateralNotCurrent,),
    "collateral-not-yet-valid": (CollateralNotCurrent,),
    "certificate-chain-invalid": (CertificateRejected, CollateralRejected),
    "certificate-revoked": (CertificateRevoked,),
    "untrusted-root": (UntrustedRoot, UnsupportedEvidence),
    "quote-signature-invalid": (QuoteForged,),
    "qe-report-signature-invalid": (QuoteForged,),
    "attestation-key-not-bound-to-qe": (QuoteForged,),
    "tcb-info-signature-invalid": (CollateralRejected,),
    "qe-identity-signature-invalid": (CollateralRejected,),
    "fmspc-mismatch": (CollateralMismatch,),
    "unknown-qe-vendor": (UnsupportedEvidence,),
    "unsupported": (UnsupportedEvidence,),
    "malformed": (BadEvidence, CollateralRejected),
}


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report."""

    what: str
    passed: bool
    detail: str


class OnlyOne:
    """Gives the one set of a case, whatever is asked for: whether it fits is the verifier's to say."""

    def __init__(self, collateral: Collateral) -> None:
        self._facts = read_facts(collateral)

    def find(self, *, fmspc: str, ca: Ca, tee: Tee) -> Facts:
        """The set of this case."""
        del fmspc, ca, tee
        return self._facts


def replay(case: Path) -> Iterator[Result]:
    """Every check of one case."""
    told = json.loads((case / "case.json").read_text())
    expected = told["expected"]
    if "parse" in expected:
        yield check_parse(case, expected["parse"])
    for verdict in expected.get("verdicts", ()):
        yield check_verdict(case, verdict)


def check_parse(case: Path, expected: dict[str, dict[str, Any]]) -> Result:
    """Our parsers read the recorded fields out of the main file."""
    quote = parse_quote((case / "quote.bin").read_bytes())
    chain = read_chain(quote.chain_pem, count=CHAIN_LENGTH, about=case.name, error=BadEvidence)
    pck, report = parse_pck(chain[0].sgx_extension), quote.report
    got: dict[str, dict[str, Any]] = {
        "header": {
            "version": quote.version,
            "att_key_type": quote.key_type,
            "tee_type": quote.tee_type,
            "qe_vendor_id": quote.qe_vendor.hex(),
            "user_data": quote.user_data.hex(),
            "qe_svn": quote.qe_svn,
            "pce_svn": quote.pce_svn,
            "signed_len": 432,
            "auth_data_len": len(quote.data) - 436,
            "quote_len": len(quote.data),
        },
        "report": {
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
        },
        "pck": {
            "fmspc": pck.fmspc.hex(),
            "ca": "platform" if "Platform" in chain[1].name else "processor",
            "ppid": pck.ppid.hex(),
            "cpu_svn": pck.cpu_svn.hex(),
            "pce_svn": pck.pce_svn,
            "pce_id": pck.pce_id.hex(),
            "sgx_type": pck.sgx_type,
            "platform_instance_id": pck.platform_instance_id and pck.platform_instance_id.hex(),
        },
    }
    wrong = [
        f"{part}.{field}: got {got[part].get(field)}, expected {value}"
        for part, fields in expected.items()
        for field, value in fields.items()
        if got[part].get(field) != value
    ]
    return Result(
        "parse", not wrong, "; ".join(wrong) or f"{sum(map(len, expected.values()))} fields"
    )


def check_verdict(case: Path, expected: dict[str, Any]) -> Result:
    """The verifier's verdict at the case's own time."""
    moment = datetime.fromisoformat(expected["at"])
    now = Instant(int(moment.timestamp() * 1000))
    file = expected.get("file") or next(
        name for name in ("quote.bin", "quote.dat") if (case / name).exists()
    )
    what = f"{file} at {expected['at']}" + (
        f" with {expected['collateral']}" if "collateral" in expected else ""
    )
    simulated = None
    if "trust_anchor" in expected:
        root = read_chain(
            (case / expected["trust_anchor"]).read_bytes(),
            count=1,
            about=case.name,
            error=BadEvidence,
        )
        simulated = Simulated(root[0].sha256)
    try:
        store: CollateralStore = HeldCollateral(())
        if "collateral" in expected:
            store = OnlyOne(parse_collateral((case / expected["collateral"]).read_bytes()))
        seen = authenticate((case / file).read_bytes(), store, simulated=simulated, now=now)
    except LeaseholdError as error:
        return _refused(what, expected, error)
    if expected.get("outcome") != "verified":
        return Result(what, False, f"accepted ({seen.status}), expected {expected.get('reason')}")
    if (seen.status, set(seen.advisories)) != (
        expected["tcb_status"],
        set(expected["advisory_ids"]),
    ):
        return Result(what, False, f"{seen.status} {seen.advisories}, expected {expected}")
    return _strict(what, seen.status, seen.advisories, expected, moment, now)


def _refused(what: str, expected: dict[str, Any], error: LeaseholdError) -> Result:
    if "outcome" not in expected:  # a case that only asks for a clean refusal
        return Result(what, isinstance(error, UnsupportedEvidence), f"refused: {error.code}")
    if expected["outcome"] != "rejected":
        return Result(what, False, f"{error.code}: {error}, expected {expected['outcome']}")
    wanted = REASONS[expected["reason"]]
    return Result(what, isinstance(error, wanted), f"{expected['reason']}: {error.code}")


def _strict(
    what: str,
    status: Any,
    advisories: tuple[str, ...],
    expected: dict[str, Any],
    moment: datetime,
    now: Instant,
) -> Result:
    """Authentic; now the policy: UpToDate alone refuses it, and only the exact waiver lets it pass."""
    verdicts = []
    exact = Waiver(status.value, advisories, "replay", moment + timedelta(days=1))
    short = Waiver(status.value, advisories[1:], "replay", moment + timedelta(days=1))
    for waivers in ((), (short,), (exact,)):
        try:
            check_tcb(status, advisories, waivers, now=now)
            verdicts.append("accept")
        except TcbNotCurrent:
            verdicts.append("reject")
    strict = expected["strict_uptodate_only_policy"]
    wanted = [strict, strict, "accept"]
    detail = (
        f"{status.value}, {len(advisories)} advisories, strict {verdicts[0]}, waived {verdicts[2]}"
    )
    return Result(what, verdicts == wanted, detail)


def main(folder: Path) -> int:
    """Replay all SGX cases below `folder`; the exit status is 1 where one failed or none was found."""
    passed = failed = 0
    for case in sorted(path.parent for path in folder.glob("sgx/*/case.json")):
        for result in replay(case):
            passed, failed = passed + result.passed, failed + (not result.passed)
            print(
                f"{'ok  ' if result.passed else 'FAIL'} {case.name}: {result.what}: {result.detail}"
            )
    others = sorted({path.parent.parent.name for path in folder.glob("*/*/case.json")} - {"sgx"})
    if others:
        print(f"not verified by this version: {', '.join(others)}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/evidence.py DIR")
    sys.exit(main(Path(sys.argv[1])))
