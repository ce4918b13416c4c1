"""`leasehold enclave`: the borrower's command. It runs an instance under the custodian's configuration."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Final

import click

from leasehold.cli import output
from leasehold.enclave.child import ENVIRONMENT, Worker
from leasehold.enclave.process import Hints, has_swap, run_instance
from leasehold.errors import BadSetting, WorkerFailed

CHECK: Final = (sys.executable, "-I", "-B", "-m", "leasehold.worker.check")
CHECK_SECONDS_MAX: Final = 120.0
NOT_PROVEN: Final = 3  # the exit status, as for what evidence does not show
MEANING: Final = {
    "no-new-privileges": "no program can give it more rights",
    "own-network": "a network of its own, in which nothing is up",
    "limits": "no core dump, no growing file, 256 descriptors",
    "landlock": "no file by any path, no TCP, no strangers' signals",
    "empty-root": "its root folder holds what it has open, and nothing else",
    "no-capabilities": "no right of an administrator, ever",
    "undumpable": "nobody but root can look into it or trace it",
    "seccomp": "no socket, no program, no process, no file to write",
}


@click.group("enclave")
def command() -> None:
    """Run an enclave on this machine (the borrower)."""


@command.command("run")
@click.option(
    "--config",
    "configuration",
    type=click.Path(path_type=Path),
    required=True,
    help="The configuration file that the custodian signed.",
)
@click.option("--custodian", required=True, metavar="HOST:PORT", help="Where the custodian is.")
@click.option("--listen", default="127.0.0.1:8443", show_default=True, metavar="HOST:PORT")
@click.option(
    "--platform",
    default="",
    metavar="HINT",
    help="Where the platform's hardware is; for the simulated one, its folder.",
)
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    metavar="URL|FILE",
    help="Where else the sealed model can be read; may be given more than once.",
)
def run(
    configuration: Path, custodian: str, listen: str, platform: str, mirrors: tuple[str, ...]
) -> None:
    """Attest, load the model, and serve consumers until stopped.

    Logs are JSON lines on standard error. The process goes on answering refusals after a stop; an
    instance that was stopped never serves again, so start a new one after a resume.
    """
    host, port = _address(custodian, "--custodian")
    listen_host, listen_port = _address(listen, "--listen")
    hints = Hints(configuration, host, port, listen_host, listen_port, platform, mirrors)
    asyncio.run(run_instance(hints, _start_here))


async def _start_here(theirs: socket.socket, engine: str) -> Worker:
    """W-29: an engine in this process, under what a process of its own would have been given."""
    from leasehold.worker import inproc

    os.environ.update(ENVIRONMENT)
    _hush()
    return await inproc.start(theirs, engine)


@cache
def _hush() -> None:
    """Engines log prompts, and logs belong to the host: only our own words leave from here on."""
    kept, nowhere = os.dup(sys.stderr.fileno()), os.open(os.devnull, os.O_WRONLY)
    for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    sys.stderr = os.fdopen(kept, "w", buffering=1)
    logging.disable()
    warnings.simplefilter("ignore")


@command.command("check")
@click.option("--engine", default="", help="Import this engine too, as its worker would.")
@click.option(
    "--in-process", is_flag=True, help="As under unsafe_engine_in_process: there is no sandbox."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(engine: str, in_process: bool, as_json: bool) -> None:
    """Say which layers of the engine's sandbox this machine gives, each tried. Needs no custodian.

    Exit status 3 where a layer is absent, the engine cannot be had, or this machine swaps.
    """
    words = [*CHECK, *(["--in-process"] if in_process else []), *([engine] if engine else [])]
    limit = CHECK_SECONDS_MAX
    try:
        ran = subprocess.run(  # noqa: S603  (our own interpreter and module)
            words, env=ENVIRONMENT, cwd="/", capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as cause:
        raise WorkerFailed(about="sandbox", got=f"no answer in {limit} s") from cause
    if ran.returncode:
        raise WorkerFailed(about="sandbox", got=f"exit status {ran.returncode}")
    found = json.loads(ran.stdout)
    swaps, lacks = has_swap(), found.get("engine", "")
    without = set(found.get("without", ()))
    if as_json:
        output.write_json(
            {name: found[name] for name in found if name != "engine"} | {"swap": swaps}
        )
    else:
        rows = [
            (name, "in force" if name in found["layers"] else "ABSENT", meaning)
            for name, meaning in MEANING.items()
        ]
        rows.append(("no swap", "ABSENT" if swaps else "in force", "no page goes to a disk"))
        output.write_rows("Sandbox of the engine", ("layer", "here", "what it means"), rows)
    if profile := found.get("profile"):
        output.write_note(
            f"The engine's profile `{profile}` does without {', '.join(without)} and opens, of this machine:"
            f" {', '.join(found['opens']) or 'nothing, as nothing of it is here'}."
        )
    if lacks:
        click.echo(lacks, err=True)
    if set(found["absent"]) - without or swaps or lacks:
        click.get_current_context().exit(NOT_PROVEN)


def _address(text: str, option: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadSetting(about=option, got=text, expected="HOST:PORT")
    return host.strip("[]"), int(port)
