"""`leasehold collateral`: what the vendors say of their machines."""

from __future__ import annotations

from pathlib import Path
from typing import Final, get_args

import click

from leasehold.attest.collateral import (
    DOCUMENT_AGE_MAX,
    Document,
    FolderCollateral,
    Kind,
    parse_collateral,
)
from leasehold.attest.documents import read_document
from leasehold.attest.intel.pcs import Facts, read_facts
from leasehold.cli import output
from leasehold.cli.access import folder_option, read_bytes
from leasehold.cli.custodian import now
from leasehold.core.units import Instant, after
from leasehold.errors import BadSetting, CollateralNotCurrent

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_KINDS: Final = get_args(Kind)


@click.group()
def command() -> None:
    """Keep what the vendors say of their machines."""


@command.command("import")
@click.argument("file", type=_FILE)
@click.option("--kind", type=click.Choice(_KINDS), help="What FILE is; default: Intel's set.")
@click.option(
    "--name", help="Of what: `vcek-Milan`, a RIM's id, a certificate's SHA-256 in hex (OCSP)."
)
@folder_option
def import_(*, file: Path, folder: Path, kind: Kind | None, name: str | None) -> None:
    """Keep collateral that you fetched yourself; never what the borrower gave you."""
    store = FolderCollateral(folder / "collateral")
    if kind is None:
        found = parse_collateral(read_bytes(file))
        store.add(found)
        output.write_fields("Collateral", _set_fields(read_facts(found)))
        return
    if name is None:
        raise BadSetting(about="--name", expected=f"the name of this {kind}")
    data = read_bytes(file)
    facts, today = read_document(kind, data), now()
    if facts.ends <= today:
        raise CollateralNotCurrent(about=f"{kind} {name}", got=output.utc(facts.ends))
    until = Instant(min(after(today, DOCUMENT_AGE_MAX), facts.ends))
    store.add_document(Document(kind, name, data, until), order=facts.order)
    fields = {"kind": kind, "name": name, "good until": output.utc(until)}
    output.write_fields("Collateral", fields)


def _set_fields(facts: Facts) -> dict[str, object]:
    return {
        "platform": facts.tee,
        "processor family": facts.fmspc,
        "authority": facts.ca,
        "good until": output.utc(facts.ends),
    }


@command.command()
@folder_option
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def status(*, folder: Path, as_json: bool) -> None:
    """Show what is kept, and until when it counts."""
    store, today = FolderCollateral(folder / "collateral"), now()
    kept = store.holdings()
    ends: list[tuple[str, str, int, Instant]] = []
    for facts in map(read_facts, kept.collaterals):
        name = f"{facts.tee} {facts.fmspc} {facts.ca}"
        ends.append(("intel", name, facts.evaluation, facts.ends))
    for one in kept.documents:
        order = read_document(one.kind, one.data).order
        ends.append((one.kind, one.name, order, one.good_until))
    if as_json:
        keys = ("kind", "name", "order", "good_until")
        output.write_json([dict(zip(keys, row, strict=True)) for row in ends])
        return
    rows = [
        (kind, name, order, output.utc(until), "ok" if today < until else "TOO OLD")
        for kind, name, order, until in ends
    ]
    output.write_rows("Collateral", ("kind", "name", "order", "good until", "state"), rows)
