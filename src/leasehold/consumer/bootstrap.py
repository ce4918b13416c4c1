"""The one connection to an enclave that nothing is known of yet: a nonce goes out, evidence comes back.

Everything read here is a stranger's word. Refuses to know whether any of it is true.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
from dataclasses import dataclass
from typing import Final

from leasehold.consumer.address import Address
from leasehold.consumer.problems import read_strangers_problem
from leasehold.core.encoding import to_json
from leasehold.core.messages import EVIDENCE_PATH, EvidenceAsk
from leasehold.core.units import MIB
from leasehold.errors import BadEvidence, EnclaveUnreachable
from leasehold.net.certificates import ENCLAVE_NAME
from leasehold.net.tls import peer_certificate, unverified_bootstrap_context

ANSWER_BYTES_MAX: Final = 2 * MIB  # evidence of eight GPUs, collateral and configuration: ~300 KiB
ANSWER_SECONDS_MAX: Final = 30.0  # a quote takes up to a second, a queue of them some more


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Fetches evidence over TLS. A port of `verify`; worlds in one process bring their own."""

    address: Address
    seconds_max: float = ANSWER_SECONDS_MAX

    def fetch(self, nonce: bytes) -> tuple[bytes, bytes]:
        """C-2: the answer's bytes, and the certificate (DER) of the connection that it came over.

        Raises EnclaveUnreachable, BadEvidence, or the refusal that the other end gave.
        """
        where = (self.address.host, self.address.port)
        context = unverified_bootstrap_context()
        try:
            with (
                socket.create_connection(where, timeout=self.seconds_max) as plain,
                context.wrap_socket(plain, server_hostname=ENCLAVE_NAME) as secured,
            ):
                certificate = peer_certificate(secured)
                status, body = _ask(secured, self.address, nonce)
        except (OSError, http.client.HTTPException) as cause:
            raise EnclaveUnreachable(about=self.address, got=_reason(cause)) from cause
        if status != http.client.OK:
            raise read_strangers_problem(status, body, address=self.address)
        if certificate is None or len(body) > ANSWER_BYTES_MAX:
            raise BadEvidence(
                about="answer", expected=f"a certificate and <= {ANSWER_BYTES_MAX} bytes"
            )
        return body, certificate


@dataclass(frozen=True, slots=True)
class AsyncBootstrap:
    """The same beside an event loop, in a thread."""

    address: Address
    seconds_max: float = ANSWER_SECONDS_MAX

    async def fetch(self, nonce: bytes) -> tuple[bytes, bytes]:
        """Like `Bootstrap.fetch`."""
        return await asyncio.to_thread(Bootstrap(self.address, self.seconds_max).fetch, nonce)


def _ask(secured: socket.socket, address: Address, nonce: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(str(address))
    connection.auto_open = 0  # a second connection could end at another certificate
    connection.sock = secured
    connection.request(
        "POST",
        EVIDENCE_PATH,
        body=to_json(EvidenceAsk(nonce)),
        headers={"Content-Type": "application/json", "Connection": "close"},
    )
    answer = connection.getresponse()
    return answer.status, answer.read(ANSWER_BYTES_MAX + 1)


def _reason(cause: Exception) -> str:
    return str(cause) or type(cause).__name__
