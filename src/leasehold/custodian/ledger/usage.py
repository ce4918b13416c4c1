"""Consumption as rows, for tables, JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from leasehold.core.units import Units
from leasehold.custodian.store.port import Tx

By = Literal["loan", "consumer", "key", "instance"]

_SUMS: Final = """
       COUNT(*), CAST(SUM(granted - settled - released - written_off) AS BIGINT),
       CAST(SUM(settled) AS BIGINT), CAST(SUM(written_off) AS BIGINT)
FROM leases WHERE loan = ? OR ? = 1
"""
_QUERIES: Final[dict[By, str]] = {
    "loan": f"SELECT loan, '', '', '', {_SUMS} GROUP BY loan ORDER BY loan",
    "consumer": (
        f"SELECT loan, consumer, '', '', {_SUMS} GROUP BY loan, consumer ORDER BY loan, consumer"
    ),
    "key": (
        f"SELECT loan, consumer, key, '', {_SUMS}"
        " GROUP BY loan, consumer, key ORDER BY loan, consumer, key"
    ),
    "instance": (
        f"SELECT loan, '', '', instance, {_SUMS} GROUP BY loan, instance ORDER BY loan, instance"
    ),
}


class UsageRow(msgspec.Struct, frozen=True):
    """Sums over leases. What the grouping does not separate is empty."""

    loan: str
    consumer: str
    key: str
    instance: str
    leases: int
    outstanding: Units
    settled: Units
    written_off: Units


def rows(tx: Tx, *, by: By, loan: str | None = None) -> tuple[UsageRow, ...]:
    """By loan; by loan and consumer; by loan, consumer and key; or by loan and instance."""
    return tuple(UsageRow(*row) for row in tx.execute(_QUERIES[by], (loan, int(loan is None))))


def to_csv(rows: Iterable[UsageRow]) -> str:
    """RFC 4180 CSV with a header line. No cell can begin a formula: names are checked when they are made."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(UsageRow.__struct_fields__)
    writer.writerows(msgspec.structs.astuple(row) for row in rows)
    return text.getvalue()
