"""Records one course on SQLite, and recovers from a crash at each of its steps."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leasehold.custodian.store.port import Store
from leasehold.custodian.store.sqlite import SqliteStore
from leasehold.errors import StoreFailed
from tools.crash.acts import course
from tools.crash.check import Check, Lost, content, ledgers
from tools.crash.recorder import OK, Kind, Op, Recorder
from tools.crash.states import Files, Loss, after

LEDGER = "ledger.db"
AGAIN = "again"
Opening = Callable[..., Store]
CHECKPOINT_PAGES = 12  # so that a course has many, and crashes fall into them
GROUPS = (1, 5)  # acts handed in at once
SOON_STEPS = 100  # until the log of writes has begun anew
CRASHES_AFTER = 6  # for each failure


@dataclass(frozen=True, slots=True)
class Failure:
    """A kind of step that fails with an SQLite code (sqlite3.h); with `kill` the process dies of it."""

    name: str
    kind: Kind
    code: int
    kill: bool = False


KILLED = Failure("fsync-and-kill", Kind.SYNC, 1034, kill=True)
FAILURES = (
    Failure("full", Kind.WRITE, 13),
    Failure("write", Kind.WRITE, 778),
    Failure("read-only", Kind.WRITE, 8),
    Failure("fsync", Kind.SYNC, 1034),
    KILLED,
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Every step, and the number of steps after which each act was begun and acknowledged."""

    ops: list[Op]
    begun: list[int]
    acknowledged: list[int]

    def soon(self, luck: random.Random) -> int:
        """A number of steps not long after the first that failed, or any where none is known."""
        failed = (at for at, op in enumerate(self.ops) if op.kind is Kind.FAILED_SYNC)
        first = next(failed, None)
        if first is None:
            return luck.randint(0, len(self.ops))
        return luck.randint(first, min(first + SOON_STEPS, len(self.ops)))

    def bounds(self, count: int) -> tuple[int, int]:
        """How many acts must, and how many may be there after a crash when `count` steps were done."""
        return (
            sum(at <= count for at in self.acknowledged),
            sum(at <= count for at in self.begun),
        )


@dataclass(slots=True)
class Result:
    """How many crashes were recovered from, by what they took, and the ones that lost something."""

    points: int = 0
    recoveries: Counter[Loss] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)


async def record(
    recorder: Recorder,
    folder: Path,
    check: Check,
    *,
    group: int,
    open_store: Opening = SqliteStore.open,
) -> Recorded:
    """Run the course, `group` acts at once, and keep every step of it."""
    recorder.start()
    store = open_store(recorder.url(folder / LEDGER), rewriting=recorder.rewrite)
    await store.write(lambda tx: tx.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"))
    begun: list[int] = []
    acknowledged: list[int] = []
    for start in range(0, len(check.acts), group):
        acts = check.acts[start : start + group]
        begun += [len(recorder.ops)] * len(acts)
        await asyncio.gather(*(store.write(act) for act in acts))
        acknowledged += [len(recorder.ops)] * len(acts)
    ops = list(recorder.ops)
    await store.close()
    return Recorded(ops, begun, acknowledged)


async def record_failing(
    recorder: Recorder, folder: Path, check: Check, failure: Failure, *, number: int
) -> tuple[Recorded, int]:
    """Run the course while the `number`-th step of a kind fails once.

    Whoever is refused looks at what is there, and asks again if his act is not. Tells also how often
    anybody was refused. Raises Lost where an act is there in part, or acknowledged and not there.
    """
    kind, code = failure.kind, failure.code
    count, refused, died = 0, 0, 0

    def judge(op: Op) -> int:
        nonlocal count, died
        count += op.kind is kind
        if op.kind is not kind or count != number:
            return OK
        if failure.kill:  # now, before it can do anything about it
            shutil.copytree(folder, folder / AGAIN, ignore=shutil.ignore_patterns("*-shm", AGAIN))
            died = len(recorder.ops) + 1
        return code

    recorder.start()
    url = recorder.url(folder / LEDGER)
    store: Store = SqliteStore.open(url, rewriting=recorder.rewrite)
    recorder.judge = judge
    await store.write(lambda tx: tx.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"))
    begun: list[int] = []
    acknowledged: list[int] = []
    for index, act in enumerate(check.acts):
        begun.append(len(recorder.ops))
        while len(acknowledged) <= index:
            try:
                await store.write(act)
                acknowledged += [len(recorder.ops)] * (index + 1 - len(acknowledged))
            except StoreFailed:
                refused += 1
                if failure.kill and refused == 1:
                    store = await _come_back(recorder, folder, store, died)
                there = await store.read(content)
                if there not in check.expected[index : index + 2]:
                    raise Lost(f"act {index} was refused, and is there in part") from None
                if there == check.expected[index + 1] != check.expected[index]:
                    break  # it counts as acknowledged with the next one
    ops = list(recorder.ops)
    if await store.read(content) != check.expected[-1]:
        raise Lost("the course ended with another ledger")
    await store.close()
    return Recorded(ops, begun, acknowledged), refused


async def _come_back(recorder: Recorder, folder: Path, store: Store, died: int) -> Store:
    """A new process on the files as the system showed them after so many steps."""
    seen = recorder.ops[:died]
    await store.close()
    recorder.ops = seen
    url = recorder.url(folder / AGAIN / LEDGER)
    return SqliteStore.open(url, rewriting=recorder.rewrite)


async def fail_everywhere(
    recorder: Recorder,
    folder: Path,
    *,
    share: float,
    seed: int = 1,
    failures: Sequence[Failure] = FAILURES,
) -> tuple[Result, int]:
    """A full disk, failing writes and failing syncs at each step, or a share; then power is lost as well."""
    acts = [act for _, act in course()]
    check = Check(acts, await ledgers(acts))
    result, luck, refused = Result(), random.Random(seed), 0  # noqa: S311  (must repeat)
    whole = folder / "whole"
    whole.mkdir()
    steps = Counter(op.kind for op in (await record(recorder, whole, check, group=1)).ops)
    for failure in failures:
        for number in range(1, steps[failure.kind] + 1):
            if luck.random() >= share:
                continue
            place = folder / f"{failure.name}-{number}"
            place.mkdir()
            recorded, times = await record_failing(recorder, place, check, failure, number=number)
            refused += times
            for _ in range(CRASHES_AFTER):
                count, loss = recorded.soon(luck), luck.choice(list(Loss))
                await _crash(check, folder, recorded, count, loss, luck, result)
    return result, refused


async def crash_everywhere(
    recorder: Recorder,
    folder: Path,
    *,
    share: float = 1.0,
    seed: int = 1,
    open_store: Opening = SqliteStore.open,
) -> Result:
    """Recover from a crash at each step, or from a random `share` of them."""
    acts = [act for _, act in course()]
    check = Check(acts, await ledgers(acts))
    result, luck = Result(), random.Random(seed)  # noqa: S311  (must repeat)
    for group in GROUPS:
        place = folder / f"group{group}"
        place.mkdir()
        recorded = await record(recorder, place, check, group=group, open_store=open_store)
        for count, loss in _sample(_crashes(len(recorded.ops)), share, luck):
            await _crash(check, folder, recorded, count, loss, luck, result)
    return result


async def _crash(
    check: Check,
    folder: Path,
    recorded: Recorded,
    count: int,
    loss: Loss,
    luck: random.Random,
    result: Result,
) -> None:
    files = after(recorded.ops, count, loss, luck)
    least, most = recorded.bounds(count)
    result.points += 1
    try:
        await _recover(check, folder / "crashed", files, least=least, most=most)
    except (Lost, StoreFailed) as lost:
        result.lost.append(f"step {count} of {len(recorded.ops)}, {loss.value}: {lost}")
    result.recoveries[loss] += 1


def _crashes(steps: int) -> Iterator[tuple[int, Loss]]:
    for count in range(steps + 1):
        for loss in Loss:
            yield count, loss


def _sample(
    crashes: Iterable[tuple[int, Loss]], share: float, luck: random.Random
) -> Iterator[tuple[int, Loss]]:
    return (crash for crash in crashes if luck.random() < share)


async def _recover(check: Check, place: Path, files: Files, *, least: int, most: int) -> None:
    _put(place, files)
    await check.recover(place / LEDGER, least=least, most=most, open_store=SqliteStore.open)


def _put(place: Path, files: Files) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
