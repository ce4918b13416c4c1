"""The custodian's HTTP side: enclaves attest and talk, operators command, anybody fetches ciphertext.

Spec: docs/spec/session.md, docs/spec/custodian-api.md. Who somebody is comes from the TLS handshake
alone; every refusal is a Problem, and nothing unforeseen is ever told outside.
"""

from __future__ import annotations

import asyncio
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
from leasehold.core.messages import MESSAGE_BYTES_MAX, Attest, Problem
from leasehold.core.units import SECOND
from leasehold.custodian import desk, proposals, tree, watch
from leasehold.custodian.channel import Bucket, SocketChannel, attend
from leasehold.custodian.desk import Call, Desk, Handler
from leasehold.custodian.ledger.operators import Operator, Right, check_right
from leasehold.custodian.log import Log, place_of
from leasehold.custodian.shelf import answer_model
from leasehold.errors import (
    BadRequest,
    BodyTooLarge,
    CertificateNeeded,
    EvidenceExpired,
    Internal,
    LeaseholdError,
    NotPermitted,
    TooBusy,
    UnknownEndpoint,
)
from leasehold.net.authority import Identity, InstanceIdentity, OperatorIdentity, parse_identity
from leasehold.net.servers import peer_of
from leasehold.net.shown import expiry_of

BODY_SECONDS_MAX: Final = 15.0
_JSON: Final = "application/json"
_PROPOSED: Final = 202
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Api:
    """What the endpoints share."""

    desk: Desk
    log: Log
    strangers: Bucket

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
            instance = self._instance(socket)
        except LeaseholdError as problem:
            self.log.event("channel_refused", code=problem.code)
            await socket.send_denial_response(_problem(problem))
            return
        with suppress(WebSocketDisconnect):
            await socket.accept()
            self.log.event("channel_opened", instance=instance)
            await attend(self.desk.custodian, instance, SocketChannel(socket))
        self.log.event("channel_closed", instance=instance)

    def _instance(self, socket: WebSocket) -> str:
        match self._identity(socket):
            case InstanceIdentity(instance=instance):
                return instance
            case OperatorIdentity(name=name):
                raise NotPermitted(about=f"operator {name}", expected="an enclave's certificate")

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
            operator = self._operator(request)
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

    def _operator(self, request: Request) -> Operator:
        match self._identity(request):
            case OperatorIdentity(name=name):
                return self.desk.settings.operator(name)
            case InstanceIdentity(instance=instance):
                raise NotPermitted(
                    about=f"instance {instance}", expected="an operator's certificate"
                )

    def _identity(self, connection: Request | WebSocket) -> Identity:
        """O-1: who is there, by a certificate that is valid now and not only when the connection began."""
        peer = peer_of(connection.scope)
        if peer is None:
            raise CertificateNeeded(about=connection.url.path)
        now = self.desk.custodian.ports.clock.now()
        # Its dates are in whole seconds, and the last one still counts.
        if now >= expiry_of(peer.certificate) + SECOND:
            raise EvidenceExpired(about=peer.identity, got="an expired certificate")
        return parse_identity(peer.identity)

    # Everybody -------------------------------------------------------------------------------------

    async def model(self, request: Request) -> Response:
        """O-14: ciphertext, which is nobody's secret."""
        return await answer_model(self.desk, request)

    async def on_refusal(self, _request: Request, refusal: Exception) -> Response:
        """A LeaseholdError as an answer."""
        if not isinstance(refusal, LeaseholdError):
            raise refusal
        return _problem(refusal)

    async def on_http(self, request: Request, trouble: Exception) -> Response:
        """What the router says: no such path, or no such method there."""
        status = trouble.status_code if isinstance(trouble, HTTPException) else 404
        refusal = UnknownEndpoint(about=f"{request.method} {request.url.path}")
        return _problem(refusal, status=status)

    async def on_surprise(self, request: Request, failure: Exception) -> Response:
        """O-4: anything else: logged by kind and place, never told."""
        self.log.event(
            "internal_error",
            error=type(failure).__name__,
            where=place_of(failure),
            path=request.url.path,
        )
        return _problem(Internal())


def build(desk_: Desk, log: Log) -> Starlette:
    """The ASGI application."""
    rules, clock = desk_.custodian.rules, desk_.custodian.ports.clock
    api = _Api(desk_, log, Bucket(clock, rules.attests_rate, rules.attests_burst))
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
    return Starlette(
        routes=routes,
        exception_handlers={
            LeaseholdError: api.on_refusal,
            HTTPException: api.on_http,
            Exception: api.on_surprise,
        },
    )


async def read_body(request: Request) -> bytes:
    """O-3: the whole body, bounded in bytes and in time. Raises BodyTooLarge, BadRequest."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for part in request.stream():
                size += len(part)
                if size > MESSAGE_BYTES_MAX:
                    raise BodyTooLarge(expected=f"<= {MESSAGE_BYTES_MAX} bytes")
                parts.append(part)
    except TimeoutError as cause:
        raise BadRequest(about="body", expected=f"within {BODY_SECONDS_MAX} seconds") from cause
    return b"".join(parts)


def _answer(value: object) -> Response:
    headers = {"cache-control": "no-store"}
    if isinstance(value, tree.Plain):
        return Response(value.body, media_type=value.kind, headers=headers)
    if isinstance(value, proposals.Pending):
        return Response(to_json(value.view), _PROPOSED, headers, _JSON)
    return Response(to_json(value), media_type=_JSON, headers=headers)


def _problem(refusal: LeaseholdError, *, status: int | None = None) -> Response:
    body = to_json(Problem(refusal.code, refusal.message))
    headers = {"retry-after": "1"} if isinstance(refusal, TooBusy) else {}
    return Response(body, status or refusal.status, headers, _JSON)
