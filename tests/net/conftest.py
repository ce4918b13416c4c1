"""A custodian's authority and what it issued, made for one test; real time, because OpenSSL looks."""

from __future__ import annotations

import os
import time
from typing import Final

import pytest

from leasehold.core.crypto import TlsKey, instance_id
from leasehold.core.units import DAY, Instant
from leasehold.net.authority import (
    Authority,
    InstanceIdentity,
    Validity,
    issue_client,
    issue_server,
    make_authority,
)
from leasehold.net.tls import TlsContext, client_context, custodian_server_context

NOW: Final = int(time.time() * 1000)


class Pki:
    """Makes keys, authorities and contexts."""

    today = Validity(Instant(NOW - DAY), Instant(NOW + DAY))
    long_ago = Validity(Instant(0), Instant(DAY))

    def key(self) -> TlsKey:
        """A fresh P-256 key."""
        return TlsKey.make(os.urandom)

    def authority(self) -> Authority:
        """A fresh authority, valid today."""
        name = "custodian authority"
        return make_authority(self.key(), name=name, validity=self.today, entropy=os.urandom)

    def server(self, authority: Authority, *names: str) -> TlsContext:
        """The custodian's server context for these names."""
        key = self.key()
        pem = issue_server(
            authority,
            key.spki,
            names=names or ("localhost", "127.0.0.1"),
            validity=self.today,
            entropy=os.urandom,
        )
        return custodian_server_context(pem, key, client_ca=authority.certificate)

    def instance(
        self,
        authority: Authority,
        *,
        trusts: Authority | None = None,
        validity: Validity | None = None,
    ) -> tuple[InstanceIdentity, TlsContext]:
        """An enclave instance with a certificate of `authority`, and its client context."""
        key = self.key()
        name = InstanceIdentity("loan-1", instance_id(key.spki))
        validity = validity or self.today
        pem = issue_client(
            authority, key.spki, identity=name, validity=validity, entropy=os.urandom
        )
        anchor = (trusts or authority).certificate
        return name, client_context(anchor, certificate=pem, key=key)


@pytest.fixture
def pki() -> Pki:
    """A maker of keys and certificates."""
    return Pki()
