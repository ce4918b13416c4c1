"""The enclave's end of the line to its custodian: attest, ask, report, obey, and notice silence.

Spec: docs/spec/session.md. All that the custodian says arrives here; what it means for requests is the
meter's business, what it means for the model is `boot`'s. Losing the line loses nothing: asks are
repeated under their sequence number, reports are cumulative, closing reports wait for their answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from leasehold.core.binding import release_info
from leasehold.core.crypto import Entropy, KemKey, instance_id
from leasehold.core.encoding import from_json, to_json, unhex
from leasehold.core.messages import (
    STOP_ORDER_KIND,
    Attest,
    AttestAgain,
    CloseAck,
    ExtensionAsk,
    ExtensionQuery,
    ExtensionState,
    FromCustodian,
    FromEnclave,
    Heartbeat,
    HeartbeatAck,
    LeaseAsk,
    LeaseGranted,
    LeaseRefused,
    StopNoted,
    StopOrder,
    StopReason,
    StopReport,
)
from leasehold.core.meter import Credit, Meter
from leasehold.core.statements import Signed, check_signed
from leasehold.core.units import SECOND, Clock, Instant, Units, after
from leasehold.enclave.asks import Asks
from leasehold.enclave.lent import CustodianWire, Lent
from leasehold.enclave.log import Log
from leasehold.enclave.prover import Prover
from leasehold.enclave.reports import Reports
from leasehold.enclave.watching import LogWatch
from leasehold.errors import (
    BadMessage,
    BadSignature,
    ChannelClosed,
    LeaseholdError,
    LoanStopped,
    NoModelYet,
    WrongBinding,
    from_wire,
)
from leasehold.net.channel import Channel
from leasehold.net.clock import next_multiple

HEARTBEAT: Final = 5 * SECOND
REPORT: Final = SECOND
HEARTBEATS_MISSED_MAX: Final = 5
TICK_SECONDS: Final = 0.25
SEND_SECONDS_MAX: Final = 10.0  # a line that takes nothing for so long is dead
BACKOFF_SECONDS: Final = (0.2, 5.0)  # first pause before reconnecting, and the longest
IDLE_LEASE: Final = 60 * SECOND  # a lease unused for so long is closed rather than renewed


@dataclass(slots=True)
class Link:
    """One instance's line. `on_stop` ends the instance, now or soon; `on_extension` hears decided requests."""

    wire: CustodianWire
    prover: Prover
    meter: Meter
    clock: Clock
    entropy: Entropy
    log: Log
    on_stop: Callable[[LeaseholdError, int, int], None]
    on_extension: Callable[[ExtensionState], None]
    lent: Lent | None = None
    last_contact: Instant = Instant(0)
    coming: StopReason | None = None  # N-11: what was announced, or drains
    proof_noted: asyncio.Event = field(default_factory=asyncio.Event)
    asks: Asks = field(init=False)
    reports: Reports = field(init=False)
    watch: LogWatch = field(init=False)
    _certificate: str = ""
    _proven_at: Instant = Instant(0)
    _proven_until: Instant = Instant(0)
    _over: bool = False
    _channel: Channel | None = None
    _connected: asyncio.Event = field(default_factory=asyncio.Event)
    _unheard: int = 0
    _again: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.asks = Asks(self.clock)
        key, settings = self.prover.keys.statement, self.prover.settings
        self.reports = Reports(self.instance, key, self.meter)
        self.watch = LogWatch(settings.log_origin, settings.log_key, key, self.clock, self.log)

    # Attestation ---------------------------------------------------------------------------------

    async def attest(self) -> Lent:
        """N-1 to N-3, and N-5 where it was accepted before: prove this instance afresh.

        Raises CustodianUnreachable, the custodian's refusal, or NoModelYet after `forget_model`.
        """
        started = self.clock.monotonic()
        challenge = await self.wire.challenge()
        kem = KemKey.make(self.entropy)
        keys, settings = self.prover.keys, self.prover.settings
        evidence = await self.prover.for_custodian(challenge.nonce, kem.public)
        release = await self.wire.attest(
            Attest(
                challenge.nonce,
                evidence,
                keys.tls.spki,
                keys.statement.public,
                kem.public,
                settings.file,
            )
        )
        if release.instance != self.instance or release.terms.loan != settings.loan:
            raise WrongBinding(about="release", got=release.terms.loan, expected=settings.loan)
        info = release_info(
            evidence_digest=evidence.digest(),
            loan=release.terms.loan,
            instance=release.instance,
            model_digest=unhex(release.terms.model.digest, about="model digest", size=32),
            epoch=release.epoch,
        )
        model_key = kem.open(release.sealed_key, info=info)
        if self._over:  # stopped while the answer was under way: the key must not come back
            raise NoModelYet(about="attestation", got="stopped meanwhile")
        self._certificate = release.certificate
        self._proven_at = started
        self._proven_until = after(started, release.certificate_expires - release.time)
        self.last_contact = max(self.last_contact, started)
        self.meter.begin_epoch(release.epoch)
        self.lent = Lent(
            release.terms, release.collateral, model_key, evidence.digest(), release.epoch
        )
        return self.lent

    @property
    def instance(self) -> str:
        """This instance's id."""
        return instance_id(self.prover.keys.tls.spki)

    # What requests ask ---------------------------------------------------------------------------

    async def ask_lease(self, key_hash: bytes, *, least: Units, need: Units) -> None:
        """M-3: have the purse of this key filled by at least `least` units.

        Raises what the custodian refused with, or CustodianUnreachable.
        """
        await self._call(self._lease_ask(key_hash, least=least, need=need))

    async def ask_extension(self, key_hash: bytes, *, units: Units, reason: str) -> ExtensionState:
        """File the consumer's request for more. Raises as `ask_lease` does."""
        return await self._extension(ExtensionAsk(self.asks.next(), key_hash, units, reason))

    async def query_extension(self, key_hash: bytes) -> ExtensionState:
        """How the consumer's latest request and its budget stand. Raises as `ask_lease` does."""
        return await self._extension(ExtensionQuery(self.asks.next(), key_hash))

    async def _extension(self, ask: ExtensionAsk | ExtensionQuery) -> ExtensionState:
        answer = await self._call(ask)
        if isinstance(answer, LeaseGranted):
            raise BadMessage(about="answer to an extension request", got=answer.lease)
        return answer

    def _lease_ask(self, key_hash: bytes, *, least: Units, need: Units) -> LeaseAsk:
        purse = self.meter.purse(key_hash)
        return LeaseAsk(
            self.asks.next(),
            key_hash,
            least=least,
            need=need,
            rate=self.meter.rate(key_hash, now=self.clock.monotonic()),
            spent=self.meter.spent(key_hash),
            lease="" if purse is None else purse.lease,
        )

    async def _call(
        self, message: LeaseAsk | ExtensionAsk | ExtensionQuery
    ) -> LeaseGranted | ExtensionState:
        async def send(again: FromEnclave) -> None:
            await self._connected.wait()
            await self._send(again)

        answer = await self.asks.call(message.sequence, message, send)
        if isinstance(answer, LeaseRefused):
            raise from_wire(answer.problem.code, answer.problem.message)
        return answer

    # The line ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the line up, the evidence fresh and the leases renewed, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_connected())
            tasks.create_task(self._keep_proven())
            tasks.create_task(self._keep_leases())
            tasks.create_task(self._keep_beating())

    async def _keep_connected(self) -> None:
        pause = BACKOFF_SECONDS[0]
        while True:
            heard = self.last_contact
            try:
                self._channel = await self.wire.open_channel(self._certificate)
                self._unheard = 0
                self._connected.set()
                await self._beat()
                await self._listen(self._channel)
            except BadMessage as failure:
                self.log.event("custodian_talks_nonsense", code=failure.code)
            except LeaseholdError as failure:
                self.log.event("link_down", code=failure.code)
            finally:
                self._connected.clear()
                channel, self._channel = self._channel, None
                if channel is not None:
                    await channel.close()
            if self.last_contact > heard:
                pause = BACKOFF_SECONDS[0]
            await asyncio.sleep(pause)
            pause = min(2 * pause, BACKOFF_SECONDS[1])

    async def _listen(self, channel: Channel) -> None:
        while True:
            message: FromCustodian = from_json(await channel.receive(), FromCustodian)
            self._unheard = 0
            await self._hear(message)

    async def _hear(self, message: FromCustodian) -> None:
        match message:
            case HeartbeatAck():
                self._contact(message.sequence)
                self.watch.hear(message.log)
                self.coming = self._reason(message.coming)
            case LeaseGranted():
                asked_at, now = self._contact(message.sequence), self.clock.monotonic()
                if self.meter.credit(message, asked_at=asked_at, now=now) is Credit.STRAY:
                    self.reports.close_stray(message.lease)
                self.asks.answer(message)
            case LeaseRefused():
                self._contact(message.sequence)
                self.asks.answer(message)
            case ExtensionState(sequence=0):
                self.on_extension(message)
            case ExtensionState():
                self._contact(message.sequence)
                self.asks.answer(message)
            case CloseAck():
                self.reports.closed(message.lease)
            case StopOrder():
                await self._obey(self._reason(message.statement))
            case StopNoted():
                if self.reports.proof is not None:
                    self.proof_noted.set()
            case AttestAgain():
                self._again.set()

    def _contact(self, sequence: int) -> Instant | None:
        """N-8: an answer shows that the custodian lived when it was asked for, not when it arrives."""
        asked_at = self.asks.heard(sequence)
        if asked_at is not None:
            self.last_contact = max(self.last_contact, asked_at)
        return asked_at

    def _reason(self, statement: Signed | None) -> StopReason | None:
        """N-7: what the custodian's root says of a stop; None where it is not the root that says it."""
        root = self.prover.settings.custodian_root
        with suppress(BadSignature):
            if statement is not None:
                signed = check_signed(statement, kind=STOP_ORDER_KIND, public=root)
                return from_json(signed, StopReason)
        return None

    async def _obey(self, reason: StopReason | None) -> None:
        """N-7, N-11: stop what the root says, if it concerns this instance."""
        mine = {"all": "", "loan": self.prover.settings.loan, "enclave": self.instance}
        if reason is None or reason.mode == "notice":
            self.log.event("stop_order_not_signed", code=BadSignature.code)
        elif reason.scope == "consumer":
            self.meter.stop_consumer(reason.target, now=self.clock.monotonic())
            await self._report_ended()
        elif reason.target == mine[reason.scope]:
            self.coming = reason if reason.left else None
            self.on_stop(LoanStopped(about=reason.reason), reason.stop, reason.left)

    # Keeping -------------------------------------------------------------------------------------

    async def _keep_proven(self) -> None:
        """N-5: attest again at half of the certificate's life, or when told to; never after a stop."""
        pause = BACKOFF_SECONDS[0]
        while True:
            half = (self._proven_until - self._proven_at) // 2
            left = (after(self._proven_at, half) - self.clock.monotonic()) / SECOND
            with suppress(TimeoutError):
                async with asyncio.timeout(max(left, BACKOFF_SECONDS[0])):
                    await self._again.wait()
            if self._over or self.meter.over is not None:  # an instance that drains is not renewed
                return
            self._again.clear()
            try:
                await self.attest()
                pause = BACKOFF_SECONDS[0]
            except LoanStopped as failure:
                if self.meter.over is None:
                    self.on_stop(failure, 0, 0)
            except LeaseholdError as failure:
                self.log.event("attestation_refused", code=failure.code)
                await asyncio.sleep(pause)  # also where every message is answered with AttestAgain
                pause = min(2 * pause, BACKOFF_SECONDS[1])

    def is_silent(self) -> bool:
        """N-8: no word from the custodian for too long, or no valid certificate any more."""
        now = self.clock.monotonic()
        dead_man = self.prover.settings.dead_man
        return now - self.last_contact >= dead_man or now >= self._proven_until

    async def _keep_leases(self) -> None:
        """M-5, M-8: renew what is used, end what lapsed or idles, report what ended."""
        while True:
            await next_multiple(TICK_SECONDS)
            now = self.clock.monotonic()
            for key_hash in self.meter.due(now=now, idle=IDLE_LEASE):
                await self._try_send(self._lease_ask(key_hash, least=Units(0), need=Units(0)))
            await self._report_ended()

    async def _keep_beating(self) -> None:
        """N-6: heartbeats with all counters; too many without an answer close the channel.

        Fresh counters go out within a second, so that the custodian's bound on a stop is close.
        """
        beaten, reported = self.clock.monotonic(), self.meter.usage()
        while True:
            await next_multiple(REPORT / SECOND)
            usage, now = self.meter.usage(), self.clock.monotonic()
            if usage == reported and now - beaten < HEARTBEAT:
                continue
            if self._unheard >= HEARTBEATS_MISSED_MAX and self._channel is not None:
                await self._channel.close()
            self._unheard += 1
            await self._beat()
            beaten, reported = now, usage

    async def _beat(self) -> None:
        """A heartbeat, and all reports that have no answer yet."""
        seen, cosignature = self.watch.size, self.watch.cosignature
        await self._try_send(Heartbeat(self.asks.next(), self.meter.usage(), seen, cosignature))
        for report in self.reports.waiting():
            await self._try_send(report)

    # Reports -------------------------------------------------------------------------------------

    async def _report_ended(self) -> None:
        for report in self.reports.close_ended():
            await self._try_send(report)

    async def prove_stop(self, report: StopReport) -> None:
        """N-7: sign and send the proof of stop; `run` repeats it until `proof_noted` is set."""
        self.reports.close_ended()
        self.reports.prove(report)
        self.proof_noted.clear()
        for waiting in self.reports.waiting():
            await self._try_send(waiting)

    def forget_model(self) -> None:
        """N-7: drop the model key, for ever; Python cannot promise that freed memory holds no copy."""
        self._over = True
        if self.lent is not None:
            self.lent = replace(self.lent, model_key=b"")

    async def _send(self, message: FromEnclave) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                await channel.send(to_json(message))
        except (ChannelClosed, TimeoutError):
            self._connected.clear()
            await channel.close()  # so that the listener notices too, and reconnects

    async def _try_send(self, message: FromEnclave) -> None:
        if self._connected.is_set():
            await self._send(message)
