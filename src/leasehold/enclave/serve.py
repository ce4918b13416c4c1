"""What the enclave answers to consumers: a raw ASGI application, no framework in the trusted base.

OpenAI's endpoints, and Leasehold's own for evidence, budget, extensions, receipts and health.
Every refusal has a code; no exception text reaches a caller. Spec: docs/spec/consumer.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Literal, TypeVar
from urllib.parse import parse_qs

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
from leasehold.core.session import State
from leasehold.core.units import KIB
from leasehold.enclave import openai
from leasehold.enclave.boot import Enclave
from leasehold.enclave.exchange import Exchange, Gone, Receive, Send, receipt_header, unless_gone
from leasehold.enclave.lent import Lent
from leasehold.enclave.work import Run
from leasehold.errors import (
    BadMessage,
    BadRequest,
    BudgetExhausted,
    Internal,
    LeaseholdError,
    NoModelYet,
    TooBusy,
    UnknownEndpoint,
    UnknownKey,
    UnknownModel,
)

T = TypeVar("T")
WAIT_SECONDS_MAX: Final = 30.0
RETRY_AFTER_SECONDS: Final = 2
SMALL_BODY_BYTES_MAX: Final = 4 * KIB
EXTENSION_UNITS_MAX: Final = (
    1 << 53
)  # what the ledger counts to; more would read as a broken enclave
EVENTS: Final = (b"content-type", b"text/event-stream")


class Application:
    """The ASGI application of one enclave."""

    def __init__(self, enclave: Enclave) -> None:
        self._enclave = enclave
        self._routes: dict[tuple[str, str], Callable[[Exchange], Awaitable[None]]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._text,
            ("POST", "/v1/embeddings"): self._embeddings,
            ("GET", "/v1/models"): self._models,
            ("POST", "/leasehold/evidence"): self._evidence,
            ("GET", "/leasehold/budget"): self._budget,
            ("POST", "/leasehold/extension"): self._ask_extension,
            ("GET", "/leasehold/extension"): self._extension,
            ("GET", "/leasehold/health"): self._health,
        }

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong, with a code of `leasehold.errors`."""
        if scope["type"] != "http":
            return
        simulated = self._enclave.machine.attester.simulated
        exchange = Exchange(scope, receive, send, simulated=simulated)
        with suppress(Gone):
            async with self._refusing(exchange):
                await self._find(exchange)(exchange)

    @asynccontextmanager
    async def _refusing(self, exchange: Exchange, run: Run | None = None) -> AsyncIterator[None]:
        """Answer whatever the block raises. Inside a `run`, the refusal is in its receipt. Raises Gone."""
        exchange.run = run
        try:
            yield
        except Gone:
            raise
        except LeaseholdError as error:
            await self._refuse(exchange, error if run is None else run.why(error))
        except Exception as mistake:  # noqa: BLE001 - its text may hold a prompt, and the host reads logs
            self._enclave.machine.log.event("mistake", code=type(mistake).__name__)
            await self._refuse(exchange, Internal())

    def _find(self, exchange: Exchange) -> Callable[[Exchange], Awaitable[None]]:
        method, path = exchange.scope["method"], exchange.scope["path"]
        if method == "GET" and path.startswith("/leasehold/receipts/"):
            return self._receipt
        found = self._routes.get((method, path))
        if found is None:
            raise UnknownEndpoint(about=f"{method} {path}")
        return found

    async def _refuse(self, exchange: Exchange, error: LeaseholdError) -> None:
        if exchange.finished:
            return
        body = openai.error_body(_charged(error, exchange.run))
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

    # OpenAI --------------------------------------------------------------------------------------

    async def _chat(self, exchange: Exchange) -> None:
        await self._generation(exchange, openai.parse_chat)

    async def _text(self, exchange: Exchange) -> None:
        await self._generation(exchange, openai.parse_text)

    async def _generation(
        self, exchange: Exchange, parse: Callable[[bytes], openai.Generation]
    ) -> None:
        key_hash = exchange.key_hash()
        body = await exchange.body(self._enclave.settings.body_bytes_max)
        lent = self._enclave.lent()
        wanted = parse(body)
        _check_model(lent, wanted.model)
        async with (
            unless_gone(exchange),
            self._enclave.works.generating(wanted, lent=lent, key_hash=key_hash, request=body) as (
                run,
                pieces,
            ),
            self._refusing(exchange, run),
        ):
            frame = self._frame(wanted.kind, run)
            if wanted.stream:
                await _stream(exchange, wanted, frame, run, pieces)
            else:
                text = "".join([piece async for piece in pieces])
                answer = frame.whole(text, run.reason, run.counts, run.code)
                await exchange.answer(200, answer)

    def _frame(self, kind: Literal["chat", "text"], run: Run) -> openai.Frame:
        created = self._enclave.machine.clock.now() // 1000
        name = ("chatcmpl-" if kind == "chat" else "cmpl-") + run.receipt_id.removeprefix(
            "receipt-"
        )
        return openai.Frame(kind, name, created, run.lent.terms.model.name)

    async def _embeddings(self, exchange: Exchange) -> None:
        key_hash = exchange.key_hash()
        body = await exchange.body(self._enclave.settings.body_bytes_max)
        lent = self._enclave.lent()
        wanted = openai.parse_embedding(body)
        _check_model(lent, wanted.model)
        async with (
            unless_gone(exchange),
            self._enclave.works.embedding(wanted, lent=lent, key_hash=key_hash, request=body) as (
                run,
                embed,
            ),
            self._refusing(exchange, run),
        ):
            found = await embed()
            answer = openai.embeddings_body(
                wanted, found.vectors, found.dims, run.counts.input_tokens, lent.terms.model.name
            )
            await exchange.answer(200, answer)

    async def _models(self, exchange: Exchange) -> None:
        exchange.key_hash()
        model = self._enclave.lent().terms.model
        body = openai.models_body(model.name, self._enclave.machine.clock.now(), model.digest)
        await exchange.answer(200, body)

    # Leasehold's own -----------------------------------------------------------------------------

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
            async with unless_gone(exchange):
                decided = await self._enclave.extensions.wait(key_hash, seconds=seconds)
                state = decided or await self._query(key_hash)
        await exchange.answer(200, _extension(state))

    async def _query(self, key_hash: bytes) -> ExtensionState:
        with self._enclave.gate.visiting():
            return await self._enclave.link.query_extension(key_hash)

    async def _receipt(self, exchange: Exchange) -> None:
        receipt_id = exchange.scope["path"].rpartition("/")[2]
        found = self._enclave.receipts.find(exchange.key_hash(), receipt_id)
        await exchange.answer(200, to_json(found))

    async def _health(self, exchange: Exchange) -> None:
        enclave = self._enclave
        state = {
            "state": enclave.state.value,
            "instance": enclave.instance,
            "loan": enclave.settings.loan,
            "simulated": enclave.machine.attester.simulated,
            "log_forked": enclave.link.watch.forked,
        }
        status = 200 if enclave.state is State.SERVING else 503
        await exchange.answer(status, to_json(state))


async def _stream(
    exchange: Exchange,
    wanted: openai.Generation,
    frame: openai.Frame,
    run: Run,
    pieces: AsyncGenerator[str, None],
) -> None:
    """Server-sent events; nothing is sent before the first piece, so a refusal still has its status."""
    async for piece in pieces:
        if not exchange.started:
            await exchange.start(200, EVENTS, receipt_header(run))
            if wanted.kind == "chat":
                await exchange.write(frame.opening())
        await exchange.write(frame.piece(piece))
    if not exchange.started:
        await exchange.start(200, EVENTS, receipt_header(run))
    await exchange.write(frame.closing(run.reason, run.code))
    if wanted.include_usage:
        await exchange.write(frame.usage(run.counts))
    await exchange.finish(openai.DONE)


def _check_model(lent: Lent, name: str) -> None:
    if name != lent.terms.model.name:
        raise UnknownModel(got=name, expected=lent.terms.model.name)


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return from_json(body, kind)
    except BadMessage as cause:
        raise BadRequest(about="request body", got=cause.got) from cause


def _charged(error: LeaseholdError, run: Run | None) -> LeaseholdError:
    """The refusal, without the promise that nothing was charged where something was."""
    if run is None or not run.ticket.spent:
        return error
    told = f"{error.message.removesuffix(error.do)}{run.ticket.spent} units were charged for it."
    return type(error)(told=told)


def _extension(state: ExtensionState) -> bytes:
    return to_json(
        ExtensionAnswer(state.request, state.status, state.asked, state.approved, state.reason)
    )


def _seconds(query: bytes) -> float:
    """The `wait` of a long poll in seconds. Raises BadRequest."""
    asked = parse_qs(query.decode("latin-1")).get("wait", ["0"])[-1]
    try:
        seconds = float(asked)
    except ValueError as cause:
        raise BadRequest(about="wait", got=asked, expected="seconds") from cause
    if not 0 <= seconds <= WAIT_SECONDS_MAX:
        raise BadRequest(about="wait", got=asked, expected=f"0 to {WAIT_SECONDS_MAX} seconds")
    return seconds
