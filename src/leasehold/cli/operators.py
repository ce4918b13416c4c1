"""`leasehold operator`: who may operate a custodian, and how a browser shows who somebody is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from leasehold.cli import output
from leasehold.cli.access import ask_secret, folder_option, unlock
from leasehold.cli.custodian import now
from leasehold.custodian import settings
from leasehold.custodian.ledger.operators import Role
from leasehold.custodian.private_files import read_private, write_private
from leasehold.errors import BadSetting
from leasehold.net.authority import browser_file

PASSPHRASE_CHARS: Final = 8  # of the file that carries an operator's key to a browser
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.group()
def command() -> None:
    """Manage who may operate a custodian."""


@command.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True)
@folder_option
def add_operator(*, name: str, role: str, folder: Path) -> None:
    """Give NAME a key, a certificate of a year and a role; then restart the custodian."""
    keys = settings.read_keys(folder, ring=unlock(folder))
    settings.add_operator(
        folder, name, Role(role), authority=keys.authority, now=now(), entropy=os.urandom
    )
    place = folder / "operators"
    click.echo(f"{name} is {role}: {place / name}.key and .pem")
    output.write_note("It counts after a restart of the custodian.")


@command.command("list")
@folder_option
def list_operators(*, folder: Path) -> None:
    """Show who may operate this custodian."""
    rows = sorted(settings.read_operators(folder).items())
    output.write_rows("Operators", ("name", "role"), rows)


@command.command("browser")
@click.argument("name")
@click.option("--out", required=True, type=_FILE, help="The PKCS#12 file to write (mode 600).")
@click.option(
    "--passphrase-file",
    type=_FILE,
    help="Whose first line is the passphrase; default: it is asked.",
)
@folder_option
def browser(*, name: str, out: Path, passphrase_file: Path | None, folder: Path) -> None:
    """Write NAME's certificate and key for a browser, which then opens the custodian's console (O-24)."""
    mine = settings.read_credentials(folder, name)
    if passphrase_file is None:
        passphrase = ask_secret("passphrase")
        if ask_secret("the same again") != passphrase:
            raise BadSetting(
                about="passphrase", got="two different ones", expected="the same twice"
            )
    else:
        passphrase = read_private(passphrase_file).decode("utf-8", "replace").partition("\n")[0]
    if len(passphrase) < PASSPHRASE_CHARS:
        raise BadSetting(
            about="passphrase",
            got=f"{len(passphrase)} characters",
            expected=f">= {PASSPHRASE_CHARS}",
        )
    made = browser_file(
        mine.certificate,
        mine.key,
        ca=mine.ca,
        name=f"Leasehold operator {name}",
        passphrase=passphrase,
    )
    write_private(out, made)
    click.echo(f"{out} for the console at https://{mine.name}:{mine.address.port}/console/")
    output.write_note(
        f"Import it into a browser profile of its own, and {folder / 'ca.pem'} there as an authority "
        "for websites: whoever has that authority's key could be any website to that profile."
    )
