"""OCSP: what NVIDIA's responders say of one certificate, and everything that such an answer is not."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from leasehold.attest.certificate import DerCertificate, read_certificate
from leasehold.attest.collateral import Document, HeldCollateral
from leasehold.attest.nvidia.ocsp import (
    CLOCK_SKEW_MAX,
    check_not_revoked,
    check_ocsp,
    ocsp_facts,
    ocsp_name,
    ocsp_request,
)
from leasehold.core.units import DAY, Instant
from leasehold.errors import (
    CertificateRevoked,
    CollateralMismatch,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    LeaseholdError,
    WrongSignerRole,
)
from leasehold_simtee.certificates import moment
from leasehold_simtee.der import boolean, octets, oid, sequence
from leasehold_simtee.nvidia_certificates import Party, issue
from leasehold_simtee.nvidia_ocsp import ocsp_response, responder

from .bench import NOW, seeded
from .nvidia_bench import LATER, one_gpu, vendor

BROM, ICA, IDENTITY = one_gpu().devices[0].chain[1:4]
SIGNER = responder(ICA, entropy=seeded("responder"), now=NOW)


def certificate(party: Party) -> DerCertificate:
    return read_certificate(party.der)


def answer(
    signer: Party = SIGNER, *, about: Party = BROM, issuer: Party = ICA, **said: Any
) -> bytes:
    return ocsp_response(about, issuer, signer, **{"now": NOW, **said})


def checked(response: bytes, *, now: Instant = LATER) -> Instant:
    return check_ocsp(response, certificate(BROM), certificate(ICA), now=now)


def refused(
    response: bytes, error: type[LeaseholdError], *, now: Instant = LATER
) -> LeaseholdError:
    with pytest.raises(LeaseholdError) as caught:
        checked(response, now=now)
    assert type(caught.value) is error, caught.value
    return caught.value


def test_a_good_answer_tells_when_it_ends() -> None:
    assert checked(answer()) == NOW + DAY
    assert ocsp_facts(answer()) == (NOW, NOW + DAY)


def test_the_issuer_may_answer_itself() -> None:
    assert checked(answer(ICA, delegated=False)) == NOW + DAY
    assert checked(answer(ICA)) == NOW + DAY


def test_the_request_names_the_certificate_by_its_issuer() -> None:
    request = ocsp.load_der_ocsp_request(ocsp_request(certificate(BROM), certificate(ICA)))
    wanted = (
        ocsp.OCSPRequestBuilder()
        .add_certificate(BROM.certificate, ICA.certificate, hashes.SHA384())
        .build()
    )
    assert request.public_bytes(Encoding.DER) == wanted.public_bytes(Encoding.DER)
    assert len(list(request.extensions)) == 0


def test_documents_are_named_by_the_certificate() -> None:
    assert ocsp_name(certificate(BROM)) == hashlib.sha256(BROM.der).hexdigest()


@pytest.mark.parametrize(
    ("reason", "name"),
    [(None, ""), (0, "unspecified"), (1, "key_compromise"), (6, "certificate_hold")],
)
def test_revoked_is_revoked_whatever_the_reason(reason: int | None, name: str) -> None:
    assert name in str(refused(answer(status="revoked", reason=reason), CertificateRevoked))


def test_unknown_is_no_answer() -> None:
    refused(answer(status="unknown"), CollateralMissing)


@pytest.mark.parametrize(
    "said",
    [
        {"answers": 0},
        {"answers": 2},
        {"lifetime": None},
        {"extensions": sequence(oid(1, 2, 3), boolean(True), octets(b""))},
    ],
    ids=str,
)
def test_one_answer_that_ends_and_nothing_critical_beside_it(said: dict[str, Any]) -> None:
    refused(answer(**said), CollateralRejected)


def test_a_nonce_that_nobody_asked_for_does_no_harm() -> None:
    nonce = sequence(oid(1, 3, 6, 1, 5, 5, 7, 48, 1, 2), octets(octets(bytes(16))))
    assert checked(answer(extensions=nonce)) == NOW + DAY


def test_an_answer_counts_from_this_update_to_next_update() -> None:
    response = answer()
    assert checked(response, now=NOW)
    assert checked(response, now=Instant(NOW - CLOCK_SKEW_MAX))
    assert checked(response, now=Instant(NOW + DAY - 1))
    refused(response, CollateralNotCurrent, now=Instant(NOW - CLOCK_SKEW_MAX - 1))
    refused(response, CollateralNotCurrent, now=Instant(NOW + DAY))


def test_a_responder_whose_certificate_ended_says_nothing() -> None:
    much = Instant(NOW + 4 * 365 * DAY)
    refused(answer(now=much), CollateralNotCurrent, now=much)


def test_the_end_is_the_responder_s_where_that_is_sooner() -> None:
    assert checked(answer(lifetime=5 * 365 * DAY)) == NOW + 3 * 365 * DAY


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_certid_is_over_sha384(algorithm: str) -> None:
    refused(answer(algorithm=algorithm), CollateralMismatch)


def test_an_answer_about_another_certificate_is_refused() -> None:
    refused(answer(about=ICA), CollateralMismatch)
    refused(answer(about=ICA, issuer=IDENTITY), CollateralMismatch)


def test_the_same_serial_under_another_issuer_is_another_certificate() -> None:
    """Serial numbers are the issuer's own."""
    name_only = issue(
        "SIMULATED GH100 Provisioner ICA 1",
        IDENTITY,
        entropy=seeded("name only"),
        starts=moment(NOW),
        ends=moment(Instant(NOW + DAY)),
        number=ICA.certificate.serial_number,
    )
    assert name_only.certificate.subject == ICA.certificate.subject
    refused(answer(issuer=name_only), CollateralMismatch)


def party(common: str, issuer: Party, **said: Any) -> Party:
    return issue(
        common,
        issuer,
        entropy=seeded(f"party {common}"),
        starts=moment(NOW),
        ends=moment(Instant(NOW + 100 * DAY)),
        **said,
    )


OCSP_SIGNING = x509.oid.ExtendedKeyUsageOID.OCSP_SIGNING


@pytest.mark.parametrize(
    ("signer", "error"),
    [
        (party("no usage", ICA, is_authority=False), WrongSignerRole),
        (
            party(
                "server",
                ICA,
                is_authority=False,
                usages=(x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,),
            ),
            WrongSignerRole,
        ),
        (party("authority", ICA, usages=(OCSP_SIGNING,)), WrongSignerRole),
        (BROM, WrongSignerRole),
        (
            party("from above", IDENTITY, is_authority=False, usages=(OCSP_SIGNING,)),
            CollateralRejected,
        ),
        (IDENTITY, CollateralRejected),
        (vendor().rim_chain[0], CollateralRejected),
    ],
    ids=lambda value: (
        "" if isinstance(value, type) else value.certificate.subject.rfc4514_string()[:20]
    ),
)
def test_only_the_issuer_and_whom_it_named_may_answer(
    signer: Party, error: type[LeaseholdError]
) -> None:
    refused(answer(signer), error)


def test_another_key_than_the_certificate_s_has_not_signed() -> None:
    refused(answer(key=party("thief", ICA).key), CollateralRejected)
    refused(answer(SIGNER, delegated=False), CollateralRejected)


def test_every_flipped_bit_is_refused() -> None:
    """All of an answer is signed, or is the responder's certificate and signed by the issuer.

    But for one octet: how many bits of the signature's last octet count.
    """
    response = answer()
    unused = response.index(sequence(oid(1, 2, 840, 10045, 4, 3, 3))) + 14
    for at in range(len(response)):
        for bit in (at % 8, (at + 3) % 8):
            flipped = bytearray(response)
            flipped[at] ^= 1 << bit
            try:
                ends = checked(bytes(flipped))
            except (CollateralRejected, CollateralMissing, CertificateRevoked):
                continue
            assert (ends, at) == (NOW + DAY, unused)


def test_every_truncation_is_refused() -> None:
    response = answer()
    for length in range(len(response)):
        with pytest.raises(CollateralRejected):
            ocsp_facts(response[:length])


@pytest.mark.parametrize(
    "data",
    [b"", b"\x30\x03\x0a\x01\x06", b"no", bytes(8193)],
    ids=["empty", "unauthorised", "text", "large"],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(CollateralRejected):
        ocsp_facts(data)


def held(*documents: Document) -> HeldCollateral:
    return HeldCollateral((), documents)


def document(data: bytes, until: Instant) -> Document:
    return Document("nvidia-ocsp", ocsp_name(certificate(BROM)), data, until)


def test_the_store_s_own_end_counts_too() -> None:
    until = Instant(NOW + 5000)
    store = held(document(answer(), until))
    pair = certificate(BROM), certificate(ICA)
    assert check_not_revoked(*pair, store, now=LATER) == until
    with pytest.raises(CollateralNotCurrent):
        check_not_revoked(*pair, store, now=until)
    with pytest.raises(CollateralMissing) as caught:
        check_not_revoked(*pair, held(), now=LATER)
    assert type(caught.value) is CollateralMissing
