"""RA-TLS certificates of every kind: what is in them is found, and speaks of their key or is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.attest.certificate import read_certificate
from leasehold.attest.collateral import HeldCollateral
from leasehold.attest.ratls.binding import (
    binding_of,
    check_key_binding,
    claimed_report_data,
    is_self_signed,
    observe,
)
from leasehold.attest.ratls.reader import (
    Carried,
    RaTls,
    RaTlsScheme,
    carries_evidence,
    dotted,
    platform_of,
    read,
)
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import Appraisal, Trust
from leasehold.core.crypto import TlsKey, sha256
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    CollateralMissing,
    DebugEnclave,
    LeaseholdError,
    QuoteForged,
    UnsupportedEvidence,
    WrongBinding,
)
from leasehold_simtee.quote import Enclave
from leasehold_simtee.ratls import (
    CMW,
    COSMIAN_SNP,
    COSMIAN_TDX,
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
    key_bits,
    spki,
    tagged,
)
from leasehold_simtee.tpm import rsa_key

from .bench import NOW, Bench, seeded

EC = TlsKey.make(seeded("subject")).private
P384 = ec.derive_private_key(int.from_bytes(seeded("P-384")(40), "big"), ec.SECP384R1())
RSA = rsa_key()
OTHER = TlsKey.make(seeded("another subject")).private
KEYS: list[SubjectKey] = [EC, P384, RSA]
NAMES = ["P-256", "P-384", "RSA"]

Attest = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def attest(bench: Bench) -> Attest:
    return lambda data: bench.machine.attester(bench.enclave).attest(data).quote


def seen(bench: Bench, found: RaTls, one: Carried, *, now: Instant = NOW) -> Appraisal:
    simulated = Simulated(bench.machine.root_sha256)
    return observe(found, one, bench.collateral, simulated=simulated, now=now)


def refused(
    error: type[LeaseholdError], run: Callable[..., object], *args: object, **more: object
) -> str:
    """The message of a refusal that must be of exactly this class."""
    with pytest.raises(LeaseholdError) as caught:
        run(*args, **more)
    assert type(caught.value) is error, caught.value
    return str(caught.value)


# Each scheme ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS, ids=NAMES)
def test_dice_tagged_evidence_speaks_of_its_key(
    bench: Bench, attest: Attest, key: SubjectKey
) -> None:
    found = read(certificate(key, {DICE: dice(attest, claims(key))}))
    (one,) = found.evidence
    assert (one.scheme, one.extension) == (RaTlsScheme.DICE, "2.23.133.5.4.9")
    assert (one.form, one.platform) == ("CBOR tag 60000", "sgx")
    assert one.claims is not None
    assert one.claims.key_hash == sha256(spki(key))
    assert one.claims.nonce is None
    appraisal = seen(bench, found, one)
    assert appraisal.trust is Trust.SIMULATION
    assert appraisal.report_data == sha256(claims(key)) + bytes(32)


@pytest.mark.parametrize(("algorithm", "name"), [(1, "sha256"), (7, "sha384"), (8, "sha512")])
def test_the_claims_name_the_key_by_any_of_three_hashes(
    bench: Bench, attest: Attest, algorithm: int, name: str
) -> None:
    buffer = claims(EC, algorithm=algorithm, hash_name=name, nonce=b"a nonce")
    found = read(certificate(EC, {DICE: dice(attest, buffer)}))
    assert found.evidence[0].claims is not None
    assert found.evidence[0].claims.nonce == b"a nonce"
    assert seen(bench, found, found.evidence[0]).report_data[:32] == sha256(buffer)


def test_a_gramine_certificate_holds_two_quotes(bench: Bench, attest: Attest) -> None:
    extensions = {
        GRAMINE: bare(attest, P384, over_spki=True),
        DICE: dice(attest, claims(P384)),
    }
    found = read(certificate(P384, extensions, null_parameters=True))
    legacy, modern = found.evidence
    assert (legacy.scheme, legacy.form) == (RaTlsScheme.GRAMINE_LEGACY, "bare")
    assert legacy.extension == "0.6.9.42.840.113741.1337.6"
    assert modern.scheme is RaTlsScheme.DICE
    assert legacy.quote != modern.quote
    assert is_self_signed(found.certificate)
    for one in found.evidence:
        seen(bench, found, one)


@pytest.mark.parametrize("key", KEYS, ids=NAMES)
def test_the_old_extension_hashes_the_bare_key(
    bench: Bench, attest: Attest, key: SubjectKey
) -> None:
    found = read(certificate(key, {LEGACY: bare(attest, key, over_spki=False)}))
    (one,) = found.evidence
    assert (one.scheme, one.extension) == (RaTlsScheme.LEGACY, "1.2.840.113741.1337.6")
    assert seen(bench, found, one).report_data[:32] == sha256(key_bits(key))


def test_an_old_certificate_signed_with_sha_1_is_read(bench: Bench, attest: Attest) -> None:
    der = certificate(RSA, {LEGACY: bare(attest, RSA, over_spki=False)}, sha1=True)
    found = read(der)
    assert not is_self_signed(found.certificate)
    seen(bench, found, found.evidence[0])


def test_cosmian_lets_applications_add_32_bytes_and_nobody_else_does(
    bench: Bench, attest: Attest
) -> None:
    extra = b"an application's own identifier."
    found = read(certificate(EC, {LEGACY: bare(attest, EC, over_spki=False, extra=extra)}))
    assert seen(bench, found, found.evidence[0]).report_data[32:] == extra
    for key, extensions in (
        (RSA, {LEGACY: bare(attest, RSA, over_spki=False, extra=extra)}),
        (EC, {GRAMINE: bare(attest, EC, over_spki=True, extra=extra)}),
    ):
        found = read(certificate(key, extensions))
        refused(WrongBinding, seen, bench, found, found.evidence[0])


def test_cosmian_has_extensions_for_each_platform(attest: Attest) -> None:
    snp = (2).to_bytes(4, "little").ljust(0x50, b"\0") + sha256(key_bits(EC)) + bytes(32)
    found = read(
        certificate(EC, {COSMIAN_SNP: snp.ljust(1184, b"\0"), COSMIAN_TDX: b"no TD quote"})
    )
    first, second = found.evidence
    assert (first.scheme, first.platform) == (RaTlsScheme.COSMIAN, "snp")
    assert first.extension == "1.2.840.113741.1337.7"
    assert (second.extension, second.platform) == ("1.2.840.113741.1337.8", "")
    check_key_binding(found.certificate, first, claimed_report_data(first))


def test_intel_s_sdk_puts_the_quote_where_pck_certificates_have_a_sequence(
    bench: Bench, attest: Attest
) -> None:
    buffer = claims(EC)
    quote = attest(sha256(buffer) + bytes(32))
    found = read(certificate(EC, {INTEL: quote, DICE: tagged(60000, [quote, buffer])}))
    sdk, modern = found.evidence
    assert (sdk.scheme, modern.scheme) == (RaTlsScheme.INTEL_SDK, RaTlsScheme.DICE)
    assert sdk.quote == modern.quote
    assert sdk.claims == modern.claims
    assert seen(bench, found, sdk) == seen(bench, found, modern)


def test_a_pck_certificate_carries_no_evidence(bench: Bench) -> None:
    pck = read_certificate(certificate(EC, {INTEL: b"\x30\x00"}))
    assert not carries_evidence(pck)
    refused(UnsupportedEvidence, read, pck.der)


def test_intel_s_quote_alone_says_nothing_of_the_key(bench: Bench, attest: Attest) -> None:
    found = read(certificate(EC, {INTEL: bare(attest, EC, over_spki=True)}))
    refused(WrongBinding, seen, bench, found, found.evidence[0])


def test_endorsements_are_kept_apart(attest: Attest) -> None:
    der = certificate(EC, {ENDORSEMENTS: b"my own", DICE: dice(attest, claims(EC))})
    assert read(der).endorsements == b"my own"
    assert len(read(der).evidence) == 1


def test_a_certificate_without_evidence_is_refused(bench: Bench) -> None:
    refused(UnsupportedEvidence, read, certificate(EC, {}))
    refused(UnsupportedEvidence, read, certificate(EC, {ENDORSEMENTS: b"x"}))


# the key --------------------------------------------------------------------------------------


def test_evidence_for_another_key_is_refused(bench: Bench, attest: Attest) -> None:
    for extensions in (
        {DICE: dice(attest, claims(OTHER))},
        {GRAMINE: bare(attest, OTHER, over_spki=True)},
        {LEGACY: bare(attest, OTHER, over_spki=False)},
        {GRAMINE: bare(attest, EC, over_spki=False)},
        {LEGACY: bare(attest, EC, over_spki=True)},
    ):
        found = read(certificate(EC, extensions))
        refused(WrongBinding, seen, bench, found, found.evidence[0])


def test_a_quote_over_other_claims_is_refused(bench: Bench, attest: Attest) -> None:
    quote = attest(sha256(claims(EC)) + bytes(32))
    later = claims(EC, nonce=b"added afterwards")
    found = read(certificate(EC, {DICE: tagged(60000, [quote, later])}))
    refused(WrongBinding, seen, bench, found, found.evidence[0])


def test_another_hash_of_the_key_is_refused(bench: Bench, attest: Attest) -> None:
    for algorithm, name, error in (
        (7, "sha256", WrongBinding),
        (1, "sha384", WrongBinding),
        (2, "sha256", UnsupportedEvidence),  # SHA-256, cut to 128 bits
    ):
        buffer = claims(EC, algorithm=algorithm, hash_name=name)
        found = read(certificate(EC, {DICE: dice(attest, buffer)}))
        refused(error, seen, bench, found, found.evidence[0])


def test_the_binding_is_told_before_anything_is_verified(attest: Attest) -> None:
    found = read(certificate(EC, {GRAMINE: bare(attest, EC, over_spki=True)}))
    one = found.evidence[0]
    assert binding_of(found.certificate, one) == (sha256(spki(EC)), False)
    assert claimed_report_data(one) == sha256(spki(EC)) + bytes(32)
    refused(WrongBinding, check_key_binding, found.certificate, one, bytes(64))


# verification ---------------------------------------------------------------------------------


def test_a_debug_enclave_is_refused_before_collateral_is_looked_for(bench: Bench) -> None:
    debug = Enclave(bench.enclave.mr_enclave, flags=0x07)
    quoted = bench.machine.attester(debug)
    der = certificate(EC, {DICE: dice(lambda data: quoted.attest(data).quote, claims(EC))})
    found = read(der)
    nothing = replace(bench, collateral=HeldCollateral(()))
    refused(DebugEnclave, seen, nothing, found, found.evidence[0])


def test_the_quote_itself_is_verified(bench: Bench, attest: Attest) -> None:
    buffer = claims(EC)
    quote = bytearray(attest(sha256(buffer) + bytes(32)))
    found = read(certificate(EC, {DICE: tagged(60000, [bytes(quote), buffer])}))
    nothing = replace(bench, collateral=HeldCollateral(()))
    refused(CollateralMissing, seen, nothing, found, found.evidence[0])
    quote[48] ^= 1
    forged = read(certificate(EC, {DICE: tagged(60000, [bytes(quote), buffer])}))
    refused(QuoteForged, seen, bench, forged, forged.evidence[0])


def test_the_certificate_is_valid_now(bench: Bench, attest: Attest) -> None:
    extensions = {DICE: dice(attest, claims(EC))}
    for times in ({"ends": "260601000000Z"}, {"starts": "280101000000Z"}):
        found = read(certificate(EC, extensions, **times))
        refused(CertificateRejected, seen, bench, found, found.evidence[0])


@pytest.mark.parametrize(("tag", "size", "at"), [(60001, 1024, 128), (60002, 432, 320)])
def test_local_reports_are_shown_and_not_verified(
    bench: Bench, tag: int, size: int, at: int
) -> None:
    buffer = claims(EC)
    data = sha256(buffer) + bytes(32)
    body = (bytes(at) + data).ljust(size, b"\0")
    found = read(certificate(EC, {DICE: tagged(tag, [body, buffer])}))
    (one,) = found.evidence
    assert (one.form, one.platform) == (f"CBOR tag {tag}", "")
    check_key_binding(found.certificate, one, claimed_report_data(one))
    refused(UnsupportedEvidence, seen, bench, found, one)
    short = read(certificate(EC, {DICE: tagged(tag, [body[:100], buffer])}))
    refused(BadEvidence, claimed_report_data, short.evidence[0])


def test_wrapped_messages_are_bound_to_nothing(bench: Bench, attest: Attest) -> None:
    quote = attest(sha256(spki(EC)) + bytes(32))
    wrapped = cbor(["application/octet-stream", quote, 4])
    value = b"\x04\x82" + len(wrapped).to_bytes(2, "big") + wrapped
    found = read(certificate(EC, {CMW: value}))
    (one,) = found.evidence
    assert (one.scheme, one.platform) == (RaTlsScheme.CMW, "sgx")
    assert one.form == "application/octet-stream"
    refused(WrongBinding, seen, bench, found, one)


# Form ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"", BadEvidence),
        (cbor([b"quote", b"claims"]), UnsupportedEvidence),
        (tagged(1702, [b"quote", cbor({})]), UnsupportedEvidence),
        (tagged(60003, [b"quote", cbor({})]), UnsupportedEvidence),
        (tagged(60000, b"quote"), BadEvidence),
        (tagged(60000, [b"quote"]), BadEvidence),
        (tagged(60000, [b"quote", claims(EC), b""]), BadEvidence),
        (tagged(60000, ["quote", claims(EC)]), BadEvidence),
        (tagged(60000, [b"quote", "claims"]), BadEvidence),
        (tagged(60000, [b"quote", b""]), BadEvidence),
        (tagged(60000, [b"quote", cbor([])]), BadEvidence),
        (tagged(60000, [b"quote", cbor({})]), BadEvidence),
        (tagged(60000, [b"quote", cbor({"pubkey-hash": "x"})]), BadEvidence),
        (tagged(60000, [b"quote", cbor({"pubkey-hash": b""})]), BadEvidence),
        (tagged(60000, [b"quote", cbor({"pubkey-hash": cbor([1])})]), BadEvidence),
        (tagged(60000, [b"quote", cbor({"pubkey-hash": cbor([True, b"x"])})]), BadEvidence),
        (tagged(60000, [b"quote", cbor({"pubkey-hash": cbor([1, "x"])})]), BadEvidence),
        (
            tagged(60000, [b"quote", cbor({"pubkey-hash": cbor([1, b"x"]), "nonce": 1})]),
            BadEvidence,
        ),
        (
            tagged(60000, [b"quote", cbor({"pubkey-hash": cbor([1, b"x"]), "more": b"m" * 5000})]),
            BadEvidence,
        ),
        (tagged(60000, [b"quote", claims(EC)]) + b"\0", BadEvidence),
    ],
)
def test_malformed_tagged_evidence_is_refused(value: bytes, error: type[LeaseholdError]) -> None:
    refused(error, read, certificate(EC, {DICE: value}))


def test_unknown_claims_are_passed_over(bench: Bench, attest: Attest) -> None:
    entry = cbor([1, sha256(spki(EC))])
    buffer = cbor({"pubkey-hash": entry, "colour": "blue", 7: [1, 2]})
    found = read(certificate(EC, {DICE: dice(attest, buffer)}))
    seen(bench, found, found.evidence[0])


def test_platforms_are_known_by_their_first_fields(attest: Attest) -> None:
    quote = attest(bytes(64))
    assert platform_of(quote) == "sgx"
    td = (4).to_bytes(2, "little") + quote[2:4] + (0x81).to_bytes(4, "little") + quote[8:]
    assert platform_of(td) == "tdx"
    assert platform_of(b"\x06" + quote[1:]) == ""
    assert platform_of(quote[:12] + bytes(16) + quote[28:]) == ""
    assert platform_of((5).to_bytes(4, "little").ljust(1184, b"\0")) == "snp"
    for other in (b"", bytes(1184), (5).to_bytes(4, "little").ljust(1185, b"\0"), quote[:20]):
        assert platform_of(other) == ""


def test_report_data_of_a_version_5_quote_lies_further_back(attest: Attest) -> None:
    quote = b"\x05\x00" + attest(b"r" * 64)[2:]
    shifted = quote[:48] + bytes(6) + quote[48:]
    one = Carried(RaTlsScheme.LEGACY, "", "bare", platform_of(shifted), shifted)
    assert claimed_report_data(one) == b"r" * 64
    refused(BadEvidence, claimed_report_data, replace(one, quote=shifted[:400]))
    refused(UnsupportedEvidence, claimed_report_data, replace(one, platform=""))


@pytest.mark.parametrize(
    ("oid", "text"),
    [
        ("2a864886f84d8a3906", "1.2.840.113741.1337.6"),
        ("678105050409", "2.23.133.5.4.9"),
        ("06092a864886f84d8a3906", "0.6.9.42.840.113741.1337.6"),
        ("883703", "2.999.3"),
        ("", ""),
    ],
)
def test_object_identifiers_in_dots(oid: str, text: str) -> None:
    assert dotted(bytes.fromhex(oid)) == text


def test_truncations_and_flipped_bits_of_a_certificate_are_refused_or_no_longer_self_signed(
    attest: Attest,
) -> None:
    """Everything but the signature itself is under it; what the certificate then says is bound or not."""
    der = certificate(EC, {DICE: dice(attest, claims(EC))})
    for size in (*range(0, len(der), 61), len(der) - 1):
        refused(BadEvidence, read, der[:size])
    for bit in range(0, 8 * len(der), 11):
        flipped = bytearray(der)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = read(bytes(flipped))
        except BadEvidence:
            continue
        assert not is_self_signed(found.certificate)


@settings(max_examples=150, deadline=None)
@given(value=st.binary(max_size=120), oid=st.sampled_from([DICE, GRAMINE, LEGACY, INTEL, CMW]))
def test_any_extension_is_read_or_refused(value: bytes, oid: bytes) -> None:
    try:
        found = read(certificate(EC, {oid: value}))
        for one in found.evidence:
            check_key_binding(found.certificate, one, claimed_report_data(one))
    except (BadEvidence, WrongBinding):
        return
