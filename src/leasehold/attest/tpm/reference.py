"""Reference values for TPMs and vTPMs, in the manifest's own field names."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from leasehold.attest.reference import Hex8, Hex32, Hex32List
from leasehold.errors import BadManifest

STATIC_PCRS: Final = range(
    16
)  # extended by firmware, boot loader and kernel; reset with the machine
RESETTABLE_PCRS: Final = (16, 23)  # any program can set them back (TCG PC Client PTP, 4.6)

PcrIndex = Annotated[str, msgspec.Meta(pattern=r"\A(?:[0-9]|1[0-9]|2[0-3])\Z")]
PcrValues = Annotated[dict[PcrIndex, Hex32List], msgspec.Meta(min_length=1, max_length=24)]
Versions = Annotated[tuple[Hex8, ...], msgspec.Meta(min_length=1, max_length=64)]
Keys = Annotated[tuple[Hex32, ...], msgspec.Meta(max_length=2000)]


class Tpm(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Reference values for TPMs and vTPMs (TPM 2.0 Library, Part 2; TCG PC Client Platform TPM Profile).

    `pcrs` maps the index of a register of the SHA-256 bank to the values that pass. Those that are not
    named are not judged. `attestation_keys` are SHA-256 of DER SubjectPublicKeyInfo of keys that a
    custodian trusts to be inside a TPM; none are needed behind a hardware report (Azure).
    """

    unsafe_trust_hypervisor_owner: bool
    pcrs: PcrValues
    firmware_versions: Versions
    attestation_keys: Keys = ()

    def __post_init__(self) -> None:
        """Bring `pcrs` into order. Raise BadManifest where they say nothing about what booted."""
        named = sorted(map(int, self.pcrs))
        for pcr in RESETTABLE_PCRS:
            if pcr in named:
                raise BadManifest(
                    about="tpm.pcrs", got=pcr, expected="no register that any program can reset"
                )
        if not any(pcr in STATIC_PCRS for pcr in named):
            raise BadManifest(about="tpm.pcrs", got=named, expected="at least one of 0 to 15")
        ordered = {str(pcr): self.pcrs[str(pcr)] for pcr in named}
        msgspec.structs.force_setattr(self, "pcrs", ordered)
