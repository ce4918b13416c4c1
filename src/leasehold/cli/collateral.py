"""`leasehold collateral`: what the vendors say of their machines."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from leasehold.attest.collateral import FolderCollateral, parse_collateral
from leasehold.attest.intel.pcs import read_facts
from leasehold.cli import output
from leasehold.cli.access import folder_option, read_bytes

_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.group()
def command() -> None:
    """Keep what the vendors say of their machines."""


@command.command("import")
@click.argument("file", type=_FILE)
@folder_option
def import_(*, file: Path, folder: Path) -> None:
    """Keep a set of collateral that you fetched yourself; never one that the borrower gave you."""
    found = parse_collateral(read_bytes(file))
    FolderCollateral(folder / "collateral").add(found)
    facts = read_facts(found)
    output.write_fields(
        "Collateral",
        {
            "platform": facts.tee,
            "processor family": facts.fmspc,
            "authority": facts.ca,
            "good until": output.utc(facts.ends),
        },
    )
