"""What all of a manifest's tables are made of, and those that belong to no platform.

Integers in hex are written with the most significant digit first, byte strings in the order in which
the hardware reports them. Each platform's reference values are in its own package. Refuses to know
where the text comes from and who signed it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from leasehold.core.units import Instant
from leasehold.errors import BadManifest

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Hex4 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{8}\Z")]
Hex8 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
Hex16 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Hex48 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{96}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{128}\Z")]
Hex32List = Annotated[tuple[Hex32, ...], msgspec.Meta(min_length=1, max_length=64)]
Hex48List = Annotated[tuple[Hex48, ...], msgspec.Meta(min_length=1, max_length=64)]
MachineId = Annotated[
    str, msgspec.Meta(pattern=r"\A(?:[0-9a-f]{16}|[0-9a-f]{32}|[0-9a-f]{64}|[0-9a-f]{128})\Z")
]
DeviceId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{2,64}\Z")]
UInt8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
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
    """A machine that the custodian lent to, and which one it is.

    `platform_id` is the PPID or platform instance id (Intel, 16 bytes), the chip id (AMD, 64 bytes;
    Turin 8), or the SHA-256 of an attestation key (TPM). `devices` are the serial numbers, in hex, of
    exactly the GPUs and switches that stand in it.
    """

    platform_id: MachineId
    note: Text
    devices: tuple[DeviceId, ...] = ()


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


class Simulated(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Accept simulated platforms under the root certificates with these SHA-256 (of their DER).

    One for each role that is simulated: Intel's root, AMD's ARK, NVIDIA's device and RIM roots. A TPM has
    no root: `tpm_key_sha256` is the SHA-256 of its attestation key's DER SubjectPublicKeyInfo.
    """

    root_sha256: Hex32 | None = None
    amd_root_sha256: Hex32 | None = None
    nvidia_root_sha256: Hex32 | None = None
    nvidia_rim_root_sha256: Hex32 | None = None
    tpm_key_sha256: Hex32 | None = None

    def __post_init__(self) -> None:
        """Raise BadManifest for a table that names no root."""
        if not any(getattr(self, name) for name in self.__struct_fields__):
            raise BadManifest(about="simulated", got="no root", expected="at least one fingerprint")
