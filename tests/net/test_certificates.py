"""What the custodian's authority issues, and what can be read from a certificate."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from leasehold.core.crypto import instance_id
from leasehold.errors import BadMessage
from leasehold.net.authority import (
    InstanceIdentity,
    OperatorIdentity,
    issue_client,
    issue_server,
    parse_identity,
)
from leasehold.net.certificates import enclave_certificate, identity_of
from leasehold.net.shown import expiry_of, spki_of, to_der, to_pem


def test_client_certificate_names_its_instance_and_carries_its_key(pki: Any) -> None:
    key = pki.key()
    name = InstanceIdentity("loan-1", instance_id(key.spki))
    pem = issue_client(
        pki.authority(), key.spki, identity=name, validity=pki.today, entropy=os.urandom
    )
    der = to_der(pem)
    assert identity_of(der) == f"leasehold://loan-1/instance/{name.instance}"
    assert parse_identity(identity_of(der)) == name
    assert spki_of(der) == key.spki
    assert expiry_of(der) == pki.today.end // 1000 * 1000
    assert to_pem(der) == pem


def test_operator_certificate_names_the_operator(pki: Any) -> None:
    pem = issue_client(
        pki.authority(),
        pki.key().spki,
        identity=OperatorIdentity("ada"),
        validity=pki.today,
        entropy=os.urandom,
    )
    assert parse_identity(identity_of(to_der(pem))) == OperatorIdentity("ada")


def test_an_operator_cannot_be_named_like_an_instance(pki: Any) -> None:
    evil = OperatorIdentity("x/instance/" + "0" * 64)
    with pytest.raises(BadMessage, match="certificate name"):
        issue_client(
            pki.authority(), pki.key().spki, identity=evil, validity=pki.today, entropy=os.urandom
        )


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "leasehold://",
        "leasehold://operator/",
        "leasehold://operator/a b",
        "http://operator/ada",
        "leasehold://loan/instance/" + "A" * 64,
        "leasehold://loan/instance/" + "0" * 63,
        "leasehold://loan/instance/" + "0" * 64 + "/more",
        "leasehold:///instance/" + "0" * 64,
        "leasehold://operator/ada\n",
    ],
)
def test_other_uris_name_nobody(uri: str) -> None:
    with pytest.raises(BadMessage):
        parse_identity(uri)


def test_a_certificate_without_a_uri_names_nobody(pki: Any) -> None:
    with pytest.raises(BadMessage, match="0 URI names"):
        identity_of(to_der(enclave_certificate(pki.key(), entropy=os.urandom)))
    with pytest.raises(BadMessage, match="DER"):
        identity_of(b"not a certificate")


@pytest.mark.parametrize(
    "public",
    [ed25519.Ed25519PrivateKey.generate().public_key(), ec.generate_private_key(ec.SECP384R1())],
)
def test_only_p256_keys_are_certified(pki: Any, public: object) -> None:
    if isinstance(public, ec.EllipticCurvePrivateKey):
        public = public.public_key()
    assert isinstance(public, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey)
    spki = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    name = OperatorIdentity("ada")
    with pytest.raises(BadMessage, match="P-256"):
        issue_client(pki.authority(), spki, identity=name, validity=pki.today, entropy=os.urandom)
    with pytest.raises(BadMessage, match="SubjectPublicKeyInfo"):
        issue_client(
            pki.authority(), b"\x30", identity=name, validity=pki.today, entropy=os.urandom
        )


def test_the_same_arguments_give_the_same_serial_and_names(pki: Any) -> None:
    key = pki.key()
    one, two = (
        x509.load_pem_x509_certificate(
            enclave_certificate(key, entropy=lambda size: b"\7" * size).encode()
        )
        for _ in range(2)
    )
    assert one.serial_number == two.serial_number == int.from_bytes(b"\7" * 16, "big")
    assert one.tbs_certificate_bytes == two.tbs_certificate_bytes


def test_openssl_accepts_the_whole_chain_in_strict_mode(pki: Any, tmp_path: Path) -> None:
    authority = pki.authority()
    server = issue_server(
        authority,
        pki.key().spki,
        names=["custodian.example", "::1"],
        validity=pki.today,
        entropy=os.urandom,
    )
    client = issue_client(
        authority,
        pki.key().spki,
        identity=OperatorIdentity("ada"),
        validity=pki.today,
        entropy=os.urandom,
    )
    enclave = enclave_certificate(pki.key(), entropy=os.urandom)
    for name, pem in (("ca", authority.certificate), ("s", server), ("c", client), ("e", enclave)):
        (tmp_path / name).write_text(pem)
    for anchor, leaf, purpose in (
        ("ca", "s", "server"),
        ("ca", "c", "client"),
        ("e", "e", "server"),
    ):
        subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", f"ssl{purpose}"]  # noqa: RUF005
            + ["-CAfile", str(tmp_path / anchor), str(tmp_path / leaf)],
            check=True,
            capture_output=True,
        )
