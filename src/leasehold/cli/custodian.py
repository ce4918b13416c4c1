"""`leasehold custodian`: make a custodian's folder, run it, sign the enclaves' configuration."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Final

import click

from leasehold.attest.toml import write_toml
from leasehold.cli import backup, output
from leasehold.cli.access import ask_secret, folder_option, read_bytes, unlock, write_bytes
from leasehold.core.statements import sign_text
from leasehold.core.units import KIB, MIB, Instant
from leasehold.custodian import settings
from leasehold.custodian.appraise import CONFIGURATION_KIND
from leasehold.custodian.log import JsonLog
from leasehold.custodian.serve import serve as serve_custodian
from leasehold.custodian.settings import Place, parse_place
from leasehold.enclave.settings import NO_DEVICES, parse_settings

_FOLDER: Final = click.Path(file_okay=False, path_type=Path)
_POSITIVE: Final = click.IntRange(1)


def now() -> Instant:
    """This machine's time."""
    return Instant(time.time_ns() // 1_000_000)


@click.group()
def command() -> None:
    """Run a custodian: lend, grant, stop."""


command.add_command(backup.backup)
command.add_command(backup.restore)


@command.command()
@click.argument("folder", type=_FOLDER)
@click.option(
    "--address",
    default="127.0.0.1:8443",
    show_default=True,
    metavar="HOST:PORT",
    help="Where enclaves and operators reach it.",
)
@click.option("--name", "names", multiple=True, help="A further host name or IP address of it.")
@click.option(
    "--store", default="", metavar="URL", help="A PostgreSQL database; default: a file in FOLDER."
)
@click.option(
    "--keys",
    "keys_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A TOML file with the table [keys]: who wraps the keys, from the first one on.",
)
def init(
    folder: Path, *, address: str, names: tuple[str, ...], store: str, keys_file: Path | None
) -> None:
    """Make a custodian's FOLDER: root key, certificate authority, first operator `admin`."""
    made = settings.init(
        folder,
        address=parse_place(address),
        names=names,
        now=now(),
        entropy=os.urandom,
        store=store,
        keys=None if keys_file is None else settings.parse_keys(read_bytes(keys_file)),
        ask=ask_secret,
    )
    output.write_fields(
        "Custodian",
        {
            "folder": str(folder),
            "root key": made.keys.root.public.hex(),
            "address": str(made.address),
            "names": ", ".join(made.names),
            "first operator": settings.FIRST_OPERATOR,
        },
    )
    output.write_note(
        f"Whoever has {folder / 'root.key'} is the custodian: back it up, and lock it away."
    )


@command.command()
@click.argument("folder", type=_FOLDER)
def serve(folder: Path) -> None:
    """Run the custodian of FOLDER until SIGTERM. Logs JSON lines to standard error."""

    def on_ready(place: Place) -> None:
        click.echo(f"custodian at {place}")

    found = settings.read(folder, ring=unlock(folder))
    asyncio.run(serve_custodian(found, log=JsonLog(), on_ready=on_ready))


@command.command()
@folder_option
@click.option("--loan", required=True, help="The loan that the enclave is to serve.")
@click.option(
    "--engine",
    required=True,
    help="The one that the enclave may load: llama, onnx, transformers...",
)
@click.option(
    "--attester", required=True, help="The platform driver: `simulated`, or a hardware one's name."
)
@click.option(
    "--devices",
    default=NO_DEVICES,
    show_default=True,
    help="The driver that asks the GPUs for evidence: `nvml`.",
)
@click.option("--tls-name", help="The custodian's TLS name; default: the first of its names.")
@click.option(
    "--dead-man",
    type=_POSITIVE,
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="Wipe after so long without contact.",
)
@click.option("--context-tokens", type=_POSITIVE, default=4096, show_default=True)
@click.option("--slots", type=_POSITIVE, default=4, show_default=True, help="Requests at once.")
@click.option("--threads", type=_POSITIVE, default=4, show_default=True)
@click.option("--block-tokens", type=_POSITIVE, default=64, show_default=True)
@click.option("--queue-max", type=_POSITIVE, default=64, show_default=True)
@click.option(
    "--concurrency-max",
    type=_POSITIVE,
    default=8,
    show_default=True,
    help="Requests of one consumer at once.",
)
@click.option("--body-bytes-max", type=click.IntRange(KIB), default=MIB, show_default=True)
@click.option(
    "--unsafe-engine-in-process",
    is_flag=True,
    help="No sandbox: the engine runs beside keys and meter. Gramine needs it.",
)
@click.option(
    "--unsafe-swapped-weights",
    is_flag=True,
    help="Serve also where the machine may write the model to a disk of the borrower's.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Default: standard output.")
def configure(
    *,
    folder: Path,
    tls_name: str | None,
    out: Path | None,
    loan: str,
    engine: str,
    attester: str,
    devices: str,
    dead_man: int,
    unsafe_engine_in_process: bool,
    unsafe_swapped_weights: bool,
    **numbers: int,
) -> None:
    """Write and sign an enclave's configuration; its SHA-256 belongs into the manifest."""
    file = settings.read(folder, ring=unlock(folder))
    keys = file.keys
    table: dict[str, object] = {
        "version": 1,
        "loan": loan,
        "engine": engine,
        "attester": attester,
        "devices": devices,
        "custodian_root": keys.root.public.hex(),
        "custodian_ca": keys.authority.certificate,
        "custodian_name": tls_name or file.names[0],
        "dead_man_seconds": dead_man,
        "log_origin": keys.origin,
        "log_key": keys.audit.public.hex(),
        **numbers,
    }
    if unsafe_engine_in_process:  # else the file is what older enclaves read
        table["unsafe_engine_in_process"] = True
    if unsafe_swapped_weights:
        table["unsafe_swapped_weights"] = True
    signed = sign_text(keys.root, CONFIGURATION_KIND, write_toml(table))
    parse_settings(signed)  # what no enclave would read must not leave
    write_bytes(out, signed)
    output.write_simulated(attester == "simulated")
