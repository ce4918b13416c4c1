"""The one door to `ssl`: TLS 1.3 contexts with named anchors, and the peer's certificate.

No context here reads SSLKEYLOGFILE or resumes a session: a certificate is looked at in every handshake.
Only `public_context` loads the system's authorities; nothing that passes through it is believed for that.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import mkstemp
from typing import Final

from leasehold.core.crypto import TlsKey

TlsContext = ssl.SSLContext
TlsError = ssl.SSLError
MEMORY_FOLDER: Final = "/run"  # a tmpfs


def custodian_server_context(certificate: str, key: TlsKey, *, client_ca: str) -> TlsContext:
    """For the custodian's server: a client may come without a certificate, or with one of `client_ca`.

    Certificates are PEM text. A handshake with any other client certificate fails.
    """
    context = _server_context(certificate, key)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=client_ca)
    return context


def enclave_server_context(certificate: str, key: TlsKey) -> TlsContext:
    """For the enclave's server: consumers show API keys, not certificates."""
    return _server_context(certificate, key)


def client_context(
    ca: str, *, certificate: str | None = None, key: TlsKey | None = None
) -> TlsContext:
    """For a client of a server whose certificate `ca` (PEM) issued; host names are checked.

    With `certificate` and `key` the client can show who it is.
    """
    context = _client_context()
    context.load_verify_locations(cadata=ca)
    if certificate is not None and key is not None:
        _load_chain(context, certificate, key)
    return context


def public_context(ca: str | None = None) -> TlsContext:
    """For a client of a public web service: TLS 1.2 or newer; host names are checked.

    `ca` (PEM) are the only authorities that count; without it the system's do. What comes over it is
    signed by somebody else: here TLS only keeps strangers from withholding it unseen.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=ca)
    return context


def pinned_context(certificates: Sequence[str]) -> TlsContext:
    """For a client that trusts exactly these certificates (PEM) and nothing they could have issued.

    Host names are not checked: the certificate itself is, so where it was met does not matter.
    """
    context = _client_context()
    context.check_hostname = False
    for certificate in certificates:
        context.load_verify_locations(cadata=certificate)
    return context


def unverified_bootstrap_context() -> TlsContext:
    """For the one connection on which a stranger is asked for evidence. Verifies nothing: say nothing."""
    context = _client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def peer_certificate(connection: ssl.SSLSocket | ssl.SSLObject) -> bytes | None:
    """The DER certificate that the other end of a connection showed, if any.

    An asyncio transport gives its connection as `get_extra_info("ssl_object")`.
    """
    return connection.getpeercert(binary_form=True)


def _server_context(certificate: str, key: TlsKey) -> TlsContext:
    context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    # A resumed session would show a client certificate that has expired since.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, certificate, key)
    return context


def _client_context() -> TlsContext:
    return _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def _strict(context: TlsContext) -> TlsContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def _load_chain(context: TlsContext, certificate: str, key: TlsKey) -> None:
    with _memory_file(key.pem + certificate.encode()) as path:
        context.load_cert_chain(path)


@contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    """A path to a file that is only memory: `load_cert_chain` takes paths, and keys touch no disk.

    Where the kernel has no memory files (Gramine), a file in MEMORY_FOLDER, gone at once; the manifest that
    is measured has a tmpfs there, which Gramine keeps inside the enclave.
    """
    try:
        handle = os.memfd_create("tls", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{handle}"
    except OSError:
        handle, path = mkstemp(dir=MEMORY_FOLDER)
    try:
        os.write(handle, data)
        yield path
    finally:
        os.pwrite(handle, bytes(len(data)), 0)
        os.close(handle)
        if path.startswith(MEMORY_FOLDER):
            os.unlink(path)
