"""Files of manifest tables that `manifest new` takes over: Leasehold's own, and old BlindAI manifests."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from leasehold.attest.amd.reference import Snp
from leasehold.attest.intel.reference import Sgx, Tdx
from leasehold.attest.nvidia.reference import Nvidia
from leasehold.attest.reference import Machine, Simulated, Waiver
from leasehold.attest.tpm.reference import Tpm
from leasehold.cli.evidence_files import read_file
from leasehold.errors import BadManifest

FLAGS: Final = "0000000000000005"  # INIT and MODE64: what a release build has
XFRM: Final = "0000000000000003"  # x87 and SSE
# What BlindAI's client compared; integers in hex, of any length, perhaps with 0x.
BLINDAI: Final = {
    "attributes_flags_hex": 16,
    "attributes_mask_flags_hex": 16,
    "attributes_xfrm_hex": 16,
    "attributes_mask_xfrm_hex": 16,
    "misc_select_hex": 8,
    "misc_mask_hex": 8,
}
_HEX: Final = re.compile(r"\A(?:0x)?([0-9a-f]{1,16})\Z")


class Values(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tables of a manifest, each with all of its fields or absent."""

    machines: tuple[Machine, ...] = ()
    sgx: Sgx | None = None
    tdx: Tdx | None = None
    snp: Snp | None = None
    tpm: Tpm | None = None
    nvidia: Nvidia | None = None
    simulated: Simulated | None = None
    waivers: tuple[Waiver, ...] = ()


def read_values(path: Path, signer: str | None = None) -> Values:
    """The tables in a file. `signer` is the MRSIGNER that an old BlindAI manifest leaves out.

    Raises BadManifest, which names the file and the field; FileTrouble.
    """
    try:
        table = tomllib.loads(read_file(path).decode())
        if "mr_enclave" in table:
            table = {"sgx": carry_over(table, signer, path)}
        return msgspec.convert(table, Values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as cause:
        raise BadManifest(about=path, got=cause) from cause


def carry_over(table: dict[str, Any], signer: str | None, path: Path) -> dict[str, Any]:
    """The `[sgx]` table for an old BlindAI manifest.

    It says nothing of the signer, so somebody has to; where its masks hide more than a manifest may
    hide, `Sgx` refuses them by name. Raises BadManifest.
    """
    if signer is None:
        raise BadManifest(
            about=f"{path}, an old BlindAI manifest",
            got="no signer, which BlindAI never compared",
            expected="--signer HEX (MRSIGNER) beside it; `leasehold attest inspect QUOTE` shows it",
        )
    known = {"mr_enclave", "allow_debug", *BLINDAI}
    if unknown := sorted(table.keys() - known):
        raise BadManifest(about=path, got=", ".join(unknown), expected=", ".join(sorted(known)))
    if missing := sorted(BLINDAI.keys() - table.keys()):
        raise BadManifest(about=path, expected=", ".join(missing))
    values = {name: _padded(table[name], size, name) for name, size in BLINDAI.items()}
    code = str(table["mr_enclave"]).lower()
    allow_debug = {"allow_debug": table["allow_debug"]} if "allow_debug" in table else {}
    return release_sgx((code,), signer) | values | allow_debug


def _padded(value: object, digits: int, name: str) -> str:
    found = _HEX.match(str(value).lower())
    if found is None or len(found[1].lstrip("0")) > digits:
        raise BadManifest(about=f"sgx.{name}", got=value, expected=f"{digits} hex digits")
    return found[1].lstrip("0").rjust(digits, "0")


def release_sgx(
    measurements: tuple[str, ...], signer: str, product: int = 0, svn: int = 0
) -> dict[str, Any]:
    """The `[sgx]` table of a release build: strict everywhere, and no key separation and sharing."""
    return {
        "mr_enclave": list(measurements),
        "mr_signer": signer,
        "isv_prod_id": product,
        "isv_svn_min": svn,
        "attributes_flags_hex": FLAGS,
        "attributes_mask_flags_hex": "f" * 16,
        "attributes_xfrm_hex": XFRM,
        "attributes_mask_xfrm_hex": "f" * 16,
        "misc_select_hex": "0" * 8,
        "misc_mask_hex": "f" * 8,
        "config_id": "0" * 128,
        "config_svn": 0,
        "isv_family_id": "0" * 32,
        "isv_ext_prod_id": "0" * 32,
        "tcb_status": ["UpToDate"],
    }


def merge(all_values: Iterable[Values]) -> Values:
    """Tables of several files together; machines and waivers add up, any other table comes once.

    Simulated roots of several files are one table, as long as they do not contradict each other. Raises
    BadManifest.
    """
    together: dict[str, Any] = {"machines": (), "waivers": ()}
    for values in all_values:
        for name in Values.__struct_fields__:
            table = getattr(values, name)
            if name in ("machines", "waivers"):
                together[name] += tuple(row for row in table if row not in together[name])
            elif table is None or table == together.get(name):
                continue
            elif name == "simulated" and name in together:
                together[name] = _both(together[name], table)
            elif name in together:
                raise BadManifest(about=f"[{name}]", got="in two files", expected="once")
            else:
                together[name] = table
    return Values(**together)


def _both(one: Simulated, other: Simulated) -> Simulated:
    roots: dict[str, str] = {}
    for name in Simulated.__struct_fields__:
        told = {value for table in (one, other) if (value := getattr(table, name)) is not None}
        if len(told) > 1:
            raise BadManifest(about=f"simulated.{name}", got=", ".join(sorted(told)), expected=1)
        roots |= dict.fromkeys([name] if told else [], *told)
    return Simulated(**roots)
