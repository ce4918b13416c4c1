"""`leasehold custodian backup` and `restore`: the ledger as a file, and back without a unit too many."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

import click

from leasehold.cli import output
from leasehold.cli.access import folder_option, read_bytes, unlock
from leasehold.core.encoding import b64, to_json
from leasehold.core.units import Instant
from leasehold.custodian import restoring, settings
from leasehold.custodian.backup import open_backup, write_backup
from leasehold.custodian.ledger.audit import Entry
from leasehold.custodian.ledger.notes import Checkpoint
from leasehold.custodian.mark import Mark
from leasehold.custodian.settings import FIRST_OPERATOR, Settings
from leasehold.custodian.store.opening import open_store

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_SHOWN_MAX: Final = 50


def _now() -> Instant:
    return Instant(time.time_ns() // 1_000_000)


@click.command()
@click.argument("file", type=_FILE)
@click.option("--check", is_flag=True, help="Write nothing: check the backup that FILE is.")
@click.option("--force", is_flag=True, help="Replace FILE.")
@folder_option
def backup(*, file: Path, check: bool, force: bool, folder: Path) -> None:
    """Copy the ledger into FILE while the custodian runs, and check the copy."""
    found = settings.read(folder, ring=unlock(folder))
    if check:
        with open_backup(file, origin=found.origin, public=found.audit.public) as good:
            _write_backup(file, good.checkpoint)
            click.echo(f"taken: {output.utc(good.taken)}")
        return
    _write_backup(file, asyncio.run(_back_up(found, file, force=force)))
    output.write_note(
        f"It is the ledger alone: keep root.key, audit.key, ca.key and models of {folder} as well, elsewhere."
    )


async def _back_up(found: Settings, file: Path, *, force: bool) -> Checkpoint:
    store = open_store(found.ledger, found.store)
    try:
        # An old or empty ledger must never take a good backup's place.
        await store.read(Mark(found.mark, found.origin, found.audit).check)
        return await write_backup(
            store, file, origin=found.origin, key=found.audit, now=_now(), force=force
        )
    finally:
        await store.close()


def _write_backup(file: Path, checkpoint: Checkpoint) -> None:
    output.write_fields(
        "Backup",
        {
            "file": str(file),
            "log": checkpoint.origin,
            "entries": checkpoint.size,
            "root": b64(checkpoint.root),
            "checked": "content, books, replay, log and signature agree",
        },
    )


@click.command()
@click.argument("file", type=_FILE)
@click.option(
    "--replace",
    is_flag=True,
    help="Replace a ledger that is not empty; it is kept under a dated name.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    type=_FILE,
    multiple=True,
    help="A checkpoint that you or a witness kept: says what the backup lacks.",
)
@click.option(
    "--other-history",
    is_flag=True,
    help="Restore a backup whose log contradicts a kept checkpoint, such as after a first restore.",
)
@click.option("--reason", default="restore", show_default=True, help="Goes into the audit log.")
@click.option("--operator", default=FIRST_OPERATOR, show_default=True, help="Who restores.")
@folder_option
def restore(
    *,
    file: Path,
    replace: bool,
    checkpoints: tuple[Path, ...],
    other_history: bool,
    reason: str,
    operator: str,
    folder: Path,
) -> None:
    """Put the backup FILE in the ledger's place: a new epoch, everything stopped, nothing left to spend."""
    found = settings.read(folder, ring=unlock(folder))
    done, aside = asyncio.run(
        restoring.restore_folder(
            found,
            file,
            now=_now(),
            operator=found.operator(operator),
            reason=reason,
            checkpoints=[read_bytes(path).decode("utf-8", "replace") for path in checkpoints],
            replace=replace,
            other_history=other_history,
        )
    )
    fields: dict[str, object] = {
        "epoch": str(done.epoch),
        "entries in the backup": done.backup_size,
        "entries now": done.size,
        "entries lost, as far as known": done.known - done.backup_size,
    }
    if aside is not None:
        fields["replaced ledger"] = str(aside)
    output.write_fields("Restored", fields)
    _write_lost(done)
    _write_todo(done)


def _write_lost(done: restoring.Restored) -> None:
    if done.lost:
        click.echo("Decided after the backup, and now undone:")
        for entry in done.lost[:_SHOWN_MAX]:
            click.echo(f"  {_brief(entry)}")
        if len(done.lost) > _SHOWN_MAX:
            click.echo(f"  and {len(done.lost) - _SHOWN_MAX} more")
    for scope, target in done.kept:
        click.echo(f"Stopped again, because the replaced ledger says so: {scope} {target}".rstrip())


def _write_todo(done: restoring.Restored) -> None:
    steps = [
        "Everything is stopped, every open lease is written off, and nothing is left to spend.",
        "1. Start the custodian. Enclaves attest again; what they still hold of older leases is void here.",
        "2. Decide again what was undone: revoke keys, end loans, put manifests in force, stop.",
        "3. Grant anew (`leasehold loan cap`, `leasehold grant change`), less what was used since the backup.",
        "4. `leasehold resume` lifts the stop, when all of that is done.",
    ]
    if done.known == done.backup_size:
        steps.insert(
            1,
            "No newer checkpoint was at hand: compare with the newest that a witness has (--checkpoint).",
        )
    for step in steps:
        click.echo(step)


def _brief(entry: Entry) -> str:
    detail = {name: value for name, value in entry.detail.items() if name != "manifest"}
    return f"{output.utc(entry.at)}  {entry.actor}  {entry.kind}  {to_json(detail).decode()}"
