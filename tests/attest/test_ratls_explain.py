"""What a person reads about an RA-TLS certificate."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.attest.describe import Description
from leasehold.attest.ratls.explain import recognise
from leasehold.core.crypto import TlsKey, sha256
from leasehold.errors import BadEvidence
from leasehold_simtee.ratls import (
    CMW,
    DICE,
    ENDORSEMENTS,
    GRAMINE,
    INTEL,
    LEGACY,
    SubjectKey,
    bare,
    cbor,
    certificate,
    claims,
    dice,
    spki,
)
from leasehold_simtee.tpm import rsa_key

from .bench import Bench, seeded

EC = TlsKey.make(seeded("subject")).private


def explained(bench: Bench, key: SubjectKey, extensions: dict[bytes, bytes], **more: bool) -> str:
    description = recognise(certificate(key, extensions, **more))  # type: ignore[arg-type]
    return lines(description)


def lines(description: Description | None) -> str:
    assert description is not None
    return "\n".join(
        f"{section.title}: {field.name}: {field.value}: {field.meaning}"
        for section in description.sections
        for field in section.fields
    )


def attest(bench: Bench):  # type: ignore[no-untyped-def]
    return lambda data: bench.machine.attester(bench.enclave).attest(data).quote


def test_every_piece_of_evidence_is_listed_with_whether_it_speaks_of_the_key(bench: Bench) -> None:
    other = TlsKey.make(seeded("another")).private
    text = explained(
        bench,
        EC,
        {
            GRAMINE: bare(attest(bench), other, over_spki=True),
            DICE: dice(attest(bench), claims(EC, nonce=b"\x01\x02")),
            ENDORSEMENTS: b"mine",
            CMW: b"\x04\x05" + cbor([30001, b""]),
        },
        null_parameters=True,
    )
    assert "Evidence 1: scheme: gramine-legacy" in text
    assert "Evidence 1: speaks of this key: no: DO NOT TRUST" in text
    assert "Evidence 2: scheme: dice-tagged-evidence" in text
    assert "Evidence 2: extension: 2.23.133.5.4.9: CBOR tag 60000" in text
    assert f"Evidence 2: claim pubkey-hash: {sha256(spki(EC)).hex()}" in text
    assert "Evidence 2: claim nonce: 0102" in text
    assert "Evidence 2: speaks of this key: yes" in text
    assert "Evidence 3: platform: none" in text
    assert "Evidence 3: speaks of this key: unknown" in text
    assert "Endorsements: 2.23.133.5.4.2: 4 bytes: collateral that the peer offers" in text
    assert "signature: ECDSA_SHA256: by its own key" in text


def test_sha_1_and_other_people_s_signatures_are_called_by_their_name(bench: Bench) -> None:
    key = rsa_key()
    quote = bare(attest(bench), key, over_spki=False)
    assert "SHA-1: proves nothing" in explained(bench, key, {LEGACY: quote}, sha1=True)
    broken = bytearray(certificate(key, {LEGACY: quote}))
    broken[-1] ^= 1
    assert "not by its own key" in lines(recognise(bytes(broken)))


def test_only_certificates_with_evidence_are_recognised(bench: Bench) -> None:
    for data in (
        b"",
        b"\x30\x00",
        spki(EC),
        certificate(EC, {}),
        certificate(EC, {INTEL: b"\x30\x00"}),
        certificate(EC, {ENDORSEMENTS: b"x"}),
        bench.evidence.quote,
    ):
        assert recognise(data) is None


def test_malformed_evidence_is_refused(bench: Bench) -> None:
    for value in (b"", cbor([b"quote", b"claims"])):
        with pytest.raises(BadEvidence):
            recognise(certificate(EC, {DICE: value}))


@settings(max_examples=100, deadline=None)
@given(value=st.binary(max_size=100), oid=st.sampled_from([DICE, GRAMINE, LEGACY, INTEL, CMW]))
def test_any_extension_is_explained_or_refused(value: bytes, oid: bytes) -> None:
    try:
        recognise(certificate(EC, {oid: value}))
    except BadEvidence:
        return
