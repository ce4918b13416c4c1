"""The flags that every context must have, whatever Python's defaults become."""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import Any

import pytest

from leasehold.net.authority import issue_server
from leasehold.net.certificates import enclave_certificate, identity_of
from leasehold.net.tls import (
    TlsContext,
    client_context,
    enclave_server_context,
    peer_certificate,
    pinned_context,
    unverified_bootstrap_context,
)


def _contexts(pki: Any) -> list[TlsContext]:
    authority, key = pki.authority(), pki.key()
    certificate = enclave_certificate(key, entropy=os.urandom)
    return [
        pki.server(authority),
        enclave_server_context(certificate, key),
        client_context(authority.certificate),
        pki.instance(authority)[1],
        pinned_context([certificate]),
        unverified_bootstrap_context(),
    ]


def _handshake(server: TlsContext, client: TlsContext) -> bytes | None:
    """Both ends in memory; the certificate that the client showed, or the server's error."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up, server_hostname="localhost")
    far = server.wrap_bio(up, down, server_side=True)
    for end in (near, far, near, far):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return peer_certificate(far)


def test_the_custodian_meets_clients_with_its_certificate_or_none(pki: Any) -> None:
    authority = pki.authority()
    name, client = pki.instance(authority)
    shown = _handshake(pki.server(authority), client)
    assert shown is not None
    assert identity_of(shown) == name.uri
    assert _handshake(pki.server(authority), client_context(authority.certificate)) is None


def test_the_custodian_refuses_certificates_that_are_not_its_own_or_not_current(pki: Any) -> None:
    authority = pki.authority()
    _, stranger = pki.instance(pki.authority(), trusts=authority)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        _handshake(pki.server(authority), stranger)
    _, expired = pki.instance(authority, validity=pki.long_ago)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        _handshake(pki.server(authority), expired)


def test_a_server_certificate_does_not_serve_a_client(pki: Any) -> None:
    authority, key = pki.authority(), pki.key()
    pem = issue_server(
        authority, key.spki, names=["localhost"], validity=pki.today, entropy=os.urandom
    )
    client = client_context(authority.certificate, certificate=pem, key=key)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        _handshake(pki.server(authority), client)


def test_every_context_is_tls_1_3_and_strict(pki: Any) -> None:
    for context in _contexts(pki):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_flags & ssl.VERIFY_X509_STRICT


def test_servers_give_no_tickets_and_only_the_custodian_asks_for_certificates(pki: Any) -> None:
    custodian, enclave, *_ = _contexts(pki)
    assert custodian.num_tickets == enclave.num_tickets == 0
    assert custodian.verify_mode == ssl.CERT_OPTIONAL
    assert enclave.verify_mode == ssl.CERT_NONE


def test_no_client_trusts_the_systems_authorities(
    pki: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", "keys.log")
    *_, client, named, pinned, _unverified = _contexts(pki)
    for context in (client, named, pinned):
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert len(context.get_ca_certs()) <= 1
        assert context.keylog_filename is None
    assert client.check_hostname
    assert named.check_hostname


def test_only_the_bootstrap_context_verifies_nothing(pki: Any) -> None:
    loose = [context for context in _contexts(pki)[2:] if context.verify_mode == ssl.CERT_NONE]
    assert len(loose) == 1


def test_private_keys_leave_no_open_descriptor(pki: Any) -> None:
    before = len(os.listdir("/proc/self/fd"))
    _contexts(pki)
    assert len(os.listdir("/proc/self/fd")) == before
