"""What a verifier found out about one instance: a verified fact, as one frozen value.

Refuses to know how it was found out; only `verify` builds a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from leasehold.core.units import Instant


class Trust(StrEnum):
    """Whose word the evidence rests on."""

    PRODUCTION = "production"
    SIMULATION = "simulation"


class TcbStatus(StrEnum):
    """A platform's patch level in Intel's words (Intel PCS v4 API, TCB Info v3, `tcbStatus`).

    Vendors that publish no status (AMD, TPM makers) have floors in the manifest instead: at or above
    them a platform is UP_TO_DATE, below OUT_OF_DATE, and NOT_JUDGED where no manifest was applied.
    """

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    REVOKED = "Revoked"
    NOT_JUDGED = "NotJudged"


class FindingCode(StrEnum):
    """What passed and people should still see; codes never change."""

    SIMULATED = "simulated"
    WAIVED = "waived"
    ADVISORIES = "advisories"
    DYNAMIC_PLATFORM = "dynamic_platform"
    CACHED_KEYS = "cached_keys"
    SMT = "smt"
    HYPERVISOR_TRUSTED = "hypervisor_trusted"
    SHARED_SIGNING_KEY = "shared_signing_key"
    MASKED_CHIP = "masked_chip"
    PLATFORM_DEFENCE_OFF = "platform_defence_off"
    MIGRATABLE = "migratable"
    SIGNER_EXPIRED = "signer_expired"
    UNSAFE_SETTING = "unsafe_setting"
    DEBUG = "debug"
    REVOCATION_UNKNOWN = "revocation_unknown"
    LOW_PRIVILEGE = "low_privilege"
    NOT_COMPARED = "not_compared"


class Finding(NamedTuple):
    """One of them, with its sentence."""

    code: FindingCode
    text: str

    def __str__(self) -> str:
        return self.text


class Measurement(NamedTuple):
    """A value that names what runs, in the vendor's own word for it; byte strings in lower-case hex."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Device:
    """A verified device beside the processor: `kind` is `nvidia-gpu` or `nvidia-switch`.

    `identity` is its serial number in hex, `model` and the firmware versions are the vendor's text.
    """

    kind: str
    identity: str
    model: str
    driver: str
    firmware: str


SIMULATED: Finding = Finding(FindingCode.SIMULATED, "SIMULATED: no hardware protects this enclave")


@dataclass(frozen=True, slots=True)
class Appraisal:
    """Authentic evidence of one platform, where a manifest was applied also judged by reference values.

    Not yet judged by machine and binding. `measurements` names what runs, the code's own first.
    `machine` is the machine's identity in hex (Intel: PPID, AMD: chip id, TPM: SHA-256 of the
    attestation key), `platform_instance` the platform instance id in hex where Intel gives one.
    `report_data` has 64 bytes (32 behind a vTPM). `ends` is the earliest end of everything used.
    """

    platform: str
    trust: Trust
    tcb_status: TcbStatus
    advisories: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    machine: str
    platform_instance: str | None
    report_data: bytes
    ends: Instant
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """An instance that passed every step of docs/spec/evidence.md.

    Fields as in `Appraisal`. `devices` are those that the evidence covers. `valid_until` is the
    earliest end of anything this rests on: certificates, CRLs, collateral, waivers, the manifest.
    `findings` are facts that passed and that people should see, gravest first. `policy` is the hex
    digest of the manifest that was applied.
    """

    platform: str
    trust: Trust
    tcb_status: TcbStatus
    advisories: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    machine: str
    platform_instance: str | None
    devices: tuple[Device, ...]
    report_data: bytes
    valid_until: Instant
    findings: tuple[Finding, ...]
    policy: str

    @property
    def is_simulated(self) -> bool:
        """Whether there was no hardware at all; every screen, log and receipt then says SIMULATED."""
        return self.trust is Trust.SIMULATION

    @property
    def measurement(self) -> str:
        """The one that names the code: MRENCLAVE, MRTD, the launch measurement, a PCR digest."""
        return self.measurements[0].value


def weakest(trusts: Iterable[Trust]) -> Trust:
    """What several pieces of evidence are worth together: simulation, where one of them is simulated."""
    return Trust.SIMULATION if Trust.SIMULATION in set(trusts) else Trust.PRODUCTION
