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
from leasehold.custodian.words import explain, proof_in_words

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
            for one in progress.instances:
                if one.id in progress.proved and one.id not in shown:
                    click.echo(f"{one.id} {proof_in_words(one, progress.stop)}")
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
