"""`leasehold-simtee`: make a simulated machine and print what a manifest needs to know of it."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from leasehold.core.binding import REPORT_DATA_BYTES
from leasehold.core.units import Instant
from leasehold.errors import AlreadyExists, LeaseholdError
from leasehold_simtee.hierarchy import Situation
from leasehold_simtee.machine import MACHINE_FILE, Machine
from leasehold_simtee.measure import measure as measure_package
from leasehold_simtee.nvidia import NONCE_BYTES, NvidiaVendor
from leasehold_simtee.quote import Enclave
from leasehold_simtee.samples import VALUES, Sample, make_samples
from leasehold_simtee.serve import HOST, make_server
from leasehold_simtee.snp import Chip, Guest
from leasehold_simtee.vendors import Vendors

WARNING: Final = (
    "SIMULATED: this machine is a file. It proves that the logic works and keeps nothing secret:\n"
    "whoever can read the folder can forge its evidence, and the host can read every byte of the\n"
    "model and of the prompts. Only a manifest that names this root accepts it."
)
_FOLDER: Final = click.Path(file_okay=False, path_type=Path)


def _now() -> Instant:
    return Instant(time.time_ns() // 1_000_000)


def _refuse(error: LeaseholdError) -> click.ClickException:
    return click.ClickException(f"{error.code}: {error}")


@click.group()
def main() -> None:
    """SIMULATED enclave hardware for Leasehold. It proves logic, not secrecy."""


@main.command()
@click.argument("folder", type=_FOLDER)
@click.option(
    "--beside",
    type=_FOLDER,
    help="A machine folder: the new machine comes from the same simulated vendor, under the same root.",
)
def init(folder: Path, beside: Path | None) -> None:
    """Make a simulated machine in FOLDER: keys, collateral and the root certificate."""
    try:
        if (folder / MACHINE_FILE).exists():
            raise AlreadyExists(about=folder)
        vendor = None if beside is None else Machine.load(beside).vendor
        machine = Machine.create(os.urandom, _now(), vendor=vendor)
        machine.save(folder)
    except LeaseholdError as error:
        raise _refuse(error) from error
    click.echo(WARNING, err=True)
    click.echo(f"machine {machine.platform_id} in {folder}, root {machine.root_sha256}")


@main.command()
@click.argument("folder", type=_FOLDER)
@click.option(
    "--status", default="UpToDate", show_default=True, help="Intel's word for the patch level."
)
@click.option("--advisory", multiple=True, help="An advisory id; may be given several times.")
def renew(folder: Path, status: str, advisory: tuple[str, ...]) -> None:
    """Issue new collateral for the machine in FOLDER; it holds for 30 days."""
    try:
        machine = Machine.load(folder)
        now = _now()
        # The time as a number only rises, so no verifier mistakes it for a roll-back.
        situation = Situation(
            status=status, advisories=advisory, evaluation=now // 1000, crl_number=now // 1000
        )
        replace(machine, collateral=machine.vendor.collateral(now, situation)).save(folder)
    except LeaseholdError as error:
        raise _refuse(error) from error
    click.echo(WARNING, err=True)
    click.echo(f"new collateral for machine {machine.platform_id}: {status}")


@main.command()
@click.option(
    "--package", type=_FOLDER, help="The folder of a `leasehold` package; default: this one."
)
def measure(package: Path | None) -> None:
    """Print the simulated measurement of the enclave's code."""
    try:
        click.echo(measure_package(package).hex())
    except LeaseholdError as error:
        raise _refuse(error) from error


@main.command()
@click.argument("folder", type=_FOLDER)
@click.option(
    "--package", type=_FOLDER, help="The folder of a `leasehold` package; default: this one."
)
def show(folder: Path, package: Path | None) -> None:
    """Print the tables that make a manifest accept this machine and this enclave."""
    try:
        machine = Machine.load(folder)
        enclave = Enclave(measure_package(package))
    except LeaseholdError as error:
        raise _refuse(error) from error
    click.echo(WARNING, err=True)
    click.echo("[[machines]]")
    click.echo(f'platform_id = "{machine.platform_id}"\nnote = "SIMULATED"\n')
    click.echo("[sgx]")
    for name, value in enclave.reference_values().items():
        click.echo(f"{name} = {json.dumps(value)}")
    click.echo(f'\n[simulated]\nroot_sha256 = "{machine.root_sha256}"')


@main.command()
@click.option(
    "--out", type=_FOLDER, required=True, help="A folder for the files, one below it each."
)
def samples(out: Path) -> None:
    """Write SIMULATED evidence of every platform to try things on, and print how to verify each."""
    try:
        for platform, sample in make_samples(os.urandom, _now()).items():
            sample.save(out / platform)
            words = " ".join((*sample.words, "--simulated-root", VALUES))
            click.echo(f"cd {out / platform} && leasehold attest verify {words}")
    except LeaseholdError as error:
        raise _refuse(error) from error
    click.echo(WARNING, err=True)


@main.command()
@click.argument("folder", type=_FOLDER)
@click.option("--port", type=click.IntRange(0, 65535), default=8081, show_default=True)
@click.option(
    "--evidence",
    type=_FOLDER,
    help="Also make an AMD machine and an NVIDIA GPU, write their evidence here, serve their vendors.",
)
def serve(folder: Path, port: int, evidence: Path | None) -> None:
    """Serve what the SIMULATED vendor of the machine in FOLDER says: PCS, KDS, RIM, OCSP over HTTP.

    POST /situation with {"status": "OutOfDate", "advisories": ["..."]} makes it say something else.
    """
    try:
        vendors = Vendors(_now, Machine.load(folder))
        vendors.say()
        if evidence is not None:
            _add_others(vendors, evidence)
        server = make_server(vendors.answer, port)
    except LeaseholdError as error:
        raise _refuse(error) from error
    except OSError as error:
        raise click.ClickException(f"port {port}: {error.strerror}") from error
    address = f"http://{HOST}:{server.server_address[1]}"
    click.echo(WARNING, err=True)
    names = ("pcs", "kds", "rim", "ocsp")
    click.echo("[collateral]\n" + "\n".join(f'{name} = "{address}"' for name in names))
    roots = {"root_sha256": vendors.machine.root_sha256}
    for chip in vendors.chips:
        roots["amd_root_sha256"] = chip.amd.root_sha256
    if vendors.nvidia is not None:
        roots["nvidia_root_sha256"] = vendors.nvidia.root_sha256
        roots["nvidia_rim_root_sha256"] = vendors.nvidia.rim_root_sha256
    told = ", ".join(f'{name} = "{value}"' for name, value in roots.items())
    click.echo(f"simulated = {{ {told} }}")
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


def _add_others(vendors: Vendors, folder: Path) -> None:
    """A chip and a GPU with their evidence in files: the report alone, so that its key is asked for."""
    chip = Chip.create(os.urandom, _now())
    vendors.chips = (chip,)
    vendors.nvidia = NvidiaVendor.create(os.urandom, _now())
    device = vendors.nvidia.device()
    vendors.devices = (device,)
    gpu = device.evidence(os.urandom(NONCE_BYTES))
    report = chip.attester(Guest()).attest(os.urandom(REPORT_DATA_BYTES)).quote
    sample = {"snp-report.bin": report, "gpu-report.bin": gpu.report, "gpu-chain.pem": gpu.chain}
    Sample(sample, ()).save(folder)
