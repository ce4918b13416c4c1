"""Reference values for AMD SEV-SNP virtual machines, in the manifest's own field names."""

from __future__ import annotations

import msgspec

from leasehold.attest.reference import Hex48List


class Snp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Reference values for AMD SEV-SNP virtual machines (AMD 56860, ATTESTATION_REPORT)."""

    measurement: Hex48List
