"""What a verifier found out about one instance: a verified fact, as one frozen value.

Refuses to know how it was found out; only `verify` builds one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from leasehold.core.units import Instant


class Trust(StrEnum):
    """Whose word the evidence rests on."""

    PRODUCTION = "production"
    SIMULATION = "simulation"


class TcbStatus(StrEnum):
    """Intel's words for a platform's patch level (Intel PCS v4 API, TCB Info v3, `tcbStatus`)."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    REVOKED = "Revoked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An instance that passed every step of docs/spec/evidence.md.

    `measurement` and `signer` are hex (SGX: MRENCLAVE, MRSIGNER). `machine` is the PPID in hex,
    `platform_instance` the platform instance id in hex where the machine has one. `report_data` has
    64 bytes. `valid_until` is the earliest end of anything this rests on: certificates, CRLs, TCB
    info, QE identity, waivers, the manifest. `findings` are facts that passed and that people should
    see, waivers first. `policy` is the hex digest of the manifest that was applied.
    """

    platform: str
    trust: Trust
    tcb_status: TcbStatus
    advisories: tuple[str, ...]
    measurement: str
    signer: str
    product_id: int
    svn: int
    machine: str
    platform_instance: str | None
    report_data: bytes
    valid_until: Instant
    findings: tuple[str, ...]
    policy: str

    @property
    def is_simulated(self) -> bool:
        """Whether there was no hardware at all; every screen, log and receipt then says SIMULATED."""
        return self.trust is Trust.SIMULATION


@dataclass(frozen=True, slots=True)
class Appraisal:
    """A platform's evidence, judged by its reference values; not yet by machine and binding.

    Fields as in `Verdict`; `ends` is the earliest end of everything used but the manifest.
    """

    platform: str
    trust: Trust
    tcb_status: TcbStatus
    advisories: tuple[str, ...]
    measurement: str
    signer: str
    product_id: int
    svn: int
    machine: str
    platform_instance: str | None
    report_data: bytes
    ends: Instant
    findings: tuple[str, ...]
