"""Instances, appraisals, nonces and what silence does to them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from leasehold.core.units import DAY, MINUTE, SECOND, Instant
from leasehold.custodian.ledger import instances, leases, nonces, reports, sweeps
from leasehold.custodian.store import connection
from leasehold.custodian.store.connection import SqliteTx
from leasehold.errors import (
    BadRequest,
    Conflict,
    EvidenceExpired,
    TooBusy,
    UnknownThing,
    WrongNonce,
)

from .stage import EXACT, Stage, ready, statement_key

NONCE = b"n" * 32


def register(stage: Stage, instance: str, loan: str = "loan-1", key: bytes | None = None) -> None:
    stage.do(
        lambda tx: instances.register(
            tx,
            now=stage.now,
            instance=instance,
            loan=loan,
            statement_key=statement_key(instance).public if key is None else key,
            machine="m",
            verdict=b"{}",
            evidence_digest=b"",
            certificate_expires=Instant(stage.now + DAY),
            evidence_expires=Instant(stage.now + DAY),
        )
    )


def sweep(stage: Stage, later: int = 0) -> sweeps.Swept:
    stage.now = Instant(stage.now + later)
    return stage.do(lambda tx: sweeps.sweep(tx, now=stage.now))


def test_renewal_keeps_the_instance_and_its_leases() -> None:
    """N-5."""
    stage = ready()
    lease = stage.lease().lease
    stage.now = Instant(stage.now + SECOND)
    register(stage, "one")
    one = stage.see(lambda tx: instances.show_instance(tx, "one"))
    assert one.registered == stage.now - SECOND
    assert (one.seen, one.evidence_expires) == (stage.now, stage.now + DAY)
    assert stage.lease().lease == lease
    assert stage.kinds().count("instance.accept") == 1
    assert stage.kinds().count("instance.renew") == 1


def test_nobody_takes_over_an_instance() -> None:
    stage = ready()
    stage.lend("loan-2")
    with pytest.raises(Conflict):
        register(stage, "one", key=statement_key("thief").public)
    with pytest.raises(Conflict):
        register(stage, "one", loan="loan-2")
    with pytest.raises(BadRequest):
        register(stage, "two", key=b"short")
    with pytest.raises(UnknownThing):
        register(stage, "two", loan="nothing")


def test_no_more_instances_than_the_loan_allows() -> None:
    """T27."""
    stage = ready(instances_max=2)
    register(stage, "two")
    with pytest.raises(TooBusy):
        register(stage, "three")
    register(stage, "two")
    stage.prove(0, instance="two")
    register(stage, "three")
    assert stage.see(lambda tx: instances.count_live(tx, loan="loan-1")) == 2


def test_refused_evidence_is_recorded_and_changes_no_instance() -> None:
    """N-2; and a claim to be somebody must not knock that somebody out."""
    stage = ready()
    stage.do(
        lambda tx: instances.record_refusal(
            tx,
            now=stage.now,
            instance="one",
            loan="nothing",
            machine="",
            code="wrong_measurement",
            verdict=b"{}",
            evidence_digest=b"d",
        )
    )
    latest, first = stage.see(instances.list_appraisals)
    assert (latest.code, first.code) == ("wrong_measurement", "")
    assert stage.kinds()[-1] == "instance.refuse"
    assert stage.lease().granted == 100


def test_who_may_speak() -> None:
    """N-4: the evidence is looked at on every message."""
    stage = ready()

    def speak() -> instances.Instance:
        return stage.see(lambda tx: instances.check_speaks(tx, now=stage.now, instance="one"))

    assert speak().id == "one"
    stage.now = Instant(stage.now + DAY)
    with pytest.raises(EvidenceExpired):
        speak()
    with pytest.raises(UnknownThing):
        stage.see(lambda tx: instances.check_speaks(tx, now=stage.now, instance="two"))
    older = instances.speech_refusal(
        "live", current=False, evidence_expires=Instant(stage.now + DAY), now=stage.now
    )
    assert isinstance(older, EvidenceExpired)


def test_silence_makes_an_instance_lost_and_evidence_brings_it_back() -> None:
    stage = ready()
    assert sweep(stage, 2 * MINUTE - 1).lost == ()
    assert sweep(stage, 1).lost == ("one",)
    assert sweep(stage).lost == ()
    with pytest.raises(EvidenceExpired):
        stage.see(lambda tx: instances.check_speaks(tx, now=stage.now, instance="one"))
    register(stage, "one")
    assert stage.see(lambda tx: instances.list_instances(tx, state="live"))[0].id == "one"


def test_an_uncertified_instance_is_lost_however_loud() -> None:
    """N-8."""
    stage = Stage()
    stage.lend()
    stage.attest("one", life=10 * SECOND)
    for _ in range(7):
        stage.now = Instant(stage.now + 10 * SECOND)
        stage.report("none", 0)
        lost = sweep(stage).lost
    assert lost == ("one",)


def test_a_lease_is_written_off_after_its_grace_and_not_before() -> None:
    """M-5."""
    stage = ready()
    lease = stage.lease(units=100).lease
    stage.report(lease, 30)
    assert sweep(stage, EXACT.ttl + leases.GRACE - 1).leases == ()
    swept = sweep(stage, 1)
    assert (swept.leases, swept.units) == ((lease,), 70)
    stage.check()
    assert sweep(stage).leases == ()


def test_a_nonce_is_good_once_and_for_a_minute() -> None:
    """N-1, T3."""
    stage = ready()

    def use(nonce: bytes = NONCE) -> None:
        stage.do(lambda tx: nonces.use(tx, now=stage.now, nonce=nonce))

    def issue() -> int:
        return stage.do(lambda tx: nonces.issue(tx, now=stage.now, nonce=NONCE)).expires

    assert issue() == stage.now + MINUTE
    stage.restart()
    use()
    for nonce in (NONCE, b"never" * 6):
        with pytest.raises(WrongNonce):
            use(nonce)
    issue()
    stage.now = Instant(stage.now + MINUTE)
    with pytest.raises(WrongNonce):
        use()


def test_a_flood_of_challenges_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonces, "NONCES_MAX", 2)
    stage = ready()
    for nonce in (b"1", b"2"):
        stage.do(lambda tx, nonce=nonce: nonces.issue(tx, now=stage.now, nonce=nonce))
    with pytest.raises(TooBusy):
        stage.do(lambda tx: nonces.issue(tx, now=stage.now, nonce=b"3"))
    stage.now = Instant(stage.now + MINUTE)
    stage.do(lambda tx: nonces.issue(tx, now=stage.now, nonce=b"3"))


def add_row(database: sqlite3.Connection, **more: bytes) -> None:
    """An instance without its loan; `more` are further columns."""
    columns = {
        "id": "one",
        "loan": "loan-1",
        "statement_key": b"",
        "machine": "m",
        "verdict": b"{}",
        "evidence_digest": b"",
        "certificate_expires": 1,
        "evidence_expires": 1,
        "epoch": 1,
        "state": "live",
        "registered": 1,
        "seen": 1,
        "floor": 0,
    } | more
    marks = ", ".join("?" * len(columns))
    database.execute("PRAGMA foreign_keys = OFF")
    database.execute(
        f"INSERT INTO instances ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608
        tuple(columns.values()),
    )


def test_what_was_shown_before_an_upgrade_can_still_be_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """N-10: evidence moves to a table of its own."""
    before = [one for one in connection._migrations() if one[0] < 10]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        monkeypatch.setattr(connection, "_migrations", lambda: iter(before))
        connection.migrate(database)
        add_row(database, attest=b"shown")
        monkeypatch.undo()
        connection.migrate(database)
        tx = SqliteTx(database)
        assert instances.last_attest(tx, "one") == b"shown"
        assert instances.last_attest(tx, "two") == b""


def test_a_heartbeat_does_not_write_what_was_shown_again(tmp_path: Path) -> None:
    """N-6: a thousand enclaves beat every second, and evidence is tens of kilobytes."""
    path, shown = tmp_path / "ledger.db", b"a" * 100_000
    with closing(connection.connect(path)) as database:
        connection.migrate(database)
        add_row(database)
        database.execute("INSERT INTO attests (instance, attest) VALUES ('one', ?)", (shown,))
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        tx = SqliteTx(database)
        reports.report_usage(tx, now=Instant(2), instance="one", usage=())
        assert (tmp_path / "ledger.db-wal").stat().st_size < len(shown) // 5
        assert instances.last_attest(tx, "one") == shown
