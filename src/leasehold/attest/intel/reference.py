"""Reference values for Intel's platforms, in the manifest's own field names."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from leasehold.attest.reference import (
    Hex4,
    Hex8,
    Hex16,
    Hex32,
    Hex32List,
    Hex48,
    Hex48List,
    Hex64,
    UInt16,
)
from leasehold.errors import BadManifest

SGX_INIT: Final = 1 << 0
SGX_DEBUG: Final = 1 << 1
SGX_PROVISION_KEY: Final = 1 << 4
SGX_EINITTOKEN_KEY: Final = 1 << 5
SGX_FLAGS_COMPARED_ALWAYS: Final = SGX_INIT | SGX_DEBUG | SGX_PROVISION_KEY | SGX_EINITTOKEN_KEY
TD_DEBUG: Final = 0xFF  # bit 0 debugs; the rest of that octet is reserved for the like
TD_SEPT_VE_DISABLE: Final = 1 << 28
TD_MIGRATABLE: Final = 1 << 29
TD_COMPARED_ALWAYS: Final = TD_DEBUG | TD_SEPT_VE_DISABLE | TD_MIGRATABLE


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
        _check_masks(self, "sgx", _SGX_MASKS)


class Tdx(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Reference values for TDX trust domains (Intel TDX Module ABI, TDREPORT and TDINFO).

    The attributes' mask always covers the debug bits 0 to 7, SEPT_VE_DISABLE and MIGRATABLE; no
    manifest can expect debugging or migration, or do without SEPT_VE_DISABLE.
    """

    mr_td: Hex48List
    rtmr0: Hex48List
    rtmr1: Hex48List
    rtmr2: Hex48List
    rtmr3: Hex48List
    mr_seam: Hex48List
    mr_config_id: Hex48
    mr_owner: Hex48
    mr_owner_config: Hex48
    td_attributes_hex: Hex8
    td_attributes_mask_hex: Hex8
    xfam_hex: Hex8
    xfam_mask_hex: Hex8
    tee_tcb_svn_min: Hex16
    tcb_status: tuple[Literal["UpToDate"]]

    def __post_init__(self) -> None:
        """Raise BadManifest for a mask that hides what must be seen."""
        attributes = int(self.td_attributes_hex, 16)
        if attributes & (TD_DEBUG | TD_MIGRATABLE) or not attributes & TD_SEPT_VE_DISABLE:
            raise BadManifest(
                about="tdx.td_attributes_hex",
                got=self.td_attributes_hex,
                expected="bit 28 (SEPT_VE_DISABLE) set, bits 0 to 7 (debug) and 29 (MIGRATABLE) clear",
            )
        if ~int(self.td_attributes_mask_hex, 16) & TD_COMPARED_ALWAYS:
            raise BadManifest(
                about="tdx.td_attributes_mask_hex",
                got=self.td_attributes_mask_hex,
                expected=f"a mask that has at least the bits of {TD_COMPARED_ALWAYS:016x}",
            )
        _check_masks(self, "tdx", _TDX_MASKS)


_SGX_MASKS: Final = (
    ("attributes_flags_hex", "attributes_mask_flags_hex"),
    ("attributes_xfrm_hex", "attributes_mask_xfrm_hex"),
    ("misc_select_hex", "misc_mask_hex"),
)
_TDX_MASKS: Final = (
    ("td_attributes_hex", "td_attributes_mask_hex"),
    ("xfam_hex", "xfam_mask_hex"),
)


def _check_masks(record: Sgx | Tdx, table: str, pairs: tuple[tuple[str, str], ...]) -> None:
    """Raise BadManifest for an expected bit that its mask hides: nothing could ever match it."""
    for value, mask in pairs:
        if int(getattr(record, value), 16) & ~int(getattr(record, mask), 16):
            raise BadManifest(
                about=f"{table}.{value}",
                got=getattr(record, value),
                expected=f"no bit outside {mask}",
            )
