"""How a refusal becomes an answer: the status and the code of the error, in the shape of the API asked.

Spec: docs/spec/consumer.md, docs/spec/inference.md (I-6). No exception text reaches a caller.
"""

from __future__ import annotations

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


class Refusing:
    """Answers whatever its block raises. Inside a `run`, the refusal is in its receipt. Raises Gone."""

    __slots__ = ("_exchange", "_log", "_run")

    def __init__(self, exchange: Exchange, log: Log, run: Run | None = None) -> None:
        self._exchange, self._log, self._run = exchange, log, run

    async def __aenter__(self) -> None:
        self._exchange.run = self._run

    async def __aexit__(self, _kind: object, failure: BaseException | None, _: object) -> bool:
        if isinstance(failure, LeaseholdError):
            why = failure if self._run is None else self._run.why(failure)
        elif isinstance(failure, Exception) and not isinstance(failure, Gone):
            # Its text may hold a prompt, and the host reads logs.
            self._log.event("mistake", code=type(failure).__name__)
            why = Internal()
        else:
            return False
        await _refuse(self._exchange, why)
        return True


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
