"""Opens what a crash left, with the real store, and says whether it is one of the ledgers that it may be.

Acts are atomic and come one after another, so a ledger after a crash must be exactly what it was after
one of them: at the earliest the last that was acknowledged, at the latest the last that was begun.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from leasehold.custodian.ledger import audit, books
from leasehold.custodian.store.connection import migrations
from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.store.port import Store, Tx
from tools.crash.acts import Act

FURTHER: Final = 3


class Lost(AssertionError):
    """A crash took what was acknowledged, or left half of something."""


@lru_cache(maxsize=1)
def _tables() -> tuple[str, ...]:
    """The ledger's tables, but for the one that says how new the schema is."""
    script = "".join(text for _, text in migrations())
    return tuple(sorted(re.findall(r"^CREATE TABLE (\w+)", script, re.MULTILINE)))


def content(tx: Tx) -> bytes:
    """A digest of every row of every table; the same for the same ledger in any store."""
    state = hashlib.sha256()
    for name in _tables():
        rows = tx.execute(f"SELECT * FROM {name}")  # noqa: S608  a name of the schema
        state.update(repr((name, sorted(rows, key=repr))).encode())
    return state.digest()


async def ledgers(acts: Sequence[Act]) -> list[bytes]:
    """The content before the first act and after each of them."""
    store = InlineStore.open()
    found = [await store.read(content)]
    for act in acts:
        await store.write(act)
        found.append(await store.read(content))
    await store.close()
    return found


@dataclass(frozen=True, slots=True)
class Check:
    """The acts of a course, and the ledgers that follow from them."""

    acts: Sequence[Act]
    expected: Sequence[bytes]

    async def recover(
        self, path: Path, *, least: int, most: int, open_store: Callable[[Path], Store]
    ) -> int:
        """Open it and see how many acts it has. Raises Lost unless that is from `least` to `most`.

        Then the course goes on for some acts: a ledger that cannot is lost as well.
        """
        store = open_store(path)
        try:
            there = await store.read(content)
            done = [n for n in range(least, most + 1) if self.expected[n] == there]
            if not done:
                known = [n for n, digest in enumerate(self.expected) if digest == there]
                raise Lost(f"{known or 'no'} acts are there, {least} to {most} were expected")
            for look in (books.check_books, books.check_replay, audit.check_log):
                await store.read(look)
            further = min(done[-1] + FURTHER, len(self.acts))
            await asyncio.gather(*(store.write(act) for act in self.acts[done[-1] : further]))
            if await store.read(content) != self.expected[further]:
                raise Lost(f"after act {further} the ledger is another than it should be")
        finally:
            await store.close()
        return done[-1]
