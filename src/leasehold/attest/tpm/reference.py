"""Reference values for TPMs and vTPMs, in the manifest's own field names."""

from __future__ import annotations

import msgspec


class Tpm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Reference values for TPMs and vTPMs (TPM 2.0 Part 2)."""

    unsafe_trust_hypervisor_owner: bool
