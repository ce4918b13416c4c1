"""How a refusal becomes an answer: the status and the code of the error, in the shape of the API asked.

Spec: docs/spec/consumer.md, docs/spec/inference.md (I-6). No exception text reaches a caller.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from leasehold.enclave import answers, kserve
from leasehold.enclave.exchange import Exchange, Gone
from leasehold.enclave.log import Log
from leasehold.enclave.work import Run
from leasehold.errors import (
    BudgetExhausted,
    Internal,
    LeaseholdError,
    NoModelYet,
    TooBusy,
    UnknownKey,
)

RETRY_AFTER_SECONDS: Final = 2


@asynccontextmanager
async def refusing(exchange: Exchange, log: Log, run: Run | None = None) -> AsyncIterator[None]:
    """Answer whatever the block raises. Inside a `run`, the refusal is in its receipt. Raises Gone."""
    exchange.run = run
    try:
        yield
    except Gone:
        raise
    except LeaseholdError as error:
        await _refuse(exchange, error if run is None else run.why(error))
    except Exception as mistake:  # noqa: BLE001 - its text may hold a prompt, and the host reads logs
        log.event("mistake", code=type(mistake).__name__)
        await _refuse(exchange, Internal())


async def _refuse(exchange: Exchange, error: LeaseholdError) -> None:
    if exchange.finished:
        return
    shape = kserve if exchange.scope["path"].startswith("/v2") else answers
    body = shape.error_body(_charged(error, exchange.run))
    if exchange.started:  # in the middle of a stream: the last event says why it ends
        await exchange.finish(b"data: " + body + b"\n\n")
        return
    headers = []
    if isinstance(error, BudgetExhausted):
        headers.append((b"x-should-retry", b"false"))
    if isinstance(error, TooBusy | NoModelYet):
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    if isinstance(error, UnknownKey):
        headers.append((b"www-authenticate", b"Bearer"))
    await exchange.answer(error.status, body, *headers)


def _charged(error: LeaseholdError, run: Run | None) -> LeaseholdError:
    """The refusal, without the promise that nothing was charged where something was."""
    if run is None or not run.ticket.spent:
        return error
    told = f"{error.message.removesuffix(error.do)}{run.ticket.spent} units were charged for it."
    return type(error)(told=told)
