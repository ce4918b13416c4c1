"""Consumption as rows and as CSV."""

import csv
import io

from leasehold.custodian.ledger import usage
from leasehold.custodian.ledger.usage import By

from .stage import Stage, key_id, ready


def busy() -> Stage:
    stage = ready()
    stage.enrol("bob", "key-2")
    stage.attest("two")
    stage.report(stage.lease("key-1", units=100).lease, 40)
    stage.close(stage.lease("key-2", units=10).lease, 7)
    stage.lease("key-1", instance="two", units=5)
    return stage


def table(stage: Stage, by: By) -> list[tuple[str, str, str, int, int, int]]:
    rows = stage.see(lambda tx: usage.rows(tx, by=by, loan="loan-1"))
    return [(r.consumer, r.key, r.instance, r.leases, r.outstanding, r.settled) for r in rows]


def test_rows_by_everything() -> None:
    stage = busy()
    assert table(stage, "loan") == [("", "", "", 3, 65, 47)]
    assert table(stage, "consumer") == [("ann", "", "", 2, 65, 40), ("bob", "", "", 1, 0, 7)]
    assert table(stage, "key") == [
        ("ann", key_id("key-1"), "", 2, 65, 40),
        ("bob", key_id("key-2"), "", 1, 0, 7),
    ]
    assert table(stage, "instance") == [("", "", "one", 2, 60, 47), ("", "", "two", 1, 5, 0)]
    assert stage.see(lambda tx: usage.rows(tx, by="loan", loan="other")) == ()
    assert len(stage.see(lambda tx: usage.rows(tx, by="consumer"))) == 2


def test_csv_has_a_header_and_one_line_for_each_row() -> None:
    stage = busy()
    text = usage.to_csv(stage.see(lambda tx: usage.rows(tx, by="consumer")))
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["consumer"] for line in lines] == ["ann", "bob"]
    assert lines[0]["settled"] == "40"
    assert text.count("\r\n") == 3
