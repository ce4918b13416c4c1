"""What all replays share: comparing recorded values with ours, and recorded reasons with our errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    CertificateRevoked,
    CollateralMismatch,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    DebugEnclave,
    LeaseholdError,
    QuoteForged,
    TcbNotCurrent,
    UnsupportedEvidence,
    UntrustedRoot,
    WrongAttributes,
    WrongMeasurement,
    WrongSignerRole,
)

# Remarks: who else looked at the evidence and what they said, and prose.
NOTES: Final = frozenset(
    {"note", "detail", "mutation", "what", "also", "checked_with", "intel_reference_qvl_2023"}
)

# Which refusals count for a recorded reason; a subclass counts as its parent.
REASONS: Final[Mapping[str, tuple[type[LeaseholdError], ...]]] = {
    "debug-enabled": (DebugEnclave,),
    "sept-ve-disable-not-set": (WrongAttributes,),
    "service-td-bound": (WrongAttributes,),
    "tcb-level-unrecognised": (TcbNotCurrent,),
    "collateral-expired": (CollateralNotCurrent,),
    # before its collateral was issued, a machine's own certificate may not have been valid either
    "collateral-not-yet-valid": (CollateralNotCurrent, CertificateRejected),
    "certificate-expired": (CertificateRejected,),
    "certificate-not-yet-valid": (CertificateRejected,),
    "certificate-revoked": (CertificateRevoked,),
    "certificate-chain-invalid": (CertificateRejected, CollateralRejected),
    "certificate-signature-invalid": (CertificateRejected,),
    "untrusted-root": (UntrustedRoot, UnsupportedEvidence),
    "quote-signature-invalid": (QuoteForged,),
    "report-signature-invalid": (QuoteForged,),
    "tpm-signature-invalid": (QuoteForged,),
    "qe-report-signature-invalid": (QuoteForged,),
    "attestation-key-not-bound-to-qe": (QuoteForged,),
    "tcb-info-signature-invalid": (CollateralRejected,),
    "qe-identity-signature-invalid": (CollateralRejected,),
    "fmspc-mismatch": (CollateralMismatch,),
    "pceid-mismatch": (CollateralMismatch,),
    "wrong-tee-collateral": (CollateralMismatch,),
    "wrong-signer-role": (WrongSignerRole,),
    "unknown-qe-vendor": (UnsupportedEvidence,),
    "unsupported": (UnsupportedEvidence,),
    "malformed": (BadEvidence, CollateralRejected),
    "no-endorsement-certificate": (CollateralMissing,),
    "no-signature": (BadEvidence,),
    "rim-signature-invalid": (CollateralRejected, UntrustedRoot),
    "rim-malformed": (CollateralRejected,),
    "rim-measurement-mismatch": (WrongMeasurement,),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was compared; `wrong` says what differs, and is empty where nothing does."""

    what: str
    wrong: tuple[str, ...] = ()


Replay = Callable[[Path, Mapping[str, Any]], Iterator[Check]]
"""Every check of one case: its folder, and `expected` of its case.json."""


def instant(text: str) -> Instant:
    """A recorded time as milliseconds since the Unix epoch."""
    return Instant(int(datetime.fromisoformat(text).timestamp() * 1000))


def compare(what: str, expected: Mapping[str, Any], got: Mapping[str, Any]) -> Check:
    """Every recorded field but the remarks is in `got` with the same value."""
    return Check(what, tuple(_differences("", expected, got)))


def _differences(path: str, expected: Mapping[str, Any], got: Mapping[str, Any]) -> Iterator[str]:
    for field, value in expected.items():
        if field in NOTES:
            continue
        if field not in got:
            yield f"{path}{field}: recorded {value!r}, and nothing compares it"
        elif isinstance(value, Mapping) and isinstance(got[field], Mapping):
            yield from _differences(f"{path}{field}.", value, got[field])
        elif got[field] != value:
            yield f"{path}{field}: got {got[field]!r}, expected {value!r}"


def judge(
    what: str,
    expected: Mapping[str, Any],
    run: Callable[[], Mapping[str, Any]],
    *,
    ignored: frozenset[str] = frozenset(),
) -> Check:
    """The verdict: `run` returns what was verified (with `outcome`), or refuses for the recorded reason.

    `ignored` names fields that the caller compares elsewhere.
    """
    wanted = {name: value for name, value in expected.items() if name not in ignored}
    try:
        got = run()
    except LeaseholdError as error:
        if wanted.get("outcome") != "rejected":
            return Check(what, (f"refused, {error.code}: {error}",))
        if not isinstance(error, REASONS.get(wanted["reason"], ())):
            return Check(what, (f"{error.code}: {error}, expected {wanted['reason']}",))
        return Check(what)
    if wanted.get("outcome") != "verified":
        return Check(what, (f"accepted, expected {wanted.get('reason', 'a refusal')}",))
    return compare(what, wanted, got)
