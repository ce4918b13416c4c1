"""The store's port: acts on a transaction, durable when they return.

An act is a plain synchronous function of a `Tx`. SQL is a portable subset: `?` placeholders, integers
below 2^63, text and bytes; no floats. Refuses to know: what the tables mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")

Value = int | str | bytes | None
Row = tuple[Any, ...]


ROWS_MAX: Final = 256  # that one statement inserts


class Tx(Protocol):
    """One transaction. Acts run as if one after another: nothing changes under an act's feet."""

    memo: dict[str, Any]
    """What acts leave for later acts of the same transaction; as it was again where an act is undone.

    Values are immutable, and always something that the tables say too, or will before the act ends.
    """

    def execute(self, sql: str, params: Sequence[Value] = ()) -> list[Row]:
        """Run one statement and return its rows (of a SELECT or a RETURNING clause).

        Raises Conflict where a constraint of the schema forbids the change; the act has then failed and
        is to let it pass.
        """

    def tell(self, news: str) -> None:
        """Let every other replica hear these few words once the act is durable (L-10)."""


class Store(Protocol):
    """Runs acts. Every one is atomic: an exception in an act undoes that act and nothing else.

    An act may have an attribute `together`: a function of a Tx and a sequence of acts with this very
    attribute. It does what they would do one after another, in fewer statements, and returns for each
    what it would have returned or the exception it would have raised. Where it raises, nothing of it
    stays, and the acts are run one after another.
    """

    async def write(self, act: Callable[[Tx], T]) -> T:
        """Run `act` in a transaction that is on disk before this returns.

        Raises whatever the act raises, and StoreFailed where it could not be made durable: then
        nothing was acknowledged, and asking again is safe because acts are idempotent.
        """

    async def read(self, act: Callable[[Tx], T]) -> T:
        """Run `act` on a consistent snapshot that has every write acknowledged before; it may not write.

        Raises whatever the act raises, and StoreFailed.
        """

    async def read_soon(self, act: Callable[[Tx], T]) -> T:
        """`read` for a few short statements: behind no other read, and given up early where it hangs (L-16)."""

    def on_news(self, hear: Callable[[str], None]) -> None:
        """Call `hear` in this event loop with what other replicas tell.

        With empty words where anything may have been missed: everything is to be looked at again. A
        store of one process never calls it.
        """

    async def close(self) -> None:
        """Finish what was handed in, then let go of the files. Later calls raise StoreFailed."""


def many(sql: str, rows: Sequence[Sequence[Value]]) -> tuple[str, list[Value]]:
    """A statement with one `VALUES (?, ...)` in it, and its values, for any number of rows but 0.

    The last row is repeated up to a power of two, so that a database sees few different statements: the
    statement must not mind.
    """
    count = 1 << (len(rows) - 1).bit_length()
    values = [value for row in rows for value in row]
    return _many(sql, len(rows[0]), count), values + [*rows[-1]] * (count - len(rows))


def insert(tx: Tx, sql: str, rows: Sequence[Sequence[Value]]) -> None:
    """Run an `INSERT ... VALUES (?, ...)` for any number of rows, in few statements. Raises Conflict.

    Each inserts a power of two of them, so that a database sees few different ones.
    """
    done = 0
    while done < len(rows):
        count = min(ROWS_MAX, 1 << (len(rows) - done).bit_length() - 1)
        tx.execute(*many(sql, rows[done : done + count]))
        done += count


@lru_cache(maxsize=128)
def _many(sql: str, columns: int, count: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return sql.replace(f"VALUES {row}", f"VALUES {', '.join([row] * count)}")
