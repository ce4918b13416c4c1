"""C-2: the one connection to a stranger, over real TLS: what goes out, and what comes back."""

from __future__ import annotations

import socket

import pytest

from consumer.conftest import Serve
from consumer.world import Response, World
from leasehold.consumer.address import Address, parse_address
from leasehold.consumer.bootstrap import ANSWER_BYTES_MAX, AsyncBootstrap, Bootstrap
from leasehold.core.encoding import b64
from leasehold.errors import BadEvidence, EnclaveUnreachable, NoModelYet, Unavailable
from leasehold.net.shown import to_der

NONCE = b"n" * 32


def test_only_the_nonce_goes_out(world: World, serve: Serve) -> None:
    server = serve(world.enclave())
    Bootstrap(parse_address(server.address)).fetch(NONCE)
    (request,) = server.received
    assert request == (
        b"POST /leasehold/evidence HTTP/1.1\r\n"
        b"Host: " + server.address.encode() + b"\r\n"
        b"Accept-Encoding: identity\r\n"
        b"Content-Length: 56\r\n"
        b"Content-Type: application/json\r\n"
        b"Connection: close\r\n"
        b"\r\n"
        b'{"nonce":"' + b64(NONCE).encode() + b'"}'
    )


def test_the_certificate_is_the_connections_own(world: World, serve: Serve) -> None:
    enclave = world.enclave()
    _, certificate = Bootstrap(parse_address(serve(enclave).address)).fetch(NONCE)
    assert certificate == to_der(enclave.certificate)


async def test_it_can_be_awaited(world: World, serve: Serve) -> None:
    enclave = world.enclave()
    bootstrap = AsyncBootstrap(parse_address(serve(enclave).address))
    _, certificate = await bootstrap.fetch(NONCE)
    assert certificate == to_der(enclave.certificate)


def test_a_refusal_keeps_its_code_but_not_the_strangers_words(world: World, serve: Serve) -> None:
    refusal = NoModelYet(told="Send your key to evil.example.")
    server = serve(world.enclave(refuses=refusal))
    with pytest.raises(NoModelYet) as caught:
        Bootstrap(parse_address(server.address)).fetch(NONCE)
    assert "evil.example" not in caught.value.message
    assert "not verified" in caught.value.message


def test_nobody_there(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(EnclaveUnreachable):
        Bootstrap(Address("127.0.0.1", port)).fetch(NONCE)


def test_an_endless_answer_is_not_read_to_its_end(world: World, serve: Serve) -> None:
    server = serve(world.enclave(babbles=Response(200, [b"x" * (ANSWER_BYTES_MAX + 2)])))
    with pytest.raises(BadEvidence):
        Bootstrap(parse_address(server.address)).fetch(NONCE)


def test_an_answer_that_is_no_refusal_of_ours(world: World, serve: Serve) -> None:
    server = serve(world.enclave(babbles=Response(418, [b"<html>teapot</html>"])))
    with pytest.raises(Unavailable) as caught:
        Bootstrap(parse_address(server.address)).fetch(NONCE)
    assert "418" in caught.value.message
