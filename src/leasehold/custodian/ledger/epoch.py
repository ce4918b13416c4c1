"""The epoch: a number in every lease id that grows with every restore (T28, L-8)."""

from __future__ import annotations

from collections.abc import Sequence

from leasehold.core.accounts import Account
from leasehold.core.units import SECOND, Instant, Units
from leasehold.custodian.ledger import accounts, audit, hands, leases, stops
from leasehold.custodian.ledger.checks import check_reason
from leasehold.custodian.ledger.notes import Checkpoint
from leasehold.custodian.ledger.operators import Operator, Right, check_right
from leasehold.custodian.store.port import Tx


def current(tx: Tx) -> int:
    """The epoch in force."""
    epoch: int = tx.execute("SELECT value FROM meta WHERE name = 'epoch'")[0][0]
    return epoch


def restore(
    tx: Tx,
    *,
    now: Instant,
    operator: Operator,
    reason: str,
    least: int = 0,
    given_up: Sequence[Checkpoint] = (),
) -> int:
    """To be run first after a backup was put back: burn what it cannot know, and return the new epoch.

    Every open lease is written off, every available unit taken back, everything stopped (scope `all`),
    and no pending proposal can be approved any more.
    The new epoch is at least the clock's second, so that one backup put back twice gives two epochs, and
    at least `least`, for clocks go wrong as well. `given_up` are newer checkpoints that the restore knew
    of; they go into the log.
    Raises NotPermitted, BadRequest.
    """
    check_right(operator, Right.CHANGE)
    check_reason(reason)
    epoch = max(current(tx) + 1, now // SECOND, least)
    tx.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (epoch,))
    tx.execute("DELETE FROM nonces")
    detail = {
        "epoch": epoch,
        "reason": reason,
        "given_up": [{"size": one.size, "root": one.root} for one in given_up],
    }
    audit.append(tx, now=now, actor=operator.name, kind="epoch.restore", detail=detail)
    stops.order(tx, now=now, operator=operator, scope="all", target="", reason=reason)
    hands.void_all(tx, now=now, actor=operator.name, reason=reason)
    for lease in leases.list_open(tx):
        leases.write_off(tx, now=now, actor=operator.name, lease=lease)
    for number, kind, names in _nodes(tx):
        _take_back(tx, number, now=now, actor=operator.name, kind=kind, names=names)
    return epoch


def _nodes(tx: Tx) -> list[tuple[int, str, dict[str, str]]]:
    """Every account with the name that its entries in the log have."""
    return [
        *(
            (row[0], "key.take_back", {"loan": row[1], "key": row[2]})
            for row in tx.execute("SELECT account, loan, key FROM key_caps ORDER BY account")
        ),
        *(
            (row[0], "grant.change", {"loan": row[1], "consumer": row[2]})
            for row in tx.execute("SELECT account, loan, consumer FROM grants ORDER BY account")
        ),
        *(
            (row[0], "loan.cap", {"loan": row[1]})
            for row in tx.execute("SELECT account, name FROM loans ORDER BY account")
        ),
    ]


def _take_back(
    tx: Tx, number: int, *, now: Instant, actor: str, kind: str, names: dict[str, str]
) -> None:
    path = accounts.load_path(tx, number)
    units = path.available
    if units == 0:
        return

    def burn(account: Account) -> Account:
        return account.extend(Units(-units))

    accounts.move(tx, path, burn)
    audit.append(tx, now=now, actor=actor, kind=kind, detail={**names, "units": -units})
