"""Collateral for a custodian without a network: a signed bundle with an end of its own.

Spec: docs/spec/collateral.md, K-6. Whoever signs vouches for where it came from; everything in it passes
`intake` all the same. Refuses to know whose key may sign.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

import msgspec

from leasehold.attest.collateral import CLOCK_SKEW_MAX
from leasehold.core.crypto import SigningKey
from leasehold.core.encoding import from_json, to_json
from leasehold.core.statements import Signed, check_signed, sign
from leasehold.core.units import DAY, MIB, Duration, Instant, after
from leasehold.custodian.collateral.folder import ITEMS_MAX, Kept, KeptDocument, KeptSet
from leasehold.custodian.collateral.intake import Intake
from leasehold.errors import CollateralNotCurrent, CollateralRejected

KIND: Final = "leasehold-collateral-offline"
LIFETIME_MAX: Final = Duration(30 * DAY)  # as long as Intel's own dates
BYTES_MAX: Final = 16 * MIB
_FIRST: Final = ("amd-chain", "nvidia-rim")  # others hang on these


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle as it is signed. Times are milliseconds since the epoch."""

    issued: Instant
    not_after: Instant
    items: Annotated[tuple[Kept, ...], msgspec.Meta(max_length=ITEMS_MAX)]


def make_offline(
    key: SigningKey, items: tuple[Kept, ...], *, now: Instant, lifetime: Duration
) -> bytes:
    """K-6: a bundle of these items, as a file. Raises CollateralNotCurrent where one is too old itself."""
    for one in items:
        if now >= one.good_until:
            raise CollateralNotCurrent(about=one.name, got=one.good_until, expected=f"after {now}")
    until = after(now, min(lifetime, LIFETIME_MAX))
    return to_json(sign(key, KIND, to_json(_Payload(now, until, items))))


def take_offline(intake: Intake, file: bytes, public: bytes, *, now: Instant) -> tuple[Kept, ...]:
    """K-6: keep everything in a bundle that this key signed; tells what was kept.

    Raises BadSignature, BadMessage, CollateralNotCurrent, CollateralRejected, and as `Intake` does.
    """
    if len(file) > BYTES_MAX:
        raise CollateralRejected(about="bundle", got=len(file), expected=f"<= {BYTES_MAX} bytes")
    signed = from_json(file, Signed)
    bundle = from_json(check_signed(signed, kind=KIND, public=public), _Payload)
    if bundle.issued > now + CLOCK_SKEW_MAX:
        raise CollateralNotCurrent(about="bundle from the future", got=bundle.issued, expected=now)
    until = min(bundle.not_after, bundle.issued + LIFETIME_MAX)
    if now >= until:
        raise CollateralNotCurrent(about="bundle", got=until, expected=f"after {now}")
    vouched = replace(intake, by_hand=True, until=Instant(until))
    ordered = sorted(bundle.items, key=_comes_later)
    return tuple(_take(vouched, one, now=now) for one in ordered)


def _comes_later(kept: Kept) -> bool:
    return isinstance(kept, KeptDocument) and kept.kept.kind not in _FIRST


def _take(intake: Intake, kept: Kept, *, now: Instant) -> Kept:
    source = kept.source if kept.source.startswith("bundle: ") else f"bundle: {kept.source}"
    if isinstance(kept, KeptSet):
        return intake.set(kept.kept.collateral, source=source, now=now)
    document = kept.kept
    return intake.document(
        document.kind, document.name, document.data, source=source, now=now, pair=kept.pair
    )
