"""One request from admission to receipt: reserve, serve, settle. The only caller of the engine.

Spec: docs/spec/metering.md, M-6; docs/spec/receipts.md.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from leasehold.core import frames
from leasehold.core.crypto import Entropy
from leasehold.core.encoding import to_json
from leasehold.core.messages import ReceiptAnswer
from leasehold.core.meter import Meter, Ticket
from leasehold.core.receipts import SALT_BYTES, Receipt, content_mac, head, sign_receipt
from leasehold.core.tariff import Tariff, Work
from leasehold.core.units import Clock, Units
from leasehold.enclave.claims import floor
from leasehold.enclave.gate import Gate
from leasehold.enclave.host import InferenceHost, Piece, check_vectors
from leasehold.enclave.kserve import Inference
from leasehold.enclave.lent import Lent
from leasehold.enclave.openai import Counts, Embedding, Generation
from leasehold.enclave.prover import InstanceKeys
from leasehold.errors import (
    BudgetExhausted,
    CustodianUnreachable,
    InputTooLong,
    LeaseholdError,
    LoanStopped,
    NoModelYet,
    NotPriced,
    TooBusy,
    UnknownThing,
    WorkerFailed,
)

T = TypeVar("T")
_Stream = AsyncGenerator[tuple[Piece, ...], None]
RECEIPTS_PER_KEY_MAX: Final = 1024
# Of all keys, ~1 KiB each; the key that was idle longest loses its own.
RECEIPTS_MAX: Final = 65_536
_GUESSED_BYTES_PER_TOKEN: Final = 3  # for the first reservation; the engine counts before it serves


@dataclass(slots=True)
class Receipts:
    """The receipts of this instance, kept for those who asked, and forgotten with it (R-4)."""

    keys: InstanceKeys
    loan: str
    instance: str
    simulated: bool
    clock: Clock
    entropy: Entropy
    _kept: OrderedDict[bytes, deque[tuple[str, bytes, bytes]]] = field(default_factory=OrderedDict)
    _count: int = 0

    def issue(self, run: Run) -> None:
        """R-1 to R-3: what this run cost, chained to the lease's last receipt. Signed when asked for."""
        salt = self.entropy(SALT_BYTES)
        purse = run.ticket.purse
        receipt = Receipt(
            id=run.receipt_id,
            instance=self.instance,
            loan=self.loan,
            model_digest=run.lent.terms.model.digest,
            evidence_digest=run.lent.evidence_digest,
            lease=purse.lease,
            previous=purse.receipt_head,
            units=run.ticket.spent,
            input_tokens=run.input_tokens,
            output_tokens=run.output_tokens,
            request_mac=content_mac(salt, "request", run.request),
            response_mac=content_mac(salt, "response", run.sent),
            time=self.clock.now(),
            simulated=self.simulated,
        )
        payload = to_json(receipt)
        purse.receipt_head = head(payload)
        kept = self._kept.setdefault(purse.key_hash, deque(maxlen=RECEIPTS_PER_KEY_MAX))
        self._kept.move_to_end(purse.key_hash)
        self._count += len(kept) < RECEIPTS_PER_KEY_MAX
        kept.append((run.receipt_id, payload, salt))
        while self._count > RECEIPTS_MAX:
            self._count -= len(self._kept.popitem(last=False)[1])

    def find(self, key_hash: bytes, receipt_id: str) -> ReceiptAnswer:
        """R-4: a receipt, for the key that it was issued to. Raises UnknownThing."""
        for kept_id, payload, salt in self._kept.get(key_hash, ()):
            if kept_id == receipt_id:
                return ReceiptAnswer(sign_receipt(self.keys.statement, payload), salt)
        raise UnknownThing(about="receipt", got=receipt_id)


@dataclass(slots=True)
class Run:
    """A request under way. `reason` and `code` tell how it ended, `counts` what was charged.

    `sent` is the response so far, for the receipt. Call `book` once all of it is known, before its last
    byte leaves: then the receipt can be asked for as soon as the answer has arrived.
    """

    ticket: Ticket
    lent: Lent
    request: bytes
    receipt_id: str
    receipts: Receipts
    gate: Gate
    sent: bytearray = field(default_factory=bytearray)
    input_tokens: int = 0
    output_tokens: int = 0
    reason: str = ""
    code: str | None = None
    booked: bool = False

    @property
    def counts(self) -> Counts:
        """What was charged."""
        return Counts(self.input_tokens, self.output_tokens)

    def book(self) -> None:
        """Issue the receipt of what was spent and sent; the second call does nothing."""
        if not self.booked and (self.ticket.spent or self.sent):
            self.receipts.issue(self)
        self.booked = True

    def why(self, failure: LeaseholdError) -> LeaseholdError:
        """What ended it: the stop, where the engine was killed by the stop itself."""
        ended = self.ticket.purse.ended
        killed = ended is not None and isinstance(failure, WorkerFailed | NoModelYet)
        return ended.again() if ended is not None and killed else failure

    def __enter__(self) -> Run:
        return self

    def __exit__(self, _kind: object, failure: BaseException | None, _: object) -> None:
        self.book()  # where it ended badly: the units are spent, so they have a receipt
        self.gate.leave(self.ticket)
        if isinstance(failure, LeaseholdError) and (why := self.why(failure)) is not failure:
            raise why from None


@dataclass(slots=True)
class Works:
    """Runs requests against the engine under tickets."""

    gate: Gate
    meter: Meter
    host: InferenceHost
    receipts: Receipts
    clock: Clock
    entropy: Entropy
    block_tokens: int

    @asynccontextmanager
    async def generating(
        self, wanted: Generation, *, lent: Lent, key_hash: bytes, request: bytes
    ) -> AsyncIterator[tuple[Run, AsyncGenerator[list[frames.Token], None]]]:
        """M-6: admitted and with its input paid; iterate what comes, all paid before it is yielded.

        Leaving the block cancels what still runs and settles; what was spent stays spent. Raises the
        refusals of `Gate.admitted`, InputTooLong, WorkerFailed; in the middle LoanStopped, LeaseLapsed.
        """
        tariff, longest = lent.terms.tariff, self.host.loaded.longest_token_bytes
        fewest = floor(wanted.prompt, longest)
        guess = wanted.prompt_bytes // _GUESSED_BYTES_PER_TOKEN + 1
        least = priced(tariff, Work(requests=1, input_tokens=fewest, output_tokens=1))
        entry = tariff.cost(Work(requests=1, input_tokens=guess))
        want = entry + tariff.cost(wanted.output(self.block_tokens))
        with await self._run(key_hash, least, Units(max(least, want)), lent, request) as run:
            stream, first = await self._begin(run, wanted)
            async with aclosing(stream), aclosing(self._pieces(run, wanted, stream, first)) as it:
                yield run, it

    @asynccontextmanager
    async def embedding(
        self, wanted: Embedding, *, lent: Lent, key_hash: bytes, request: bytes
    ) -> AsyncIterator[tuple[Run, Callable[[], Awaitable[frames.Embedded]]]]:
        """M-6: indivisible work is reserved and paid whole before it is called. Raises as above."""
        tariff, rows = lent.terms.tariff, len(wanted.texts)
        check_vectors(self.host.loaded, rows)
        fewest = floor(frames.Texts(wanted.texts), self.host.loaded.longest_token_bytes)
        least = priced(tariff, Work(requests=1, input_tokens=fewest, rows=rows))
        with await self._run(key_hash, least, least, lent, request) as run:
            tokens = await self.host.count(frames.Texts(wanted.texts))
            units = tariff.cost(Work(requests=1, input_tokens=tokens, rows=rows))
            await self.gate.hold(run.ticket, units, want=units)
            self.meter.spend(run.ticket, units, now=self.clock.monotonic())
            run.input_tokens = tokens
            yield run, partial(self._live, run, partial(self.host.embed, wanted.texts))

    @asynccontextmanager
    async def inferring(
        self, wanted: Inference, *, lent: Lent, key_hash: bytes, request: bytes
    ) -> AsyncIterator[tuple[Run, Callable[[], Awaitable[frames.Inferred]]]]:
        """M-6, I-5: one call of the model, reserved and paid whole before it is made. Raises as above."""
        units = priced(lent.terms.tariff, Work(requests=1, rows=wanted.rows))
        with await self._run(key_hash, units, units, lent, request) as run:
            self.meter.spend(run.ticket, units, now=self.clock.monotonic())
            call = partial(
                self.host.infer, wanted.inputs, wanted.outputs, bytes_max=wanted.bytes_max
            )
            yield run, partial(self._live, run, call)

    async def _live(self, run: Run, call: Callable[[], Awaitable[T]]) -> T:
        found = await call()
        self._check_live(run)
        return found

    def _check_live(self, run: Run) -> None:
        """T30: what was paid for before a stop may not leave after it."""
        self.meter.spend(run.ticket, Units(0), now=self.clock.monotonic())

    async def _run(
        self, key_hash: bytes, least: Units, want: Units, lent: Lent, request: bytes
    ) -> Run:
        ticket = await self.gate.admit(key_hash, least=least, want=want)
        name = f"receipt-{self.entropy(16).hex()}"
        return Run(ticket, lent, request, name, self.receipts, self.gate)

    async def _begin(self, run: Run, wanted: Generation) -> tuple[_Stream, Sequence[Piece]]:
        """M-6: let the engine count, and begin where that is held already; charge the input."""
        tariff, context = run.lent.terms.tariff, self.host.loaded.context_tokens
        spare = run.ticket.held - tariff.cost(Work(requests=1)) - tariff.cost(wanted.output(1))
        fits = (
            context - 1 if not tariff.input_token else min(context - 1, spare // tariff.input_token)
        )
        stream = self._stream(wanted, max_tokens=wanted.max_tokens, input_max=max(1, fits))
        try:
            counted, *first = await anext(stream)
            assert isinstance(counted, frames.Counted)  # noqa: S101  (Claims.check)
            await self._enter(run, wanted, counted.tokens)
        except BaseException:
            await stream.aclose()
            raise
        if counted.tokens <= max(1, fits):
            return stream, first
        await stream.aclose()  # it ended there: now that all of the input is paid, it may begin
        most = min(wanted.max_tokens, context - counted.tokens)
        return self._stream(wanted, max_tokens=most, input_max=0), ()

    def _stream(self, wanted: Generation, *, max_tokens: int, input_max: int) -> _Stream:
        return self.host.generate(
            wanted.prompt,
            max_tokens=max_tokens,
            sampling=wanted.sampling,
            input_max=input_max,
            whole=not wanted.stream,
        )

    async def _pieces(
        self, run: Run, wanted: Generation, stream: _Stream, first: Sequence[Piece]
    ) -> AsyncGenerator[list[frames.Token], None]:
        one = run.lent.terms.tariff.cost(wanted.output(1))
        longest = self.host.loaded.longest_token_bytes
        some = first
        while True:
            made = [piece for piece in some if isinstance(piece, frames.Token)]
            prices = [max(token.count, -(-token.size // longest)) for token in made]
            paid = made
            if (every := sum(prices)) * one > run.ticket.held:
                paid = []
                for token, tokens in zip(made, prices, strict=True):
                    if run.ticket.held < tokens * one:
                        if paid:  # what is paid does not wait for what is not
                            yield paid
                            paid = []
                        if not await self._hold(run, one, tokens):
                            return
                    self._pay(run, one, tokens)
                    paid.append(token)
            elif made:
                self._pay(run, one, every)
            for done in some[-1:]:
                if isinstance(done, frames.Done):
                    self._check_live(run)
                    run.reason = str(done.reason)
            if paid := [token for token in paid if token.text or token.calls or token.probs]:
                yield paid
            if run.reason:
                return
            some = await anext(stream)

    async def _enter(self, run: Run, wanted: Generation, tokens: int) -> None:
        """Charge the input of so many tokens, as the engine counts."""
        tariff, context = run.lent.terms.tariff, self.host.loaded.context_tokens
        if tokens >= context:
            # Not how many: the worker counted, and what it says here would leave unpaid.
            raise InputTooLong(about="input tokens", expected=f"< {context}")
        entry = tariff.cost(Work(requests=1, input_tokens=tokens))
        one, block = (tariff.cost(wanted.output(tokens)) for tokens in (1, self.block_tokens))
        await self.gate.hold(run.ticket, Units(entry + one), want=Units(entry + block))
        self.meter.spend(run.ticket, entry, now=self.clock.monotonic())
        run.input_tokens = tokens

    async def _hold(self, run: Run, one: Units, tokens: int) -> bool:
        """Have the price of so many tokens at hand; False where the budget ends."""
        try:
            want = Units(one * self.block_tokens)
            await self.gate.hold(run.ticket, Units(one * tokens), want=want)
        except (BudgetExhausted, TooBusy, CustodianUnreachable, LoanStopped) as refusal:
            self._check_live(run)  # the wait may have outlived the lease
            run.reason, run.code = str(frames.Reason.LENGTH), refusal.code
            return False
        return True

    def _pay(self, run: Run, one: Units, tokens: int) -> None:
        """Take the units for one frame before its text leaves."""
        self.meter.spend(run.ticket, Units(one * tokens), now=self.clock.monotonic())
        run.output_tokens += tokens
        block = one * self.block_tokens
        if run.ticket.held < block // 2:
            self.gate.hold_ahead(run.ticket, Units(block))


def priced(tariff: Tariff, work: Work) -> Units:
    """M-1: the cost of the work. Raises NotPriced where it would be free, for nothing is."""
    units = tariff.cost(work)
    if not units:
        raise NotPriced(got=tariff.in_words())
    return units
