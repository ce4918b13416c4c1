"""Answering lease asks: all checks, the debit, the audit entry and the stored answer at once (M-3, L-4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from leasehold.core.accounts import size_lease
from leasehold.core.crypto import is_equal, sha256
from leasehold.core.encoding import from_json, to_json
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import (
    AttestAgain,
    Budget,
    LeaseAsk,
    LeaseGranted,
    LeaseRefused,
    Problem,
)
from leasehold.core.units import Duration, Instant, Units
from leasehold.custodian.ledger import audit, extensions
from leasehold.custodian.ledger.checks import UNITS_MAX
from leasehold.custodian.ledger.consumers import key_id
from leasehold.custodian.ledger.leases import alarm
from leasehold.custodian.ledger.sitting import Asker, Held, Holder, Pair, Path, Sitting, policy_of
from leasehold.custodian.store.port import Tx
from leasehold.errors import (
    BadMessage,
    BudgetExhausted,
    Conflict,
    LeaseholdError,
    LoanStopped,
    TooBusy,
    UnknownKey,
    UnknownThing,
)

Answer = LeaseGranted | LeaseRefused | AttestAgain


def together(tx: Tx, acts: Sequence[Ask]) -> list[Answer | LeaseholdError]:
    """L-15: answer asks one after another, reading and writing once for all of them. See `port.Store`."""
    results: list[Answer | LeaseholdError] = []
    problems = [_problem_with(act.ask) for act in acts]
    sound = [act for act, problem in zip(acts, problems, strict=True) if problem is None]
    with audit.one_page(tx) as page:
        sitting = Sitting(
            tx, page, [(act.instance, act.ask.key_hash, act.ask.sequence) for act in sound]
        )
        for act, problem in zip(acts, problems, strict=True):
            asker = sitting.askers.get(act.instance)
            if problem is not None:
                results.append(problem)
            elif asker is None:
                results.append(UnknownThing(about=f"instance {act.instance}"))
            else:
                results.append(_Turn(sitting, asker, act.ask, act.now).answer())
        sitting.write()
    return results


class Ask(msgspec.Struct, frozen=True):
    """M-3, an act: answer an ask once. The same (instance, sequence) gets the same answer again.

    After a stop it gets a refusal. Refusals are answers (codes loan_stopped, invalid_api_key,
    insufficient_quota, rate_limit_exceeded, conflict); where the evidence counts no more the answer is
    AttestAgain, and the ask is as good as never sent. Raises only BadMessage and UnknownThing (no such
    instance).
    """

    now: Instant
    instance: str
    ask: LeaseAsk

    together = staticmethod(together)

    def __call__(self, tx: Tx) -> Answer:
        """Answer it alone."""
        result = together(tx, (self,))[0]
        if isinstance(result, LeaseholdError):
            raise result
        return result


def ask(tx: Tx, *, now: Instant, instance: str, ask: LeaseAsk) -> Answer:
    """See `Ask`."""
    return Ask(now, instance, ask)(tx)


def _problem_with(ask: LeaseAsk) -> BadMessage | None:
    amounts = (ask.sequence, ask.least, ask.need, ask.rate, ask.spent)
    if not 0 <= min(amounts) <= max(amounts) <= UNITS_MAX:
        return BadMessage(about="lease ask", got=amounts, expected=f"0 to {UNITS_MAX}")
    if len(ask.key_hash) != 32:
        return BadMessage(about="key hash", got=len(ask.key_hash), expected="32 bytes")
    return None


class _Grant(msgspec.Struct, frozen=True):
    """What the log says of a grant; see `audit.append` for the order."""

    consumer: str
    instance: str
    key: str
    lease: str
    loan: str
    sequence: int
    settled: Units
    units: Units


class _Turn(msgspec.Struct):
    """One ask of a sitting. `stopped` is when a stop ends service, if any (L-14)."""

    sitting: Sitting
    asker: Asker
    ask: LeaseAsk
    now: Instant
    stopped: Instant | None = None

    def answer(self) -> Answer:
        asker, ask, sitting = self.asker, self.ask, self.sitting
        silence = asker.silence(self.now)
        if silence is not None and not isinstance(silence, LoanStopped):
            return AttestAgain(Problem(silence.code, silence.message))
        pair = asker.id, ask.key_hash
        holder = sitting.holders.get(pair)
        self.stopped = sitting.stopped(asker, holder, self.now)
        refusal = check_asker(asker, holder, self.stopped)
        request = sha256(to_json(ask))
        given = sitting.given.get((asker.id, ask.sequence))
        if given is not None:
            if is_equal(given[0], request):
                return self._again(given[1], refusal)
            # Two users of one sequence space: a clone, or a broken enclave.
            self._alarm("sequence", {"sequence": ask.sequence})
            return self._refused(Conflict(about="sequence", got=ask.sequence, expected="as before"))
        if ask.sequence <= sitting.floors[asker.id]:
            return self._refused(
                Conflict(about="sequence", got=ask.sequence, expected="a newer one")
            )
        sitting.forget_old(asker, ask.sequence)
        answer = self._anew(pair, holder, refusal)
        sitting.remember(asker.id, ask.sequence, request, to_json(answer))
        return answer

    def _again(self, answer: bytes, refusal: LeaseholdError | None) -> LeaseGranted | LeaseRefused:
        """The answer that was given before; but not even an old grant leaves after a stop (M-7)."""
        stored = from_json(answer, LeaseGranted | LeaseRefused)
        if refusal is None or isinstance(stored, LeaseRefused):
            return stored
        return self._refuse(refusal)

    def _anew(
        self, pair: Pair, holder: Holder | None, refusal: LeaseholdError | None
    ) -> LeaseGranted | LeaseRefused:
        path = self.sitting.paths.get(pair)
        if holder is None or path is None:
            return self._refuse(refusal or UnknownKey())
        policy = policy_of(self.asker.policy)
        held, settled = self._settle(pair, path)
        decision = refusal or decide_units(
            self.ask,
            policy,
            path,
            held=held.outstanding if held else Units(0),
            instances=self.asker.live,
        )
        if isinstance(decision, LeaseholdError):
            if isinstance(decision, BudgetExhausted) and path.available < self.ask.least:
                extensions.open_by_exhaustion(
                    self.sitting.tx,
                    now=self.now,
                    instance=self.asker.id,
                    loan=self.asker.loan,
                    consumer=holder.consumer,
                )
            found: dict[str, object] = {"lease": held and held.id, "settled": settled}
            known = not isinstance(decision, UnknownKey)
            return self._refuse(decision, found, path.budget if known else None)
        path.lease(decision)
        ttl = policy.ttl
        if self.stopped is not None:
            ttl = min(ttl, Duration(self.stopped - self.now))  # L-14
        held = self._hold(pair, holder, held, decision, Instant(self.now + ttl))
        lease = held.id
        detail = _Grant(
            consumer=holder.consumer,
            instance=self.asker.id,
            key=holder.key,
            lease=lease,
            loan=self.asker.loan,
            sequence=self.ask.sequence,
            settled=settled,
            units=decision,
        )
        self._log("lease.grant", detail)
        return LeaseGranted(
            self.ask.sequence,
            lease,
            self.asker.ledger_epoch,
            holder.consumer,
            self.ask.key_hash,
            held.granted,
            ttl,
            path.budget,
        )

    def _settle(self, pair: Pair, path: Path) -> tuple[Held | None, Units]:
        """Settle what the ask reports (M-5): the open lease as it then is, and how many units that were."""
        ask, held = self.ask, self.sitting.leases.get(pair)
        if held is None or ask.spent <= held.claimed or ask.lease != held.id:
            return held, Units(0)
        settled = Units(max(0, min(ask.spent, held.granted) - held.settled))
        path.settle(settled)
        if ask.spent > held.granted:
            detail = {"lease": held.id, "claimed": ask.spent, "granted": held.granted}
            self._alarm("claim above grant", detail)
        held = msgspec.structs.replace(
            held, settled=Units(held.settled + settled), claimed=ask.spent
        )
        self.sitting.change(pair, held)
        return held, settled

    def _hold(
        self, pair: Pair, holder: Holder, held: Held | None, units: Units, expires: Instant
    ) -> Held:
        """The lease with these units more, or a new one that has them."""
        if held is None:
            return self.sitting.open(
                self.asker, holder, pair, units=units, now=self.now, expires=expires
            )
        if expires < held.expires:
            expires = held.expires
        granted = Units(held.granted + units)
        held = Held(held.number, held.epoch, granted, held.settled, held.claimed, expires)
        self.sitting.change(pair, held)
        return held

    def _log(self, kind: str, detail: audit.Detail | msgspec.Struct) -> None:
        self.sitting.page.append(self.now, f"instance:{self.asker.id}", kind, detail)

    def _alarm(self, about: str, detail: audit.Detail) -> None:
        alarm(self.sitting.tx, now=self.now, instance=self.asker.id, about=about, detail=detail)

    def _refuse(
        self,
        why: LeaseholdError,
        found: Mapping[str, object] | None = None,
        budget: Budget | None = None,
    ) -> LeaseRefused:
        """A refusal that the log has; with the budget where the key is a good one."""
        detail: dict[str, object] = {
            "instance": self.asker.id,
            "key": key_id(self.ask.key_hash),
            "sequence": self.ask.sequence,
            "code": why.code,
            **(found or {}),
        }
        self._log("lease.refuse", detail)
        problem = Problem(why.code, why.message)
        return LeaseRefused(self.ask.sequence, self.ask.key_hash, problem, budget)

    def _refused(self, why: LeaseholdError) -> LeaseRefused:
        return LeaseRefused(self.ask.sequence, self.ask.key_hash, Problem(why.code, why.message))


def check_asker(
    asker: Asker, holder: Holder | None, stopped: Instant | None
) -> LeaseholdError | None:
    """Why an instance that may speak gets nothing for this key, whatever the budget; None where it may ask."""
    ended = asker.state in ("stopping", "stopped") or asker.loan_state != "active"
    if ended or stopped == 0:
        return LoanStopped(about=f"loan {asker.loan}")
    if holder is not None and holder.revoked is not None:
        return UnknownKey()
    return None


def decide_units(
    ask: LeaseAsk, policy: LeasePolicy, path: Path, *, held: Units, instances: int
) -> Units | LeaseholdError:
    """M-4: how many units to lease to one that holds `held`, or why none."""
    available = path.available
    units = size_lease(
        policy,
        least=ask.least,
        need=ask.need,
        rate=ask.rate,
        held=held,
        available=available,
        outstanding=path.outstanding,
        instances=instances,
    )
    if units is not None:
        return units
    if available < ask.least:
        return BudgetExhausted(got=available, expected=f"{ask.least} units available")
    if ask.least > policy.outstanding_max:
        return BudgetExhausted(
            about="one request", got=ask.least, expected=f"<= {policy.outstanding_max} units"
        )
    return TooBusy(about="units out in leases", got=path.outstanding)
