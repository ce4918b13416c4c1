"""`leasehold manifest`: the policy that evidence is judged by."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from leasehold.attest.intel.reference import Sgx
from leasehold.attest.manifest import Manifest, parse_manifest, sign_manifest
from leasehold.attest.reference import Machine, Simulated
from leasehold.cli import output
from leasehold.cli.access import folder_option, read_bytes, write_bytes
from leasehold.cli.custodian import now
from leasehold.core.crypto import sha256
from leasehold.core.encoding import unhex
from leasehold.core.statements import check_text
from leasehold.custodian.appraise import CONFIGURATION_KIND
from leasehold.custodian.settings import read_keys
from leasehold.errors import BadManifest

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_FLAGS: Final = "0000000000000005"  # INIT and MODE64: what a release build has
_XFRM: Final = "0000000000000003"  # x87 and SSE
DAYS_MAX: Final = 366


class _Values(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of tables to take over: what `leasehold-simtee show` prints, or a part of a manifest."""

    machines: tuple[Machine, ...] = ()
    sgx: Sgx | None = None
    simulated: Simulated | None = None


@dataclass(frozen=True, slots=True)
class _Enclave:
    """What the options say of the enclave."""

    measurements: tuple[str, ...]
    signer: str | None
    product: int
    svn: int


@click.group()
def command() -> None:
    """Write, sign and read manifests."""


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
    type=_FILE,
    help="TOML tables [[machines]], [sgx], [simulated], as `leasehold-simtee show` prints them.",
)
@click.option("--measurement", "measurements", multiple=True, help="MRENCLAVE in hex.")
@click.option("--signer", help="MRSIGNER in hex.")
@click.option("--product", type=click.IntRange(0, 0xFFFF), default=0, show_default=True)
@click.option("--svn", type=click.IntRange(0, 0xFFFF), default=0, show_default=True)
@click.option("--machine", "machines", multiple=True, metavar="ID[=NOTE]", help="PPID in hex.")
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
    values: Path | None,
    machines: tuple[str, ...],
    simulated_root: Path | None,
    out: Path | None,
    **enclave: Any,
) -> None:
    """Write a manifest, signed with the custodian's root key."""
    keys = read_keys(folder)
    taken = _Values() if values is None else _read_values(values)
    signed = tuple(read_bytes(path) for path in configurations)
    for file in signed:
        check_text(file, kind=CONFIGURATION_KIND, public=keys.root.public)
    listed = tuple(_machine(text) for text in machines)
    manifest = Manifest(
        version=1,
        name=name,
        custodian_root=keys.root.public.hex(),
        not_after=(datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0),
        configurations=tuple(sha256(file).hex() for file in signed),
        machines=(*taken.machines, *listed),
        sgx=_sgx(taken.sgx, _Enclave(**enclave)),
        simulated=taken.simulated
        if simulated_root is None
        else Simulated(sha256(read_bytes(simulated_root)).hex()),
    )
    write_bytes(out, sign_manifest(keys.root, manifest))
    output.write_simulated(manifest.simulated is not None)


@command.command()
@click.argument("file", type=_FILE)
@click.option(
    "--root", metavar="HEX", help="The custodian's root key, if you know it elsewhere from."
)
def check(*, file: Path, root: str | None) -> None:
    """Check a manifest's form, signature and date. Says nothing where it is good but its digest."""
    manifest = _read(file, root)
    click.echo(manifest.digest().hex())
    output.write_simulated(manifest.simulated is not None)


@command.command()
@click.argument("file", type=_FILE)
@click.option(
    "--root", metavar="HEX", help="The custodian's root key, if you know it elsewhere from."
)
def explain(*, file: Path, root: str | None) -> None:
    """Say in words what a manifest accepts."""
    manifest = _read(file, root)
    output.write_simulated(manifest.simulated is not None)
    rows: dict[str, object] = {
        "policy": manifest.name,
        "custodian": manifest.custodian_root,
        "good until": output.utc(manifest.expires),
        "machines": "; ".join(f"{m.platform_id} ({m.note})" for m in manifest.machines),
        "configurations": ", ".join(manifest.configurations),
    }
    if manifest.sgx is not None:
        rows["SGX measurements"] = ", ".join(manifest.sgx.mr_enclave)
        rows["SGX signer"] = manifest.sgx.mr_signer
        rows["least security version"] = manifest.sgx.isv_svn_min
    if manifest.simulated is not None:
        rows["SIMULATED root"] = manifest.simulated.root_sha256
    for number, waiver in enumerate(manifest.waivers, 1):
        rows[f"waiver {number}"] = (
            f"{waiver.status} with {', '.join(waiver.advisories) or 'no advisories'} until "
            f"{output.utc(waiver.expires)}: {waiver.reason}"
        )
    output.write_fields("Manifest", rows)


def _read(file: Path, root: str | None) -> Manifest:
    known = None if root is None else unhex(root, about="--root", size=32)
    return parse_manifest(read_bytes(file), now=now(), custodian_root=known)


def _read_values(path: Path) -> _Values:
    try:
        return msgspec.convert(tomllib.loads(read_bytes(path).decode()), _Values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as cause:
        raise BadManifest(about=path, got=cause) from cause


def _machine(text: str) -> Machine:
    platform_id, _, note = text.partition("=")
    return Machine(platform_id, note or "lent to")


def _sgx(taken: Sgx | None, enclave: _Enclave) -> Sgx:
    """The reference values of the file, or those of a release build with this measurement."""
    if taken is not None:
        if not enclave.measurements:
            return taken
        return msgspec.structs.replace(taken, mr_enclave=enclave.measurements)
    if enclave.signer is None or not enclave.measurements:
        raise BadManifest(about="sgx", expected="--values, or --measurement and --signer")
    return Sgx(
        mr_enclave=enclave.measurements,
        mr_signer=enclave.signer,
        isv_prod_id=enclave.product,
        isv_svn_min=enclave.svn,
        attributes_flags_hex=_FLAGS,
        attributes_mask_flags_hex="f" * 16,
        attributes_xfrm_hex=_XFRM,
        attributes_mask_xfrm_hex="f" * 16,
        misc_select_hex="0" * 8,
        misc_mask_hex="f" * 8,
        config_id="0" * 128,
        config_svn=0,
        isv_family_id="0" * 32,
        isv_ext_prod_id="0" * 32,
        tcb_status=("UpToDate",),
    )
