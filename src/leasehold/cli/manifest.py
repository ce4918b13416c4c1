"""`leasehold manifest`: the policy that evidence is judged by."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from leasehold.attest.intel.reference import Sgx
from leasehold.attest.manifest import PLATFORM_TABLES, Manifest, parse_manifest, sign_manifest
from leasehold.attest.manifest_problems import find_problems
from leasehold.attest.reference import Machine, Simulated
from leasehold.attest.toml import write_toml
from leasehold.attest.verdict import Trust
from leasehold.cli import output
from leasehold.cli.access import folder_option, read_bytes, unlock, write_bytes
from leasehold.cli.custodian import now
from leasehold.cli.derive import derive as derive_values
from leasehold.cli.judging import Question, with_question
from leasehold.cli.manifest_words import manifest_page
from leasehold.cli.page import write_page
from leasehold.cli.values import Values, merge, read_values, release_sgx
from leasehold.core.crypto import sha256
from leasehold.core.encoding import unhex
from leasehold.core.statements import check_text, unsigned_text
from leasehold.custodian.appraise import CONFIGURATION_KIND
from leasehold.custodian.settings import read_keys
from leasehold.errors import BadManifest

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
DAYS_MAX: Final = 366


@click.group()
def command() -> None:
    """Write, sign and read manifests."""


# new ---------------------------------------------------------------------------------------------


def _sgx_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options for a release build of an SGX enclave, which need no file of values."""
    for option in (
        click.option("--svn", type=click.IntRange(0, 0xFFFF), default=0, show_default=True),
        click.option("--product", type=click.IntRange(0, 0xFFFF), default=0, show_default=True),
        click.option("--signer", help="MRSIGNER in hex; for old BlindAI manifests, too."),
        click.option("--measurement", "measurements", multiple=True, help="MRENCLAVE in hex."),
    ):
        command = option(command)
    return command


@command.command()
@folder_option
@click.option("--name", required=True, help="What this policy is called.")
@click.option("--days", type=click.IntRange(1, DAYS_MAX), default=90, show_default=True)
@click.option(
    "--configuration",
    "configurations",
    multiple=True,
    required=True,
    type=_FILE,
    help="A signed enclave configuration that may run; may be given several times.",
)
@click.option(
    "--values",
    "values_files",
    type=_FILE,
    multiple=True,
    help="TOML tables [[machines]], [sgx], [tdx], [snp], [tpm], [nvidia], [simulated], [[waivers]], as "
    "`leasehold manifest derive` prints them; or an old BlindAI manifest. May be given several times.",
)
@_sgx_options
@click.option("--machine", "machines", multiple=True, metavar="ID[=NOTE]", help="Its id in hex.")
@click.option(
    "--simulated-root", type=_FILE, help="Accept the SIMULATED platform of this root (DER)."
)
@click.option("--out", type=_FILE, help="Default: standard output.")
def new(
    *,
    folder: Path,
    name: str,
    days: int,
    configurations: tuple[Path, ...],
    values_files: tuple[Path, ...],
    machines: tuple[str, ...],
    simulated_root: Path | None,
    out: Path | None,
    measurements: tuple[str, ...],
    signer: str | None,
    product: int,
    svn: int,
) -> None:
    """Write a manifest, signed with the custodian's root key."""
    keys = read_keys(folder, ring=unlock(folder))
    taken = merge(read_values(path, signer) for path in values_files)
    signed = tuple(read_bytes(path) for path in configurations)
    for file in signed:
        check_text(file, kind=CONFIGURATION_KIND, public=keys.root.public)
    tables = {name: getattr(taken, name) for name in (*PLATFORM_TABLES, "nvidia", "waivers")}
    tables["sgx"] = _sgx(taken, measurements, signer, product, svn)
    manifest = Manifest(
        version=1,
        name=name,
        custodian_root=keys.root.public.hex(),
        not_after=(datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0),
        configurations=tuple(sha256(file).hex() for file in signed),
        machines=(*taken.machines, *(_machine(text) for text in machines)),
        simulated=taken.simulated
        if simulated_root is None
        else Simulated(sha256(read_bytes(simulated_root)).hex()),
        **tables,
    )
    write_bytes(out, sign_manifest(keys.root, manifest))
    output.write_simulated(manifest.simulated is not None)


def _machine(text: str) -> Machine:
    platform_id, _, note = text.partition("=")
    return Machine(platform_id, note or "lent to")


def _sgx(
    taken: Values, measurements: tuple[str, ...], signer: str | None, product: int, svn: int
) -> Sgx | None:
    """The reference values of the files, or those of a release build with this measurement."""
    if taken.sgx is not None:
        if not measurements:
            return taken.sgx
        return msgspec.structs.replace(taken.sgx, mr_enclave=measurements)
    if measurements and signer is not None:
        return msgspec.convert(release_sgx(measurements, signer, product, svn), Sgx)
    if measurements or not any(getattr(taken, name) for name in PLATFORM_TABLES):
        raise BadManifest(
            about="reference values", expected="--values, or --measurement and --signer"
        )
    return None


# derive ------------------------------------------------------------------------------------------


@command.command()
@with_question
@click.option("--note", default="derived from evidence", show_default=True, help="On the machine.")
@click.option(
    "--unsafe-trust-hypervisor-owner",
    is_flag=True,
    help="For a vTPM: trust the owner of the hypervisor, who can make it say anything.",
)
def derive(question: Question, *, note: str, unsafe_trust_hypervisor_owner: bool) -> None:
    """Verify the evidence in FILES and print the tables of a manifest that accepts exactly this.

    Only what is authentic is printed. Whether it is what you want is yours to know: compare the
    measurements with what the builder of the code publishes.
    """
    shown = question.read_shown()
    tables: dict[str, Any] = {}
    for seen in question.judge(shown, None):
        values = derive_values(
            seen,
            shown.evidence,
            shown.devices,
            simulated=question.simulated,
            note=note,
            unsafe_trust_hypervisor_owner=unsafe_trust_hypervisor_owner,
        )
        tables = {
            name: value
            for name, value in msgspec.to_builtins(values).items()
            if value not in (None, (), [])
        }
        output.write_simulated(seen.trust is Trust.SIMULATION)
    if not tables:
        raise BadManifest(about=shown.what, expected="evidence: a quote or a device's report")
    click.echo(write_toml(tables).strip() + b"\n", nl=False)


# check, explain ----------------------------------------------------------------------------------

_root_option = click.option(
    "--root", metavar="HEX", help="The custodian's root key, if you know it elsewhere from."
)


@command.command()
@click.argument("file", type=_FILE)
@_root_option
def check(*, file: Path, root: str | None) -> None:
    """Check a manifest's form, signature and date. Says nothing where it is good but its digest.

    Every field with a problem is named, also where the file is not signed yet.
    """
    signed = read_bytes(file)
    text = unsigned_text(signed) or signed
    problems = find_problems(text)
    for problem in problems:
        click.echo(f"{problem.field}: {problem.text}")
    if problems:
        raise BadManifest(about=file, got=f"{len(problems)} problem(s), listed above")
    manifest = _read(signed, root)
    click.echo(manifest.digest().hex())
    output.write_simulated(manifest.simulated is not None)


@command.command()
@click.argument("file", type=_FILE)
@_root_option
def explain(*, file: Path, root: str | None) -> None:
    """Say in words what a manifest accepts, and what it gives up."""
    manifest = _read(read_bytes(file), root)
    output.write_simulated(manifest.simulated is not None)
    write_page(manifest_page(manifest))


def _read(signed: bytes, root: str | None) -> Manifest:
    known = None if root is None else unhex(root, about="--root", size=32)
    return parse_manifest(signed, now=now(), custodian_root=known)
