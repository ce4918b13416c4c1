"""The ledger under everything at once: whatever comes in whatever order, nobody overspends.

Security invariants 1, 2, 4, 6, 7, 8 (the list in the security page): after every step the books, the
log and a replay of the log from nothing agree, and M-2 holds at every prefix of the log.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from leasehold.core import merkle
from leasehold.core.messages import AttestAgain, LeaseAsk, LeaseGranted, LeaseRefused, Scope
from leasehold.core.units import DAY, MINUTE, SECOND, Duration, Instant, Units
from leasehold.custodian.ledger import (
    audit,
    consumers,
    epoch,
    extensions,
    grants,
    instances,
    leases,
    loans,
    refunds,
    stops,
    sweeps,
    tiles,
)
from leasehold.errors import BudgetExhausted, Conflict, LeaseholdError, LoanStopped, TooBusy

from .stage import ADMIN, LOOSE, START, STOPPER, Stage, key_hash, key_id

KEYS = st.sampled_from(["ann-1", "ann-2", "bob-1"])
INSTANCES = st.sampled_from(["one", "two", "three"])
UNITS = st.integers(0, 400)
WISHES = st.tuples(KEYS, INSTANCES, UNITS, UNITS, st.integers(0, 50_000), st.integers(0, 100))


class Enclave:
    """What an honest instance remembers of one lease: never more spent than it was told it has."""

    def __init__(self, grant: LeaseGranted, instance: str) -> None:
        self.id, self.instance, self.granted, self.spent = grant.lease, instance, grant.granted, 0


class LedgerMachine(RuleBasedStateMachine):
    """Enclaves that ask, spend, repeat themselves, close and die; operators who grant, stop and restore."""

    @initialize()
    def begin(self) -> None:
        self.stage = Stage()
        self.stage.lend(cap=3_000, policy=LOOSE)
        self.stage.enrol("ann", "ann-1", "ann-2", units=2_000)
        self.stage.enrol("bob", "bob-1", units=2_000)  # the grants overcommit the cap
        for name in ("one.0", "two.0"):
            self.stage.attest(name)
        self.asked: list[tuple[LeaseAsk, str, LeaseGranted | LeaseRefused]] = []
        self.held: dict[tuple[str, str], Enclave] = {}  # by instance and key
        self.dropped: dict[str, Enclave] = {}  # ended in the enclave, closing report under way
        self.names = {name: f"{name}.0" for name in ("one", "two", "three")}  # of this boot
        self.served = 0
        self.ids: set[str] = set()
        self.refunded: dict[str, int] = {}
        self.stopped: set[str] = set()
        self.busy = 0  # asks since the last stop or restore
        self.revoked = b""
        self.attested = dict.fromkeys(("one.0", "two.0"), START + DAY)  # until when
        self.log: list[tuple[int, bytes]] = []

    def attempt(self, work: Any, *allowed: type[LeaseholdError]) -> Any:
        """Do it; refusals of these kinds are lawful."""
        try:
            return work()
        except allowed:
            return None

    # Instances -----------------------------------------------------------------------------------

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=6))
    def ask(self, wishes: list[tuple[str, str, int, int, int, int]]) -> None:
        """Some new asks from anybody."""
        for wish in wishes:
            self.ask_one(*wish)

    def ask_one(
        self, key: str, instance: str, least: int, need: int, rate: int, share: int
    ) -> None:
        """Ask with what the enclave remembers of its lease; then serve a share of what it holds."""
        self.busy += 1
        instance = self.names[instance]
        mine = self.held.get((instance, key))
        spent, lease = (mine.spent, mine.id) if mine else (0, "")
        ask = self.stage.message(key, least=least, need=need, rate=rate, spent=spent, lease=lease)
        answer = self.attempt(lambda: self.stage.send(ask, instance), LeaseholdError)
        if answer is None:  # it has not been let in
            assert instance not in self.attested
            return
        if isinstance(answer, AttestAgain):  # as good as never sent
            assert answer.problem.code == "evidence_expired"
            return
        self.asked.append((ask, instance, answer))
        if not isinstance(answer, LeaseGranted):
            return
        assert answer.lease.startswith(f"{answer.epoch}-")
        assert ask.key_hash != self.revoked
        assert self.stage.now < self.attested[instance]
        assert answer.epoch == self.stage.see(epoch.current)
        assert instance not in self.stopped, "an instance that was stopped got a lease"
        stop = self.stage.see(
            lambda tx: stops.active_for(
                tx, loan="loan-1", consumer=answer.consumer, instance=instance
            )
        )
        assert stop is None
        for one in self.stage.see(lambda tx: stops.list_stops(tx, active=True)):  # L-14
            target = {"consumer": answer.consumer, "enclave": instance}.get(one.scope, one.target)
            if one.target == target:
                assert self.stage.now < one.begins
                assert self.stage.now + answer.ttl <= one.ends
        if answer.lease in self.dropped:
            return  # M-8: whatever arrives for it later
        if mine is None or mine.id != answer.lease:
            assert answer.lease not in self.ids, "a lease id was used again"
            self.ids.add(answer.lease)
            mine = self.held[instance, key] = Enclave(answer, instance)
        mine.granted = max(mine.granted, answer.granted)
        self.serve(mine, share)

    def serve(self, mine: Enclave, share: int) -> None:
        """Spend this percentage of what is held."""
        more = (mine.granted - mine.spent) * share // 100
        mine.spent += more
        self.served += more

    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        """A doubled ask: the same answer and nothing moves, unless a stop came in between."""
        if not self.asked:
            return
        ask, instance, answer = data.draw(st.sampled_from(self.asked))
        size, _ = self.stage.see(audit.head)
        again = self.stage.send(ask, instance)
        if again == answer and instance not in self.stopped:
            assert self.stage.see(audit.head)[0] == size
        elif isinstance(again, AttestAgain):
            assert again.problem.code == "evidence_expired"
            assert self.stage.see(audit.head)[0] == size
        elif again != answer:
            assert isinstance(again, LeaseRefused)
            assert again.problem.code in ("loan_stopped", "invalid_api_key")
            assert self.stage.see(audit.head)[0] - size in (0, 1)

    @rule(data=st.data(), share=st.integers(0, 100), late=st.integers(0, 50))
    def report(self, data: st.DataObject, share: int, late: int) -> None:
        """Serve some more and send a heartbeat, perhaps an old one."""
        if self.held:
            mine = self.held[data.draw(st.sampled_from(sorted(self.held)))]
            self.serve(mine, share)
            self.stage.report(mine.id, max(0, mine.spent - late), mine.instance)

    @rule(data=st.data())
    def lie(self, data: st.DataObject) -> None:
        """A rogue counter: clamped, and an alarm in the log."""
        if self.held:
            mine = self.held[data.draw(st.sampled_from(sorted(self.held)))]
            self.stage.report(mine.id, mine.granted + 1, mine.instance)

    @rule(data=st.data(), arrives=st.booleans())
    def drop(self, data: st.DataObject, arrives: bool) -> None:
        """Drop a lease; its closing report arrives at once, or later, or never."""
        if self.held:
            mine = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
            self.dropped[mine.id] = mine
            if arrives:
                self.stage.close(mine.id, mine.spent, mine.instance)

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """A closing report arrives late, or again."""
        if self.dropped:
            mine = self.dropped[data.draw(st.sampled_from(sorted(self.dropped)))]
            self.stage.close(mine.id, mine.spent, mine.instance)

    @rule(name=INSTANCES)
    def crash(self, name: str) -> None:
        """An enclave loses its memory: what boots next is another instance."""
        self.held = {key: mine for key, mine in self.held.items() if key[0] != self.names[name]}
        base, _, boot = self.names[name].partition(".")
        self.names[name] = f"{base}.{int(boot) + 1}"

    @rule(name=INSTANCES)
    def attest(self, name: str) -> None:
        """Fresh evidence; a stopped instance is refused."""
        instance = self.names[name]
        try:
            self.stage.attest(instance, life=10 * MINUTE)
            self.attested[instance] = self.stage.now + 10 * MINUTE
            assert instance not in self.stopped
        except (LoanStopped, TooBusy):
            return

    # Time and operators --------------------------------------------------------------------------

    @rule(length=st.sampled_from([SECOND, 20 * SECOND, MINUTE, 5 * MINUTE]))
    def wait_and_sweep(self, length: int) -> None:
        """Time passes and the ledger notices."""
        self.stage.now = Instant(self.stage.now + length)
        swept = self.stage.do(lambda tx: sweeps.sweep(tx, now=self.stage.now))
        for one in swept.stops:
            self.found(one)

    def found(self, stop: stops.Stop) -> None:
        """A stop is in force: whom it found never gets a lease again."""
        progress = self.stage.see(lambda tx: stops.progress(tx, stop=stop.id))
        if stop.scope != "consumer":
            self.stopped |= {*progress.proved, *progress.pending, *progress.presumed_dead}

    @precondition(lambda self: self.busy >= 6)
    @rule(
        scope=st.sampled_from(["consumer", "enclave", "loan", "all"]),
        notice=st.sampled_from([0, 0, 10 * SECOND, 2 * MINUTE]),
        drain=st.sampled_from([0, 0, 15 * SECOND]),
        data=st.data(),
    )
    def stop(self, scope: Scope, notice: int, drain: int, data: st.DataObject) -> None:
        """Stop something, at once or later, and see that what is out there is what the leases hold."""
        self.busy = 0
        targets = {"consumer": ["ann", "bob"], "enclave": sorted(self.attested), "loan": ["loan-1"]}
        target = data.draw(st.sampled_from(targets.get(scope, [""])))
        order = self.stage.do(
            lambda tx: stops.order(
                tx,
                now=self.stage.now,
                operator=STOPPER,
                scope=scope,
                target=target,
                reason="",
                notice=Duration(notice),
                drain=Duration(0 if scope == "consumer" else drain),
            )
        )
        progress = self.stage.see(lambda tx: stops.progress(tx, stop=order.id))
        if order.phase != "notice":
            self.found(order)
        assert progress.units == sum(
            lease.outstanding
            for lease in self.stage.see(leases.list_open)
            if scope in ("all", "loan") or target in (lease.consumer, lease.instance)
        )

    @rule(data=st.data())
    def prove(self, data: st.DataObject) -> None:
        """An instance proves that it stopped; what it dropped before, it reports separately (N-7)."""
        active = [one.id for one in self.stage.see(lambda tx: stops.list_stops(tx, active=True))]
        if not active:
            return
        instance = data.draw(st.sampled_from(sorted(self.attested)))
        final = [(mine.id, mine.spent) for (who, _), mine in self.held.items() if who == instance]
        self.stage.prove(active[0], *final, instance=instance)
        self.held = {name: mine for name, mine in self.held.items() if name[0] != instance}
        self.stopped.add(instance)

    @rule()
    def resume(self) -> None:
        """Lift every stop; what it found running boots anew."""
        for one in self.stage.see(lambda tx: stops.list_stops(tx, active=True)):
            self.stage.do(
                lambda tx, one=one: stops.lift(
                    tx, now=self.stage.now, operator=ADMIN, stop=one.id, reason=""
                )
            )
        for name, instance in self.names.items():
            if instance in self.stopped:
                self.crash(name)
                self.attest(name)

    @rule(units=st.integers(-500, 1_000), cap=st.booleans())
    def change(self, units: int, cap: bool) -> None:
        """Give or take budget."""
        now = self.stage.now

        def act(tx: Any) -> None:
            if cap:
                loans.change_cap(tx, now=now, operator=ADMIN, loan="loan-1", units=Units(units))
            else:
                grants.change_grant(
                    tx, now=now, operator=ADMIN, loan="loan-1", consumer="ann", units=Units(units)
                )

        self.attempt(lambda: self.stage.do(act), BudgetExhausted)

    @rule(data=st.data(), units=st.integers(1, 200))
    def refund(self, data: st.DataObject, units: int) -> None:
        """Give back what some lease cost; never more than that, and never lowering what is spent."""
        if not self.ids:
            return
        lease = data.draw(st.sampled_from(sorted(self.ids)))
        one = self.stage.see(lambda tx: leases.show_lease(tx, lease))
        spent = self.stage.see(loans.list_loans)[0].budget
        done = self.attempt(
            lambda: self.stage.do(
                lambda tx: refunds.refund(
                    tx,
                    now=self.stage.now,
                    operator=ADMIN,
                    loan=one.loan,
                    consumer=one.consumer,
                    lease=lease,
                    units=Units(units),
                    reason="drill",
                )
            ),
            Conflict,
            BudgetExhausted,
        )
        self.refunded[lease] = self.refunded.get(lease, 0) + (units if done else 0)
        assert self.refunded[lease] <= one.settled + one.written_off
        assert self.stage.see(loans.list_loans)[0].budget == spent

    @rule(key=KEYS, units=st.integers(0, 1_500))
    def cap_key(self, key: str, units: int) -> None:
        """Cap a key, with whatever it used before."""
        self.attempt(
            lambda: self.stage.do(
                lambda tx: grants.cap_key(
                    tx,
                    now=self.stage.now,
                    operator=ADMIN,
                    loan="loan-1",
                    key=key_id(key),
                    units=Units(units),
                )
            ),
            BudgetExhausted,
        )

    @rule(yes=st.booleans(), units=st.integers(1, 800))
    def decide(self, yes: bool, units: int) -> None:
        """Decide all open requests."""
        now = self.stage.now
        for one in self.stage.see(lambda tx: extensions.list_requests(tx, status="open")):
            if yes:
                self.stage.do(
                    lambda tx, one=one: extensions.approve(
                        tx, now=now, operator=ADMIN, request=one.id, units=Units(units)
                    )
                )
            else:
                self.stage.do(
                    lambda tx, one=one: extensions.deny(
                        tx, now=now, operator=ADMIN, request=one.id, reason="no"
                    )
                )

    @precondition(lambda self: len(self.asked) >= 30)
    @rule()
    def revoke(self) -> None:
        """Revoke one key."""
        self.stage.do(
            lambda tx: consumers.revoke_key(
                tx, now=self.stage.now, operator=ADMIN, key=key_id("ann-2")
            )
        )
        self.revoked = key_hash("ann-2")

    @rule()
    def restart(self) -> None:
        """The custodian dies and comes back from its disk."""
        self.stage.restart()

    @precondition(lambda self: self.busy >= 20)
    @rule()
    def restore(self) -> None:
        """After a backup was put back nothing is available and nothing is out; operators grant anew."""
        self.busy = 0
        was = self.stage.see(epoch.current)
        now = self.stage.do(
            lambda tx: epoch.restore(tx, now=self.stage.now, operator=ADMIN, reason="drill")
        )
        assert now > was
        self.stopped |= {one.id for one in self.stage.see(instances.list_instances)}
        assert self.stage.see(leases.list_open) == ()
        assert self.stage.see(loans.list_loans)[0].budget.available == 0
        self.change(1_000, cap=True)
        self.change(1_000, cap=False)

    # What always holds ---------------------------------------------------------------------------

    @invariant()
    def books_are_right(self) -> None:
        """Invariants 1 and 8: books, log and replay agree, at every prefix."""
        self.stage.check()

    @invariant()
    def nothing_served_twice(self) -> None:
        """Invariants 1 and 2: all that honest enclaves ever served was debited before."""
        budget = self.stage.see(loans.list_loans)[0].budget
        assert self.served <= budget.outstanding + budget.settled + budget.written_off

    @invariant()
    def log_only_grows(self) -> None:
        """Invariant 8: every head ever seen is a prefix of the log."""
        size, root = self.stage.see(audit.head)
        if self.log:
            old_size, old_root = self.log[-1]
            proof = self.stage.see(lambda tx: tiles.Tree(tx).consistency(old_size))
            merkle.check_consistency(
                old_size=old_size, old_head=old_root, size=size, head=root, proof=proof
            )
        self.log.append((size, root))


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
