"""`leasehold keys`: how the custodian's keys are wrapped, and wrapping them anew.

No secret is an argument or an environment variable: it comes from a file or is asked for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from leasehold.cli import output
from leasehold.cli.access import ask_secret, folder_option
from leasehold.custodian import settings
from leasehold.custodian.wrapping.passphrase import PassphraseKeeper
from leasehold.custodian.wrapping.rewrap import key_files, rewrap
from leasehold.custodian.wrapping.table import PASSPHRASE, secret
from leasehold.errors import BadSetting

_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.group()
def command() -> None:
    """Show how the custodian's keys are wrapped; wrap them anew."""


@command.command()
@folder_option
def show(*, folder: Path) -> None:
    """List the key files with what opens them. Needs no secret."""
    ring = settings.read_ring(folder)
    rows = [(ring.name(path), ring.kind(path)) for path in key_files(folder)]
    output.write_rows("Keys", ("key", "wrapped by"), rows)


@command.command("rewrap")
@click.option("--new-passphrase", is_flag=True, help="Ask for a new passphrase.")
@click.option("--new-passphrase-file", type=_FILE, help="Take the new passphrase from this file.")
@folder_option
def rewrap_keys(*, folder: Path, new_passphrase: bool, new_passphrase_file: Path | None) -> None:
    """Wrap all keys anew, as [keys] of custodian.toml says now; it may be run again after a failure.

    Keys in clear are wrapped, keys of another keeper move, and with a key service or a token the newest
    version of its key is used. With `wrap = "none"` all keys are written in clear.
    """
    old = settings.read_ring(folder, ask=ask_secret, is_lenient=True)
    new = old
    if new_passphrase or new_passphrase_file:
        if old.wrap != "passphrase":
            raise BadSetting(about="keys.wrap", got=old.wrap, expected="passphrase")
        file = str(new_passphrase_file.absolute()) if new_passphrase_file else ""
        asked = secret(folder, file, f"new {PASSPHRASE}", _ask_twice)
        keepers = {**old.keepers, "passphrase": PassphraseKeeper(asked)}
        new = replace(old, keepers=keepers)
    rows: list[tuple[str, str, str]] = []
    rewrap(old, new, on_done=lambda *row: rows.append(row))
    output.write_rows("Keys", ("key", "before", "after"), rows)
    output.write_note(
        "Old copies may still lie in backups and in free blocks of the disk. Restart the custodian."
    )


def _ask_twice(name: str) -> str:
    given = ask_secret(name)
    if ask_secret(f"{name}, again") != given:
        raise BadSetting(about=name, got="two different ones")
    return given
