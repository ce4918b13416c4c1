"""The custodian's yes: a certificate of minutes, and the model key sealed to the enclave's KEM key.

Spec: docs/spec/session.md, N-3; docs/spec/binding.md, B-5. Refuses to know why the answer is yes: it
takes an `Accepted`, which only `appraise` makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from leasehold.core.binding import release_info
from leasehold.core.crypto import Entropy, seal_to
from leasehold.core.messages import LoanTerms, Release
from leasehold.core.sealed import SealedModel, check_name
from leasehold.core.statements import Signed
from leasehold.core.streaming import KEY_BYTES
from leasehold.core.units import Instant, after
from leasehold.custodian.appraise import Accepted, describe
from leasehold.custodian.ledger import instances
from leasehold.custodian.sealed_file import read_claim
from leasehold.custodian.settings import CLOCK_SKEW, Keys, Rules, hex_line, read_seed, write_private
from leasehold.custodian.store.port import Tx
from leasehold.errors import Conflict
from leasehold.net.authority import InstanceIdentity, Validity, issue_client

KEY_SUFFIX: Final = ".key"
SEALED_SUFFIX: Final = ".sealed"


class KeyStore(Protocol):
    """Keeps model keys. A folder of files here; a key service elsewhere."""

    def model_key(self, name: str) -> bytes:
        """The 32-byte key of the model of that name. Raises FileTrouble, BadSetting."""


@dataclass(frozen=True, slots=True)
class FolderKeys:
    """Model keys as `NAME.key`, in hex, for the custodian's account alone."""

    path: Path

    def model_key(self, name: str) -> bytes:
        """The key in `NAME.key`. Raises FileTrouble, BadSetting, BadSealedModel (no plain name)."""
        check_name(name)
        return read_seed(self.path / f"{name}{KEY_SUFFIX}", KEY_BYTES)

    def find(self, name: str) -> bytes | None:
        """As `model_key`, or None where there is none."""
        check_name(name)
        return self.model_key(name) if (self.path / f"{name}{KEY_SUFFIX}").exists() else None

    def keep(self, name: str, key: bytes) -> None:
        """Write a new key. Raises AlreadyExists, FileTrouble, BadSealedModel (no plain name)."""
        check_name(name)
        write_private(self.path / f"{name}{KEY_SUFFIX}", hex_line(key))


def read_header(folder: Path, name: str, *, root: bytes) -> SealedModel:
    """The signed header of `NAME.sealed`, whose file is as long as it says.

    Raises FileTrouble, BadSealedModel, BadSignature.
    """
    check_name(name)
    return read_claim(folder / f"{name}{SEALED_SUFFIX}").check(root)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a release rests on besides the evidence: the loan's terms, the epoch, the bundle, the time."""

    loan: LoanTerms
    epoch: int
    collateral: Signed
    now: Instant


def make_release(
    accepted: Accepted,
    terms: Terms,
    *,
    keys: Keys,
    rules: Rules,
    model_key: bytes,
    entropy: Entropy,
) -> Release:
    """N-3, B-5. Raises BadMessage where the KEM or TLS key is not one.

    The certificate ends with the evidence: after `certificate_life`, or when what the verdict rests
    on ends, whichever is first.
    """
    expires = min(after(terms.now, rules.certificate_life), accepted.verdict.valid_until)
    certificate = issue_client(
        keys.authority,
        accepted.tls_spki,
        identity=InstanceIdentity(terms.loan.loan, accepted.instance),
        validity=Validity(after(terms.now, -CLOCK_SKEW), expires),
        entropy=entropy,
    )
    info = release_info(
        evidence_digest=accepted.evidence_digest,
        loan=terms.loan.loan,
        instance=accepted.instance,
        model_digest=bytes.fromhex(terms.loan.model.digest),
        epoch=terms.epoch,
    )
    return Release(
        instance=accepted.instance,
        epoch=terms.epoch,
        certificate=certificate,
        certificate_expires=expires,
        sealed_key=seal_to(accepted.kem_key, model_key, info=info),
        terms=terms.loan,
        collateral=terms.collateral,
        time=terms.now,
    )


def register(tx: Tx, now: Instant, accepted: Accepted, release: Release, attest: bytes) -> None:
    """N-3: record what was accepted, and that it was released to. Raises as `instances.register`, Conflict."""
    registered = instances.register(
        tx,
        now=now,
        instance=accepted.instance,
        loan=accepted.loan,
        statement_key=accepted.statement_key,
        machine=accepted.verdict.machine,
        verdict=describe(accepted.verdict),
        evidence_digest=accepted.evidence_digest,
        certificate_expires=release.certificate_expires,
        evidence_expires=release.certificate_expires,
        attest=attest,
    )
    if registered.epoch != release.epoch:
        raise Conflict(about="epoch", got=release.epoch, expected=registered.epoch)
