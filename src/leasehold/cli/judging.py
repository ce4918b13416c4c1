"""What commands ask about evidence in files: the options, and from them an assessment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from leasehold.attest.assess import Assessment, assess, assess_certificate, assess_devices
from leasehold.attest.certificate import read_certificates
from leasehold.attest.manifest import Manifest, parse_manifest
from leasehold.attest.reference import Simulated
from leasehold.attest.verify import PLATFORMS
from leasehold.cli.evidence_files import Shown, read_collateral, read_file, read_shown
from leasehold.cli.values import read_values
from leasehold.core.crypto import ED25519_BYTES
from leasehold.core.encoding import unhex
from leasehold.core.units import Instant
from leasehold.errors import BadEvidence

FILE: Final = click.Path(path_type=Path, dir_okay=False)
_ANY: Final = click.Path(path_type=Path)
_HEX_DIGITS: Final = 64


class Moment(click.ParamType[Instant]):
    """A time in ISO 8601, in UTC where it names no zone; milliseconds since the epoch inside."""

    name = "TIME"

    def convert(self, value: Any, param: Any, ctx: Any) -> Instant:
        """The instant. Fails where it is no time."""
        if isinstance(value, int):
            return Instant(value)
        try:
            moment = datetime.fromisoformat(value)
            moment = moment.replace(tzinfo=moment.tzinfo or UTC)
            return Instant(int(moment.timestamp() * 1000))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time like 2026-07-01T12:00:00Z", param, ctx)


@dataclass(frozen=True, slots=True)
class Question:
    """Which evidence, and what to judge it with; `root` is the custodian's key where the user knows it."""

    files: tuple[Path, ...]
    platform: str | None
    collaterals: tuple[Path, ...]
    endorsements: tuple[Path, ...]
    root: bytes | None
    simulated: Simulated | None
    now: Instant

    def read_shown(self) -> Shown:
        """What the files show. Raises FileTrouble, BadEvidence."""
        return read_shown(self.files, self.endorsements, self.platform)

    def read_manifest(self, file: Path | None) -> Manifest | None:
        """The manifest that is to judge, if any. Raises as `parse_manifest` does."""
        if file is None:
            return None
        return parse_manifest(read_file(file), now=self.now, custodian_root=self.root)

    def judge(self, shown: Shown, manifest: Manifest | None) -> tuple[Assessment, ...]:
        """What was shown, assessed. Raises BadEvidence, Unproven and their descendants; FileTrouble."""
        custodian = self.root if manifest is None else manifest.root
        store = read_collateral(self.collaterals, custodian=custodian, now=self.now)
        store.knows(shown.devices)
        simulated, now = self.simulated, self.now
        if shown.certificate is not None:
            return assess_certificate(
                shown.certificate, store, manifest=manifest, simulated=simulated, now=now
            )
        if shown.evidence is None:
            return (
                assess_devices(
                    shown.devices, store, manifest=manifest, simulated=simulated, now=now
                ),
            )
        return (assess(shown.evidence, store, manifest=manifest, simulated=simulated, now=now),)


def with_question(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that say which evidence and which collateral, and hands over a `Question`."""

    @click.argument("files", type=FILE, nargs=-1, required=True)
    @click.option(
        "--platform",
        type=click.Choice(list(PLATFORMS)),
        help="What the first file is, if its content does not say.",
    )
    @click.option(
        "--collateral",
        "collaterals",
        type=_ANY,
        multiple=True,
        help="What vendors say: Intel's JSON, AMD's or NVIDIA's documents, a signed bundle, a "
        "custodian's collateral folder. May be given several times.",
    )
    @click.option(
        "--endorsements",
        type=FILE,
        multiple=True,
        help="What goes beside the evidence: certificates, tables, a TPM's signature. In the "
        "platform's order; may be given several times.",
    )
    @click.option(
        "--root", metavar="HEX", help="The custodian's root key, for manifest and bundles."
    )
    @click.option(
        "--simulated-root",
        "simulated_roots",
        multiple=True,
        metavar="HEX|FILE",
        help="Accept SIMULATED evidence under this root: its SHA-256, its certificate, or a TOML "
        "file with a table [simulated].",
    )
    @click.option("--at", type=Moment(), help="Judge as of this time (ISO 8601). Default: now.")
    @wraps(command)
    def with_options(
        *,
        files: tuple[Path, ...],
        platform: str | None,
        collaterals: tuple[Path, ...],
        endorsements: tuple[Path, ...],
        root: str | None,
        simulated_roots: tuple[str, ...],
        at: Instant | None,
        **others: Any,
    ) -> None:
        known = None if root is None else unhex(root, about="--root", size=ED25519_BYTES)
        now = Instant(time.time_ns() // 1_000_000) if at is None else at
        simulated = read_simulated(simulated_roots)
        question = Question(files, platform, collaterals, endorsements, known, simulated, now)
        command(question, **others)

    return with_options


def read_simulated(given: tuple[str, ...]) -> Simulated | None:
    """Which simulated roots the user accepts; a bare fingerprint counts for whatever role it fits.

    Raises FileTrouble, BadManifest, BadMessage.
    """
    if not given:
        return None
    any_role: dict[str, str] = {}
    named: dict[str, str] = {}
    for text in given:
        if len(text) == _HEX_DIGITS and not Path(text).exists():
            found = unhex(text, about="--simulated-root").hex()
        else:
            try:
                found = read_certificates(read_file(Path(text)), count_max=1)[0].sha256
            except BadEvidence:
                table = read_values(Path(text)).simulated
                for name in () if table is None else table.__struct_fields__:
                    named |= {name: value} if (value := getattr(table, name)) else {}
                continue
        any_role |= dict.fromkeys(Simulated.__struct_fields__, found)
    return Simulated(**(any_role | named))
