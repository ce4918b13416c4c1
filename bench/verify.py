"""Verifying each platform's evidence, beside the signature checks alone that it cannot do without.

The checks alone are the same signatures over the same bytes, with keys and messages ready: what is
above them is reading, comparing and deciding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from tests.attest.bench import make_bench

from bench.harness import Row, interleaved, pairwise_ratio
from leasehold.attest import signatures
from leasehold.attest.intel.pcs import Facts
from leasehold.attest.intel.quote import parse_quote
from leasehold.attest.signatures import Scheme, ecdsa_der

BAR: Final = 1.3
RUNS: Final = 300
AT_ONCE: Final = 100
HASHES: Final = {
    "SHA-256": hashes.SHA256(),
    "SHA-384": hashes.SHA384(),
    "SHA-512": hashes.SHA512(),
}

Check = Callable[[], object]


# The signatures ----------------------------------------------------------------------------------


def prepare(spki: bytes, scheme: Scheme, data: bytes, signature: bytes) -> Check:
    """One signature check with its key loaded; raises InvalidSignature when called, if it is bad."""
    key = serialization.load_der_public_key(spki)
    kind, name = scheme.value
    digest = HASHES[name]
    if isinstance(key, ec.EllipticCurvePublicKey):
        return partial(key.verify, signature, data, ec.ECDSA(digest))
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError(type(key))
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
    return partial(
        key.verify, signature, data, pss if kind == "PSS" else padding.PKCS1v15(), digest
    )


def own_checks(run: Callable[[], object]) -> list[Check]:
    """The checks that the verifier's own code makes while `run` runs."""
    made: list[Check] = []
    real = signatures.is_signed

    def noting(spki: bytes, scheme: Scheme, data: bytes, signature: bytes) -> bool:
        made.append(prepare(spki, scheme, data, signature))
        return real(spki, scheme, data, signature)

    with replaced(real, noting):
        run()
    return made


@contextmanager
def replaced(real: Callable[..., bool], instead: Callable[..., bool]) -> Iterator[None]:
    """`is_signed` replaced in every module of the verifier that uses it."""
    users = [
        module
        for path, module in list(sys.modules.items())
        if path.startswith("leasehold.attest") and getattr(module, real.__name__, None) is real
    ]
    for module in users:
        setattr(module, real.__name__, instead)
    try:
        yield
    finally:
        for module in users:
            setattr(module, real.__name__, real)


def dcap_checks(quote: bytes, facts: Facts) -> list[Check]:
    """The checks that dcap-qvl makes: quote, QE report, TCB info, QE identity, three chains, two CRLs."""
    parsed = parse_quote(quote)
    held = facts.collateral
    leaf, authority, root = x509.load_pem_x509_certificates(parsed.chain_pem)
    checks = [issued(leaf, authority), issued(authority, root)]
    for chain, text, signature in (
        (held.tcb_info_issuer_chain, held.tcb_info, held.tcb_info_signature),
        (held.qe_identity_issuer_chain, held.qe_identity, held.qe_identity_signature),
    ):
        signer, above = x509.load_pem_x509_certificates(chain.encode())
        checks += [
            issued(signer, above),
            raw(spki(signer), text.encode(), bytes.fromhex(signature)),
        ]
    for crl, issuer in ((held.root_ca_crl, root), (held.pck_crl, authority)):
        listed = x509.load_der_x509_crl(bytes.fromhex(crl))
        made = listed.tbs_certlist_bytes, listed.signature
        checks.append(prepare(spki(issuer), Scheme.ECDSA_SHA256, *made))
    return checks + quote_checks(parsed.data, spki(leaf))


def quote_checks(quote: bytes, pck: bytes) -> list[Check]:
    """The quote's two signatures: over header and report, and over the QE's report."""
    body = 432 if quote[0] == 3 else 632  # v3: SGX, v4: TDX
    at = body + 4
    key = ec.EllipticCurvePublicNumbers(
        int.from_bytes(quote[at + 64 : at + 96], "big"),
        int.from_bytes(quote[at + 96 : at + 128], "big"),
        ec.SECP256R1(),
    ).public_key()
    attestation_key = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    report = at + 128 if quote[0] == 3 else at + 128 + 6
    return [
        raw(attestation_key, quote[:body], quote[at : at + 64]),
        raw(pck, quote[report : report + 384], quote[report + 384 : report + 448]),
    ]


def spki(certificate: x509.Certificate) -> bytes:
    """Its key, as DER SubjectPublicKeyInfo."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def issued(certificate: x509.Certificate, by: x509.Certificate) -> Check:
    """The check of one certificate's signature."""
    made = certificate.tbs_certificate_bytes, certificate.signature
    return prepare(spki(by), Scheme.ECDSA_SHA256, *made)


def raw(key: bytes, data: bytes, signature: bytes) -> Check:
    """The check of an ECDSA signature that is two numbers of 32 bytes."""
    numbers = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    return prepare(key, Scheme.ECDSA_SHA256, data, ecdsa_der(*numbers))


# The measurements --------------------------------------------------------------------------------


def ratio(platform: str, verify: Check, checks: list[Check]) -> Row:
    """One platform's verification over its signature checks."""

    def alone() -> None:
        for check in checks:
            check()

    ours, floor = interleaved(RUNS, verify, alone)
    middle, spread = pairwise_ratio(ours, floor)
    beside = f"{len(checks)} signature checks alone, {floor.median * 1e3:.2f} ms"
    return Row(
        "verify", f"{platform}: over its signatures", middle, "times", BAR, "<=", spread, beside
    )


def sgx() -> Row:
    """An SGX quote."""
    bench = make_bench()
    evidence = bench.evidence
    facts = bench.collateral.find(fmspc=b"SIMULA".hex(), ca="processor", tee="sgx")
    return ratio("sgx", partial(bench.verify, evidence), dcap_checks(evidence.quote, facts))


def measure() -> list[Row]:
    """All platforms, and a crowd."""
    return [sgx()]
