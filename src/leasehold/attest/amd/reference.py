"""Reference values for AMD SEV-SNP, in the manifest's own field names."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from leasehold.attest.reference import Hex8, Hex16, Hex32, Hex48, Hex48List, Text, UInt8
from leasehold.errors import BadManifest

POLICY_MIGRATE_MA: Final = 1 << 18
POLICY_DEBUG: Final = 1 << 19
POLICY_COMPARED_ALWAYS: Final = POLICY_MIGRATE_MA | POLICY_DEBUG

Vmpl = Annotated[int, msgspec.Meta(ge=0, le=3)]
UInt32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
CspIds = Annotated[tuple[Text, ...], msgspec.Meta(max_length=64)]


class Floor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The lowest patch level that counts as current, component by component (AMD 56860, TCB_VERSION).

    `fmc` is for Turin and later, 0 for what came before.
    """

    bootloader: UInt8
    tee: UInt8
    snp: UInt8
    microcode: UInt8
    fmc: UInt8 = 0


class Snp(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Reference values for SEV-SNP guests (AMD 56860, ATTESTATION_REPORT and GUEST_POLICY).

    A product without its floor (`milan`, `genoa`, `turin`) is refused. The policy's mask always covers
    DEBUG and MIGRATE_MA, and no manifest can expect either. Without `vlek_csp_ids` reports signed by
    a cloud's key (VLEK) are refused; `unsafe_masked_chip_id` takes such a cloud for one machine.
    """

    measurement: Hex48List
    host_data: Hex32
    id_key_digest: Hex48
    author_key_digest: Hex48
    family_id: Hex16
    image_id: Hex16
    guest_svn_min: UInt32
    vmpl_max: Vmpl
    policy_hex: Hex8
    policy_mask_hex: Hex8
    platform_info_hex: Hex8
    platform_info_mask_hex: Hex8
    tcb_status: tuple[Literal["UpToDate"]]
    milan: Floor | None = None
    genoa: Floor | None = None
    turin: Floor | None = None
    vlek_csp_ids: CspIds = ()
    unsafe_masked_chip_id: bool = False

    def floor(self, product: str) -> Floor | None:
        """The floor for a product by AMD's name for it."""
        floors = {"Milan": self.milan, "Genoa": self.genoa, "Turin": self.turin}
        return floors.get(product)

    def __post_init__(self) -> None:
        """Raise BadManifest for a mask that hides what must be seen, and without any floor."""
        if not (self.milan or self.genoa or self.turin):
            raise BadManifest(
                about="snp", got="no floor", expected="a floor for milan, genoa or turin"
            )
        if int(self.policy_hex, 16) & POLICY_COMPARED_ALWAYS:
            raise BadManifest(
                about="snp.policy_hex",
                got=self.policy_hex,
                expected="bits 18 (MIGRATE_MA) and 19 (DEBUG) clear",
            )
        if ~int(self.policy_mask_hex, 16) & POLICY_COMPARED_ALWAYS:
            raise BadManifest(
                about="snp.policy_mask_hex",
                got=self.policy_mask_hex,
                expected=f"a mask that has at least the bits of {POLICY_COMPARED_ALWAYS:016x}",
            )
        for value, mask in (
            ("policy_hex", "policy_mask_hex"),
            ("platform_info_hex", "platform_info_mask_hex"),
        ):
            if int(getattr(self, value), 16) & ~int(getattr(self, mask), 16):
                raise BadManifest(
                    about=f"snp.{value}",
                    got=getattr(self, value),
                    expected=f"no bit outside {mask}",
                )
        if self.unsafe_masked_chip_id and not self.vlek_csp_ids:
            raise BadManifest(
                about="snp.unsafe_masked_chip_id", got="true", expected="vlek_csp_ids beside it"
            )
