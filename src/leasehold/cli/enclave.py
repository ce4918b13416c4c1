"""`leasehold enclave`: the borrower's command. It runs an instance under the custodian's configuration."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from leasehold.enclave.process import Hints, run_instance
from leasehold.errors import BadSetting


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
    asyncio.run(run_instance(hints))


def _address(text: str, option: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadSetting(about=option, got=text, expected="HOST:PORT")
    return host.strip("[]"), int(port)
