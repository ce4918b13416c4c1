"""Where collateral is fetched from, as the custodian's settings say it: the table `[collateral]`.

Nothing is ever fetched from an address that is not written there. `leasehold custodian init` writes the
vendors' public ones.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from leasehold.attest.reference import Simulated
from leasehold.core.units import MINUTE, Duration
from leasehold.errors import BadSetting

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_HOUR: Final = 60 * MINUTE

Update = Literal["early", "standard"]


class Vendors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Addresses of the vendors' services, or of caches of them; an empty one is never asked.

    `pcs` is Intel's PCS or a PCCS; `root_crl` the address of its root's revocation list, empty for a PCCS,
    which has it itself. `update` is which of Intel's TCB evaluations counts: `early` ones condemn a patch
    level as soon as it is known to be broken, `standard` ones when machines can have been patched.
    `ca_file` is a PEM file of the only authorities that count, for caches with certificates of their own;
    `proxy` is the address of an HTTP proxy. What was taken in counts for `age_hours`. `refresh_minutes` is
    how often everything kept is fetched again, 0 for never. `simulated` names the roots under which
    SIMULATED collateral may be fetched.
    """

    pcs: str = ""
    root_crl: str = ""
    kds: str = ""
    rim: str = ""
    ocsp: str = ""
    update: Update = "standard"
    ca_file: str = ""
    proxy: str = ""
    age_hours: Annotated[int, msgspec.Meta(ge=1, le=24)] = 24
    refresh_minutes: Annotated[int, msgspec.Meta(ge=0, le=1440)] = 0
    simulated: Simulated | None = None

    def __post_init__(self) -> None:
        """Raise BadSetting for an address that is not one."""
        for name in ("pcs", "root_crl", "kds", "rim", "ocsp", "proxy"):
            _check_address(name, getattr(self, name))

    @property
    def age(self) -> Duration:
        """`age_hours`."""
        return Duration(self.age_hours * _HOUR)


def _check_address(name: str, address: str) -> None:
    """https, or http to this very machine, where a cache may run; no user, no query."""
    if not address:
        return
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as cause:
        raise BadSetting(about=f"collateral.{name}", got=address) from cause
    plain = parts.scheme == "http" and (parts.hostname in _LOOPBACK or name == "proxy")
    if (
        not (parts.scheme == "https" or plain)
        or not parts.hostname
        or port == 0
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise BadSetting(
            about=f"collateral.{name}", got=address, expected="https://HOST[:PORT][/PATH]"
        )


PUBLIC: Final = Vendors(
    pcs="https://api.trustedservices.intel.com",
    root_crl="https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
    kds="https://kdsintf.amd.com",
    rim="https://rim.attestation.nvidia.com",
    ocsp="https://ocsp.ndis.nvidia.com",
    refresh_minutes=240,
)
