"""Receipts: what an answer cost, signed by the instance, chained per lease, without content.

Spec: docs/spec/receipts.md. Request and response appear as HMACs under a salt that only the consumer
gets: a plain hash would let anybody with the log guess prompts.
"""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.core.crypto import SigningKey, mac, sha256
from leasehold.core.encoding import to_json
from leasehold.core.statements import Signed, sign
from leasehold.core.units import Instant, Units

KIND: Final = "leasehold-receipt"
SALT_BYTES: Final = 32


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer. `previous` is the SHA-256 of the lease's last receipt payload, empty for its first."""

    id: str
    instance: str
    loan: str
    model_digest: str
    evidence_digest: bytes
    lease: str
    previous: bytes
    units: Units
    input_tokens: int
    output_tokens: int
    request_mac: bytes
    response_mac: bytes
    time: Instant
    simulated: bool


def sign_receipt(key: SigningKey, receipt: Receipt | bytes) -> Signed:
    """R-1: the receipt, or its payload, as a statement of the instance."""
    return sign(key, KIND, receipt if isinstance(receipt, bytes) else to_json(receipt))


def head(said: Signed | bytes) -> bytes:
    """R-2: what the lease's next receipt names as `previous`, of a receipt or of its payload."""
    return sha256(said if isinstance(said, bytes) else said.payload)


def content_mac(salt: bytes, direction: str, body: bytes | bytearray) -> bytes:
    """R-3: the MAC of a request's or response's exact body bytes; `direction` keeps them apart."""
    return mac(salt, direction.encode() + b"\x00" + body)
