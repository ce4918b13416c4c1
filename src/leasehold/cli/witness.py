"""`leasehold witness`: watch a custodian's audit log for others, and sign only what extends what was seen."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import click

from leasehold.cli import output
from leasehold.cli.access import Access, read_bytes, with_access, write_bytes
from leasehold.cli.custodian import now
from leasehold.core.crypto import ED25519_BYTES, SigningKey
from leasehold.core.encoding import from_json, unhex
from leasehold.custodian.forks import Fork, keep_fork
from leasehold.custodian.ledger.proofs import Proof
from leasehold.custodian.log import JsonLog
from leasehold.custodian.private_files import (
    hex_line,
    read_seed,
    read_text,
    read_tls_key,
    write_private,
)
from leasehold.custodian.serve import SystemClock, until_signal
from leasehold.custodian.settings import Place, parse_place
from leasehold.custodian.tree_records import ConsistencyView
from leasehold.custodian.witness import (
    accept_restore,
    check_given_up,
    check_name,
    read_state,
    witness,
)
from leasehold.custodian.witnessing import Service, build
from leasehold.errors import BadSetting, UnknownThing, Unproven
from leasehold.net.servers import serving
from leasehold.net.tls import TlsContext, enclave_server_context

_PATH = click.Path(path_type=Path)
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


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
@click.option(
    "--fork-evidence",
    type=_PATH,
    help="Where two contradictory checkpoints go; default: beside the state, with `.fork`.",
)
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
    fork_evidence: Path | None,
) -> None:
    """Check that the log extends what was seen of it, remember that, and cosign its checkpoint."""
    signer = SigningKey.load(read_seed(key, ED25519_BYTES))
    public = unhex(log_key, about="audit key", size=32)
    seen = read_state(state).get(origin)
    old = 0 if seen is None else seen.size
    try:
        found = _look(access, max(old, 1))
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
    except Unproven:
        if seen is not None:
            evidence = fork_evidence or state.with_name(f"{state.name}.fork")
            shown = _contradiction(access, seen.size)
            keep_fork(evidence, Fork(origin, seen.note, shown), public=public)
            output.write_note(f"What was seen and what is shown now are in {evidence}.")
        raise
    write_bytes(out, (found.checkpoint + line).encode())


def _look(access: Access, old: int) -> ConsistencyView:
    try:
        return access.get("/log/consistency", ConsistencyView, old=old)
    except UnknownThing as cause:
        raise Unproven(about="log size", got=cause, expected=f">= {old}") from cause


def _contradiction(access: Access, size: int) -> str:
    """J-10: what the log signs for the size that was seen, which proves most; or for the one it has."""
    try:
        note = access.read("/log/checkpoint", size=size)
    except UnknownThing:
        note = access.read("/log/checkpoint")
    return note.decode("utf-8", "replace")


@command.command()
@click.option("--listen", default="127.0.0.1:8444", show_default=True, metavar="HOST:PORT")
@click.option("--state", required=True, type=_PATH, help="What this witness has seen; keep it.")
@click.option("--key", required=True, type=_PATH, help="This witness's key file.")
@click.option("--name", required=True, help="This witness's name, as it stands below checkpoints.")
@click.option(
    "--log", "logs", required=True, multiple=True, metavar="ORIGIN=HEX", help="Repeat for more."
)
@click.option("--tls-certificate", type=_PATH, help="PEM; without one, plain HTTP on the loopback.")
@click.option("--tls-key", type=_PATH, help="PEM; the certificate's key.")
@click.option("--fork-evidence", type=_PATH, help="Default: beside the state, with `.fork`.")
def serve(
    *,
    listen: str,
    state: Path,
    key: Path,
    name: str,
    logs: tuple[str, ...],
    tls_certificate: Path | None,
    tls_key: Path | None,
    fork_evidence: Path | None,
) -> None:
    """Cosign checkpoints that logs send (C2SP tlog-witness), until SIGTERM. Logs to standard error."""
    check_name(name)
    read_state(state)  # what cannot be read now is better told now
    service = Service(
        name=name,
        key=SigningKey.load(read_seed(key, ED25519_BYTES)),
        logs={
            origin: unhex(public, about=f"--log {origin}", size=32)
            for origin, _, public in (one.rpartition("=") for one in logs)
        },
        state=state,
        clock=SystemClock(),
        log=JsonLog("witness"),
        evidence=fork_evidence or state.with_name(f"{state.name}.fork"),
    )
    context = None
    if tls_certificate is not None and tls_key is not None:
        context = enclave_server_context(read_text(tls_certificate), read_tls_key(tls_key))
    elif tls_certificate is not None or tls_key is not None:
        raise BadSetting(about="TLS", got="one of two", expected="--tls-certificate and --tls-key")
    asyncio.run(_serve(service, parse_place(listen), context))


async def _serve(service: Service, place: Place, context: TlsContext | None) -> None:
    if context is None and place.host not in _LOOPBACK:
        raise BadSetting(about="--listen", got=place, expected="a loopback address, or TLS")
    app = build(service)
    async with until_signal() as stop, serving(app, context, place.host, place.port) as found:
        click.echo(f"witness at {Place(found.host, found.port)}")
        await stop.wait()


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
