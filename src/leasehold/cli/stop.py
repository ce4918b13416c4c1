"""`leasehold stop` and `leasehold resume`: the switch, and what it has not yet reached."""

from __future__ import annotations

import time
from typing import Final

import click

from leasehold.cli import output
from leasehold.cli.access import Access, as_json, with_access
from leasehold.core.messages import Scope
from leasehold.core.units import SECOND
from leasehold.custodian.ledger.stops import Stop
from leasehold.custodian.records import ProgressView, StopCommand, Why

_ASK_SECONDS: Final = 10  # how long the custodian holds an answer back for news
_PENDING: Final = 5  # the exit status of Unavailable: not everybody has proved it


@click.command()
@click.argument("scope", type=click.Choice(["consumer", "enclave", "loan", "all"]))
@click.argument("target", default="")
@click.option("--reason", required=True, help="Goes into the audit log and to the enclaves.")
@click.option("--wait", is_flag=True, help="Wait for every enclave's proof.")
@click.option(
    "--seconds",
    type=click.IntRange(1),
    default=120,
    show_default=True,
    help="How long to wait at most.",
)
@as_json
@with_access
def stop(
    access: Access,
    *,
    scope: Scope,
    target: str,
    reason: str,
    wait: bool,
    seconds: int,
    as_json: bool,
) -> None:
    """Stop a consumer, an enclave, a loan (TARGET is its name), or all.

    Exit status 5 with --wait where somebody has not proved in time that it stopped.
    """
    progress = access.post("/operator/stops", StopCommand(scope, target, reason), ProgressView)
    if not as_json:
        click.echo(explain(progress))
    if wait and not progress.complete:
        progress = _watch(access, progress, seconds, quiet=as_json)
    if as_json:
        output.write_json(progress)
    if wait and not progress.complete:
        click.get_current_context().exit(_PENDING)


def _watch(access: Access, progress: ProgressView, seconds: int, *, quiet: bool) -> ProgressView:
    """Show each proof as it arrives, until all have."""
    end = time.monotonic() + seconds
    shown: set[str] = set()
    while True:
        if not quiet:
            for instance in sorted(set(progress.proved) - shown):
                passed = (progress.time - progress.stop.at) / SECOND
                click.echo(f"{instance} proved that it stopped, {passed:.3f} s after the order")
        shown |= set(progress.proved)
        left = end - time.monotonic()
        if progress.complete or left <= 0:
            if not quiet:
                click.echo(explain(progress))
            return progress
        progress = access.get(
            f"/operator/stops/{progress.stop.id}",
            ProgressView,
            proved=len(progress.proved),
            wait=max(1, min(_ASK_SECONDS, int(left))),
        )


def explain(progress: ProgressView) -> str:
    """How far a stop has come, in a sentence or two."""
    order = progress.stop
    what = "everything" if order.scope == "all" else f"{order.scope} {order.target}"
    lines = [f"Stop {order.id} of {what} is in force."]
    if order.lifted is not None:
        lines = [f"Stop {order.id} of {what} was lifted; what it found running stays stopped."]
    if progress.complete:
        return f"{lines[0]} It is complete: nothing can be served any more, and that is proved."
    until = ""
    if progress.lapses is not None:
        until = f" until {output.utc(progress.lapses)}, later only under a clock that is held still"
    lines.append(f"At most {progress.units:,} units can still be served{until}.")
    if progress.units_in_doubt:
        lines.append(
            f"{progress.units_in_doubt:,} more were written off when their leases ran out; only a "
            "host that holds its clock still could serve them."
        )
    if progress.pending:
        lines.append(f"Not yet proved: {_silence(progress, progress.pending, 'if silent, dead')}.")
    if progress.presumed_dead:
        gone = _silence(progress, progress.presumed_dead, "dead")
        lines.append(f"Silent, and presumed dead: {gone}.")
    return " ".join(lines)


def _silence(progress: ProgressView, names: tuple[str, ...], what: str) -> str:
    return ", ".join(
        f"{name} ({what} from {output.utc(progress.dead_from[name])})" for name in names
    )


@click.command()
@click.argument("number", type=click.IntRange(1), required=False)
@click.option("--reason", help="Goes into the audit log.")
@as_json
@with_access
def resume(access: Access, *, number: int | None, reason: str | None, as_json: bool) -> None:
    """Lift stop NUMBER; without one, show the stops in force. Stopped enclaves must be started anew."""
    if number is None:
        found = access.get("/operator/stops", list[Stop], active=True)
        if as_json:
            output.write_json(found)
            return
        rows = [(s.id, s.scope, s.target, output.utc(s.at), s.actor, s.reason) for s in found]
        output.write_rows(
            "Stops in force", ("stop", "scope", "target", "since", "who", "reason"), rows
        )
        return
    if not reason:
        raise click.UsageError("--reason is needed to resume.")
    lifted = access.post(f"/operator/stops/{number}/lift", Why(reason), Stop)
    if as_json:
        output.write_json(lifted)
    else:
        click.echo(f"Stop {lifted.id} is lifted.")
