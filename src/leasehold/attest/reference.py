"""Reference values: what a manifest expects of an enclave, in the manifest's own field names.

Integers in hex are written with the most significant digit first, byte strings in the order in which
the hardware reports them. Refuses to know where the text comes from and who signed it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

from leasehold.core.units import Instant
from leasehold.errors import BadManifest

SGX_INIT: Final = 1 << 0
SGX_DEBUG: Final = 1 << 1
SGX_PROVISION_KEY: Final = 1 << 4
SGX_EINITTOKEN_KEY: Final = 1 << 5
SGX_FLAGS_COMPARED_ALWAYS: Final = SGX_INIT | SGX_DEBUG | SGX_PROVISION_KEY | SGX_EINITTOKEN_KEY

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Hex4 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{8}\Z")]
Hex8 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
Hex16 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{128}\Z")]
Hex32List = Annotated[tuple[Hex32, ...], msgspec.Meta(min_length=1, max_length=64)]
UInt16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
Advisory = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9._-]{1,40}\Z")]
WaivableStatus = Literal[
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
]


def instant(moment: datetime) -> Instant:
    """A time with its zone as milliseconds since the Unix epoch."""
    return Instant(int(moment.timestamp() * 1000))


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine that the custodian lent to: its PPID or platform instance id, and which one it is."""

    platform_id: Hex16
    note: Text


class Waiver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accept one status with exactly these advisories or fewer, until a day."""

    status: WaivableStatus
    advisories: tuple[Advisory, ...]
    reason: Text
    not_after: Moment

    @property
    def expires(self) -> Instant:
        """The first instant at which it covers nothing any more."""
        return instant(self.not_after)


class Simulated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accept the simulated platform under the root certificate with this SHA-256 (of its DER)."""

    root_sha256: Hex32


class Sgx(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Reference values for SGX enclaves (Intel SDM vol. 3D, REPORT and ATTRIBUTES structures).

    A value under its mask must equal the expected one. The flags' mask always covers INIT, DEBUG,
    PROVISION_KEY and EINITTOKEN_KEY, and no manifest can expect DEBUG.
    """

    mr_enclave: Hex32List
    mr_signer: Hex32
    isv_prod_id: UInt16
    isv_svn_min: UInt16
    attributes_flags_hex: Hex8
    attributes_mask_flags_hex: Hex8
    attributes_xfrm_hex: Hex8
    attributes_mask_xfrm_hex: Hex8
    misc_select_hex: Hex4
    misc_mask_hex: Hex4
    config_id: Hex64
    config_svn: UInt16
    isv_family_id: Hex16
    isv_ext_prod_id: Hex16
    tcb_status: tuple[Literal["UpToDate"]]
    allow_debug: bool = False

    def __post_init__(self) -> None:
        """Raise BadManifest for a mask that hides what must be seen."""
        if self.allow_debug:
            raise BadManifest(about="sgx.allow_debug", got="true", expected="false, always")
        flags = int(self.attributes_flags_hex, 16)
        if flags & SGX_DEBUG or not flags & SGX_INIT:
            raise BadManifest(
                about="sgx.attributes_flags_hex",
                got=self.attributes_flags_hex,
                expected="bit 0 (INIT) set and bit 1 (DEBUG) clear",
            )
        if ~int(self.attributes_mask_flags_hex, 16) & SGX_FLAGS_COMPARED_ALWAYS:
            raise BadManifest(
                about="sgx.attributes_mask_flags_hex",
                got=self.attributes_mask_flags_hex,
                expected=f"a mask that has at least the bits of {SGX_FLAGS_COMPARED_ALWAYS:016x}",
            )
        for value, mask in (
            ("attributes_flags_hex", "attributes_mask_flags_hex"),
            ("attributes_xfrm_hex", "attributes_mask_xfrm_hex"),
            ("misc_select_hex", "misc_mask_hex"),
        ):
            if int(getattr(self, value), 16) & ~int(getattr(self, mask), 16):
                raise BadManifest(
                    about=f"sgx.{value}",
                    got=getattr(self, value),
                    expected=f"no bit outside {mask}",
                )
