"""The custodian's HTTP side: enclaves attest and talk, operators command, anybody fetches ciphertext.

Spec: docs/spec/session.md, docs/spec/custodian-api.md. Who somebody is comes from the TLS handshake
alone; every refusal is a Problem, and nothing unforeseen is ever told outside.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import Attest, Problem
from leasehold.custodian import desk, proposals, tree, watch
from leasehold.custodian.channel import Bucket, SocketChannel, attend
from leasehold.custodian.console import app as console
from leasehold.custodian.desk import Call, Desk, Handler
from leasehold.custodian.ledger.operators import Right, check_right
from leasehold.custodian.log import Log, place_of
from leasehold.custodian.shelf import answer_model
from leasehold.custodian.visitors import Visitors, check_own_page, read_body
from leasehold.errors import (
    Internal,
    LeaseholdError,
    TooBusy,
    UnknownEndpoint,
)

_JSON: Final = "application/json"
_PROPOSED: Final = 202
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Api:
    """What the endpoints share."""

    desk: Desk
    log: Log
    strangers: Bucket
    visitors: Visitors

    # Enclaves --------------------------------------------------------------------------------------

    async def challenge(self, _request: Request) -> Response:
        """N-1."""
        self._admit_stranger()
        return _answer(await self.desk.custodian.challenge())

    async def attest(self, request: Request) -> Response:
        """N-2, N-3."""
        self._admit_stranger()
        message = from_json(await read_body(request), Attest)
        try:
            release = await self.desk.custodian.attest(message)
        except LeaseholdError as refusal:
            self.log.event("attestation_refused", code=refusal.code)
            raise
        self.log.event("attested", instance=release.instance, loan=release.terms.loan)
        return _answer(release)

    async def channel(self, socket: WebSocket) -> None:
        """N-4. A wrong certificate is told before the upgrade, as a Problem."""
        try:
            instance = self.visitors.instance(socket)
        except LeaseholdError as problem:
            self.log.event("channel_refused", code=problem.code)
            await socket.send_denial_response(_problem(problem))
            return
        with suppress(WebSocketDisconnect):
            await socket.accept()
            self.log.event("channel_opened", instance=instance)
            await attend(self.desk.custodian, instance, SocketChannel(socket))
        self.log.event("channel_closed", instance=instance)

    def _admit_stranger(self) -> None:
        """O-6. Raises TooBusy."""
        wait = self.strangers.take()
        if wait:
            self.strangers.give_back()
            raise TooBusy(about="attestation", expected=f"a pause of {wait:.2f} seconds")

    # Operators -------------------------------------------------------------------------------------

    def operators(self, handler: Handler, right: Right = Right.READ) -> Endpoint:
        """O-1, O-2: an endpoint that only operators reach; to GET needs `right`."""

        async def endpoint(request: Request) -> Response:
            operator = self.visitors.operator(request)
            check_own_page(request)
            if request.method == "GET":
                check_right(operator, right)
            body = b"" if request.method == "GET" else await read_body(request)
            query = dict(request.query_params)
            call = Call(operator, request.path_params, query, body)
            answer = await handler(self.desk, call)
            if request.method != "GET":
                self.log.event(
                    "operator", operator=operator.name, method=request.method, path=request.url.path
                )
            return _answer(answer)

        return endpoint

    # Everybody -------------------------------------------------------------------------------------

    async def model(self, request: Request) -> Response:
        """O-14: ciphertext, which is nobody's secret."""
        return await answer_model(self.desk, request)

    async def on_refusal(self, request: Request, refusal: Exception) -> Response:
        """A LeaseholdError as an answer."""
        if not isinstance(refusal, LeaseholdError):
            raise refusal
        return _refused(request, refusal)

    async def on_http(self, request: Request, trouble: Exception) -> Response:
        """What the router says: no such path, or no such method there."""
        status = trouble.status_code if isinstance(trouble, HTTPException) else 404
        refusal = UnknownEndpoint(about=f"{request.method} {request.url.path}")
        return _refused(request, refusal, status=status)

    async def on_surprise(self, request: Request, failure: Exception) -> Response:
        """O-4: anything else: logged by kind and place, never told."""
        self.log.event(
            "internal_error",
            error=type(failure).__name__,
            where=place_of(failure),
            path=request.url.path,
        )
        return _refused(request, Internal())


def build(desk_: Desk, log: Log) -> Starlette:
    """The ASGI application."""
    rules, clock = desk_.custodian.rules, desk_.custodian.ports.clock
    strangers = Bucket(clock, rules.attests_rate, rules.attests_burst)
    api = _Api(desk_, log, strangers, Visitors(desk_))
    routes: list[Route | WebSocketRoute] = [
        Route("/enclave/challenge", api.challenge, methods=["POST"]),
        Route("/enclave/attest", api.attest, methods=["POST"]),
        WebSocketRoute("/enclave/channel", api.channel),
        Route("/models/{digest}", api.model, methods=["GET"]),
    ]
    for method, path, handler in (*desk.ENDPOINTS, *watch.ENDPOINTS, *proposals.ENDPOINTS):
        routes.append(Route(path, api.operators(handler), methods=[method]))
    for method, path, handler in tree.ENDPOINTS:
        routes.append(Route(path, api.operators(handler, Right.HASHES), methods=[method]))
    routes += console.routes(api.visitors, log)
    return Starlette(
        routes=routes,
        exception_handlers={
            LeaseholdError: api.on_refusal,
            HTTPException: api.on_http,
            Exception: api.on_surprise,
        },
    )


def _answer(value: object) -> Response:
    headers = {"cache-control": "no-store"}
    if isinstance(value, tree.Plain):
        return Response(value.body, media_type=value.kind, headers=headers)
    if isinstance(value, proposals.Pending):
        return Response(to_json(value.view), _PROPOSED, headers, _JSON)
    return Response(to_json(value), media_type=_JSON, headers=headers)


def _refused(request: Request, refusal: LeaseholdError, *, status: int | None = None) -> Response:
    """A refusal in the form that whoever asked can read."""
    if console.is_mine(request):
        return console.refused(refusal, status or refusal.status)
    return _problem(refusal, status=status)


def _problem(refusal: LeaseholdError, *, status: int | None = None) -> Response:
    body = to_json(Problem(refusal.code, refusal.message))
    headers = {"retry-after": "1"} if isinstance(refusal, TooBusy) else {}
    return Response(body, status or refusal.status, headers, _JSON)
