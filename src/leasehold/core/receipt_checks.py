"""Receipts as those check them who got them: the signature, and what they are for. No enclave needs it."""

from __future__ import annotations

from leasehold.core.crypto import is_equal
from leasehold.core.encoding import from_json
from leasehold.core.receipts import KIND, Receipt, content_mac
from leasehold.core.statements import Signed, check_signed
from leasehold.errors import BadSignature


def check_receipt(signed: Signed, *, statement_key: bytes) -> Receipt:
    """The receipt that this instance signed. Raises BadSignature or BadMessage."""
    return from_json(check_signed(signed, kind=KIND, public=statement_key), Receipt)


def check_content(receipt: Receipt, *, salt: bytes, request: bytes, response: bytes) -> None:
    """R-3: raise BadSignature unless the receipt is for exactly this request and this response."""
    for name, body, expected in (
        ("request", request, receipt.request_mac),
        ("response", response, receipt.response_mac),
    ):
        if not is_equal(content_mac(salt, name, body), expected):
            raise BadSignature(about=f"receipt {receipt.id}", got=f"another {name}")
