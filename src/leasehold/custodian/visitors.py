"""Who is at the other end of a request, by certificate; whose page sent it; and its body, bounded.

Spec: docs/spec/custodian-api.md, O-1 to O-3; docs/spec/console.md, O-24 and O-25. Shared by the API and
the console. Refuses to know what is asked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from starlette.requests import HTTPConnection, Request

from leasehold.core.messages import MESSAGE_BYTES_MAX
from leasehold.core.units import SECOND
from leasehold.custodian.desk import Desk
from leasehold.custodian.ledger.operators import Operator
from leasehold.errors import (
    BadRequest,
    BodyTooLarge,
    CertificateNeeded,
    EvidenceExpired,
    ForeignPage,
    NotPermitted,
)
from leasehold.net.authority import Identity, InstanceIdentity, OperatorIdentity, parse_identity
from leasehold.net.servers import peer_of
from leasehold.net.shown import expiry_of

BODY_SECONDS_MAX: Final = 15.0
_SITE: Final = "sec-fetch-site"
_READING: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Visitors:
    """Tells operators, instances and strangers apart."""

    desk: Desk

    def operator(self, connection: HTTPConnection) -> Operator:
        """The operator who is there. Raises CertificateNeeded, EvidenceExpired, NotPermitted."""
        match self._identity(connection):
            case OperatorIdentity(name=name):
                return self.desk.settings.operator(name)
            case InstanceIdentity(instance=instance):
                raise NotPermitted(
                    about=f"instance {instance}", expected="an operator's certificate"
                )

    def instance(self, connection: HTTPConnection) -> str:
        """The instance that is there. Raises as `operator` does."""
        match self._identity(connection):
            case InstanceIdentity(instance=instance):
                return instance
            case OperatorIdentity(name=name):
                raise NotPermitted(about=f"operator {name}", expected="an enclave's certificate")

    def _identity(self, connection: HTTPConnection) -> Identity:
        """O-1: who is there, by a certificate that is valid now and not only when the connection began."""
        peer = peer_of(connection.scope)
        if peer is None:
            raise CertificateNeeded(about=connection.url.path)
        now = self.desk.custodian.ports.clock.now()
        # Its dates are in whole seconds, and the last one still counts.
        if now >= expiry_of(peer.certificate) + SECOND:
            raise EvidenceExpired(about=peer.identity, got="an expired certificate")
        return parse_identity(peer.identity)


def check_own_page(request: Request, *, in_console: bool = False) -> None:
    """O-25: refuse what another site's page sends with the certificate of an operator's browser.

    Raises ForeignPage.
    """
    site, origin = request.headers.get(_SITE), request.headers.get("origin")
    reads = request.method in _READING
    if in_console and reads and _is_followed(request):
        return
    allowed = ("same-origin", "none") if reads else ("same-origin",)
    if site is not None and site not in allowed:
        raise ForeignPage(about="Sec-Fetch-Site", got=site, expected=" or ".join(allowed))
    own = f"https://{request.headers.get('host', '')}"
    if origin is not None and origin != own:
        raise ForeignPage(about="Origin", got=origin, expected=own)
    if in_console and not reads and site is None and origin is None:
        expected = "a browser that says whose page it is"
        raise ForeignPage(
            about="Origin", got="neither Origin nor Sec-Fetch-Site", expected=expected
        )


def _is_followed(request: Request) -> bool:
    """Whether somebody followed a link to a page of its own, wherever the link was."""
    mode, kind = (request.headers.get(f"sec-fetch-{part}") for part in ("mode", "dest"))
    return (mode, kind) == ("navigate", "document")


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
