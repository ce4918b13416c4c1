"""The `leasehold` command: a table of commands that are imported when used, and one error boundary.

The command line is the only part of Leasehold that reads arguments and the environment.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from leasehold.errors import (
    LeaseholdError,
    Malformed,
    MissingExtra,
    Refused,
    Unavailable,
    Unproven,
)

try:
    import click
except ImportError as missing:  # the bare package is a library; commands come with a role
    print("error [missing_extra]: run pip install 'leasehold[consumer]' first", file=sys.stderr)
    raise SystemExit(5) from missing

INTERRUPTED: Final = 130  # as a shell reports a program that SIGINT ended
EXIT_CODES: Final[Mapping[type[LeaseholdError], int]] = {
    Malformed: 2,
    Unproven: 3,
    Refused: 4,
    Unavailable: 5,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: where it is (`module:attribute`), what it does, and which extra it needs."""

    target: str
    help: str
    extra: str


COMMANDS: Final[Mapping[str, Entry]] = {
    "ask": Entry("leasehold.cli.consumer:ask", "Ask the model of a verified enclave.", "consumer"),
    "embed": Entry("leasehold.cli.consumer:embed", "Turn texts into vectors.", "consumer"),
    "budget": Entry("leasehold.cli.consumer:budget", "Show what is left to spend.", "consumer"),
    "request-more": Entry(
        "leasehold.cli.consumer:request_more", "Ask the custodian for more units.", "consumer"
    ),
    "verify": Entry(
        "leasehold.cli.consumer:verify", "Verify an enclave and explain the verdict.", "consumer"
    ),
    "attest": Entry(
        "leasehold.cli.attest:command", "See what evidence says, and verify it.", "consumer"
    ),
    "seal": Entry("leasehold.cli.seal:command", "Seal a model folder into one file.", "custodian"),
    "sealed": Entry(
        "leasehold.cli.sealed:command", "Look at sealed models, and verify them.", "custodian"
    ),
    "manifest": Entry(
        "leasehold.cli.manifest:command", "Write, sign and read manifests.", "custodian"
    ),
    "custodian": Entry(
        "leasehold.cli.custodian:command", "Run a custodian: lend, grant, stop.", "custodian"
    ),
    "operator": Entry(
        "leasehold.cli.operators:command", "Manage who may operate a custodian.", "custodian"
    ),
    "collateral": Entry(
        "leasehold.cli.collateral:command", "Keep what vendors say of machines.", "custodian"
    ),
    "keys": Entry(
        "leasehold.cli.keys:command", "Show how the keys are wrapped; wrap anew.", "custodian"
    ),
    "loan": Entry("leasehold.cli.operator:loan", "Lend models.", "custodian"),
    "consumer": Entry(
        "leasehold.cli.operator:consumer", "Enrol consumers, hand out API keys.", "custodian"
    ),
    "grant": Entry("leasehold.cli.operator:grant", "Give consumers budgets.", "custodian"),
    "requests": Entry(
        "leasehold.cli.watch:requests", "Decide what consumers ask for.", "custodian"
    ),
    "proposals": Entry(
        "leasehold.cli.proposals:command", "Approve what takes several hands.", "custodian"
    ),
    "stop": Entry(
        "leasehold.cli.stop:stop", "Stop a consumer, an enclave, a loan or all.", "custodian"
    ),
    "resume": Entry("leasehold.cli.stop:resume", "Show stops in force; lift one.", "custodian"),
    "usage": Entry("leasehold.cli.watch:usage", "Show what was consumed.", "custodian"),
    "instances": Entry(
        "leasehold.cli.watch:instances", "Show the enclaves that attested.", "custodian"
    ),
    "receipts": Entry(
        "leasehold.cli.receipts:command", "Check receipts against the ledger.", "custodian"
    ),
    "enclave": Entry("leasehold.cli.enclave:command", "Run an enclave (the borrower).", "enclave"),
    "witness": Entry(
        "leasehold.cli.witness:command", "Watch a custodian's audit log for others.", "custodian"
    ),
    "audit": Entry("leasehold.cli.audit:command", "Check the custodian's audit log.", "custodian"),
}


def exit_code(error: LeaseholdError) -> int:
    """The exit status that says who is to blame."""
    found = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
    return next(found, 1)


class LazyGroup(click.Group):
    """Imports a command's module when the command is used, and reports errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order of the table: by role."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, imported now. Raises MissingExtra."""
        entry = COMMANDS.get(cmd_name)
        return None if entry is None else _load(entry)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list in `--help`, written from the table without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """The error boundary: expected errors are one paragraph on stderr and an exit status."""
        try:
            return super().invoke(ctx)
        except LeaseholdError as error:
            click.echo(f"error [{error.code}]: {error.message}", err=True)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(INTERRUPTED)


def _load(entry: Entry) -> click.Command:
    module, _, attribute = entry.target.partition(":")
    try:
        command = getattr(import_module(module), attribute)
    except ModuleNotFoundError as cause:
        if cause.name is None or cause.name.split(".")[0] == __package__.split(".")[0]:
            raise
        what = f"{cause.name}; run pip install 'leasehold[{entry.extra}]'"
        raise MissingExtra(about=what) from cause
    if not isinstance(command, click.Command):
        raise TypeError(entry.target)
    return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="leasehold", message="leasehold %(version)s")
def main() -> None:
    """Lend AI models to hardware enclaves under an enforced budget.

    Exit status: 2 malformed input, 3 not proven, 4 refused, 5 unavailable, 6 proposed and not yet done,
    130 interrupted.
    """
