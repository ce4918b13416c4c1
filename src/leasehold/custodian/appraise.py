"""N-1 and N-2 of docs/spec/session.md: from a challenge's answer to an accepted instance, in that order.

Raises with the reason; the caller writes acceptance and refusal alike into the ledger. Refuses to know
databases and what an accepted instance gets.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Final

import msgspec

from leasehold.attest.collateral import CollateralStore, Holdings, UsedCollateral
from leasehold.attest.manifest import Manifest, parse_manifest
from leasehold.attest.verdict import Verdict
from leasehold.attest.verify import verify
from leasehold.core.binding import Binding, Purpose
from leasehold.core.crypto import ED25519_BYTES, KEM_KEY_BYTES, instance_id
from leasehold.core.encoding import to_json
from leasehold.core.messages import Attest
from leasehold.core.statements import check_text
from leasehold.core.units import KIB, Instant
from leasehold.errors import BadMessage, BadSetting

CONFIGURATION_KIND: Final = "leasehold-enclave"
CONFIGURATION_BYTES_MAX: Final = 64 * KIB


class _Configuration(msgspec.Struct, frozen=True):
    """What the custodian reads of an enclave's configuration; the rest concerns the enclave alone."""

    loan: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """An instance whose evidence passed, and the collateral that it took. Only `appraise` makes one."""

    instance: str
    loan: str
    verdict: Verdict
    evidence_digest: bytes
    tls_spki: bytes
    statement_key: bytes
    kem_key: bytes
    collateral: Holdings


def loan_of(attest: Attest, *, root: bytes) -> str:
    """N-2: the loan that the configuration names, if the custodian of `root` signed it.

    Raises BadMessage, BadSignature, BadSetting.
    """
    for name, size in (("statement_key", ED25519_BYTES), ("kem_key", KEM_KEY_BYTES)):
        if len(getattr(attest, name)) != size:
            raise BadMessage(about=name, got=len(getattr(attest, name)), expected=f"{size} bytes")
    if len(attest.configuration) > CONFIGURATION_BYTES_MAX:
        raise BadMessage(
            about="configuration",
            got=len(attest.configuration),
            expected=f"<= {CONFIGURATION_BYTES_MAX} bytes",
        )
    text = check_text(attest.configuration, kind=CONFIGURATION_KIND, public=root)
    try:
        return msgspec.convert(tomllib.loads(text.decode()), _Configuration).loan
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as cause:
        raise BadSetting(about="enclave configuration", got=cause) from cause


def appraise(
    attest: Attest,
    *,
    loan: str,
    manifest: bytes,
    root: bytes,
    collateral: CollateralStore,
    now: Instant,
) -> Accepted:
    """N-2: judge the evidence by the loan's manifest, bound to nonce, keys, root and configuration.

    CPU work of about a millisecond. Raises BadManifest, BadEvidence, Unproven and their descendants.
    """
    policy: Manifest = parse_manifest(manifest, now=now, custodian_root=root)
    binding = Binding(
        Purpose.CUSTODIAN,
        attest.nonce,
        attest.tls_spki,
        attest.statement_key,
        attest.kem_key,
        root,
        attest.configuration,
    )
    used = UsedCollateral(collateral)
    return Accepted(
        instance=instance_id(attest.tls_spki),
        loan=loan,
        verdict=verify(attest.evidence, binding, policy, used, now=now),
        evidence_digest=attest.evidence.digest(),
        tls_spki=attest.tls_spki,
        statement_key=attest.statement_key,
        kem_key=attest.kem_key,
        collateral=used.holdings,
    )


def describe(verdict: Verdict) -> bytes:
    """A verdict as JSON, for the ledger and for people."""
    findings = [finding._asdict() for finding in verdict.findings]
    plain = msgspec.to_builtins(verdict)
    return to_json({**plain, "findings": findings, "simulated": verdict.is_simulated})
