"""Wraps keys under a passphrase: scrypt, then AES-256-GCM.

Spec: docs/spec/keys.md, Y-6. Refuses to know where the passphrase comes from.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from leasehold.core.crypto import Aead, Entropy, hkdf
from leasehold.core.encoding import frame
from leasehold.core.streaming import TAG_BYTES
from leasehold.custodian.wrapping.record import NONCE_BYTES, SALT_BYTES, ByPassphrase, Wrapped
from leasehold.errors import BadSetting, KeyLocked

COST: Final = 17  # N = 2^17 with r = 8: 128 MiB and a third of a second
PASSPHRASE_CHARACTERS_MIN: Final = 12
_BLOCK: Final = 8


@dataclass(slots=True)
class PassphraseKeeper:
    """A `ring.Keeper`. `ask` is called when the passphrase is first needed, and never again."""

    ask: Callable[[], str]
    entropy: Entropy = os.urandom
    cost: int = COST
    _passphrase: bytes = b""
    _derived: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wrap(self, what: str, plaintext: bytes) -> ByPassphrase:
        """See `ring.Keeper`. Raises BadSetting for a passphrase that is too short."""
        known = (salt for salt, cost in self._derived if cost == self.cost)  # scrypt is dear
        salt, nonce = next(known, None) or self.entropy(SALT_BYTES), self.entropy(NONCE_BYTES)
        key = self._key(what, salt, self.cost)
        return ByPassphrase(what, self.cost, salt, nonce, Aead(key).seal(nonce, plaintext))

    def unwrap(self, wrapped: Wrapped) -> bytes:
        """See `ring.Keeper`."""
        if not isinstance(wrapped, ByPassphrase) or len(wrapped.sealed) < TAG_BYTES:
            raise KeyLocked(about=wrapped.what, got="a damaged file")
        key = self._key(wrapped.what, wrapped.salt, wrapped.cost)
        plaintext = bytearray(len(wrapped.sealed) - TAG_BYTES)
        if not Aead(key).open_into(wrapped.nonce, wrapped.sealed, memoryview(plaintext)):
            raise KeyLocked(
                about=wrapped.what, got="a wrong passphrase, or a file that was changed"
            )
        return bytes(plaintext)

    def _key(self, what: str, salt: bytes, cost: int) -> bytes:
        """The name goes into the key: a record under another name does not open."""
        with self._lock:
            if not self._passphrase:
                given = self.ask()
                if len(given) < PASSPHRASE_CHARACTERS_MIN:
                    raise BadSetting(
                        about="passphrase",
                        got=f"{len(given)} characters",
                        expected=f"at least {PASSPHRASE_CHARACTERS_MIN}",
                    )
                self._passphrase = given.encode()
            if (salt, cost) not in self._derived:
                self._derived[salt, cost] = hashlib.scrypt(
                    self._passphrase,
                    salt=salt,
                    n=1 << cost,
                    r=_BLOCK,
                    p=1,
                    maxmem=2 * 128 * _BLOCK << cost,
                    dklen=32,
                )
            derived = self._derived[salt, cost]
        return hkdf(derived, salt=salt, info=frame("leasehold/wrapped-key/1", what.encode()))
