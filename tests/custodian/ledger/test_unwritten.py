"""L-1: where the audit entry of an act cannot be written, the act has not happened, whatever it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from leasehold.core.messages import Usage
from leasehold.core.units import Duration, Units
from leasehold.custodian.ledger import (
    audit,
    books,
    consumers,
    epoch,
    grants,
    loans,
    reports,
    stops,
    sweeps,
)
from leasehold.custodian.store.inline import InlineStore
from leasehold.errors import Conflict

from .stage import ADMIN, Stage

TABLES = (
    *("loans", "accounts", "consumers", "keys", "grants", "key_caps", "leases", "answers"),
    *("instances", "appraisals", "extensions", "stops", "stop_instances", "refunds"),
    *("cosignatures", "meta", "log", "log_head"),
)
Act = Callable[[Stage], object]


def refuse_entries(stage: Stage) -> None:
    """Plant it: the log takes no row any more, as where a disk or a constraint says no."""
    if isinstance(stage.store, InlineStore):
        stage.edit(
            "CREATE TRIGGER planted BEFORE INSERT ON log"
            " BEGIN SELECT RAISE(ABORT, 'planted: no entry'); END"
        )
    else:
        size, _ = stage.see(audit.head)
        stage.edit(f"ALTER TABLE log ADD CONSTRAINT planted CHECK (position < {size})")


def accept_entries(stage: Stage) -> None:
    """Take it away again."""
    if isinstance(stage.store, InlineStore):
        stage.edit("DROP TRIGGER planted")
    else:
        stage.edit("ALTER TABLE log DROP CONSTRAINT planted")


def rows(stage: Stage) -> dict[str, list[tuple[object, ...]]]:
    """All that the ledger says."""
    return {
        table: sorted(
            (tuple(row) for row in stage.see(lambda tx: tx.execute(f"SELECT * FROM {table}"))),  # noqa: B023, S608
            key=repr,
        )
        for table in TABLES
    }


def lent() -> Stage:
    stage = Stage()
    stage.lend()
    stage.enrol("alice", "key-1")
    stage.attest("one")
    stage.lease(units=100)
    return stage


def _stop(stage: Stage) -> object:
    return stage.do(
        lambda tx: stops.order(
            tx, now=stage.now, operator=ADMIN, scope="all", target="", reason="why"
        )
    )


def _cap(stage: Stage) -> object:
    return stage.do(
        lambda tx: loans.change_cap(
            tx, now=stage.now, operator=ADMIN, loan="loan-1", units=Units(5)
        )
    )


def _grant(stage: Stage) -> object:
    return stage.do(
        lambda tx: grants.change_grant(
            tx, now=stage.now, operator=ADMIN, loan="loan-1", consumer="alice", units=Units(5)
        )
    )


def _settle(stage: Stage) -> object:
    usage = stage.see(
        lambda tx: tuple(
            Usage(f"{row[0]}-{row[1]}", Units(7))
            for row in tx.execute("SELECT epoch, number FROM leases")
        )
    )
    return stage.do(lambda tx: reports.report_usage(tx, now=stage.now, instance="one", usage=usage))


def _sweep(stage: Stage) -> object:
    later = type(stage.now)(stage.now + Duration(10 * 60_000))
    return stage.do(lambda tx: sweeps.sweep(tx, now=later))


ACTS: dict[str, Act] = {
    "stop": _stop,
    "cap": _cap,
    "grant": _grant,
    "lease": lambda stage: stage.send(stage.message(need=50)),
    "settle": _settle,
    "write-off": _sweep,
    "attest": lambda stage: stage.attest("two"),
    "consumer": lambda stage: stage.do(
        lambda tx: consumers.add_consumer(tx, now=stage.now, operator=ADMIN, name="bob")
    ),
    "restore": lambda stage: stage.do(
        lambda tx: epoch.restore(tx, now=stage.now, operator=ADMIN, reason="why")
    ),
}


@pytest.mark.parametrize("name", ACTS)
def test_without_its_entry_no_act_changes_anything(name: str) -> None:
    """T58: there is no way to change the ledger and leave the log as it was."""
    stage = lent()
    refuse_entries(stage)
    try:
        before = rows(stage)
        with pytest.raises(Conflict):
            ACTS[name](stage)
        assert rows(stage) == before
    finally:
        accept_entries(stage)
    stage.check()
    ACTS[name](stage)  # the very same act, once it can be written
    assert rows(stage) != before
    stage.see(audit.check_log)
    stage.see(books.check_books)
