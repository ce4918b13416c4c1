"""Reference values for Intel's platforms, in the manifest's own field names."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from leasehold.attest.reference import Hex4, Hex8, Hex16, Hex32, Hex32List, Hex48List, Hex64, UInt16
from leasehold.errors import BadManifest

SGX_INIT: Final = 1 << 0
SGX_DEBUG: Final = 1 << 1
SGX_PROVISION_KEY: Final = 1 << 4
SGX_EINITTOKEN_KEY: Final = 1 << 5
SGX_FLAGS_COMPARED_ALWAYS: Final = SGX_INIT | SGX_DEBUG | SGX_PROVISION_KEY | SGX_EINITTOKEN_KEY


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


class Tdx(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Reference values for TDX virtual machines (Intel TDX Module ABI, TDREPORT)."""

    mr_td: Hex48List
