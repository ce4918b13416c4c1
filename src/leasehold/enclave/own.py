"""Leasehold's own endpoints: evidence, budget, extensions, receipts and health.

Spec: docs/spec/consumer.md.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import (
    REASON_CHARS_MAX,
    BudgetAnswer,
    EvidenceAnswer,
    EvidenceAsk,
    ExtensionAnswer,
    ExtensionRequest,
    ExtensionState,
)
from leasehold.core.units import KIB
from leasehold.enclave.boot import Enclave
from leasehold.enclave.exchange import Exchange, Handler
from leasehold.errors import BadMessage, BadRequest, UnknownKey

T = TypeVar("T")
SMALL_BODY_BYTES_MAX: Final = 4 * KIB
EXTENSION_UNITS_MAX: Final = 1 << 53  # as the ledger counts; more reads as a broken enclave
RECEIPTS: Final = "/leasehold/receipts/{id}"


class ExtensionQuery(msgspec.Struct, frozen=True):
    """How many seconds to wait for a decision."""

    wait: Annotated[float, msgspec.Meta(ge=0, le=30)] = 0.0


class Own:
    """What is asked of the enclave itself, not of the model."""

    def __init__(self, enclave: Enclave) -> None:
        self._enclave = enclave

    def routes(self) -> dict[tuple[str, str], Handler]:
        """Handlers by method and path."""
        return {
            ("POST", "/leasehold/evidence"): self._evidence,
            ("GET", "/leasehold/budget"): self._budget,
            ("POST", "/leasehold/extension"): self._ask_extension,
            ("GET", "/leasehold/extension"): self._extension,
            ("GET", RECEIPTS): self._receipt,
            ("GET", "/leasehold/health"): self._health,
        }

    async def _evidence(self, exchange: Exchange) -> None:
        body = await exchange.body(SMALL_BODY_BYTES_MAX)
        enclave = self._enclave
        lent = enclave.lent()
        found = await enclave.prover.for_consumer(_read(body, EvidenceAsk).nonce)
        answer = EvidenceAnswer(
            evidence=found.evidence,
            statement_key=enclave.keys.statement.public,
            configuration=enclave.settings.file,
            nonces=found.nonces,
            index=found.index,
            proof=found.proof,
            root=found.root,
            collateral=lent.collateral,
            loan=lent.terms.loan,
            model=lent.terms.model.name,
            model_digest=lent.terms.model.digest,
            simulated=enclave.machine.attester.simulated,
        )
        await exchange.answer(200, to_json(answer))

    async def _budget(self, exchange: Exchange) -> None:
        lent = self._enclave.lent()
        state = await self._query(exchange.key_hash())
        budget = state.budget
        if budget is None:
            raise UnknownKey(about="budget")
        answer = BudgetAnswer(
            consumer=state.consumer,
            loan=lent.terms.loan,
            granted=budget.granted,
            available=budget.available,
            outstanding=budget.outstanding,
            settled=budget.settled,
            written_off=budget.written_off,
            unit=lent.terms.tariff.in_words(),
            coming=state.coming,
        )
        await exchange.answer(200, to_json(answer))

    async def _ask_extension(self, exchange: Exchange) -> None:
        key_hash = exchange.key_hash()
        body = await exchange.body(SMALL_BODY_BYTES_MAX)
        self._enclave.lent()
        asked = _read(body, ExtensionRequest)
        if (
            not 1 <= asked.units <= EXTENSION_UNITS_MAX
            or not 0 < len(asked.reason) <= REASON_CHARS_MAX
        ):
            limit = f"1 to {EXTENSION_UNITS_MAX} units and a reason of 1 to {REASON_CHARS_MAX} characters"
            raise BadRequest(about="extension", got=asked.units, expected=limit)
        with self._enclave.gate.visiting():
            state = await self._enclave.link.ask_extension(
                key_hash, units=asked.units, reason=asked.reason
            )
        await exchange.answer(200, _extension(state))

    async def _extension(self, exchange: Exchange) -> None:
        key_hash = exchange.key_hash()
        seconds = _seconds(exchange.scope.get("query_string", b""))
        self._enclave.lent()
        await exchange.body(SMALL_BODY_BYTES_MAX)
        state = await self._query(key_hash)
        if state.status == "open" and seconds > 0:
            async with exchange:
                decided = await self._enclave.extensions.wait(key_hash, seconds=seconds)
                state = decided or await self._query(key_hash)
        await exchange.answer(200, _extension(state))

    async def _query(self, key_hash: bytes) -> ExtensionState:
        with self._enclave.gate.visiting():
            return await self._enclave.link.query_extension(key_hash)

    async def _receipt(self, exchange: Exchange) -> None:
        found = self._enclave.receipts.find(exchange.key_hash(), exchange.variable)
        await exchange.answer(200, to_json(found))

    async def _health(self, exchange: Exchange) -> None:
        enclave = self._enclave
        state = {
            "state": enclave.state.value,
            "instance": enclave.instance,
            "loan": enclave.settings.loan,
            "simulated": enclave.machine.attester.simulated,
            "log_forked": enclave.link.watch.forked,
            "coming": enclave.link.coming,
        }
        status = 200 if enclave.ready else 503
        await exchange.answer(status, to_json(state))


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return from_json(body, kind)
    except BadMessage as cause:
        raise BadRequest(about="request body", got=cause.got) from cause


def _extension(state: ExtensionState) -> bytes:
    return to_json(
        ExtensionAnswer(state.request, state.status, state.asked, state.approved, state.reason)
    )


def _seconds(query: bytes) -> float:
    """The `wait` of a long poll in seconds. Raises BadRequest."""
    asked = dict(parse_qsl(query.decode("latin-1")))
    try:
        return msgspec.convert(asked, ExtensionQuery, strict=False).wait
    except msgspec.ValidationError as cause:
        raise BadRequest(about="query", got=cause) from cause
