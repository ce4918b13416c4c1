"""What can be on a disk after a crash: every way in which the steps up to one of them may have arrived.

A file's writes arrive for sure with its next sync, and in any order and any part before it. A file that was
made is there from its first sync on for sure. A deletion may or may not have arrived until the next sync of
any file: journaling file systems write their directory before they say that anything is synced.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tools.crash.recorder import Kind, Op

SECTOR = 512


class Loss(Enum):
    """What a crash takes with it."""

    PROCESS = "process"  # kill -9: all that was written is there
    TORN = "torn"  # the step under way arrived in part
    POWER = "power"  # nothing that was not synced is there
    CHAOS = "chaos"  # of what was not synced some sectors are there, in no order


@dataclass(slots=True)
class _File:
    """One file: what is surely there, and what is on its way."""

    stable: bytearray = field(default_factory=bytearray)
    pending: list[Op] = field(default_factory=list)
    gone: bool = False


Files = dict[str, bytes]


def after(ops: Sequence[Op], count: int, loss: Loss, luck: random.Random) -> Files:
    """The files after a crash when `count` steps were done and the next one was under way."""
    files: dict[str, _File] = {}
    for op in ops[:count]:
        _step(files, op)
    if loss in (Loss.TORN, Loss.CHAOS) and count < len(ops) and ops[count].kind is Kind.WRITE:
        files.setdefault(ops[count].file, _File()).pending.append(_part(ops[count], luck))
    return {
        name: bytes(data)
        for name, file in files.items()
        if (data := _content(file, loss, luck)) is not None
    }


def _step(files: dict[str, _File], op: Op) -> None:
    file = files.setdefault(op.file, _File())
    match op.kind:
        case Kind.SYNC:
            for name in [name for name, one in files.items() if one.gone and name != op.file]:
                del files[name]
            for one in file.pending:
                _apply(file.stable, one)
            file.pending = []
            file.gone = False
        case Kind.FAILED_SYNC:
            file.pending = []
        case Kind.DELETE:
            files[op.file] = _File(file.stable, file.pending, gone=True)
        case _:
            if file.gone:  # made anew
                file = files[op.file] = _File()
            file.pending.append(op)


def _content(file: _File, loss: Loss, luck: random.Random) -> bytearray | None:
    if file.gone and (loss is not Loss.CHAOS or luck.random() < 0.5):
        return None
    data = bytearray(file.stable)
    match loss:
        case Loss.PROCESS | Loss.TORN:
            for op in file.pending:
                _apply(data, op)
        case Loss.POWER:
            if not data and file.pending:
                return None
        case Loss.CHAOS:
            steps = [part for op in file.pending for part in _sectors(op)]
            luck.shuffle(steps)
            for op in steps[: luck.randint(0, len(steps))]:
                _apply(data, op)
    return data


def _apply(data: bytearray, op: Op) -> None:
    if op.kind is Kind.TRUNCATE:
        del data[op.size :]
        return
    end = op.offset + len(op.data)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    data[op.offset : end] = op.data


def _part(op: Op, luck: random.Random) -> Op:
    """The beginning of a write, up to half of it or to the end of a sector."""
    cuts = [len(op.data) // 2, *range(SECTOR, len(op.data), SECTOR)]
    return Op(op.kind, op.file, op.offset, op.data[: luck.choice(cuts)])


def _sectors(op: Op) -> Iterator[Op]:
    if op.kind is Kind.TRUNCATE:
        yield op
    for start in range(0, len(op.data), SECTOR):
        yield Op(op.kind, op.file, op.offset + start, op.data[start : start + SECTOR])
