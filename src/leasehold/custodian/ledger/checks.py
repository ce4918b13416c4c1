"""What every act checks of its arguments: names, amounts, and that the thing is there."""

from __future__ import annotations

import re
from typing import Final

from leasehold.core.units import Units
from leasehold.custodian.store.port import Row, Tx
from leasehold.errors import AlreadyExists, BadRequest, UnknownThing

UNITS_MAX: Final = 1 << 53  # exact in every JSON reader, and no sum of two overflows 63 bits
REASON_CHARS_MAX: Final = 500
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_name(name: str, *, about: str) -> None:
    """Raise BadRequest for what would not survive in a URI, a CSV cell and a shell."""
    if not NAME.fullmatch(name):
        raise BadRequest(
            about=about, got=name, expected="1 to 63 of A-Z a-z 0-9 . _ -, first a letter or digit"
        )


def check_reason(reason: str) -> None:
    """Raise BadRequest for a reason that is too long."""
    if len(reason) > REASON_CHARS_MAX:
        raise BadRequest(
            about="reason", got=len(reason), expected=f"<= {REASON_CHARS_MAX} characters"
        )


def check_units(units: int, *, about: str, least: int = 0) -> Units:
    """Raise BadRequest unless `least <= units <= UNITS_MAX`."""
    if not least <= units <= UNITS_MAX:
        raise BadRequest(about=about, got=units, expected=f"{least} to {UNITS_MAX}")
    return Units(units)


def found(rows: list[Row], *, about: str) -> Row:
    """The one row of a look-up, or raise UnknownThing."""
    if not rows:
        raise UnknownThing(about=about)
    return rows[0]


def check_absent(rows: list[Row], *, about: str) -> None:
    """Raise AlreadyExists unless a look-up found nothing."""
    if rows:
        raise AlreadyExists(about=about)


def next_number(tx: Tx, counter: str) -> int:
    """The next number of a counter in `meta`, from 1; none is ever given twice in one epoch."""
    rows = tx.execute(
        "UPDATE meta SET value = value + 1 WHERE name = ? RETURNING value", (counter,)
    )
    number: int = rows[0][0]
    return number
