"""The custodian without any network: appraises, releases, answers instances, tells them what changed.

Spec: docs/spec/session.md. Everything that decides is an act on the ledger, or `appraise`; this ties
them together. Nobody is told anything before it is durable. Refuses to know HTTP, sockets and folders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from leasehold.attest.collateral import sign_bundle
from leasehold.attest.manifest import parse_manifest
from leasehold.core.binding import NONCE_BYTES
from leasehold.core.crypto import instance_id
from leasehold.core.encoding import to_json
from leasehold.core.messages import (
    Attest,
    AttestAgain,
    Challenge,
    ExtensionAsk,
    ExtensionQuery,
    FromCustodian,
    FromEnclave,
    Heartbeat,
    LeaseAsk,
    LeaseClose,
    LeaseRefused,
    LoanTerms,
    Problem,
    Release,
    Scope,
    StopOrder,
    StopProof,
)
from leasehold.core.units import Duration, Instant, Units
from leasehold.custodian import acts
from leasehold.custodian.acts import PROGRESS, STOP
from leasehold.custodian.appraise import Accepted, appraise, loan_of
from leasehold.custodian.decide import Told, decide, news_of, orders_for, refusal_of, signed_reason
from leasehold.custodian.ledger import (
    asks,
    epoch,
    extensions,
    instances,
    loans,
    nonces,
    notices,
    stops,
    sweeps,
)
from leasehold.custodian.ledger.operators import Operator
from leasehold.custodian.ports import Ports
from leasehold.custodian.pushes import Listeners, Pushes
from leasehold.custodian.rejudge import Fallen, condemn, judge, live
from leasehold.custodian.release import Terms, make_release, register
from leasehold.custodian.settings import Keys, Rules
from leasehold.custodian.store.port import Tx
from leasehold.errors import (
    Conflict,
    EvidenceExpired,
    LeaseholdError,
    Malformed,
    Refused,
    UnknownKey,
    UnknownThing,
    Unproven,
)

T = TypeVar("T")


class Custodian:
    """Answers enclaves and operators. One per ledger and process."""

    def __init__(self, keys: Keys, rules: Rules, ports: Ports) -> None:
        self.keys, self.rules, self.ports = keys, rules, ports
        self.listeners = Listeners()
        self._rejudged = 0
        self._news = asyncio.Event()

    # Attestation ---------------------------------------------------------------------------------

    async def challenge(self) -> Challenge:
        """N-1: a nonce that is stored before it leaves. Raises TooBusy, StoreFailed."""
        now, nonce = self.ports.clock.now(), self.ports.entropy(NONCE_BYTES)
        return await self.ports.store.write(lambda tx: nonces.issue(tx, now=now, nonce=nonce))

    async def attest(self, attest: Attest) -> Release:
        """N-2 and N-3: the release, or the refusal that the audit log has as well.

        Raises Malformed, Unproven, Refused and their descendants, and Unavailable where the
        custodian itself is at fault: that is no appraisal and is not recorded as one.
        """
        now, instance, loan = self.ports.clock.now(), instance_id(attest.tls_spki), ""
        store = self.ports.store
        try:
            await store.write(lambda tx: nonces.use(tx, now=now, nonce=attest.nonce))
            loan = loan_of(attest, root=self.keys.root.public)
            rejudged = self._rejudged
            accepted, release = await self._judge(attest, loan, now)
            await store.write(lambda tx: register(tx, now, accepted, release, to_json(attest)))
        except (Malformed, Unproven, Refused) as refusal:
            reason = refusal
            await store.write(
                lambda tx: instances.record_refusal(
                    tx,
                    now=now,
                    instance=instance,
                    loan=loan,
                    machine="",
                    code=reason.code,
                    verdict=to_json({"refused": reason.message}),
                    evidence_digest=attest.evidence.digest(),
                )
            )
            raise
        if rejudged != self._rejudged:  # it was judged by what has changed meanwhile
            await self.rejudge()
        return release

    async def _judge(self, attest: Attest, loan: str, now: Instant) -> tuple[Accepted, Release]:
        def admit(tx: Tx) -> tuple[bytes, LoanTerms, int]:
            instances.check_admissible(tx, instance=instance_id(attest.tls_spki), loan=loan)
            return loans.show_loan(tx, loan).manifest, loans.terms(tx, loan), epoch.current(tx)

        def work() -> tuple[Accepted, Release]:
            accepted = appraise(
                attest,
                loan=loan,
                manifest=manifest,
                root=self.keys.root.public,
                collateral=self.ports.collateral,
                now=now,
            )
            bundle = sign_bundle(self.keys.root, accepted.collateral, now=now)
            return accepted, make_release(
                accepted,
                Terms(terms, at_epoch, bundle, now),
                keys=self.keys,
                rules=self.rules,
                model_key=self.ports.model_keys.model_key(terms.model.name),
                entropy=self.ports.entropy,
            )

        manifest, terms, at_epoch = await self.ports.store.read(admit)
        return await self.ports.run_blocking(work)

    async def rejudge(self) -> tuple[Fallen, ...]:
        """N-10: judge all live instances by what holds now; tells whose evidence ended, and tells them.

        To be called when collateral changed. Raises StoreFailed, FileTrouble.
        """
        now, ports = self.ports.clock.now(), self.ports
        self._rejudged += 1
        shown = await ports.store.read(lambda tx: live(tx, now=now))
        root = self.keys.root.public
        fallen = await ports.run_blocking(
            lambda: judge(shown, ports.collateral, root=root, now=now)
        )
        if fallen:
            fallen = await ports.store.write(lambda tx: condemn(tx, fallen, now=now))
        for one in fallen:
            self.listeners.tell((one.instance.id,), AttestAgain(_problem(one.why)))
        return fallen

    # The channel ---------------------------------------------------------------------------------

    async def subscribe(self, instance: str) -> Pushes:
        """N-4, O-10: what an instance is to be told, beginning with the stops that concern it.

        Where its evidence does not count any more it is told to attest again; until then all it can
        do is report. Closes the pushes of an earlier channel. Raises UnknownThing.
        """
        now = self.ports.clock.now()

        def look(tx: Tx) -> tuple[str, LeaseholdError | None, tuple[stops.Stop, ...]]:
            loan = instances.show_instance(tx, instance).loan
            return loan, refusal_of(tx, now=now, instance=instance), orders_for(tx, instance)

        pushes = Pushes(instance)
        # Listen before looking: a stop that becomes durable in between is told twice, never not at all.
        self.listeners.add(pushes)
        try:
            pushes.loan, refusal, orders = await self.ports.store.read(look)
        except LeaseholdError:
            self.unsubscribe(pushes)
            raise
        if refusal is not None:
            pushes.put(AttestAgain(_problem(refusal)))
        for stop in orders:
            pushes.put(self.stop_order(stop))
        return pushes

    def unsubscribe(self, pushes: Pushes) -> None:
        """The channel ended."""
        self.listeners.remove(pushes)

    async def handle(self, instance: str, message: FromEnclave) -> list[FromCustodian]:
        """Act on one message of an instance and say what to answer (N-4 to N-7).

        Raises BadMessage and BadSignature, after which the channel is to be closed, and StoreFailed,
        after which the enclave may ask again.
        """

        if isinstance(message, LeaseAsk):
            return [await self._lease(instance, message)]
        return await self._hear(instance, message)

    async def _lease(self, instance: str, ask: LeaseAsk) -> FromCustodian:
        try:
            return await self.ports.store.write(asks.Ask(self.ports.clock.now(), instance, ask))
        except UnknownThing as problem:
            return AttestAgain(_problem(problem))

    async def _hear(self, instance: str, message: Told) -> list[FromCustodian]:
        def act(tx: Tx, now: Instant) -> tuple[FromCustodian, tuple[stops.Stop, ...]]:
            answer = decide(tx, now=now, instance=instance, message=message, keys=self.keys)
            beats = isinstance(message, Heartbeat)
            if isinstance(message, StopProof | LeaseClose):
                tx.tell(PROGRESS)
            return answer, stops.unheard(tx, instance=instance) if beats else ()

        try:
            answer, orders = await self.change(act)
        except UnknownThing as problem:
            return [AttestAgain(_problem(problem))]
        except (UnknownKey, Conflict) as problem:
            if not isinstance(message, ExtensionAsk | ExtensionQuery):
                raise
            return [LeaseRefused(message.sequence, message.key_hash, _problem(problem))]
        if isinstance(message, StopProof | LeaseClose):
            self.tell_watchers()
        return [answer, *(self.stop_order(stop) for stop in orders)]

    # Operators -----------------------------------------------------------------------------------

    async def look(self, act: Callable[[Tx], T]) -> T:
        """Run a reading act of the ledger. Raises what it raises, and StoreFailed."""
        return await self.ports.store.read(act)

    async def change(self, act: Callable[[Tx, Instant], T]) -> T:
        """Run an act of the ledger that nobody has to be told of, with the time it is done at.

        The act checks its operator's right and writes its audit entry. Raises what it raises, and
        StoreFailed.
        """
        now = self.ports.clock.now()
        return await self.ports.store.write(lambda tx: act(tx, now))

    def check_manifest(self, manifest: bytes) -> None:
        """That this custodian signed it and that it is in force. Raises what `parse_manifest` raises."""
        root = self.keys.root.public
        parse_manifest(manifest, now=self.ports.clock.now(), custodian_root=root)

    async def create_loan(self, operator: Operator, new: acts.NewLoan) -> loans.Loan:
        """Lend a registered model under a manifest that this custodian signed and that is in force.

        Raises what `check_manifest` and `loans.create_loan` raise.
        """
        self.check_manifest(new.manifest)
        return await self.change(lambda tx, now: acts.create_loan(tx, now, operator, new))

    async def replace_manifest(self, operator: Operator, loan: str, manifest: bytes) -> loans.Loan:
        """Judge by another signed manifest from now on; the loan's instances are told to attest again.

        Raises what `check_manifest` and `loans.replace_manifest` raise.
        """
        self.check_manifest(manifest)
        changed = await self.change(
            lambda tx, now: acts.replace_manifest(tx, now, operator, loan, manifest)
        )
        await self.tell_manifest(loan)
        return changed

    async def tell_manifest(self, loan: str) -> None:
        """A loan's new manifest is durable: what it does not accept is refused at once (N-10)."""
        await self.rejudge()
        self.listeners.tell_loan(
            loan, AttestAgain(_problem(EvidenceExpired(about="a new manifest")))
        )

    async def approve(
        self, operator: Operator, request: int, units: Units | None = None
    ) -> extensions.Decision:
        """Grant `units`, or all that was asked, and tell the loan's instances.

        Raises as `extensions.approve` does.
        """
        decision = await self.change(
            lambda tx, now: acts.approve(tx, now, operator, request, units)
        )
        self.tell_decision(decision)
        return decision

    async def deny(self, operator: Operator, request: int, reason: str) -> extensions.Decision:
        """Deny with a reason and tell the loan's instances. Raises as `extensions.deny` does."""
        decision = await self.change(lambda tx, now: acts.deny(tx, now, operator, request, reason))
        self.tell_decision(decision)
        return decision

    def tell_decision(self, decision: extensions.Decision) -> None:
        """A decision is durable: the loan's instances hear it."""
        self.listeners.tell_loan(decision.request.loan, decision.state)

    async def stop(
        self,
        operator: Operator,
        scope: Scope,
        target: str,
        reason: str,
        *,
        notice: Duration = Duration(0),
        drain: Duration = Duration(0),
    ) -> stops.Stop:
        """Stop first in the ledger, then push the order, or the notice, to whom it concerns (M-7, L-14).

        Raises as `stops.order` does.
        """

        def order(tx: Tx, now: Instant) -> notices.Told:
            stop = stops.order(
                tx,
                now=now,
                operator=operator,
                scope=scope,
                target=target,
                reason=reason,
                notice=notice,
                drain=drain,
            )
            tx.tell(f"{STOP} {stop.id}")
            return notices.telling(tx, stop=stop.id)

        told = await self.change(order)
        self.tell_stop(told)
        return told.stop

    def tell_stop(self, told: notices.Told) -> None:
        """A stop is durable, has come further or was lifted: those whom it concerns hear it (N-7, N-11)."""
        for names, said in news_of(told, keys=self.keys, now=self.ports.clock.now()):
            self.listeners.tell(names, said)

    async def tell_lifted(self, stop: stops.Stop) -> None:
        """A stop was lifted: who was told that it comes hears that it does not."""
        self.tell_stop(await self.look(lambda tx: notices.telling(tx, stop=stop.id)))
        self.tell_watchers()

    async def await_progress(self, stop: int, *, proved: int) -> stops.Progress:
        """The progress of a stop, as soon as more than `proved` instances proved it or it is complete.

        May wait for ever: callers bound it. Raises UnknownThing.
        """
        while True:
            news = self._news
            progress = await self.look(lambda tx: stops.progress(tx, stop=stop))
            if len(progress.proved) > proved or is_complete(progress):
                return progress
            await news.wait()

    async def sweep(self) -> sweeps.Swept:
        """What time does to the ledger; to be called every second or so. Raises StoreFailed."""

        def act(tx: Tx, now: Instant) -> tuple[sweeps.Swept, list[notices.Told]]:
            swept = sweeps.sweep(tx, now=now)
            for stop in swept.stops:
                tx.tell(f"{STOP} {stop.id}")
            return swept, [notices.telling(tx, stop=stop.id) for stop in swept.stops]

        swept, begun = await self.change(act)
        for told in begun:
            self.tell_stop(told)
        if swept.leases or swept.lost or begun:
            self.tell_watchers()
        return swept

    def tell_watchers(self) -> None:
        """Some stop may have come further."""
        self._news.set()
        self._news = asyncio.Event()

    def stop_order(self, stop: stops.Stop) -> StopOrder:
        """The order as instances get it, signed by the root."""
        return StopOrder(signed_reason(stop, keys=self.keys, now=self.ports.clock.now()))


def is_complete(progress: stops.Progress) -> bool:
    """Whether nothing can be served any more in the scope of a stop, as far as anybody can prove."""
    has_begun = progress.stop.phase != "notice"
    return has_begun and not (progress.pending or progress.units or progress.units_in_doubt)


def _problem(error: LeaseholdError) -> Problem:
    return Problem(error.code, error.message)
