"""Replay of RA-TLS cases: what a certificate carries, whether it speaks of its key, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from leasehold.attest.certificate import read_certificates
from leasehold.attest.collateral import CollateralStore, HeldCollateral
from leasehold.attest.intel.pcs import parse_collateral
from leasehold.attest.ratls import reader
from leasehold.attest.ratls.binding import (
    HASHES,
    binding_of,
    check_key_binding,
    claimed_report_data,
    observe,
)
from leasehold.attest.ratls.reader import RaTls, RaTlsScheme
from leasehold.attest.reference import Simulated
from leasehold.errors import CollateralMissing, LeaseholdError
from tools.evidence import intel
from tools.evidence.common import Check, compare, instant, judge

# Extensions that are recorded with a remark.
_EXTENSIONS: Final[Mapping[str, str]] = {
    "0.6.9.42.840.113741.1337.6 (malformed legacy OID, as DER really has it)": "0.6.9.42.840.113741.1337.6",
    "1.2.840.113741.1.13.1 (bare quote)": "1.2.840.113741.1.13.1",
    "1.3.6.1.5.5.7.1.35 (id-pe-cmw)": "1.3.6.1.5.5.7.1.35",
}

# Where the recorded sentence says which scheme's rule holds; `check_binding` tries the rule itself.
_RULES: Final[Mapping[str, tuple[RaTlsScheme, ...]]] = {
    "SHA-256 of the claims buffer (DICE) / SHA-256 of the DER SubjectPublicKeyInfo (legacy quote)": (
        RaTlsScheme.GRAMINE_LEGACY,
        RaTlsScheme.DICE,
    ),
    "SHA-256 of the CBOR claims buffer; claims: pubkey-hash = CBOR [1, SHA-256(DER SPKI)]": (
        RaTlsScheme.INTEL_SDK,
        RaTlsScheme.DICE,
    ),
    "SHA-256 of the PKCS#1 RSAPublicKey DER (not of the SPKI)": (RaTlsScheme.LEGACY,),
    "not a TEE quote: parser vector for the wrapper": (RaTlsScheme.CMW,),
}


def replay(case: Path, expected: Mapping[str, Any]) -> Iterator[Check]:
    """Every check of one case."""
    data = (case / "cert.der").read_bytes()
    found = reader.read(data)
    known: dict[str, Callable[[Any], Check]] = {
        "binding": lambda value: check_binding(found, value),
        "pubkey_hash_matches_certificate_key": lambda value: _fact(
            "pubkey_hash", value, _is_key_named(found)
        ),
        "quote": lambda value: check_quote(case, found, value),
        "quote_offset_in_der": lambda value: _fact(
            "quote_offset_in_der", value, data.find(found.evidence[0].quote)
        ),
        "cryptography_50_parses_certificate": lambda value: _fact(
            "cryptography", value, not _library_error(data)
        ),
        "cryptography_error": lambda value: _fact("cryptography", value, _library_error(data)),
    }
    for part, value in expected.items():
        if part == "verdicts":
            for verdict in value:
                yield check_verdict(case, found, verdict)
        elif part in known:
            yield known[part](value)
        else:
            yield Check(part, ("recorded, and nothing compares it",))


def _fact(what: str, expected: object, got: object) -> Check:
    return compare(what, {what: expected}, {what: got})


def check_binding(found: RaTls, expected: Mapping[str, Any]) -> Check:
    """Schemes, extensions, and the rule by which the evidence speaks of the certificate's key."""
    schemes = tuple(dict.fromkeys(one.scheme for one in found.evidence))
    told: dict[str, Any] = {
        # The SDK's bare quote follows the DICE extension's rule and has no name of its own.
        "scheme": " + ".join(sorted(set(schemes) - {RaTlsScheme.INTEL_SDK})),
        "extensions": list(dict.fromkeys(one.extension for one in found.evidence)),
        "report_data": [*schemes] if _follow_rules(found) else "the rule does not hold",
    }
    tags = {one.form for one in found.evidence if one.scheme is RaTlsScheme.DICE}
    if len(tags) == 1:
        told["cbor_tag"] = int(tags.pop().removeprefix("CBOR tag "))
    recorded = dict(expected)
    recorded["extensions"] = [_EXTENSIONS.get(text, text) for text in expected["extensions"]]
    rule = _RULES.get(expected["report_data"])
    recorded["report_data"] = expected["report_data"] if rule is None else [*rule]
    return compare("binding", recorded, told)


def _follow_rules(found: RaTls) -> bool:
    """Whether every piece of evidence follows its scheme's rule; a wrapper has none, and no quote."""
    for one in found.evidence:
        if one.scheme is RaTlsScheme.CMW:
            if one.platform:
                return False
            continue
        try:
            check_key_binding(found.certificate, one, claimed_report_data(one))
        except LeaseholdError:
            return False
    return True


def _is_key_named(found: RaTls) -> bool:
    """Whether the claims of every DICE evidence name the certificate's key."""
    dice = [one for one in found.evidence if one.claims is not None]
    try:
        for one in dice:
            binding_of(found.certificate, one)
    except LeaseholdError:
        return False
    return bool(dice) and {one.claims.algorithm for one in dice if one.claims} <= set(HASHES)


def check_quote(case: Path, found: RaTls, expected: Mapping[str, Any]) -> Check:
    """The first quote is, byte for byte, the recorded one, and our parsers read its fields."""
    if found.evidence[0].quote != (case / "quote.bin").read_bytes():
        return Check("quote", ("the certificate's quote is not quote.bin",))
    return intel.check_parse(case, expected)


def check_verdict(case: Path, found: RaTls, expected: Mapping[str, Any]) -> Check:
    """The verdict on all evidence of a certificate together."""
    return judge(
        f"cert.der at {expected.get('at', 'the start of its validity')}",
        expected,
        lambda: _observe(case, found, expected),
        ignored=frozenset({"at", "collateral", "trust_anchor"}),
    )


def _observe(case: Path, found: RaTls, expected: Mapping[str, Any]) -> dict[str, Any]:
    now = instant(expected["at"]) if "at" in expected else found.certificate.starts
    simulated = None
    if "trust_anchor" in expected:
        pem = (case / expected["trust_anchor"]).read_bytes()
        simulated = Simulated(read_certificates(pem, count_max=1)[0].sha256)
    store: CollateralStore = HeldCollateral(())
    if "collateral" in expected:
        store = intel.OnlyOne(parse_collateral((case / expected["collateral"]).read_bytes()))
    seen = [observe(found, one, store, simulated=simulated, now=now) for one in found.evidence]
    if not seen:
        raise CollateralMissing(about=case.name)
    return {
        "outcome": "verified",
        "tcb_status": seen[0].tcb_status.value,
        "advisory_ids": list(seen[0].advisories),
    }


def _library_error(der: bytes) -> str:
    """What `cryptography` says of a certificate that it refuses; empty where it reads it."""
    try:
        x509.load_der_x509_certificate(der)
    except ValueError as error:
        return str(error)
    return ""
