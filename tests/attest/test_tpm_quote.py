"""The TPM parsers: every length is checked, every field is where the layout says, one key signed it all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.attest.signatures import Scheme, ecdsa_der
from leasehold.attest.tpm.quote import (
    ATTEST_BYTES_MAX,
    SIGNATURE_BYTES_MAX,
    Selection,
    check_form,
    check_pcrs,
    check_signed,
    parse_attest,
    parse_signature,
)
from leasehold.core.crypto import TlsKey
from leasehold.errors import BadEvidence, LeaseholdError, QuoteForged, UnsupportedEvidence
from leasehold_simtee.tpm import FIRMWARE, SimulatedTpm, honest_pcrs, rsa_key, selection

from .bench import seeded

RSA = SimulatedTpm(rsa_key())
EC = SimulatedTpm(TlsKey.make(seeded("attestation key")).private)
NONCE = bytes(range(32))
ATTEST = RSA.attest(NONCE)
SIZED_AT = 4 + 2 + 2 + 34  # extraData's size
SELECT_AT = SIZED_AT + 2 + 32 + 8 + 4 + 4 + 1 + 8


def refused(error: type[LeaseholdError], run: object, *args: object) -> str:
    """The message of a refusal that must be of exactly this class."""
    assert callable(run)
    with pytest.raises(LeaseholdError) as caught:
        run(*args)
    assert type(caught.value) is error, caught.value
    return str(caught.value)


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


# TPMS_ATTEST ---------------------------------------------------------------------------------------


def test_every_field_of_a_quote_is_found() -> None:
    attest = parse_attest(ATTEST)
    assert attest.qualified_signer[:2] == b"\x00\x0b"
    assert attest.extra_data == NONCE
    assert (attest.clock, attest.reset_count, attest.restart_count) == (3_513_262, 2, 0)
    assert attest.safe
    assert attest.firmware_version == FIRMWARE
    assert attest.selections == (Selection(0x000B, tuple(range(24))),)
    assert attest.selections[0].bank_name == "sha256"
    assert attest.data == ATTEST


def test_registers_are_bits_of_octets_in_order() -> None:
    data = RSA.attest(NONCE, selections=(selection((0, 7, 8, 23)), selection((), bank=0x0004)))
    first, second = parse_attest(data).selections
    assert first.pcrs == (0, 7, 8, 23)
    assert (second.bank_name, second.pcrs) == ("sha1", ())
    assert Selection(0x27, ()).bank_name == "0x27"


@pytest.mark.parametrize("size", range(len(ATTEST)))
def test_every_truncation_of_a_quote_is_refused(size: int) -> None:
    refused(BadEvidence, parse_attest, ATTEST[:size])


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0, b"\xff\x54\x43\x48", BadEvidence),
        (4, b"\x80\x17", UnsupportedEvidence),  # certify, not quote
        (6, b"\xff\xff", BadEvidence),
        (SIZED_AT, b"\xff\xff", BadEvidence),
        (SELECT_AT - 9, b"\x02", BadEvidence),  # safe is yes or no
        (SELECT_AT, b"\xff\xff\xff\xff", BadEvidence),
        (SELECT_AT, b"\x00\x00\x00\x11", BadEvidence),
        (SELECT_AT, b"\x00\x00\x00\x02", BadEvidence),
        (SELECT_AT + 6, b"\x05", BadEvidence),
        (SELECT_AT + 6, b"\xff", BadEvidence),
    ],
)
def test_fields_and_lengths_that_do_not_fit_are_refused(
    at: int, value: bytes, error: type[LeaseholdError]
) -> None:
    refused(error, parse_attest, changed(ATTEST, at, value))


def test_nothing_comes_after_a_quote() -> None:
    assert "1 bytes more" in refused(BadEvidence, parse_attest, ATTEST + b"\0")
    refused(BadEvidence, parse_attest, ATTEST.ljust(ATTEST_BYTES_MAX + 1, b"\0"))


# TPMT_SIGNATURE ------------------------------------------------------------------------------------


def test_both_kinds_of_key_sign_in_both_forms() -> None:
    for tpm, scheme in ((RSA, Scheme.RSA_SHA256), (EC, Scheme.ECDSA_SHA256)):
        data = tpm.attest(NONCE)
        signature = parse_signature(tpm.sign(data))
        assert signature.scheme is scheme
        check_signed(parse_attest(data), signature, tpm.spki)
    bare = parse_signature(RSA.sign(ATTEST)[6:])
    assert bare == parse_signature(RSA.sign(ATTEST))


@pytest.mark.parametrize(
    ("name", "number", "digest"),
    [("sha384", 0x000C, hashes.SHA384()), ("sha512", 0x000D, hashes.SHA512())],
)
def test_the_digest_is_of_the_signature_s_hash(
    name: str, number: int, digest: hashes.HashAlgorithm
) -> None:
    for tpm in (RSA, EC):
        data = tpm.attest(NONCE, hash_name=name)
        attest, signature = (
            parse_attest(data),
            parse_signature(tpm.sign(data, digest=digest, number=number)),
        )
        check_signed(attest, signature, tpm.spki)
        assert check_pcrs(attest, signature, tpm.values) == tpm.pcrs
        with_sha256 = parse_attest(tpm.attest(NONCE))
        refused(QuoteForged, check_pcrs, with_sha256, signature, tpm.values)


@pytest.mark.parametrize("tpm", [RSA, EC], ids=["RSA", "ECDSA"])
def test_every_truncation_of_a_signature_is_refused(tpm: SimulatedTpm) -> None:
    signature = tpm.sign(ATTEST)
    for size in range(len(signature)):
        if size == 256:  # a bare RSA number has this size; it then does not fit
            cut = parse_signature(signature[:size])
            refused(QuoteForged, check_signed, parse_attest(ATTEST), cut, tpm.spki)
            continue
        with pytest.raises(BadEvidence):
            parse_signature(signature[:size])


@pytest.mark.parametrize(
    ("start", "error"),
    [
        ("00140004", UnsupportedEvidence),  # SHA-1
        ("00180004", UnsupportedEvidence),
        ("0016000b", UnsupportedEvidence),  # RSAPSS
        ("0005000b", UnsupportedEvidence),  # HMAC
        ("0010000b", UnsupportedEvidence),  # null
    ],
)
def test_other_algorithms_are_refused(start: str, error: type[LeaseholdError]) -> None:
    refused(error, parse_signature, bytes.fromhex(start) + RSA.sign(ATTEST)[4:])


def test_no_signature_and_a_huge_one_are_refused() -> None:
    refused(BadEvidence, parse_signature, b"")
    refused(BadEvidence, parse_signature, bytes(SIGNATURE_BYTES_MAX + 1))
    refused(BadEvidence, parse_signature, RSA.sign(ATTEST) + b"\0")


def test_numbers_of_any_size_are_no_signature() -> None:
    for r, s in ((b"", b""), (b"\x00", b"\x00"), (b"\xff" * 400, b"\xff" * 400)):
        parts = bytes.fromhex("0018000b") + b"".join(
            len(part).to_bytes(2, "big") + part for part in (r, s)
        )
        refused(QuoteForged, check_signed, parse_attest(ATTEST), parse_signature(parts), EC.spki)


@pytest.mark.parametrize("tpm", [RSA, EC], ids=["RSA", "ECDSA"])
def test_every_flipped_bit_of_a_quote_is_refused(tpm: SimulatedTpm) -> None:
    data = tpm.attest(NONCE)
    signature = parse_signature(tpm.sign(data))
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((BadEvidence, QuoteForged)):
            check_signed(parse_attest(bytes(flipped)), signature, tpm.spki)


def test_every_flipped_bit_of_a_signature_is_refused() -> None:
    attest, signature = parse_attest(EC.attest(NONCE)), EC.sign(EC.attest(NONCE))
    for bit in range(8 * len(signature)):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((BadEvidence, QuoteForged)):
            check_signed(attest, parse_signature(bytes(flipped)), EC.spki)


def test_another_key_s_signature_is_refused() -> None:
    other = SimulatedTpm(TlsKey.make(seeded("another")).private)
    attest = parse_attest(EC.attest(NONCE))
    refused(QuoteForged, check_signed, attest, parse_signature(other.sign(attest.data)), EC.spki)
    refused(QuoteForged, check_signed, attest, parse_signature(RSA.sign(attest.data)), EC.spki)
    refused(QuoteForged, check_signed, attest, parse_signature(EC.sign(attest.data)), b"no key")


# Registers -----------------------------------------------------------------------------------------


def checked(data: bytes, values: bytes) -> dict[int, bytes]:
    return check_pcrs(parse_attest(data), parse_signature(RSA.sign(data)), values)


def test_values_are_given_by_index() -> None:
    some = replace(RSA, pcrs={pcr: value for pcr, value in honest_pcrs().items() if pcr in (3, 11)})
    found = checked(some.attest(NONCE), some.values)
    assert found == {3: honest_pcrs()[3], 11: honest_pcrs()[11]}


def test_values_in_another_order_or_number_are_refused() -> None:
    values = RSA.values
    refused(QuoteForged, checked, ATTEST, values[32:] + values[:32])
    refused(BadEvidence, checked, ATTEST, values[32:])
    refused(BadEvidence, checked, ATTEST, values + bytes(32))
    refused(BadEvidence, checked, ATTEST, b"")


def test_an_empty_nonce_is_refused() -> None:
    assert "nonce" in refused(BadEvidence, checked, RSA.attest(b""), RSA.values)


@pytest.mark.parametrize(
    "selections",
    [
        (),
        (selection((0, 1), bank=0x0004),),
        (selection((0, 1), bank=0x000C),),
        (selection((0, 1)), selection((0,), bank=0x0004)),
        (selection((0, 1)), selection((2,))),
    ],
    ids=["none", "SHA-1", "SHA-384", "SHA-1 as well", "twice"],
)
def test_other_banks_are_refused(selections: tuple[bytes, ...]) -> None:
    refused(UnsupportedEvidence, check_form, parse_attest(RSA.attest(NONCE, selections=selections)))


@pytest.mark.parametrize("pcrs", [(), (24,), (0, 31)])
def test_a_quote_covers_registers_that_exist(pcrs: tuple[int, ...]) -> None:
    selections = (selection(pcrs, size=4),)
    refused(BadEvidence, check_form, parse_attest(RSA.attest(NONCE, selections=selections)))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), at=st.integers(0, len(ATTEST)))
def test_any_bytes_are_parsed_or_refused(data: bytes, at: int) -> None:
    for candidate in (data, ATTEST[:at] + data, ATTEST[:at] + data + ATTEST[at:]):
        for parse in (parse_attest, parse_signature):
            try:
                parse(candidate)
            except BadEvidence:
                continue


def test_the_signature_s_two_numbers_are_its_der() -> None:
    signature = EC.sign(ATTEST)
    r, s = (int.from_bytes(part, "big") for part in (signature[6:38], signature[40:]))
    assert parse_signature(signature).data == ecdsa_der(r, s)
