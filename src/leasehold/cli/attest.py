"""`leasehold attest`: what a piece of evidence says, and whether to trust it."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click

from leasehold.attest.assess import (
    Assessment,
    assess,
    assess_certificate,
    assess_devices,
)
from leasehold.attest.certificate import read_certificates
from leasehold.attest.describe import Description, Field
from leasehold.attest.ear import make_ear, public_jwk, sign_ear
from leasehold.attest.manifest import Manifest, parse_manifest
from leasehold.attest.recognise import Kind, Recognised, describe
from leasehold.attest.reference import Simulated
from leasehold.attest.verify import PLATFORMS
from leasehold.cli import exit_code, output
from leasehold.cli.assessment import Outcome, outcome_page, outcome_record
from leasehold.cli.evidence_files import (
    FileCollateral,
    Shown,
    read_collateral,
    read_file,
    read_shown,
)
from leasehold.cli.page import Block, Page, Row, Tone, write_page
from leasehold.cli.values import read_values
from leasehold.core.crypto import ED25519_BYTES, SigningKey, sha256
from leasehold.core.encoding import unhex
from leasehold.core.units import Instant
from leasehold.errors import (
    AlreadyExists,
    BadEvidence,
    BadSetting,
    FileTrouble,
    Malformed,
    Unproven,
)

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_ANY: Final = click.Path(path_type=Path)
_HEX_DIGITS: Final = 64
_KEY_MODE: Final = 0o600

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _Moment(click.ParamType[Instant]):
    """A time in ISO 8601, in UTC where it names no zone; milliseconds since the epoch inside."""

    name = "TIME"

    def convert(self, value: Any, param: Any, ctx: Any) -> Instant:
        if isinstance(value, int):
            return Instant(value)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time like 2026-07-01T12:00:00Z", param, ctx)
        return Instant(int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000))


@click.group()
def command() -> None:
    """See what evidence says, and whether to trust it."""


# inspect -----------------------------------------------------------------------------------------


@command.command()
@click.argument("file", type=_FILE)
@as_json
def inspect(*, file: Path, as_json: bool) -> None:
    """Explain FILE field by field: evidence, certificates or collateral of any platform. Verifies nothing."""
    found = describe(read_file(file))
    following = next_command(found, file)
    if as_json:
        output.write_json(_record(found, following))
        return
    write_page(_inspection(found, file, following))


def _record(found: Recognised, following: str) -> dict[str, Any]:
    said = found.description
    return {
        "what": said.what,
        "kind": found.kind.value,
        "platform": said.platform,
        "wrapping": found.wrapping,
        "bytes": len(found.data),
        "sha256": sha256(found.data).hex(),
        "verified": False,
        "sections": [
            {"title": section.title, "fields": [one._asdict() for one in section.fields]}
            for section in said.sections
        ],
        "next": following,
    }


def _inspection(found: Recognised, file: Path, following: str) -> Page:
    said: Description = found.description
    wrapped = f", out of {' in '.join(reversed(found.wrapping))}" if found.wrapping else ""
    blocks = [
        Block(section.title, tuple(_row(one) for one in section.fields))
        for section in said.sections
    ]
    blocks.append(Block("How to verify it", (Row("", following),)))
    lead = f"{file.name}: {len(found.data):,} bytes{wrapped}. What it says of itself; nothing here is verified."
    return Page(said.what, Tone.PLAIN, lead, tuple(blocks))


def _row(one: Field) -> Row:
    """A field, in red where its own meaning says that it disqualifies."""
    is_bad = (
        (one.value == "yes" and "refused" in one.meaning)
        or (one.value == "no" and "required" in one.meaning)
        or any(word in one.meaning for word in ("DO NOT TRUST", "NOT SIGNED", "EMPTY:"))
    )
    return Row(one.name, one.value, one.meaning, Tone.BAD if is_bad else None)


def next_command(found: Recognised, file: Path) -> str:
    """The command that verifies this, or that makes use of it."""
    name = shlex.quote(str(file))
    verify = "leasehold attest verify"
    match found.kind:
        case Kind.EVIDENCE:
            return f"{verify} {name} {_WITH.get(found.description.platform, '')}".strip()
        case Kind.DEVICE:
            return (
                f"{verify} {name} CHAIN.pem --collateral DRIVER-RIM.xml --collateral VBIOS-RIM.xml"
            )
        case Kind.CERTIFICATE_WITH_EVIDENCE:
            return f"{verify} {name} --collateral COLLATERAL"
        case Kind.ENDORSEMENT:
            return f"{verify} EVIDENCE --endorsements {name}"
        case Kind.MANIFEST:
            return f"leasehold manifest explain {name}"
        case Kind.RESULT:
            return "Check its signature with the verifier's public key, as `leasehold attest key` prints it."
        case Kind.CERTIFICATE:
            return f"{verify} EVIDENCE {name}"
        case _:
            return f"{verify} EVIDENCE --collateral {name}"


_AZURE: Final = "--endorsements QUOTE --endorsements SIGNATURE --endorsements PCRS --endorsements "
_WITH: Final = {
    "sgx": "--collateral COLLATERAL.json",
    "tdx": "--collateral COLLATERAL.json",
    "snp": "--endorsements VCEK --endorsements ASK --endorsements ARK",
    "tpm": "--endorsements SIGNATURE --endorsements KEY --endorsements PCRS",
    "azure-snp": f"{_AZURE}VCEK",
    "azure-tdx": f"{_AZURE}TD-QUOTE --collateral COLLATERAL.json",
}


# verify ------------------------------------------------------------------------------------------


@command.command()
@click.argument("files", type=_FILE, nargs=-1, required=True)
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
    help="What vendors say: Intel's JSON, AMD's or NVIDIA's documents, a signed bundle, a custodian's "
    "collateral folder. May be given several times.",
)
@click.option(
    "--endorsements",
    type=_FILE,
    multiple=True,
    help="What goes beside the evidence: certificates, tables, a TPM's signature. In the platform's order.",
)
@click.option("--manifest", "manifest_file", type=_FILE, help="The policy to judge it by.")
@click.option("--root", metavar="HEX", help="The custodian's root key, for manifest and bundles.")
@click.option(
    "--simulated-root",
    "simulated_roots",
    multiple=True,
    metavar="HEX|FILE",
    help="Accept SIMULATED evidence under this root: its SHA-256, its certificate, or the TOML table "
    "[simulated]. Only without a manifest, which says so itself.",
)
@click.option("--at", type=_Moment(), help="Judge as of this time (ISO 8601). Default: now.")
@click.option("--ear", type=_FILE, help="Write a signed attestation result here; needs --key.")
@click.option("--key", type=_FILE, help="Key that signs it, as `leasehold attest key` makes it.")
@click.option("--nonce", metavar="HEX", help="A nonce of 8 to 64 bytes to put into it.")
@as_json
@click.pass_context
def verify(
    ctx: click.Context,
    *,
    files: tuple[Path, ...],
    platform: str | None,
    collaterals: tuple[Path, ...],
    endorsements: tuple[Path, ...],
    manifest_file: Path | None,
    root: str | None,
    simulated_roots: tuple[str, ...],
    at: Instant | None,
    ear: Path | None,
    key: Path | None,
    nonce: str | None,
    as_json: bool,
) -> None:
    """Verify the evidence in FILES and say whether to trust it.

    The first file is the evidence; after it come what belongs to it, and device reports, each followed
    by its certificate chain. Without --manifest you learn whether it is authentic and what it says.
    """
    if simulated_roots and manifest_file:
        raise click.UsageError("--simulated-root goes without --manifest, which says it itself.")
    if (ear is None) != (key is None):
        raise click.UsageError("--ear and --key go together.")
    signer = None if key is None else read_key(key)
    known = None if root is None else unhex(root, about="--root", size=ED25519_BYTES)
    now = Instant(time.time_ns() // 1_000_000) if at is None else at
    simulated = read_simulated(simulated_roots)
    shown = None
    manifest = None
    try:
        shown = read_shown(files, endorsements, platform)
        manifest = _read_manifest(manifest_file, known, now=now)
        custodian = known if manifest is None else manifest.root
        store = read_collateral(collaterals, custodian=custodian, now=now)
        found = judge(shown, store, manifest=manifest, simulated=simulated, now=now)
        outcome = Outcome(files[0], shown, found, None, manifest, now)
    except (Malformed, Unproven) as error:
        outcome = Outcome(files[0], shown, (), error, manifest, now)
    if as_json:
        output.write_json(outcome_record(outcome))
    else:
        write_page(outcome_page(outcome))
    output.write_simulated(outcome.is_simulated)
    if outcome.error is not None:
        ctx.exit(exit_code(outcome.error))
    if ear is not None and signer is not None:
        told = None if nonce is None else unhex(nonce, about="--nonce")
        _write_ear(ear, outcome, signer, nonce=told)


def judge(
    shown: Shown,
    store: FileCollateral,
    *,
    manifest: Manifest | None,
    simulated: Simulated | None,
    now: Instant,
) -> tuple[Assessment, ...]:
    """What was shown, assessed. Raises BadEvidence, Unproven and their descendants."""
    if shown.certificate is not None:
        return assess_certificate(
            shown.certificate, store, manifest=manifest, simulated=simulated, now=now
        )
    if shown.evidence is None:
        store.knows(shown.devices)
        return (
            assess_devices(shown.devices, store, manifest=manifest, simulated=simulated, now=now),
        )
    store.knows(shown.evidence.devices)
    return (assess(shown.evidence, store, manifest=manifest, simulated=simulated, now=now),)


def _read_manifest(file: Path | None, root: bytes | None, *, now: Instant) -> Manifest | None:
    return None if file is None else parse_manifest(read_file(file), now=now, custodian_root=root)


def read_simulated(given: tuple[str, ...]) -> Simulated | None:
    """Which simulated roots the user accepts; a bare fingerprint counts for whatever role it fits.

    Raises FileTrouble, BadManifest, BadEvidence.
    """
    if not given:
        return None
    roles: dict[str, str] = {}
    for text in given:
        if len(text) == _HEX_DIGITS and not Path(text).exists():
            found = unhex(text, about="--simulated-root").hex()
            roles = dict.fromkeys(Simulated.__struct_fields__, found) | roles
            continue
        data = read_file(Path(text))
        try:
            found = read_certificates(data, count_max=1)[0].sha256
            roles = dict.fromkeys(Simulated.__struct_fields__, found) | roles
        except BadEvidence:
            table = read_values(Path(text)).simulated
            if table is None:
                raise
            roles |= {
                name: value for name in table.__struct_fields__ if (value := getattr(table, name))
            }
    return Simulated(**roles)


# Attestation results -----------------------------------------------------------------------------


@command.command("key")
@click.argument("file", type=_FILE)
def make_key(*, file: Path) -> None:
    """Print the public half (JWK) of the key in FILE that signs attestation results; make it if need be."""
    if not file.exists():
        _create(file, SigningKey.make(os.urandom))
    output.write_json(public_jwk(read_key(file).public))


def _create(file: Path, key: SigningKey) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _KEY_MODE)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(key.seed.hex() + "\n")
    except FileExistsError as cause:
        raise AlreadyExists(about=file) from cause
    except OSError as cause:
        raise FileTrouble(about=file, got=cause.strerror) from cause


def read_key(file: Path) -> SigningKey:
    """A seed of 32 bytes in hex, as custodians keep theirs. Raises FileTrouble, BadSetting."""
    text = read_file(file).strip().decode("ascii", "replace")
    try:
        return SigningKey.load(unhex(text, about=file.name, size=ED25519_BYTES))
    except Malformed:
        raise BadSetting(about=file, expected="a key that `leasehold attest key` made") from None


def _write_ear(file: Path, outcome: Outcome, key: SigningKey, *, nonce: bytes | None) -> None:
    """F-1: a result of what passed."""
    first = outcome.found[0]
    if len(outcome.found) != 1 or first.found is None:
        raise click.UsageError("An attestation result is about one processor's evidence.")
    policy = None if first.policy is None else first.policy.digest().hex()
    whole = replace(first.found, trust=first.trust, ends=first.ends, findings=first.findings)
    ear = make_ear(
        whole,
        now=outcome.now,
        build=version("leasehold"),
        policy=policy,
        devices=first.devices,
        nonce=nonce,
    )
    try:
        file.write_text(sign_ear(ear, key) + "\n")
    except OSError as cause:
        raise FileTrouble(about=file, got=cause.strerror) from cause
    output.write_note(f"Attestation result: {file}, signed with {public_jwk(key.public)['kid']}")
