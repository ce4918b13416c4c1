"""The console's routes: who is there, which page, and refusals as pages.

Spec: docs/spec/console.md, O-24, O-25 and O-29. Refuses to know what is on the pages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from leasehold.custodian.console import forms, ledgers, pages, render
from leasehold.custodian.console.forms import read_form
from leasehold.custodian.console.line import Line
from leasehold.custodian.console.pages import Page
from leasehold.custodian.console.render import PREFIX
from leasehold.custodian.ledger.operators import Right, check_right
from leasehold.custodian.log import Log
from leasehold.custodian.visitors import Visitors, check_own_page, read_body
from leasehold.errors import CertificateNeeded, LeaseholdError

Show = Callable[..., Awaitable[Page]]
Deed = Callable[..., Awaitable[str]]
PAGES: Final[tuple[tuple[str, Show], ...]] = (
    ("/loans", pages.loans),
    ("/loans/{name}", pages.loan),
    ("/stops", pages.stops),
    ("/stops/{number}", pages.stop),
    ("/stops/{number}/lift", forms.ask_lift),
    ("/stop", forms.ask_stop),
    ("/requests", ledgers.requests),
    ("/requests/{number}", ledgers.request),
    ("/proposals", ledgers.proposals),
    ("/proposals/{number}", ledgers.proposal),
    ("/audit", ledgers.audit),
)
DEEDS: Final[tuple[tuple[str, type, Deed], ...]] = (
    ("/stop", forms.StopForm, forms.stop),
    ("/stops/{number}/lift", forms.WhyForm, forms.lift),
    ("/requests/{number}/approve", forms.UnitsForm, forms.approve_request),
    ("/requests/{number}/deny", forms.WhyForm, forms.deny_request),
    ("/proposals/{number}/approve", forms.DigestForm, forms.agree),
    ("/proposals/{number}/reject", forms.WhyForm, forms.reject),
)


@dataclass(frozen=True, slots=True)
class _Console:
    visitors: Visitors
    log: Log

    def shows(self, show: Show) -> Callable[[Request], Awaitable[Response]]:
        """A page that is read."""

        async def endpoint(request: Request) -> Response:
            line = self._line(request)
            check_right(line.operator, Right.READ)
            page = await show(line, **request.path_params)
            values = await pages.frame(line, page)
            # In a thread of its own: enclaves hear of a stop meanwhile, and no verification is waited for.
            return await asyncio.to_thread(render.page, page.template, values)

        return endpoint

    def does(self, form: type, deed: Deed) -> Callable[[Request], Awaitable[Response]]:
        """A form that is sent; what comes after it is a page that is read."""

        async def endpoint(request: Request) -> Response:
            line = self._line(request)
            kind, body = request.headers.get("content-type", ""), await read_body(request)
            path = await deed(line, read_form(body, kind, form), **request.path_params)
            self.log.event(
                "operator",
                operator=line.operator.name,
                method=request.method,
                path=request.url.path,
            )
            return render.go(path)

        return endpoint

    async def home(self, request: Request) -> Response:
        """The first page."""
        self._line(request)
        return render.go("/loans")

    def _line(self, request: Request) -> Line:
        operator = self.visitors.operator(request)
        check_own_page(request, in_console=True)
        return Line(self.visitors.desk, operator, dict(request.query_params))


async def _static(request: Request) -> Response:
    return render.static(request.url.path.rpartition("/")[2])


def routes(visitors: Visitors, log: Log) -> list[Route]:
    """All of the console, for the custodian's application."""
    console = _Console(visitors, log)
    return [
        Route(PREFIX, console.home, methods=["GET"]),
        Route(f"{PREFIX}/", console.home, methods=["GET"]),
        *(Route(f"{PREFIX}/{name}", _static, methods=["GET"]) for name in render.STATIC),
        *(Route(PREFIX + path, console.shows(show), methods=["GET"]) for path, show in PAGES),
        *(
            Route(PREFIX + path, console.does(form, deed), methods=["POST"])
            for path, form, deed in DEEDS
        ),
    ]


def is_mine(request: Request) -> bool:
    """Whether a refusal of this request is a page."""
    path = request.url.path
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def refused(refusal: LeaseholdError, status: int) -> Response:
    """O-29: a refusal as a page."""
    values = {
        "title": "Refused",
        "what": (type(refusal).__doc__ or "Refused.").partition("\n")[0],
        "refusal": refusal,
        "status": status,
        "is_stranger": isinstance(refusal, CertificateNeeded),
    }
    return render.page("problem.html", values, status=status)
