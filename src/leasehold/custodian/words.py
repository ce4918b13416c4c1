"""What operators read of stops and prices: the same on the command line and in the console.

Spec: docs/spec/custodian-api.md, O-8 and O-23. Refuses to know where they are shown.
"""

from __future__ import annotations

from leasehold.core.moments import utc
from leasehold.core.tariff import Tariff
from leasehold.core.units import SECOND
from leasehold.custodian.ledger.stops import Stop
from leasehold.custodian.records import MemberView, ProgressView


def prices(tariff: Tariff) -> str:
    """What has a price under a tariff, in units."""
    found = {name: getattr(tariff, name) for name in Tariff.__struct_fields__}
    return ", ".join(f"{name}={price}" for name, price in found.items() if price)


def scope_in_words(stop: Stop) -> str:
    """What a stop stops."""
    return "everything" if stop.scope == "all" else f"{stop.scope} {stop.target}"


def proof_in_words(one: MemberView, stop: Stop) -> str:
    """That an instance has proved to have stopped, and how long after the order."""
    delay = proof_delay(one, stop)
    return f"proved that it stopped, {delay}" if delay else "proved that it stopped"


def proof_delay(one: MemberView, stop: Stop) -> str:
    """How long after the order a proof was stored; empty for one of an older release."""
    if one.proved is None:
        return ""
    passed = (one.proved - stop.at) / SECOND
    return "before the order" if passed < 0 else f"{passed:.3f} s after the order"


def explain(progress: ProgressView) -> str:
    """How far a stop has come, in a few sentences, with the names of those who have not proved it."""
    order, lines = progress.stop, sentences(progress)
    if order.phase == "notice" and order.lifted is None:
        lines.append(f"`leasehold resume {order.id}` calls it off.")
    if order.phase != "notice" and progress.pending:
        lines.append(f"Not yet proved: {_silence(progress, progress.pending, 'if silent, dead')}.")
    if order.phase != "notice" and progress.presumed_dead:
        gone = _silence(progress, progress.presumed_dead, "dead")
        lines.append(f"Silent, and presumed dead: {gone}.")
    return " ".join(lines)


def sentences(progress: ProgressView) -> list[str]:
    """How far a stop has come, without names and without what to type."""
    order, what = progress.stop, scope_in_words(progress.stop)
    if order.phase == "notice":
        return _announced(progress, what)
    lines = [f"Stop {order.id} of {what} is in force."]
    if order.lifted is not None:
        lines = [f"Stop {order.id} of {what} was lifted; what it found running stays stopped."]
    if order.phase == "drain":
        lines.append(
            "Nothing is leased and nobody admitted; what runs may finish on what is leased already until"
            f" {utc(order.ends)}."
        )
    if progress.complete:
        return [*lines, "It is complete: nothing can be served any more, and that is proved."]
    until = ""
    if progress.lapses is not None:
        until = f" until {utc(progress.lapses)}, later only under a clock that is held still"
    lines.append(f"At most {progress.units:,} units can still be served{until}.")
    if progress.units_in_doubt:
        lines.append(
            f"{progress.units_in_doubt:,} more were written off when their leases ran out; only a "
            "host that holds its clock still could serve them."
        )
    return lines


def _announced(progress: ProgressView, what: str) -> list[str]:
    """A stop that has not begun: when it will, and how much of it could be left then."""
    order = progress.stop
    if order.lifted is not None:
        return [f"Stop {order.id} of {what} was called off before it began."]
    lines = [
        f"Stop {order.id} of {what} will begin by itself at {utc(order.begins)}: until then"
        " all is served as before, and no lease is granted that lives longer."
    ]
    if order.ends > order.begins:
        lines.append(
            f"From then on nobody is admitted, and what runs may finish until {utc(order.ends)}."
        )
    told = f" by {len(progress.pending)} enclaves" if order.scope != "consumer" else ""
    lines.append(f"{progress.units:,} units are leased now{told}.")
    return lines


def _silence(progress: ProgressView, names: tuple[str, ...], what: str) -> str:
    return ", ".join(f"{name} ({what} from {utc(progress.dead_from[name])})" for name in names)
