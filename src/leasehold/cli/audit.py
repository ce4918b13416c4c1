"""`leasehold audit`: read the custodian's log, and check that nobody rewrote it."""

from __future__ import annotations

from pathlib import Path

import click

from leasehold.cli import output
from leasehold.cli.access import Access, as_json, read_bytes, with_access, write_bytes
from leasehold.cli.remote import Remote
from leasehold.core.encoding import from_json, to_json, unhex
from leasehold.custodian.forks import check_fork, parse_fork
from leasehold.custodian.ledger import audit
from leasehold.custodian.ledger.books import replay_entries
from leasehold.custodian.ledger.claims import Claim, check_claim
from leasehold.custodian.ledger.proofs import Proof, check_proof
from leasehold.custodian.records import (
    ENTRIES_MAX,
    AuditPage,
    Hello,
)
from leasehold.custodian.tree_records import (
    CheckpointView,
    ConsistencyView,
    CosignatureOrder,
    InclusionView,
    WitnessView,
)
from leasehold.custodian.witness import check_cosignature, check_quorum
from leasehold.errors import Conflict, UnknownThing, Unproven

_PATH = "/operator/audit"
_DETAIL_CHARS_MAX = 200


@click.group()
def command() -> None:
    """Check the custodian's audit log."""


@command.command("list")
@click.option(
    "--start", type=click.IntRange(0), help="From this index; default: the latest entries."
)
@click.option("--count", type=click.IntRange(1, ENTRIES_MAX), default=50, show_default=True)
@as_json
@with_access
def list_(access: Access, *, start: int | None, count: int, as_json: bool) -> None:
    """Show entries in order."""
    if start is None:
        size = access.get(_PATH, AuditPage, start=0, count=1).size
        start = max(0, size - count)
    page = access.get(_PATH, AuditPage, start=start, count=count)
    if as_json:
        output.write_json(page.entries)
        return
    output.write_rows(
        f"Audit log, {page.size} entries",
        ("index", "time", "who", "what", "detail"),
        [(e.index, output.utc(e.at), e.actor, e.kind, _brief(e.detail)) for e in page.entries],
    )


@command.command()
@click.option("--out", type=click.Path(path_type=Path), help="Default: standard output.")
@click.option(
    "--cosigned", type=click.IntRange(1), help="The newest that so many witnesses have cosigned."
)
@with_access
def checkpoint(access: Access, *, out: Path | None, cosigned: int | None) -> None:
    """Fetch a signed checkpoint (C2SP); keep it elsewhere to catch a rewritten log later."""
    write_bytes(out, access.read("/log/checkpoint", cosigned=cosigned))


@command.command()
@as_json
@with_access
def witnesses(access: Access, *, as_json: bool) -> None:
    """Show who cosigns the log: enclaves and witnesses, and how far behind each of them is."""
    found = access.get("/log/witnesses", list[WitnessView])
    if as_json:
        output.write_json(found)
        return
    output.write_rows(
        "Who cosigns the audit log",
        ("who", "kind", "size", "signed", "arrived", "behind"),
        [
            (one.name, one.kind, one.size, *map(output.utc, (one.signed, one.arrived)), one.behind)
            for one in found
        ],
    )


@command.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--accounts",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write what the custodian claims to be its accounts, for `replay --claimed`.",
)
@with_access
def export(access: Access, *, file: Path, accounts: Path | None) -> None:
    """Write the whole log into FILE: the exact bytes that are hashed, one leaf a line (A-1)."""
    if accounts is not None:  # before the log, which then has all that they rest on
        write_bytes(accounts, output.encode_json(access.get(f"{_PATH}/accounts", Claim)))
    leaves = fetch_log(access)
    write_bytes(file, b"".join(leaf + b"\n" for leaf in leaves))
    click.echo(f"{len(leaves)} entries")


@command.command()
@click.option(
    "--since",
    type=click.Path(path_type=Path),
    help="A checkpoint that you kept: the log must still begin with what it signed.",
)
@click.option("--key", metavar="HEX", help="The audit key, if you know it elsewhere from.")
@click.option("--origin", help="The log's name, if you know it elsewhere from.")
@with_access
def verify(access: Access, *, since: Path | None, key: str | None, origin: str | None) -> None:
    """Fetch the whole log and recompute its Merkle tree against a fresh checkpoint, and a kept one."""
    hello = access.get("/operator/hello", Hello)
    public = unhex(key or hello.audit_key, about="audit key", size=32)
    name = origin or hello.origin
    fresh = access.get(f"{_PATH}/checkpoint", CheckpointView).checkpoint
    leaves = fetch_log(access)
    size = audit.verify(leaves, fresh, origin=name, public=public)
    click.echo(f"{size} entries fit the checkpoint of {name}.")
    if since is not None:
        text = read_bytes(since).decode("utf-8", "replace")
        kept = audit.verify(leaves, text, origin=name, public=public)
        click.echo(f"The first {kept} are the ones that {since} signed.")


@command.command()
@click.argument("entry", type=click.IntRange(0))
@click.option("--out", type=click.Path(path_type=Path), help="Default: standard output.")
@with_access
def prove(access: Access, *, entry: int, out: Path | None) -> None:
    """Write the proof that ENTRY is in the log: the entry, hashes, a checkpoint. Anybody can check it."""
    found = access.get("/log/inclusion", InclusionView, index=entry)
    (leaf,) = access.get(_PATH, AuditPage, start=entry, count=1).leaves
    hello = access.get("/operator/hello", Hello)
    proof = Proof(entry, leaf, found.proof, found.checkpoint)
    check_proof(proof, origin=hello.origin, public=bytes.fromhex(hello.audit_key))
    write_bytes(out, output.encode_json(proof))


@command.command("check-proof")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", required=True, metavar="HEX", help="The audit key.")
@click.option("--origin", required=True, help="The log's name.")
def check_proof_(file: Path, *, key: str, origin: str) -> None:
    """Check a FILE that `prove` wrote, without asking anybody."""
    proof = from_json(read_bytes(file), Proof)
    public = unhex(key, about="audit key", size=32)
    size = check_proof(proof, origin=origin, public=public)
    entry = from_json(proof.leaf, audit.Entry)
    click.echo(f"Entry {entry.index} of {size} in {origin}, {output.utc(entry.at)}:")
    click.echo(f"{entry.actor} {entry.kind} {_brief(entry.detail)}")


@command.command("check-fork")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--log-key", required=True, metavar="HEX", help="The audit key.")
@click.option("--origin", required=True, help="The log's name.")
def check_fork_(file: Path, *, log_key: str, origin: str) -> None:
    """Check that FILE proves a fork: what a witness wrote, or the `log_fork` line of an enclave."""
    public = unhex(log_key, about="audit key", size=32)
    fork = parse_fork(read_bytes(file), origin=origin, public=public)
    seen, shown = check_fork(fork, origin=origin, public=public)
    output.write_fields(
        "Fork", {"log": origin, "size": seen.size, "roots": f"{seen.root.hex()} {shown.root.hex()}"}
    )
    output.write_note("One key signed both: this log was shown in two versions.")


@command.command()
@click.option("--witness", "url", required=True, metavar="URL", help="Where the witness is.")
@click.option("--name", required=True, help="The witness's name.")
@click.option("--witness-key", required=True, metavar="HEX", help="The witness's public key.")
@click.option("--ca", type=click.Path(path_type=Path), help="PEM: who issued its certificate.")
@with_access
def cosign(access: Access, *, url: str, name: str, witness_key: str, ca: Path | None) -> None:
    """Have a witness (C2SP tlog-witness) cosign the newest checkpoint, and leave that with the custodian."""
    public = unhex(witness_key, about="witness key", size=32)
    authority = None if ca is None else read_bytes(ca).decode("utf-8", "replace")
    known = [one for one in access.get("/log/witnesses", list[WitnessView]) if one.name == name]
    old = known[0].size if known else 0
    note, proof = _shown(access, old)
    with Remote(url, ca=authority) as remote:
        answer = remote.add(old, proof, note)
        if isinstance(answer, int):  # what it has seen is something else
            old = answer
            note, proof = _shown(access, old)
            answer = remote.add(old, proof, note)
    if isinstance(answer, int):
        raise Conflict(about=f"what {name} has seen", got=answer, expected=old)
    check_cosignature(note + answer, name=name, public=public)
    size = int(note.split("\n")[1])
    view = access.post(
        "/log/cosignature", CosignatureOrder(name, public, size, answer), WitnessView
    )
    output.write_fields(
        "Cosigned", {"by": view.name, "size": view.size, "at": output.utc(view.signed)}
    )


def _shown(access: Access, old: int) -> tuple[str, tuple[bytes, ...]]:
    """A checkpoint, and the proof that it extends `old` entries. Raises Unproven: the log is shorter."""
    if not old:
        return access.read("/log/checkpoint").decode("utf-8", "replace"), ()
    try:
        found = access.get("/log/consistency", ConsistencyView, old=old)
    except UnknownThing as cause:
        raise Unproven(about="log size", got=cause, expected=f">= {old}, as witnessed") from cause
    return found.checkpoint, found.proof


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--checkpoint", "note", required=True, type=click.Path(path_type=Path))
@click.option("--key", required=True, metavar="HEX", help="The audit key.")
@click.option("--origin", required=True, help="The log's name.")
@click.option("--witness", "witnesses", multiple=True, metavar="NAME=HEX", help="Repeat for more.")
@click.option("--quorum", type=click.IntRange(1), help="So many must have cosigned; default: all.")
@click.option(
    "--claimed",
    type=click.Path(path_type=Path),
    help="Accounts that `export --accounts` wrote: they must be what the log gives.",
)
def replay(
    file: Path,
    *,
    note: Path,
    key: str,
    origin: str,
    witnesses: tuple[str, ...],
    quorum: int | None,
    claimed: Path | None,
) -> None:
    """Check an exported log against a checkpoint and its witnesses, and compute the ledger from it.

    Nobody is asked. Every account is within its budget after every entry, or the entry is named.
    """
    text = read_bytes(note).decode("utf-8", "replace")
    lines = read_bytes(file).removesuffix(b"\n").split(b"\n")
    public = unhex(key, about="audit key", size=32)
    size = audit.verify(lines, text, origin=origin, public=public)
    check_quorum(text, witnesses, quorum)
    entries = [from_json(leaf, audit.Entry) for leaf in lines[:size]]
    found = replay_entries(entries)
    if claimed is not None:
        claim = from_json(read_bytes(claimed), Claim)
        check_claim(claim, entries)
        output.write_note(f"{len(claim.accounts)} claimed accounts are what the log gives.")
    output.write_rows(
        f"The ledger after {size} entries",
        ("account", "granted", "outstanding", "settled", "written off"),
        [
            (" ".join(name), one.granted, one.outstanding, one.settled, one.written_off)
            for name, one in sorted(found.accounts.items())
        ],
    )
    output.write_note(f"{size} entries fit the checkpoint of {origin}; {len(witnesses)} witnesses.")


def fetch_log(access: Access) -> list[bytes]:
    """Every leaf of the custodian's log."""
    leaves: list[bytes] = []
    while True:
        page = access.get(_PATH, AuditPage, start=len(leaves), count=ENTRIES_MAX)
        leaves += page.leaves
        if not page.leaves or len(leaves) >= page.size:
            return leaves


def _brief(detail: dict[str, object]) -> str:
    text = to_json(detail).decode()
    return text if len(text) <= _DETAIL_CHARS_MAX else f"{text[:_DETAIL_CHARS_MAX]}..."
