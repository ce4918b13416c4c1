"""Wraps keys by a key service over HTTP: the transit API of Vault, which OpenBao speaks as well.

Spec: docs/spec/keys.md, Y-8 (developer.hashicorp.com/vault/api-docs/secret/transit). Refuses to follow
anybody, and to say a token over a line that others can read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx2
import msgspec

from leasehold.core.encoding import b64, from_json, to_json, unb64
from leasehold.core.units import KIB
from leasehold.custodian.wrapping.record import ByTransit, Wrapped
from leasehold.errors import BadMessage, BadSetting, KeeperUnreachable, KeyLocked
from leasehold.net.tls import TlsContext

TIMEOUT_SECONDS: Final = 3.0  # enclaves wait while it answers
ANSWER_BYTES_MAX: Final = 64 * KIB
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_DOWN: Final = (408, 412, 429, 472, 473)  # of Vault's codes those that say: not here, not now


class _Answer(msgspec.Struct):
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    errors: tuple[str, ...] = ()


@dataclass(slots=True)
class TransitKeeper:
    """A `ring.Keeper`. `ask` gives the service's token when it is first needed."""

    address: str
    mount: str
    key: str
    ask: Callable[[], str]
    context: TlsContext | None
    namespace: str = ""
    timeout: float = TIMEOUT_SECONDS
    _token: str = ""
    _headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises BadSetting for an address that is not https, or http on this very machine."""
        parts = urlsplit(self.address)
        is_safe = parts.scheme == "https" and self.context is not None
        is_here = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if not (is_safe or is_here) or not parts.hostname or parts.path.strip("/"):
            raise BadSetting(
                about="keys.vault.address", got=self.address, expected="https://HOST[:PORT]"
            )
        self._headers = {"X-Vault-Request": "true"}
        if self.namespace:
            self._headers["X-Vault-Namespace"] = self.namespace

    def wrap(self, what: str, plaintext: bytes) -> ByTransit:
        """See `ring.Keeper`."""
        body = {"plaintext": b64(plaintext), "associated_data": b64(what.encode())}
        sealed = self._ask("encrypt", what, self.mount, self.key, body, "ciphertext")
        return ByTransit(what, self.mount, self.key, sealed)

    def unwrap(self, wrapped: Wrapped) -> bytes:
        """See `ring.Keeper`."""
        if not isinstance(wrapped, ByTransit):
            raise KeyLocked(about=wrapped.what, got="a damaged file")
        what, mount, key = wrapped.what, wrapped.mount, wrapped.key
        body = {"ciphertext": wrapped.sealed, "associated_data": b64(what.encode())}
        plaintext = self._ask("decrypt", what, mount, key, body, "plaintext")
        try:
            return unb64(plaintext)
        except BadMessage:
            # The chain would hold what should have been a key.
            raise KeyLocked(about=what, got="an answer that is no base64") from None

    def _ask(
        self, act: str, what: str, mount: str, key: str, body: dict[str, str], member: str
    ) -> str:
        path = f"/v1/{quote(mount, safe='/')}/{act}/{quote(key, safe='')}"
        self._token = self._token or self.ask()
        try:
            with (
                httpx2.Client(
                    base_url=self.address,
                    verify=self.context if self.context is not None else True,
                    timeout=self.timeout,
                    trust_env=False,
                    follow_redirects=False,
                    headers=self._headers | {"X-Vault-Token": self._token},
                ) as client,
                client.stream("POST", path, content=to_json(body)) as response,
            ):
                status, data = response.status_code, b""
                for piece in response.iter_bytes():
                    data += piece
                    if len(data) > ANSWER_BYTES_MAX:
                        raise KeeperUnreachable(about=self.address, got="an endless answer")
        except httpx2.HTTPError as cause:
            raise KeeperUnreachable(about=self.address, got=type(cause).__name__) from cause
        try:
            answer = from_json(data, _Answer)
        except BadMessage:
            raise KeeperUnreachable(about=self.address, got=f"status {status}, no JSON") from None
        said = f"status {status}: {'; '.join(answer.errors)}"
        if status >= 500 or status in _DOWN:
            raise KeeperUnreachable(about=self.address, got=said)
        if status != 200:
            if status == 403:
                self._token = ""  # it may have been replaced: read it again next time
            raise KeyLocked(about=what, got=said)
        found = answer.data.get(member)
        if not isinstance(found, str) or not found:
            raise KeeperUnreachable(about=self.address, got=f"an answer without {member}")
        return found
