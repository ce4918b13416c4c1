"""Crash at every write: nothing acknowledged is lost, and nothing is there in part (invariant 6)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.crash.acts import course
from tools.crash.check import Check, Lost, content, ledgers
from tools.crash.client import Scissors, When, cut_everywhere, cuttable, fail_postgres, fail_sqlite
from tools.crash.recorder import Kind, Op, Recorder
from tools.crash.run import KILLED, crash_everywhere, fail_everywhere
from tools.crash.states import Loss, after
from tools.postgres import Server

from custodian.databases import new_database
from leasehold.custodian.store import connection
from leasehold.custodian.store.port import Row, Store, Tx
from leasehold.custodian.store.sqlite import SqliteStore
from leasehold.errors import StoreFailed

SHARE = 0.2  # of about 10,000; `make crash` tries all


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    """SQLite's writes, seen. Where this Python hides its SQLite the tests fail."""
    return Recorder.install()


@pytest.fixture(scope="module")
def check() -> Check:
    """The course, and the ledger after each of its acts."""
    acts = [act for _, act in course()]
    return Check(acts, asyncio.run(ledgers(acts)))


def test_the_course_has_every_scenario(check: Check) -> None:
    assert len({name for name, _ in course()}) >= 20
    assert len(set(check.expected)) > 80


async def test_a_crash_at_any_step_loses_nothing_acknowledged(
    recorder: Recorder, tmp_path: Path
) -> None:
    result = await crash_everywhere(recorder, tmp_path, share=SHARE)
    assert result.lost == []
    assert result.points > 1_500
    assert all(result.recoveries[loss] > 200 for loss in Loss)


async def test_a_failing_disk_refuses_and_heals_and_forgets_nothing(
    recorder: Recorder, tmp_path: Path
) -> None:
    """D2: full, failing and read-only disks; after a failed sync what seemed written may be gone."""
    result, refused = await fail_everywhere(recorder, tmp_path, share=0.01)
    assert result.lost == []
    assert refused > 10
    assert result.points > 50


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_connection_lost_at_any_statement_leaves_whole_acts(
    kind: str, check: Check, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place: Path | str = tmp_path / "ledger.db"
    every, fail = 1, fail_sqlite
    if kind == "postgres":
        server: Server = request.getfixturevalue("postgres")
        place, every, fail = new_database(server), 7, fail_postgres
    scissors = Scissors(fail)
    store = cuttable(scissors, place)
    assert await cut_everywhere(store, scissors, check, every=every) > 250
    assert await store.read(content) == check.expected[-1]
    await store.close()


# The tester can fail ---------------------------------------------------------------------------------


def unsynced(path: Path | str, **more: Any) -> Store:
    """A store that does not wait for its disk."""

    def connecting(where: Path | str, busy: Any) -> Any:
        made = connection.connect(where, busy=busy)
        made.execute("PRAGMA synchronous = OFF")
        return made

    return SqliteStore.open(path, connecting=connecting, **more)


class Hasty(SqliteStore):
    """A store that answers before it has committed."""

    async def write(self, act: Callable[[Tx], Any]) -> Any:
        """Hand the act in, and say that it is done."""
        later = asyncio.create_task(super().write(act))
        await asyncio.sleep(0)
        self.__dict__.setdefault("later", []).append(later)


def hasty(path: Path | str, **more: Any) -> Store:
    """See `Hasty`."""
    return Hasty.open(path, **more)


@pytest.mark.parametrize(("careless", "share"), [(unsynced, 0.02), (hasty, 1.0)])
async def test_a_careless_store_is_found_out(
    careless: Callable[..., Store], share: float, recorder: Recorder, tmp_path: Path
) -> None:
    result = await crash_everywhere(recorder, tmp_path, share=share, open_store=careless)
    assert any("acts are there" in one for one in result.lost)


@pytest.fixture
def torn_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's entry is committed, and the rest of the act after it."""
    execute = connection.SqliteTx.execute

    def torn(self: connection.SqliteTx, sql: str, params: Any = ()) -> list[Row]:
        rows = execute(self, sql, params)
        if sql.startswith("INSERT INTO log"):
            for step in ("COMMIT", "BEGIN IMMEDIATE", "SAVEPOINT act"):
                self._cursor.execute(step)
        return rows

    monkeypatch.setattr(connection.SqliteTx, "execute", torn)


async def test_an_act_in_two_commits_is_found_out(
    recorder: Recorder, tmp_path: Path, check: Check, torn_acts: None
) -> None:
    scissors = Scissors(fail_sqlite)
    store = cuttable(scissors, tmp_path / "ledger.db")
    with pytest.raises(Lost, match="cut"):
        await cut_everywhere(store, scissors, check)
    await store.close()


async def test_without_settling_a_failed_sync_would_lose_what_came_after(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-12 is needed: with it switched off, the same failures lose acknowledged acts."""
    monkeypatch.setattr("leasehold.custodian.store.sqlite.settle", lambda *_: None)
    lost: list[str] = []
    for seed in (0, 2, 3):
        place = tmp_path / str(seed)
        place.mkdir()
        try:
            lost += (
                await fail_everywhere(recorder, place, share=0.1, seed=seed, failures=[KILLED])
            )[0].lost
        except (Lost, StoreFailed) as failure:  # not even the next act could be recorded
            lost.append(str(failure))
    assert lost


def test_states_after_a_crash() -> None:
    """A file keeps what was synced; the rest is there, or not, or in part."""
    ops = [
        Op(Kind.WRITE, "a", 0, b"x" * 600),
        Op(Kind.SYNC, "a"),
        Op(Kind.WRITE, "a", 600, b"y" * 600),
        Op(Kind.WRITE, "a", 1200, b"z" * 1200),
    ]
    luck = random.Random(1)  # noqa: S311  (must repeat)
    assert after(ops, 3, Loss.POWER, luck) == {"a": b"x" * 600}
    assert after(ops, 3, Loss.PROCESS, luck) == {"a": b"x" * 600 + b"y" * 600}
    torn = after(ops, 3, Loss.TORN, luck)["a"]
    assert torn.startswith(b"x" * 600 + b"y" * 600 + b"z")
    assert len(torn) < 2400
    assert len({after(ops, 3, Loss.CHAOS, luck)["a"] for _ in range(20)}) > 1
    assert after([Op(Kind.WRITE, "b", 0, b"q")], 1, Loss.POWER, luck) == {}
    forgotten = [*ops[:3], Op(Kind.FAILED_SYNC, "a"), Op(Kind.SYNC, "a")]
    assert after(forgotten, 5, Loss.PROCESS, luck) == {"a": b"x" * 600}


async def test_scissors_cut_once_and_on_both_sides(tmp_path: Path) -> None:
    scissors = Scissors(fail_sqlite)
    store = cuttable(scissors, tmp_path / "ledger.db")
    for when in When:
        scissors.when, scissors.at = when, 0
        with pytest.raises(StoreFailed):
            await store.write(lambda tx: tx.execute("SELECT 1"))
        assert scissors.at is None
        assert await store.write(lambda tx: tx.execute("SELECT 1")) == [(1,)]
    await store.close()
