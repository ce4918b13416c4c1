"""The custodian's yes: a certificate of minutes, and the model key sealed to the enclave's KEM key.

Spec: docs/spec/session.md, N-3; docs/spec/binding.md, B-5. Refuses to know why the answer is yes: it
takes an `Accepted`, which only `appraise` makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
from leasehold.custodian.private_files import hex_line
from leasehold.custodian.sealed_file import read_claim
from leasehold.custodian.settings import CLOCK_SKEW, Keys, Rules
from leasehold.custodian.store.port import Tx
from leasehold.custodian.wrapping.ring import KeyRing
from leasehold.errors import BadSetting, Conflict, KeeperUnreachable, KeyLocked
from leasehold.net.authority import InstanceIdentity, Validity, issue_client

HELD_SECONDS: Final = 60.0
DOWN_SECONDS: Final = 10.0
KEY_SUFFIX: Final = ".key"
SEALED_SUFFIX: Final = ".sealed"


class KeyStore(Protocol):
    """Keeps model keys."""

    def model_key(self, name: str) -> bytes:
        """The 32-byte key of the model of that name. Raises FileTrouble, KeyLocked, KeeperUnreachable."""


@dataclass(frozen=True, slots=True)
class FolderKeys:
    """Model keys as `NAME.key`, in hex or wrapped, for the custodian's account alone."""

    path: Path
    ring: KeyRing = field(default_factory=lambda: KeyRing(Path("/")))

    def model_key(self, name: str) -> bytes:
        """The key in `NAME.key`. Raises as `KeyStore` does, BadSealedModel (no plain name).

        A key file that is no good is nobody's fault but the custodian's, so never Malformed.
        """
        try:
            return self.ring.read_seed(self.file(name), KEY_BYTES)
        except BadSetting as cause:
            raise KeyLocked(
                about=f"key of {name}", got=cause.got, expected=cause.expected
            ) from cause

    def find(self, name: str) -> bytes | None:
        """As `model_key`, or None where there is none."""
        return self.model_key(name) if self.file(name).exists() else None

    def keep(self, name: str, key: bytes) -> None:
        """Write a new key. Raises AlreadyExists, FileTrouble, BadSealedModel (no plain name), as `write`."""
        self.ring.write(self.file(name), hex_line(key))

    def file(self, name: str) -> Path:
        """Where the key of a model is. Raises BadSealedModel (no plain name)."""
        check_name(name)
        return self.path / f"{name}{KEY_SUFFIX}"


@dataclass(slots=True)
class HeldKeys:
    """A KeyStore in front of a slow one: a key is held for a minute, an outage for a moment.

    Attestations are judged one after the other, so a service that hangs must not hang them all.
    """

    behind: KeyStore
    seconds: Callable[[], float] = time.monotonic
    _held: dict[str, tuple[float, bytes]] = field(default_factory=dict)
    _down: dict[str, tuple[float, KeeperUnreachable]] = field(default_factory=dict)

    def model_key(self, name: str) -> bytes:
        """See `KeyStore`."""
        now = self.seconds()
        if name in self._held and self._held[name][0] > now:
            return self._held[name][1]
        if name in self._down and self._down[name][0] > now:
            raise self._down[name][1].again()
        self._held.pop(name, None)
        try:
            key = self.behind.model_key(name)
        except KeeperUnreachable as cause:
            self._down[name] = (self.seconds() + DOWN_SECONDS, cause)
            raise
        self._held[name] = (now + HELD_SECONDS, key)
        return key


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
