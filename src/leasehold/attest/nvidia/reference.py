"""Reference values for NVIDIA's confidential GPUs and switches, in the manifest's own field names."""

from __future__ import annotations

import msgspec

from leasehold.attest.reference import Text


class Nvidia(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Reference values for NVIDIA's confidential GPUs and switches."""

    driver_versions: tuple[Text, ...]
