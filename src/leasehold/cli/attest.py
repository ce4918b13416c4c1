"""`leasehold attest`: what a piece of evidence says, and whether to trust it."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click

from leasehold.attest.describe import Description, Field
from leasehold.attest.ear import make_ear, public_jwk, sign_ear
from leasehold.attest.recognise import Kind, Recognised, describe
from leasehold.cli import exit_code, output
from leasehold.cli.assessment import Outcome, outcome_page, outcome_record
from leasehold.cli.evidence_files import read_file
from leasehold.cli.judging import FILE, Question, with_question
from leasehold.cli.page import Block, Page, Row, Tone, write_page
from leasehold.core.crypto import ED25519_BYTES, SigningKey, sha256
from leasehold.core.encoding import unhex
from leasehold.errors import AlreadyExists, BadSetting, FileTrouble, Malformed, Unproven

_KEY_MODE: Final = 0o600

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def command() -> None:
    """See what evidence says, and whether to trust it."""


# inspect -----------------------------------------------------------------------------------------


@command.command()
@click.argument("file", type=FILE)
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
@with_question
@click.option("--manifest", "manifest_file", type=FILE, help="The policy to judge it by.")
@click.option("--ear", type=FILE, help="Write a signed attestation result here; needs --key.")
@click.option("--key", type=FILE, help="Key that signs it, as `leasehold attest key` makes it.")
@click.option("--nonce", metavar="HEX", help="A nonce of 8 to 64 bytes to put into it.")
@as_json
def verify(
    question: Question,
    *,
    manifest_file: Path | None,
    ear: Path | None,
    key: Path | None,
    nonce: str | None,
    as_json: bool,
) -> None:
    """Verify the evidence in FILES and say whether to trust it.

    The first file is the evidence; after it come what belongs to it, and device reports, each with its
    certificate chain. Without --manifest you learn whether it is authentic and what it says.
    """
    if question.simulated is not None and manifest_file is not None:
        raise click.UsageError("--simulated-root goes without --manifest, which says it itself.")
    if (ear is None) != (key is None):
        raise click.UsageError("--ear and --key go together.")
    signer = None if key is None else read_key(key)
    told = None if nonce is None else unhex(nonce, about="--nonce")
    outcome = ask(question, manifest_file)
    if as_json:
        output.write_json(outcome_record(outcome))
    else:
        write_page(outcome_page(outcome))
    output.write_simulated(outcome.is_simulated)
    if outcome.error is not None:
        click.get_current_context().exit(exit_code(outcome.error))
    if ear is not None and signer is not None:
        _write_ear(ear, outcome, signer, nonce=told)


def ask(question: Question, manifest_file: Path | None) -> Outcome:
    """What comes of it: an assessment, or a refusal of whatever was wrong first. Raises FileTrouble."""
    file, now = question.files[0], question.now
    shown = manifest = None
    try:
        shown = question.read_shown()
        manifest = question.read_manifest(manifest_file)
        return Outcome(file, shown, question.judge(shown, manifest), None, manifest, now)
    except (Malformed, Unproven) as error:
        return Outcome(file, shown, (), error, manifest, now)


# Attestation results -----------------------------------------------------------------------------


@command.command("key")
@click.argument("file", type=FILE)
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
