"""The manifest: the custodian's signed policy, by which all evidence is judged.

Spec: docs/spec/manifest.md. Every field is mandatory unless that page says otherwise; nothing that is
left out is ever accepted. Refuses to know what evidence looks like.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import msgspec

from leasehold.attest.amd.reference import Snp
from leasehold.attest.intel.reference import Sgx, Tdx
from leasehold.attest.nvidia.reference import Nvidia
from leasehold.attest.reference import (
    Hex32,
    Hex32List,
    Machine,
    Moment,
    Simulated,
    Text,
    Waiver,
    instant,
)
from leasehold.attest.toml import write_toml
from leasehold.attest.tpm.reference import Tpm
from leasehold.core.crypto import SigningKey, sha256
from leasehold.core.statements import check_text, sign_text, unsigned_text
from leasehold.core.units import KIB, Instant
from leasehold.errors import BadManifest, ManifestExpired, WrongCustodian

KIND: Final = "leasehold-manifest"
MANIFEST_BYTES_MAX: Final = 256 * KIB  # a machine takes ~100 bytes; room for two thousand
PLATFORM_TABLES: Final = ("sgx", "tdx", "snp", "tpm")
_ROOT_LINE: Final = re.compile(
    rb'^custodian_root[ \t]*=[ \t]*"([0-9a-f]{64})"[ \t\r]*$', re.MULTILINE
)
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`")


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """One loan's policy: whose enclave, which configuration, which machines, which reference values.

    `configurations` are SHA-256 (hex) of whole signed configuration files. `sgx`, `tdx`, `snp` and
    `tpm` hold reference values; a platform without its table is refused, and so are devices without
    `nvidia`. Without `simulated`, simulation is refused.
    """

    version: Literal[1]
    name: Text
    custodian_root: Hex32
    not_after: Moment
    configurations: Hex32List
    machines: Annotated[tuple[Machine, ...], msgspec.Meta(min_length=1)]
    sgx: Sgx | None = None
    tdx: Tdx | None = None
    snp: Snp | None = None
    tpm: Tpm | None = None
    nvidia: Nvidia | None = None
    simulated: Simulated | None = None
    waivers: tuple[Waiver, ...] = ()

    @property
    def root(self) -> bytes:
        """The custodian's Ed25519 root key, 32 bytes."""
        return bytes.fromhex(self.custodian_root)

    @property
    def expires(self) -> Instant:
        """The first instant at which nothing passes any more."""
        return instant(self.not_after)

    def digest(self) -> bytes:
        """SHA-256 of the rendered policy: equal policies have equal digests however they were typed."""
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        return sha256(render(self))


def check_current(manifest: Manifest, *, now: Instant) -> None:
    """P-5: raise ManifestExpired from `not_after` on."""
    if now >= manifest.expires:
        raise ManifestExpired(about=manifest.name, got=manifest.not_after.isoformat())


def parse_manifest(signed: bytes, *, now: Instant, custodian_root: bytes | None = None) -> Manifest:
    """P-1 to P-5: the policy in a signed manifest file that is valid at `now`.

    `custodian_root` is the 32-byte key that the caller trusts. Without it the file's own key counts:
    then the file itself, obtained by a way the caller trusts, is what the caller trusts.
    Raises BadManifest, BadSignature, BadMessage (no base64), WrongCustodian, ManifestExpired.
    """
    if len(signed) > MANIFEST_BYTES_MAX:  # P-1
        raise BadManifest(about="size", got=len(signed), expected=f"<= {MANIFEST_BYTES_MAX} bytes")
    named = _named_root(unsigned_text(signed))  # P-2
    if custodian_root is not None and custodian_root != named:
        raise WrongCustodian(about="manifest", got=named, expected=custodian_root)
    manifest = read_policy(check_text(signed, kind=KIND, public=named))  # P-3, P-4
    if manifest.root != named:
        raise BadManifest(about="custodian_root", expected="exactly one line that names it")
    check_current(manifest, now=now)  # P-5
    return manifest


def _named_root(text: bytes) -> bytes:
    """P-2: whose signature to check. Unchecked text meets no parser but this one expression."""
    found = _ROOT_LINE.findall(text)
    if len(found) != 1:
        raise BadManifest(
            about="custodian_root",
            got=f"{len(found)} such lines",
            expected='custodian_root = "HEX"',
        )
    return bytes.fromhex(found[0].decode())


def read_policy(text: bytes) -> Manifest:
    """P-4: the policy in unsigned TOML text. Raises BadManifest, which names the field."""
    try:
        table = tomllib.loads(text.decode())
        manifest = msgspec.convert(table, type=Manifest)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise BadManifest(about="TOML", got=str(cause)) from cause
    except msgspec.ValidationError as cause:
        raise BadManifest(got=str(cause), expected=_nearest(str(cause))) from cause
    if not any(getattr(manifest, name) for name in PLATFORM_TABLES):
        wanted = " or ".join(f"[{name}]" for name in PLATFORM_TABLES)
        raise BadManifest(got="no reference values", expected=f"a table {wanted}")
    return manifest


def _nearest(complaint: str) -> str | None:
    """The known field that an unknown one most looks like."""
    unknown = _UNKNOWN.search(complaint)
    if unknown is None:
        return None
    records: tuple[type[msgspec.Struct], ...] = (
        Manifest,
        Machine,
        Waiver,
        Simulated,
        Sgx,
        Tdx,
        Snp,
        Tpm,
        Nvidia,
    )
    known = sorted({field for record in records for field in record.__struct_fields__})
    near = difflib.get_close_matches(unknown[1], known, n=1, cutoff=0)
    return f"a known field; the nearest is `{near[0]}`" if near else None


def render(manifest: Manifest) -> bytes:
    """The policy as TOML text, unsigned."""
    table: dict[str, Any] = msgspec.to_builtins(manifest, builtin_types=(type(manifest.not_after),))
    return write_toml({name: value for name, value in table.items() if value not in (None, ())})


def sign_manifest(key: SigningKey, manifest: Manifest) -> bytes:
    """The manifest file, signed. Raises BadManifest rather than sign what `parse_manifest` refuses."""
    text = render(manifest)
    if read_policy(text) != manifest or manifest.root != key.public:
        raise BadManifest(about="custodian_root", got=manifest.root, expected=key.public)
    return sign_text(key, KIND, text)
