"""What the forms do: fields become the API's records, and its own endpoint does it.

Spec: docs/spec/console.md, O-26 and O-35. Refuses to know certificates and how a form looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec

from leasehold.core.messages import Scope
from leasehold.core.units import DAY, MINUTE, SECOND, Units
from leasehold.custodian.console.line import Line
from leasehold.custodian.console.pages import Page
from leasehold.custodian.console.stopping import brief
from leasehold.custodian.proposals import Pending
from leasehold.custodian.proposed import HandOrder
from leasehold.custodian.records import Approval, ProgressView, Reason, StopCommand, Why
from leasehold.errors import BadRequest

T = TypeVar("T")
FORM_TYPE: Final = "application/x-www-form-urlencoded"
FIELDS_MAX: Final = 20
_UNITS: Final[Mapping[str, int]] = {
    "seconds": SECOND,
    "minutes": MINUTE,
    "hours": 60 * MINUTE,
    "days": DAY,
}
_Unit = Literal["seconds", "minutes", "hours", "days"]
_Length = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


class _Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class StopForm(_Form, frozen=True):
    """How a stop is ordered: the lengths count only where `begins` and `running` say so."""

    scope: Scope
    target: str
    reason: Reason
    begins: Literal["now", "notice"] = "now"
    notice: _Length = 10
    notice_unit: _Unit = "minutes"
    running: Literal["cut", "drain"] = "cut"
    drain: _Length = 2
    drain_unit: _Unit = "minutes"


class UnitsForm(_Form, frozen=True):
    """How much of a request is approved."""

    units: Annotated[int, msgspec.Meta(ge=1)]


class WhyForm(_Form, frozen=True):
    """A reason."""

    reason: Reason


class DigestForm(_Form, frozen=True):
    """What was looked at."""

    digest: str


def read_form(body: bytes, content_type: str, kind: type[T]) -> T:
    """O-26: a form's fields as a record. Raises BadRequest."""
    if content_type.partition(";")[0].strip().lower() != FORM_TYPE:
        raise BadRequest(about="content type", got=content_type, expected=FORM_TYPE)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=FIELDS_MAX,
        )
    except ValueError as cause:
        raise BadRequest(about="form", got=cause, expected="fields of this form") from cause
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadRequest(about="form", got="a field twice", expected="each once")
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as cause:
        raise BadRequest(about="form", got=cause) from cause


def check_said(reason: str) -> str:
    """A reason that says something. Raises BadRequest."""
    if not reason.strip():
        raise BadRequest(about="reason", got="nothing", expected="why: it goes into the audit log")
    return reason.strip()


# Pages that ask --------------------------------------------------------------------------------------


async def ask_stop(line: Line) -> Page:
    """O-35: how and why to stop what the query names."""
    scope, target = line.query.get("scope", ""), line.query.get("target", "")
    try:
        order = msgspec.convert({"scope": scope, "target": target, "reason": ""}, StopForm)
    except msgspec.ValidationError as cause:
        raise BadRequest(
            about="scope", got=scope, expected="consumer, enclave, loan or all"
        ) from cause
    what = brief(order.scope, order.target)
    return Page("stop_form.html", f"Stop {what}", {"order": order, "what": what})


async def ask_lift(line: Line, number: str) -> Page:
    """O-35: why to lift a stop, or call it off."""
    view = await line.read("/operator/stops/{id}", ProgressView, id=number)
    values = {"stop": view.stop, "what": brief(view.stop.scope, view.stop.target)}
    return Page("lift_form.html", f"Lift stop {view.stop.id}", values)


# What is done: each gives the path of the page to look at next ------------------------------------------


async def stop(line: Line, form: StopForm) -> str:
    """Order a stop."""
    order = StopCommand(
        form.scope,
        form.target,
        check_said(form.reason),
        form.notice * _UNITS[form.notice_unit] if form.begins == "notice" else 0,
        form.drain * _UNITS[form.drain_unit] if form.running == "drain" else 0,
    )
    done = await line.do("POST /operator/stops", order)
    return f"/stops/{msgspec.convert(done, ProgressView).stop.id}"


async def lift(line: Line, form: WhyForm, number: str) -> str:
    """Lift a stop, call it off, or propose to."""
    order = Why(check_said(form.reason))
    done = await line.do("POST /operator/stops/{id}/lift", order, id=number)
    return _next(done, f"/stops/{number}")


async def approve_request(line: Line, form: UnitsForm, number: str) -> str:
    """Approve a request, or propose to."""
    order = Approval(Units(form.units))
    done = await line.do("POST /operator/requests/{id}/approve", order, id=number)
    return _next(done, f"/requests/{number}")


async def deny_request(line: Line, form: WhyForm, number: str) -> str:
    """Deny a request."""
    await line.do("POST /operator/requests/{id}/deny", Why(check_said(form.reason)), id=number)
    return f"/requests/{number}"


async def agree(line: Line, form: DigestForm, number: str) -> str:
    """Lay the own hand on the proposal that was shown."""
    await line.do("POST /operator/proposals/{id}/approve", HandOrder(form.digest), id=number)
    return f"/proposals/{number}"


async def reject(line: Line, form: WhyForm, number: str) -> str:
    """Say no to a proposal."""
    await line.do("POST /operator/proposals/{id}/reject", Why(check_said(form.reason)), id=number)
    return f"/proposals/{number}"


def _next(done: object, path: str) -> str:
    """Where several hands are needed, the proposal that it became."""
    return f"/proposals/{done.view.id}" if isinstance(done, Pending) else path
