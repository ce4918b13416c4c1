"""The patch level: UpToDate, or covered by a waiver that the custodian signed."""

from __future__ import annotations

from dataclasses import replace

from leasehold.attest.reference import Waiver
from leasehold.attest.verdict import Appraisal, Finding, FindingCode, TcbStatus
from leasehold.core.units import Instant
from leasehold.errors import TcbNotCurrent, TcbRevoked


def check_tcb(
    status: TcbStatus, advisories: tuple[str, ...], waivers: tuple[Waiver, ...], *, now: Instant
) -> Waiver | None:
    """V-11: the patch level is UpToDate, or a current waiver covers this status and these advisories.

    Returns the waiver that was needed. Raises TcbNotCurrent, TcbRevoked.
    """
    if status is TcbStatus.UP_TO_DATE:
        return None
    got = f"{status.value} ({', '.join(advisories) or 'no advisories'})"
    if status is TcbStatus.REVOKED:
        raise TcbRevoked(got=got)
    covering = [
        waiver
        for waiver in waivers
        if waiver.status == status.value
        and set(advisories) <= set(waiver.advisories)
        and now < waiver.expires
    ]
    if not covering:
        raise TcbNotCurrent(
            got=got, expected="UpToDate, or a current waiver that names all of these"
        )
    return max(covering, key=lambda waiver: waiver.expires)


def with_waiver(found: Appraisal, waiver: Waiver | None) -> Appraisal:
    """The appraisal with the waiver that it needed: among its findings, and in when it ends."""
    if waiver is None:
        return found
    until = waiver.not_after.isoformat()
    text = f"waived until {until}: {found.tcb_status.value}: {waiver.reason}"
    return replace(
        found,
        ends=min(found.ends, waiver.expires),
        findings=(*found.findings, Finding(FindingCode.WAIVED, text)),
    )
