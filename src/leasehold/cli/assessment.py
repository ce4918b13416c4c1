"""An assessment in words: the verdict, what was found, what was not checked, what to do next."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leasehold.attest.assess import Assessment
from leasehold.attest.describe import utc
from leasehold.attest.manifest import Manifest
from leasehold.attest.verdict import Device, Finding, FindingCode, TcbStatus, Trust
from leasehold.cli.evidence_files import Shown
from leasehold.cli.page import Block, Page, Row, Tone
from leasehold.core.units import Instant
from leasehold.errors import CollateralMissing, LeaseholdError

TCB_WORDS: Final = {
    TcbStatus.UP_TO_DATE: "nothing is known that this machine lacks",
    TcbStatus.SW_HARDENING_NEEDED: "patched; code inside has to defend itself against known attacks",
    TcbStatus.CONFIGURATION_NEEDED: "patched, but the machine's settings leave known holes open",
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: "patched; settings and code both need defences",
    TcbStatus.OUT_OF_DATE: "patches are missing: known attacks may work",
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: "patches are missing and settings leave holes open",
    TcbStatus.TD_RELAUNCH_ADVISED: "the machine was patched after this domain began: start it anew",
    TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED: "start the domain anew, and change settings",
    TcbStatus.REVOKED: "the vendor no longer stands by this patch level",
    TcbStatus.NOT_JUDGED: "this vendor publishes no status: a manifest sets the floor",
}
MEASUREMENT_WORDS: Final = {
    "MRENCLAVE": "the enclave's code and first data",
    "MRSIGNER": "who built it",
    "ISVPRODID": "the builder's number for the program",
    "ISVSVN": "its security version",
    "MRTD": "the domain's firmware",
    "RTMR0": "firmware's settings and what it loaded",
    "RTMR1": "boot loader and kernel",
    "RTMR2": "kernel command line, file system, application",
    "RTMR3": "free for the application",
    "MRSEAM": "the TDX module that shields the domain",
    "MRCONFIGID": "configuration named at launch",
    "MROWNER": "owner named at launch",
    "MROWNERCONFIG": "that owner's configuration",
    "MEASUREMENT": "what was loaded at launch",
    "HOST_DATA": "what the host put in at launch",
    "ID_KEY_DIGEST": "who signed the image's identity; zeros: nobody",
    "AUTHOR_KEY_DIGEST": "who vouched for that key; zeros: nobody",
    "GUEST_SVN": "the image's security version",
    "VMPL": "privilege level that asked; 0 is the highest",
    "PCRDIGEST": "all quoted registers together",
    "TPMFIRMWARE": "the TPM's firmware version",
}
_TIME: Final = re.compile(r"(?<![0-9A-Za-z])1[0-9]{12}(?![0-9A-Za-z])")  # ms, 2001 to 2033
NO_END: Final = Instant(
    221_845_392_000_000
)  # the year 9000: NVIDIA's devices and bare keys never end
GRAVE: Final = frozenset({FindingCode.DEBUG, FindingCode.SIMULATED, FindingCode.MIGRATABLE})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of verifying files: assessments, or the refusal."""

    file: Path
    shown: Shown | None
    found: tuple[Assessment, ...]
    error: LeaseholdError | None
    manifest: Manifest | None
    now: Instant

    @property
    def is_simulated(self) -> bool:
        """Whether any of it is simulated."""
        return any(one.trust is Trust.SIMULATION for one in self.found)

    @property
    def codes(self) -> set[FindingCode]:
        """Which findings there are."""
        return {finding.code for one in self.found for finding in one.findings}


def headline(outcome: Outcome) -> tuple[str, Tone, str]:
    """The verdict in one line, how it is meant, and what to make of it."""
    if outcome.error is not None:
        kind = type(outcome.error)
        said = (kind.__doc__ or "").split("\n")[0]
        open_still = isinstance(outcome.error, CollateralMissing)
        lead = "It may be genuine, but nothing shows that." if open_still else "Do not trust it."
        return f"REFUSED [{outcome.error.code}]: {said}", Tone.BAD, f"{lead} {kind.do}".strip()
    if outcome.is_simulated:
        judged = (
            "nobody has said what to expect"
            if outcome.manifest is None
            else "otherwise what this manifest expects"
        )
        return (
            f"SIMULATED, {judged}",
            Tone.DOUBT,
            "There is no hardware behind this: whoever runs it can read everything and forge this. "
            "Give it nothing secret.",
        )
    if FindingCode.DEBUG in outcome.codes:
        return (
            "Authentic, and NOT PROTECTED: debugging is on",
            Tone.BAD,
            "Genuine hardware says that its host may read and change everything inside. Do not trust it.",
        )
    if outcome.manifest is None:
        unknown = {FindingCode.REVOCATION_UNKNOWN, FindingCode.NOT_COMPARED}
        more = (
            " Give --collateral to close what the findings leave open."
            if outcome.codes & unknown
            else ""
        )
        return (
            "Authentic, but nobody has said what to expect",
            Tone.DOUBT,
            "Genuine hardware says what follows. Whether that is the code you want is for you to "
            f"compare, or for a manifest.{more}",
        )
    return (
        "Authentic, and what this manifest expects",
        Tone.GOOD,
        f"Trust it as far as you trust the manifest '{outcome.manifest.name}', once you know that this "
        "evidence was made for you, now.",
    )


def not_checked(outcome: Outcome) -> list[tuple[str, str]]:
    """What this verdict says nothing about: codes that never change, and sentences."""
    if outcome.error is not None:
        return []
    said = []
    if outcome.manifest is None:
        text = "whether code, settings and machine are those you want: --manifest FILE"
        said.append(("policy", text))
    if outcome.shown is not None and outcome.shown.certificate is not None:
        text = (
            "whether this is fresh: whoever holds the certificate's key can show it until it ends"
        )
        said.append(("freshness", text))
    else:
        text = (
            "whether it was made for you, now: a file may be old, or somebody else's. `leasehold "
            "verify` asks a running enclave"
        )
        said.append(("binding", text))
    if any(one.devices for one in outcome.found):
        missing = any(one.found is None for one in outcome.found)
        said.append(
            (
                "devices",
                "whether these devices work for a protected machine: there is no processor's evidence"
                if missing
                else "whether the processor vouches for these devices",
            )
        )
    return said


# For programs ------------------------------------------------------------------------------------


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON values; bytes in hex, times in milliseconds since the epoch."""
    line, _, lead = headline(outcome)
    if outcome.error is not None:
        verdict = "refused"
    else:
        verdict = "authentic" if outcome.manifest is None else "expected"
    return {
        "verdict": verdict,
        "headline": line,
        "advice": lead,
        "code": None if outcome.error is None else outcome.error.code,
        "message": None if outcome.error is None else outcome.error.message,
        "simulated": outcome.is_simulated,
        "at": outcome.now,
        "what": None if outcome.shown is None else outcome.shown.what,
        "manifest": None if outcome.manifest is None else outcome.manifest.digest().hex(),
        "manifest_name": None if outcome.manifest is None else outcome.manifest.name,
        "certificate": _certificate(outcome),
        "evidence": [_evidence(one) for one in outcome.found],
        "not_checked": [{"code": code, "text": text} for code, text in not_checked(outcome)],
    }


def _certificate(outcome: Outcome) -> dict[str, Any] | None:
    if outcome.shown is None or outcome.shown.certificate is None:
        return None
    inside = outcome.shown.certificate.certificate
    return {
        "subject": inside.name,
        "key_sha256": inside.spki_sha256,
        "valid_until": inside.ends,
        "key_bound": outcome.error is None,
    }


def _evidence(one: Assessment) -> dict[str, Any]:
    found = one.found
    record: dict[str, Any] = {
        "platform": one.platform,
        "trust": one.trust.value,
        "valid_until": one.ends,
        "findings": [{"code": f.code.value, "text": f.text} for f in one.findings],
        "devices": [_device(device) for device in one.devices],
        "machine_note": None if one.machine is None else one.machine.note,
    }
    names = ("tcb_status", "advisories", "measurements", "machine", "platform_instance")
    if found is None:
        return record | dict.fromkeys((*names, "report_data"))
    return record | {
        "tcb_status": found.tcb_status.value,
        "advisories": found.advisories,
        "measurements": dict(found.measurements),
        "machine": found.machine,
        "platform_instance": found.platform_instance,
        "report_data": found.report_data.hex(),
    }


def _device(device: Device) -> dict[str, str]:
    names = ("kind", "identity", "model", "driver", "firmware")
    return {name: getattr(device, name) for name in names}


# For people --------------------------------------------------------------------------------------


def outcome_page(outcome: Outcome) -> Page:
    """The outcome as a page."""
    line, tone, lead = headline(outcome)
    what = "nothing known" if outcome.shown is None else outcome.shown.what
    top = [Row("Shown", what, str(outcome.file)), Row("Judged as of", utc(outcome.now))]
    if outcome.error is not None:
        rows = tuple(
            Row(name, _shown(value), tone=Tone.BAD if name == "Got" else None)
            for name, value in (
                ("About", outcome.error.about),
                ("Got", outcome.error.got),
                ("Expected", outcome.error.expected),
            )
            if value is not None
        )
        blocks = [Block("Why", rows)] if rows else []
        return Page(line, tone, lead, (Block("", tuple(top)), *blocks, *_next(outcome)))
    if outcome.shown is not None and outcome.shown.certificate is not None:
        inside = outcome.shown.certificate.certificate
        top.append(Row("Key", inside.spki_sha256, "the evidence speaks of this key (SHA-256)"))
        top.append(Row("Certificate until", utc(inside.ends)))
    if outcome.manifest is not None:
        digest = outcome.manifest.digest().hex()
        top.append(Row("Manifest", outcome.manifest.name, f"digest {digest}"))
    blocks = [Block("", tuple(top))]
    for number, one in enumerate(outcome.found, 1):
        title = f"Evidence {number}" if len(outcome.found) > 1 else "What it says"
        blocks += _blocks(title, one)
    unchecked = tuple(Row(code, text) for code, text in not_checked(outcome))
    blocks.append(Block("Not checked", unchecked))
    return Page(line, tone, lead, (*blocks, *_next(outcome)))


def _until(ends: Instant) -> str:
    return "no end" if ends >= NO_END else utc(ends)


def _shown(value: object) -> str:
    """A refusal's own words, with times as people write them."""
    if isinstance(value, bytes):
        return value.hex()
    return _TIME.sub(lambda found: utc(Instant(int(found[0]))), str(value))


def _blocks(title: str, one: Assessment) -> list[Block]:
    blocks = [Block(title, (*_platform(one), Row("Valid until", _until(one.ends))))]
    if one.found is not None:
        rows = tuple(Row(name, value, _measurement(name)) for name, value in one.found.measurements)
        blocks.append(Block("Measurements: what runs there", rows))
    for device in one.devices:
        rows = (
            Row("Kind", device.kind, f"model {device.model}"),
            Row("Serial number", device.identity, "names the device: a manifest lists it"),
            Row("Firmware", device.firmware, f"driver {device.driver}" if device.driver else ""),
        )
        blocks.append(Block("Device", rows))
    if one.findings:
        blocks.append(Block("Findings: what you should know", tuple(map(_finding, one.findings))))
    return blocks


def _platform(one: Assessment) -> list[Row]:
    found = one.found
    is_simulated = one.trust is Trust.SIMULATION
    trust = Row(
        "Trust",
        "SIMULATION" if is_simulated else "production",
        "a home-made root vouches for it: no hardware" if is_simulated else "the vendor's own root",
        Tone.DOUBT if is_simulated else None,
    )
    if found is None:
        return [Row("Platform", one.platform, "a device, without its machine"), trust]
    status = found.tcb_status
    good = status in (TcbStatus.UP_TO_DATE, TcbStatus.NOT_JUDGED)
    rows = [
        Row("Platform", found.platform),
        trust,
        Row("Patch level", status.value, TCB_WORDS[status], None if good else Tone.DOUBT),
        Row("Advisories", ", ".join(found.advisories) or "none"),
        Row(
            "Machine",
            found.machine,
            "names the machine: a manifest lists it" if one.machine is None else one.machine.note,
        ),
    ]
    if found.platform_instance is not None:
        rows.append(Row("Platform instance", found.platform_instance, "another name for it"))
    said = "what the code inside put there: see binding, below"
    rows.append(Row("Report data", found.report_data.hex(), said))
    return rows


def _measurement(name: str) -> str:
    if name.startswith("PCR") and name[3:].isdigit():
        return "a register that boot extended"
    return MEASUREMENT_WORDS.get(name, "")


def _finding(finding: Finding) -> Row:
    tone = Tone.BAD if finding.code in GRAVE else Tone.DOUBT
    return Row(finding.code.value, finding.text, tone=tone)


def _next(outcome: Outcome) -> list[Block]:
    name = shlex.quote(str(outcome.file))
    if outcome.error is None:
        if outcome.manifest is not None:
            return []
        text = f"leasehold manifest derive {name} ... > values.toml"
        return [Block("Next: expect exactly this from now on", (Row("", text),))]
    advice = _ADVICE.get(outcome.error.code)
    rows = [Row("", advice)] if advice else []
    rows.append(Row("", f"See what it says of itself: leasehold attest inspect {name}"))
    return [Block("Next", tuple(rows))]


_ADVICE: Final = {
    "collateral_missing": "Give what the vendor says of this platform: --collateral FILE.",
    "collateral_not_current": "Fetch it again, or judge as of the day of the evidence: --at 2026-07-01.",
    "untrusted_root": "If it is meant to be simulated: --simulated-root HEX|FILE.",
    "platform_not_allowed": "See what the manifest accepts: leasehold manifest explain FILE.",
    "unknown_machine": "See which machines the manifest lists: leasehold manifest explain FILE.",
}
