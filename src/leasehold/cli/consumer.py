"""The consumers' commands. Each verifies the enclave first; nothing else leaves before the verdict."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from leasehold.cli import output
from leasehold.consumer import receipt
from leasehold.consumer.answers import Answer
from leasehold.consumer.client import Enclave
from leasehold.consumer.verify import VerifiedEnclave
from leasehold.core.encoding import unhex
from leasehold.core.messages import BudgetAnswer, ExtensionAnswer
from leasehold.errors import FileTrouble, Refused, UnknownKey, codes

KEY_VARIABLE: Final = "LEASEHOLD_API_KEY"
WAIT_SECONDS_MAX: Final = 7 * 86_400
_ROOT_BYTES: Final = 32
_DENIED: Final = 4  # the exit status of Refused: the custodian said no


@dataclass(frozen=True, slots=True)
class Choices:
    """What every consumer command is told, read once."""

    enclave: str
    manifest: Path
    custodian: bytes | None
    key_file: Path | None

    def connect(self, *, needs_key: bool = True) -> Enclave:
        """A verified enclave; says SIMULATED where it is."""
        enclave = Enclave.connect(
            self.enclave,
            manifest=self.manifest,
            api_key=_read_key(self.key_file) if needs_key else None,
            custodian=self.custodian,
        )
        output.write_simulated(enclave.verified.is_simulated)
        return enclave


def _read_key(path: Path | None) -> str:
    if path is None:
        key = os.environ.get(KEY_VARIABLE, "")
    else:
        try:
            key = path.read_text("ascii")
        except (OSError, UnicodeDecodeError) as cause:
            raise FileTrouble(about=path, got=cause) from cause
    if not key.strip():
        raise UnknownKey(
            about="API key", expected=f"{KEY_VARIABLE} in the environment, or --key-file"
        )
    return key.strip()


def _parse_root(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> bytes | None:
    return None if text is None else unhex(text, about="--custodian", size=_ROOT_BYTES)


def choices(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that say which enclave, and hands them to the command as `Choices`."""

    @click.option(
        "--enclave",
        default="localhost:8443",
        show_default=True,
        envvar="LEASEHOLD_ENCLAVE",
        show_envvar=True,
        metavar="HOST:PORT",
        help="Where the enclave is.",
    )
    @click.option(
        "--manifest",
        type=click.Path(path_type=Path),
        default="manifest.toml",
        show_default=True,
        envvar="LEASEHOLD_MANIFEST",
        show_envvar=True,
        help="The manifest that the custodian signed.",
    )
    @click.option(
        "--custodian",
        callback=_parse_root,
        metavar="HEX",
        help="The custodian's root key, where you know it from a safer source than the manifest.",
    )
    @click.option(
        "--key-file",
        type=click.Path(path_type=Path),
        help=f"A file with your API key; else it is read from {KEY_VARIABLE}.",
    )
    @wraps(command)
    def with_choices(
        *,
        enclave: str,
        manifest: Path,
        custodian: bytes | None,
        key_file: Path | None,
        **others: Any,
    ) -> None:
        command(Choices(enclave, manifest, custodian, key_file), **others)

    return with_choices


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
receipts_option = click.option(
    "--receipts",
    "receipts_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append the checked receipt to this file, for `leasehold receipts verify`.",
)


@click.command()
@click.argument("text")
@click.option("--system", help="Instructions that stand before the question.")
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer to pay for.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    help="0 for the likeliest words; the enclave takes 1 where nothing is said.",
)
@click.option(
    "--stream/--no-stream",
    default=None,
    help="Print tokens as they come; the default at a terminal.",
)
@click.option(
    "--receipt",
    "receipt_path",
    type=click.Path(path_type=Path),
    help="Fetch the answer's receipt, check it, and write it to this file.",
)
@receipts_option
@as_json
@choices
def ask(
    where: Choices,
    *,
    text: str,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    stream: bool | None,
    receipt_path: Path | None,
    receipts_path: Path | None,
    as_json: bool,
) -> None:
    """Ask the model of a verified enclave. TEXT `-` reads the question from standard input."""
    prompt = sys.stdin.read() if text == "-" else text
    streams = output.is_terminal() if stream is None else stream
    how: dict[str, Any] = {"system": system, "max_tokens": max_tokens, "temperature": temperature}
    with where.connect() as enclave:
        asks = _ask_streaming if streams and not as_json else Enclave.ask
        answer = asks(enclave, prompt, **how)
        _write_answer(enclave.verified, answer, as_json=as_json, is_printed=streams)
        if receipt_path is not None:
            _keep_receipt(enclave, answer, receipt_path)
        if receipts_path is not None:
            receipt.keep(receipts_path, enclave.receipt(answer))


def _ask_streaming(enclave: Enclave, prompt: str, **how: Any) -> Answer:
    with enclave.ask(prompt, stream=True, **how) as pieces:
        for piece in pieces:
            click.echo(piece, nl=False)
        click.echo()
        return pieces.answer


def _write_answer(
    verified: VerifiedEnclave, answer: Answer, *, as_json: bool, is_printed: bool
) -> None:
    if as_json:
        output.write_json(
            {
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "code": answer.code,
                "input_tokens": answer.input_tokens,
                "output_tokens": answer.output_tokens,
                "receipt": answer.exchange.receipt,
                "simulated": verified.is_simulated,
            }
        )
        return
    if not is_printed:
        click.echo(answer.text)
    if answer.code is not None:
        output.write_note(
            f"The answer was cut [{answer.code}]: {codes().get(answer.code, Refused)().message}"
        )
    elif answer.finish_reason == "length":
        output.write_note("The answer was cut at its limit of tokens; see --max-tokens.")
    if output.is_terminal():
        output.write_note(
            f"{answer.input_tokens} tokens in, {answer.output_tokens} out; "
            f"receipt {answer.exchange.receipt}"
        )


def _keep_receipt(enclave: Enclave, answer: Answer, path: Path) -> None:
    checked = enclave.receipt(answer)
    try:
        path.write_bytes(output.encode_json(checked))
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause


@click.command()
@click.argument("texts", nargs=-1, required=True)
@receipts_option
@as_json
@choices
def embed(
    where: Choices, *, texts: tuple[str, ...], receipts_path: Path | None, as_json: bool
) -> None:
    """Turn texts into vectors: one line of numbers for each text."""
    with where.connect() as enclave:
        answer = enclave.embed(texts)
        if receipts_path is not None:
            receipt.keep(receipts_path, enclave.receipt(answer))
        if as_json:
            output.write_json({"vectors": answer.vectors, "receipt": answer.exchange.receipt})
            return
        for vector in answer.vectors:
            click.echo(" ".join(f"{number:.6g}" for number in vector))


@click.command()
@as_json
@choices
def budget(where: Choices, *, as_json: bool) -> None:
    """Show what was granted, what was spent and what is left."""
    with where.connect() as enclave:
        state = enclave.budget()
        if as_json:
            output.write_json(state)
        else:
            output.write_fields("Budget", budget_fields(state))


def budget_fields(state: BudgetAnswer) -> dict[str, object]:
    """A budget as names and values; `outstanding` is leased to enclaves and not yet settled."""
    fields: dict[str, object] = {
        "consumer": state.consumer,
        "loan": state.loan,
        "granted": state.granted,
        "available": state.available,
        "outstanding": state.outstanding,
        "settled": state.settled,
        "written off": state.written_off,
        "one unit": state.unit,
    }
    if state.coming is not None:
        begins, what = output.utc(state.coming.begins), "will stop"
        if state.coming.mode == "drain":
            begins, what = output.utc(state.coming.ends), "stops"
        fields["service"] = f"{what} at {begins}: {state.coming.reason}"
    return fields


@click.command("request-more")
@click.argument("units", type=click.IntRange(1))
@click.option("--reason", required=True, help="Why; the custodian reads it.")
@click.option(
    "--wait",
    type=click.IntRange(0, WAIT_SECONDS_MAX),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the decision.",
)
@as_json
@choices
def request_more(where: Choices, *, units: int, reason: str, wait: int, as_json: bool) -> None:
    """Ask the custodian for more UNITS. Exit status 4 where the custodian denied it."""
    with where.connect() as enclave:
        state = enclave.request_more(units, reason, wait=wait)
    if as_json:
        output.write_json(state)
    else:
        click.echo(explain_extension(state))
    if state.status == "denied":
        click.get_current_context().exit(_DENIED)


def explain_extension(state: ExtensionAnswer) -> str:
    """What became of a request, in a sentence."""
    name = f"Request {state.request} for {state.asked:,} units"
    reason = f" Reason: {state.reason}" if state.reason else ""
    match state.status:
        case "approved":
            return f"{name} is approved: {state.approved:,} units more.{reason}"
        case "denied":
            return f"{name} is denied.{reason}"
        case "open":
            return f"{name} is with the custodian; nobody has decided yet."
        case "none":
            return "There is no request."


@click.command()
@as_json
@choices
def verify(where: Choices, *, as_json: bool) -> None:
    """Verify an enclave and explain the verdict. Sends a nonce and nothing else; needs no key."""
    with where.connect(needs_key=False) as enclave:
        verified = enclave.verified
    if as_json:
        output.write_json(verdict_record(verified))
        return
    for line in explain_verdict(verified):
        click.echo(line)


def verdict_record(verified: VerifiedEnclave) -> dict[str, Any]:
    """The verdict as JSON values; keys and digests in hex."""
    verdict = verified.verdict
    return {
        "address": verified.address,
        "simulated": verified.is_simulated,
        "platform": verdict.platform,
        "trust": verdict.trust.value,
        "tcb_status": verdict.tcb_status.value,
        "advisories": verdict.advisories,
        "findings": [finding._asdict() for finding in verdict.findings],
        "measurements": dict(verdict.measurements),
        "devices": verdict.devices,
        "machine": verdict.machine,
        "instance": verified.instance,
        "statement_key": verified.statement_key.hex(),
        "custodian": verified.custodian.hex(),
        "loan": verified.loan,
        "model": verified.model,
        "model_digest": verified.model_digest,
        "manifest": verdict.policy,
        "certificate": verified.certificate,
        "verified_at": verified.verified_at,
        "expires": verified.expires,
        "evidence_valid_until": verdict.valid_until,
    }


def explain_verdict(verified: VerifiedEnclave) -> list[str]:
    """The verdict in sentences."""
    verdict = verified.verdict
    platform = verdict.platform.upper()
    kind = f"SIMULATED {platform}" if verified.is_simulated else f"genuine {platform}"
    advisories = ", ".join(verdict.advisories) or "no open advisories"
    measured = ", ".join(f"{name} {value}" for name, value in verdict.measurements)
    return [
        f"The enclave at {verified.address} is verified.",
        f"Platform: {kind}; patch level {verdict.tcb_status.value}, {advisories}.",
        f"Code: {measured}, as the manifest lists.",
        f"Machine: {verdict.machine}, on the manifest's list.",
        *(
            f"Device: {device.model} {device.identity}, driver {device.driver}, firmware "
            f"{device.firmware}, on the manifest's list."
            for device in verdict.devices
        ),
        *(f"Finding: {finding}" for finding in verdict.findings),
        f"Model: {verified.model} (SHA-256 {verified.model_digest}) of loan {verified.loan}.",
        f"Custodian: root key {verified.custodian.hex()}.",
        f"Instance: {verified.instance}, new at every start of the enclave.",
        f"Verified at {output.utc(verified.verified_at)}; connections count on this verdict until "
        f"{output.utc(verified.expires)}, the evidence rests on documents valid until "
        f"{output.utc(verdict.valid_until)}.",
    ]
