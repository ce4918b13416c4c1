"""Reference values for NVIDIA's confidential GPUs and switches, in the manifest's own field names."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from leasehold.errors import BadManifest

PROTECTED_PCIE: Final = "protected-pcie"

Word = Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Za-z._-]{1,32}\Z")]
Words = Annotated[tuple[Word, ...], msgspec.Meta(min_length=1, max_length=64)]
FirmwareVersion = Annotated[str, msgspec.Meta(pattern=r"\A(?:[0-9A-F]{2}\.){4}[0-9A-F]{2}\Z")]
FirmwareVersions = Annotated[tuple[FirmwareVersion, ...], msgspec.Meta(min_length=1, max_length=64)]
SwitchVersions = Annotated[tuple[FirmwareVersion, ...], msgspec.Meta(max_length=64)]
SwitchCount = Annotated[int, msgspec.Meta(ge=0, le=16)]


class Nvidia(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Reference values for the devices of a machine; which ones they are, `[[machines]]` says.

    `models` are chips as their certificates name them (`GH100`, `GB100`, `LS10`). Versions are exact.
    `mode` is how several GPUs are protected together: with `protected-pcie` NVLink is in the clear
    between them, so the switches that carry it are attested, too. NVIDIA's measurements are compared
    always. `unsafe_accept_expired_rim_signers` takes reference manifests whose signer's certificate has
    ended, as long as NVIDIA says that it was not revoked.
    """

    models: Words
    driver_versions: Words
    vbios_versions: FirmwareVersions
    mode: Literal["single-gpu", "multi-gpu", "protected-pcie"]
    switches: SwitchCount = 0
    switch_bios_versions: SwitchVersions = ()
    unsafe_accept_expired_rim_signers: bool = False

    def __post_init__(self) -> None:
        """Raise BadManifest where GPUs would send plaintext over switches that nobody attested."""
        if (self.mode == PROTECTED_PCIE) != (self.switches > 0):
            raise BadManifest(
                about="nvidia.switches",
                got=f"{self.switches} with mode {self.mode}",
                expected="at least one with protected-pcie, else none",
            )
        if (self.switches > 0) != bool(self.switch_bios_versions):
            raise BadManifest(
                about="nvidia.switch_bios_versions",
                got=len(self.switch_bios_versions),
                expected="at least one version where there are switches, else none",
            )
