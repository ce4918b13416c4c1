"""`make crash`: a crash at every step of the ledger's files, every failing step, every lost connection.

Ends with 1 where anything acknowledged was lost.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tools.crash.acts import course
from tools.crash.check import Check, Lost, ledgers
from tools.crash.client import Scissors, cut_everywhere, cuttable, fail_postgres, fail_sqlite
from tools.crash.recorder import Recorder
from tools.crash.run import Result, crash_everywhere, fail_everywhere
from tools.postgres import Server


async def main(folder: Path) -> int:
    """All of it."""
    recorder, started = Recorder.install(), time.monotonic()
    lost = _tell("crashes", await crash_everywhere(recorder, _new(folder, "crashes")))
    failed, refused = await fail_everywhere(recorder, _new(folder, "failures"), share=0.25)
    print(f"{refused:,} acts refused because a write or sync failed; none was there in part")
    lost += _tell("crashes after failures", failed)
    acts = [act for _, act in course()]
    check = Check(acts, await ledgers(acts))
    server = Server.make()
    try:
        for name, fail in (("SQLite", fail_sqlite), ("PostgreSQL", fail_postgres)):
            scissors = Scissors(fail)
            store = cuttable(scissors, folder / "cut.db" if name == "SQLite" else server.url())
            try:
                cuts = await cut_everywhere(store, scissors, check)
                print(
                    f"{name}: {cuts:,} statements cut off before or after; every act is there once"
                )
            except Lost as why:
                print(f"{name}: LOST: {why}")
                lost += 1
            await store.close()
    finally:
        server.remove()
    print(f"{lost} lost, in {time.monotonic() - started:.0f} s")
    return 1 if lost else 0


def _new(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place


def _tell(what: str, result: Result) -> int:
    kinds = ", ".join(f"{count:,} {loss.value}" for loss, count in result.recoveries.items())
    print(f"{result.points:,} {what} recovered from: {kinds}; {len(result.lost)} lost")
    for one in result.lost[:20]:
        print(f"  LOST: {one}")
    return len(result.lost)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.exit(asyncio.run(main(Path(place))))
