"""Checks a receipt: who signed it, what for, and that it is for exactly these bytes.

Spec: docs/spec/consumer.md, C-11, and docs/spec/receipts.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leasehold.consumer.answers import Exchange
from leasehold.consumer.verify import VerifiedEnclave
from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import ReceiptAnswer
from leasehold.core.receipt_checks import check_content, check_receipt
from leasehold.core.receipts import Receipt
from leasehold.core.statements import Signed
from leasehold.errors import FileTrouble, WrongReceipt


@dataclass(frozen=True, slots=True)
class CheckedReceipt:
    """A receipt of a verified enclave; `signed` and `salt` are what a third party needs to check it.

    `content_checked` says whether request and response bytes were at hand and fit its MACs.
    """

    receipt: Receipt
    signed: Signed
    salt: bytes
    content_checked: bool


def keep(path: Path, checked: CheckedReceipt) -> None:
    """R-5: append the signed receipt, without its salt, to a file of mode 0600. Raises FileTrouble."""
    line = to_json(checked.signed) + b"\n"
    try:
        number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(number, "ab", buffering=0) as file:
            file.write(line)
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause


def check_receipt_answer(
    answer: ReceiptAnswer, of: Exchange | str, enclaves: Sequence[VerifiedEnclave]
) -> CheckedReceipt:
    """C-11. Raises WrongReceipt, BadSignature or BadMessage."""
    claimed = from_json(answer.receipt.payload, Receipt)
    signer = next((one for one in enclaves if one.instance == claimed.instance), None)
    if signer is None:
        raise WrongReceipt(about="instance", got=claimed.instance, expected="a verified enclave")
    receipt = check_receipt(answer.receipt, statement_key=signer.statement_key)
    name = of if isinstance(of, str) else of.receipt
    for field, got, expected in (
        ("id", receipt.id, name),
        ("loan", receipt.loan, signer.loan),
        ("model digest", receipt.model_digest, signer.model_digest),
        ("simulated", receipt.simulated, signer.is_simulated),
    ):
        if got != expected:
            raise WrongReceipt(about=field, got=got, expected=expected)
    if isinstance(of, Exchange):
        check_content(receipt, salt=answer.salt, request=of.request, response=of.response)
    return CheckedReceipt(receipt, answer.receipt, answer.salt, isinstance(of, Exchange))
