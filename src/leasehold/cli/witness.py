"""`leasehold witness`: watch a custodian's audit log for others, and sign only what extends what was seen."""

from __future__ import annotations

import os
from pathlib import Path

import click

from leasehold.cli import output
from leasehold.cli.access import Access, read_bytes, with_access, write_bytes
from leasehold.cli.custodian import now
from leasehold.core.crypto import ED25519_BYTES, SigningKey
from leasehold.core.encoding import from_json, unhex
from leasehold.custodian.ledger.proofs import Proof
from leasehold.custodian.settings import hex_line, read_seed, write_private
from leasehold.custodian.tree_records import ConsistencyView
from leasehold.custodian.witness import accept_restore, check_given_up, read_state, witness
from leasehold.errors import UnknownThing, Unproven

_PATH = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """Watch a custodian's audit log, so that nobody rewrites it alone."""


@command.command()
@click.argument("key", type=_PATH)
def init(key: Path) -> None:
    """Make a witness's KEY file, and show the public half for those who will check."""
    made = SigningKey.make(os.urandom)
    write_private(key, hex_line(made.seed))
    output.write_fields("Witness", {"key file": str(key), "public key": made.public.hex()})


@command.command()
@click.option("--state", required=True, type=_PATH, help="What this witness has seen; keep it.")
@click.option("--key", required=True, type=_PATH, help="This witness's key file.")
@click.option("--name", required=True, help="This witness's name, as it stands below checkpoints.")
@click.option("--origin", required=True, help="The log's name.")
@click.option("--log-key", required=True, metavar="HEX", help="The log's audit key.")
@click.option("--out", type=_PATH, help="The cosigned checkpoint; default: standard output.")
@with_access
def check(
    access: Access,
    *,
    state: Path,
    key: Path,
    name: str,
    origin: str,
    log_key: str,
    out: Path | None,
) -> None:
    """Check that the log extends what was seen of it, remember that, and cosign its checkpoint."""
    signer = SigningKey.load(read_seed(key, ED25519_BYTES))
    public = unhex(log_key, about="audit key", size=32)
    seen = read_state(state).get(origin)
    old = 0 if seen is None else seen.size
    try:
        found = access.get("/log/consistency", ConsistencyView, old=max(old, 1))
    except UnknownThing as cause:
        raise Unproven(about="log size", got=cause, expected=f">= {max(old, 1)}") from cause
    line = witness(
        state,
        found.checkpoint,
        found.proof if old else (),
        origin=origin,
        public=public,
        old=old,
        name=name,
        key=signer,
        now=now(),
    )
    write_bytes(out, (found.checkpoint + line).encode())


@command.command("accept-restore")
@click.option("--state", required=True, type=_PATH, help="What this witness has seen.")
@click.option("--origin", required=True, help="The log's name.")
@click.option("--reason", required=True, help="Why; it is kept beside what is given up.")
@click.option(
    "--proof",
    type=_PATH,
    help="The log's `epoch.restore` entry, as `audit prove` writes it: it must name what is given up.",
)
@click.option("--log-key", metavar="HEX", help="The log's audit key, with --proof.")
def accept_restore_(
    *, state: Path, origin: str, reason: str, proof: Path | None, log_key: str | None
) -> None:
    """Accept that a restored log need not extend what was seen of it; what was seen is kept."""
    if proof is not None:
        seen = read_state(state).get(origin)
        public = unhex(log_key or "", about="audit key", size=32)
        check_given_up(seen, from_json(read_bytes(proof), Proof), origin=origin, public=public)
    given_up = accept_restore(state, origin=origin, now=now(), reason=reason)
    output.write_fields(
        "Given up", {"log": origin, "size": str(given_up.size), "root": given_up.root.hex()}
    )
    if proof is None:
        output.write_note("Without --proof nothing shows that the custodian owned up to a restore.")
