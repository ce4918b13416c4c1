"""`leasehold stop` and `leasehold resume`: the switch, and what it has not yet reached."""

from __future__ import annotations

import re
import time
from typing import Final

import click

from leasehold.cli import output
from leasehold.cli.access import Access, as_json, with_access
from leasehold.core.messages import Scope
from leasehold.core.units import DAY, MINUTE, SECOND
from leasehold.custodian.ledger.stops import DRAIN_MAX, NOTICE_MAX, Stop
from leasehold.custodian.records import ProgressView, StopCommand, Why

_ASK_SECONDS: Final = 10  # how long the custodian holds an answer back for news
_PENDING: Final = 5  # the exit status of Unavailable: not everybody has proved it
_UNITS: Final = {"s": SECOND, "m": MINUTE, "h": 60 * MINUTE, "d": DAY}


class Span(click.ParamType[int]):
    """A span of time such as 90s, 10m, 2h or 1d, of at most `most` milliseconds; becomes milliseconds."""

    name = "time"

    def __init__(self, most: int) -> None:
        self.most = most

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Raises click.BadParameter."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]{1,9})([smhd])", str(value))
        span = int(found[1]) * _UNITS[found[2]] if found else -1
        if not 0 <= span <= self.most:
            most = f"{self.most // MINUTE} minutes"
            if self.most % DAY == 0:
                most = f"{self.most // DAY} days"
            self.fail(
                f"{value!r} is no time such as 90s, 10m or 2h, of {most} at most.", param, ctx
            )
        return span


@click.command()
@click.argument("scope", type=click.Choice(["consumer", "enclave", "loan", "all"]))
@click.argument("target", default="")
@click.option("--reason", required=True, help="Goes into the audit log and to the enclaves.")
@click.option(
    "--notice",
    type=Span(NOTICE_MAX),
    default=0,
    help="Say it now, stop after this time (90s, 10m, 2h, 1d). Enclaves and consumers are told.",
)
@click.option(
    "--drain",
    type=Span(DRAIN_MAX),
    default=0,
    help="Admit nobody more, and let what runs finish on units leased already, for this time at most.",
)
@click.option("--wait", is_flag=True, help="Wait for every enclave's proof.")
@click.option(
    "--seconds",
    type=click.IntRange(1),
    default=120,
    show_default=True,
    help="How long to wait at most, after notice and drain.",
)
@as_json
@with_access
def stop(
    access: Access,
    *,
    scope: Scope,
    target: str,
    reason: str,
    notice: int,
    drain: int,
    wait: bool,
    seconds: int,
    as_json: bool,
) -> None:
    """Stop a consumer, an enclave, a loan (TARGET is its name), or all: now, or with --notice, --drain or both.

    The same stop ordered again may only come sooner. `resume` before it has begun calls it off.

    Exit status 5 with --wait where somebody has not proved in time that it stopped.
    """
    progress = access.post(
        "/operator/stops", StopCommand(scope, target, reason, notice, drain), ProgressView
    )
    if not as_json and not (wait and progress.complete):
        click.echo(explain(progress))
    if wait:
        most = seconds + (notice + drain) // SECOND
        progress = _watch(access, progress, most, quiet=as_json)
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
        if progress.complete or left <= 0 or progress.stop.lifted is not None:
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
    if order.phase == "notice":
        return _announced(progress, what)
    if order.lifted is not None:
        lines = [f"Stop {order.id} of {what} was lifted; what it found running stays stopped."]
    if order.phase == "drain":
        lines.append(
            "Nothing is leased and nobody admitted; what runs may finish on what is leased already until"
            f" {output.utc(order.ends)}."
        )
    if progress.complete:
        return " ".join(
            [*lines, "It is complete: nothing can be served any more, and that is proved."]
        )
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


def _announced(progress: ProgressView, what: str) -> str:
    """A stop that has not begun: when it will, and how much of it could be left then."""
    order = progress.stop
    if order.lifted is not None:
        return f"Stop {order.id} of {what} was called off before it began."
    lines = [
        f"Stop {order.id} of {what} will begin by itself at {output.utc(order.begins)}: until then"
        " all is served as before, and no lease is granted that lives longer."
    ]
    if order.ends > order.begins:
        lines.append(
            f"From then on nobody is admitted, and what runs may finish until {output.utc(order.ends)}."
        )
    told = f" by {len(progress.pending)} enclaves" if order.scope != "consumer" else ""
    lines.append(f"{progress.units:,} units are leased now{told}.")
    lines.append(f"`leasehold resume {order.id}` calls it off.")
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
    """Lift stop NUMBER, or call it off; without one, show all that are in force or will be.

    Stopped enclaves must be started anew.
    """
    if number is None:
        found = access.get("/operator/stops", list[Stop], active=True)
        if as_json:
            output.write_json(found)
            return
        rows = [
            (s.id, s.scope, s.target, s.phase, output.utc(s.begins), s.actor, s.reason)
            for s in found
        ]
        columns = ("stop", "scope", "target", "phase", "begins", "who", "reason")
        output.write_rows("Stops in force, or announced", columns, rows)
        return
    if not reason:
        raise click.UsageError("--reason is needed to resume.")
    lifted = access.post(f"/operator/stops/{number}/lift", Why(reason), Stop)
    if as_json:
        output.write_json(lifted)
    else:
        was = "called off" if lifted.phase == "notice" else "lifted"
        click.echo(f"Stop {lifted.id} is {was}.")
