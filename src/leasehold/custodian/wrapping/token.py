"""Wraps keys by a key that never leaves a PKCS#11 token: a hardware module, or SoftHSM.

Spec: docs/spec/keys.md, Y-7 (PKCS#11 3.1, CKM_AES_GCM). The one door to `pkcs11`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from leasehold.core.crypto import Entropy
from leasehold.custodian.wrapping.record import NONCE_BYTES, ByToken, Wrapped
from leasehold.errors import KeeperUnreachable, KeyLocked, MissingExtra

_TAG_BITS: Final = 128


@dataclass(slots=True)
class TokenKeeper:
    """A `ring.Keeper`. `module` is the token's library; a session is opened for every act.

    `ask` gives the PIN when it is first needed.
    """

    module: str
    token: str
    key: str
    ask: Callable[[], str]
    entropy: Entropy = os.urandom
    _pin: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wrap(self, what: str, plaintext: bytes) -> ByToken:
        """See `ring.Keeper`."""
        nonce = self.entropy(NONCE_BYTES)
        with self._opened(what, self.token, self.key) as (key, gcm, _):
            sealed = key.encrypt(plaintext, **gcm(nonce, what))
        return ByToken(what, self.token, self.key, nonce, bytes(sealed))

    def unwrap(self, wrapped: Wrapped) -> bytes:
        """See `ring.Keeper`."""
        if not isinstance(wrapped, ByToken):
            raise KeyLocked(about=wrapped.what, got="a damaged file")
        with self._opened(wrapped.what, wrapped.token, wrapped.key) as (key, gcm, refused):
            try:
                return bytes(key.decrypt(wrapped.sealed, **gcm(wrapped.nonce, wrapped.what)))
            except refused as cause:
                got = f"another key of token {wrapped.token}, or a file that was changed"
                raise KeyLocked(about=wrapped.what, got=got) from cause

    @contextmanager
    def _opened(self, what: str, token: str, label: str) -> Iterator[tuple[Any, Any, Any]]:
        """The token's key, what makes its parameters, and how it refuses ciphertext."""
        try:
            import pkcs11
            from pkcs11 import exceptions as refusals
        except ImportError as missing:
            raise MissingExtra(about="pip install 'leasehold[pkcs11]'") from missing

        def gcm(nonce: bytes, about: str) -> dict[str, Any]:
            parameters = pkcs11.GCMParams(nonce, about.encode(), _TAG_BITS)
            return {"mechanism": pkcs11.Mechanism.AES_GCM, "mechanism_param": parameters}

        place = f"token {token}"
        wrong = (
            refusals.EncryptedDataInvalid,
            refusals.EncryptedDataLenRange,
            refusals.GeneralError,  # what SoftHSM says of a wrong tag
        )
        with self._lock:
            try:
                found = pkcs11.lib(self.module).get_token(token_label=token)
                self._pin = self._pin or self.ask()
                with found.open(user_pin=self._pin) as session:
                    secret = pkcs11.ObjectClass.SECRET_KEY
                    yield session.get_key(label=label, object_class=secret), gcm, wrong
            except refusals.PinIncorrect as cause:
                self._pin = ""
                raise KeyLocked(about=what, got=f"a wrong PIN of {place}") from cause
            except refusals.PinLocked as cause:
                raise KeyLocked(about=what, got=f"a locked PIN of {place}") from cause
            except refusals.NoSuchKey as cause:
                raise KeyLocked(about=what, got=f"{place} without the key {label}") from cause
            except refusals.NoSuchToken as cause:
                raise KeeperUnreachable(about=place, got="no such token") from cause
            except refusals.PKCS11Error as cause:
                raise KeeperUnreachable(about=place, got=repr(cause)) from cause
