"""`leasehold receipts`: hold a consumer's receipts against the custodian's log, to the unit."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from leasehold.cli import output
from leasehold.cli.access import connect, folder_option, read_bytes
from leasehold.cli.audit import fetch_log
from leasehold.core.encoding import from_json, unhex
from leasehold.custodian.ledger import audit
from leasehold.custodian.ledger.audit import Entry
from leasehold.custodian.reconciliation import Facts, Reconciled, parse_receipts, reconcile
from leasehold.custodian.records import Hello
from leasehold.custodian.settings import FIRST_OPERATOR, parse_place, read_credentials
from leasehold.custodian.tree_records import CheckpointView
from leasehold.errors import BadSetting, ReceiptsWrong

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_COLUMNS: Final = (
    "lease", "consumer", "key", "state", "granted", "settled", "written off", "refunded",
    "receipts", "receipted", "faults", "remark",
)  # fmt: skip


@click.group()
def command() -> None:
    """Check receipts against the ledger."""


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option(
    "--consumer", "consumers", multiple=True, help="Show this one's leases, receipts or not."
)
@click.option("--log", type=_FILE, help="An exported log, one leaf a line, instead of a custodian.")
@click.option("--checkpoint", type=_FILE, help="The checkpoint of the exported log.")
@click.option("--key", metavar="HEX", help="The audit key; an exported log needs it.")
@click.option("--origin", help="The log's name; an exported log needs it.")
@click.option("--operator", default=FIRST_OPERATOR, show_default=True, help="Whose certificate.")
@click.option(
    "--address", metavar="HOST:PORT", help="Where the custodian is, if not where its folder says."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@folder_option
def verify(
    *,
    files: tuple[Path, ...],
    consumers: tuple[str, ...],
    log: Path | None,
    checkpoint: Path | None,
    key: str | None,
    origin: str | None,
    operator: str,
    address: str | None,
    as_json: bool,
    folder: Path,
) -> None:
    """Check signatures, chains and sums of the receipts in FILES against the log."""
    receipts = [signed for path in files for signed in parse_receipts(read_bytes(path))]
    if log is None:
        leaves = _from_custodian(folder, operator, address, key=key, origin=origin)
    else:
        leaves = _from_file(log, checkpoint, key=key, origin=origin)
    facts = Facts.read(from_json(leaf, Entry) for leaf in leaves)
    found = reconcile(receipts, facts, consumers=consumers)
    if as_json:
        output.write_json(found)
    else:
        _write(found, len(receipts))
    if found.findings:
        faults = dict.fromkeys(one.fault.value for one in found.findings)
        raise ReceiptsWrong(got=", ".join(faults))


def _from_custodian(
    folder: Path, operator: str, address: str | None, *, key: str | None, origin: str | None
) -> list[bytes]:
    """The log as the custodian has it, checked against its own fresh checkpoint."""
    credentials = read_credentials(folder, operator)
    place = credentials.address if address is None else parse_place(address)
    with connect(credentials, place) as access:
        hello = access.get("/operator/hello", Hello)
        fresh = access.get("/operator/audit/checkpoint", CheckpointView).checkpoint
        leaves = fetch_log(access)
    public = unhex(key or hello.audit_key, about="audit key", size=32)
    audit.verify(leaves, fresh, origin=origin or hello.origin, public=public)
    return leaves


def _from_file(
    log: Path, checkpoint: Path | None, *, key: str | None, origin: str | None
) -> list[bytes]:
    """The leaves that the checkpoint vouches for. Raises BadSignature, Unproven, BadMessage."""
    if checkpoint is None or key is None or origin is None:
        raise BadSetting(about="--log", expected="--checkpoint, --key and --origin with it")
    leaves = read_bytes(log).splitlines()
    size = audit.verify(
        leaves,
        read_bytes(checkpoint).decode("utf-8", "replace"),
        origin=origin,
        public=unhex(key, about="audit key", size=32),
    )
    return leaves[:size]


def _write(found: Reconciled, count: int) -> None:
    rows = [
        (
            one.lease, one.consumer, one.key, one.state, one.granted, one.settled,
            one.written_off, one.refunded, one.receipts, one.receipted,
            ", ".join(one.faults) or "none", one.remark,
        )
        for one in found.rows
    ]  # fmt: skip
    output.write_rows("Receipts and ledger", _COLUMNS, rows)
    for one in found.findings:
        what = f"receipt {one.receipt} {one.text}" if one.receipt else one.text
        click.echo(f"[{one.fault}] lease {one.lease or 'unknown'}: {what}")
    settled, receipted = (
        sum(getattr(one, name) for one in found.rows) for name in ("settled", "receipted")
    )
    click.echo(
        f"{count} receipts of {receipted:,} units; {settled:,} units are settled in {len(found.rows)} leases."
    )
