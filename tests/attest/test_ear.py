"""Attestation results: what they say, and what is refused when they are read."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from leasehold.attest import ear as ears
from leasehold.attest.ear import (
    PROFILE,
    SAYS,
    Tier,
    Vector,
    make_ear,
    public_jwk,
    read_ear,
    sign_ear,
    status_of,
    thumbprint,
    tier_of,
    vector_of,
)
from leasehold.attest.verdict import (
    SIMULATED,
    Appraisal,
    Device,
    Finding,
    FindingCode,
    TcbStatus,
    Trust,
    Verdict,
)
from leasehold.core.crypto import SigningKey
from leasehold.core.units import DAY, SECOND, Instant
from leasehold.errors import BadMessage, BadSignature, EvidenceExpired, LeaseholdError

from .bench import NOW, Bench, seeded

KEY = SigningKey.make(seeded("verifier"))
GPU = Device("nvidia-gpu", "53aa", "GH100", "550.90.07", "96.00.9F.00.01")
NONCE = bytes(range(8))


@pytest.fixture(scope="module")
def simulated(bench: Bench) -> Verdict:
    return bench.verify()


@pytest.fixture(scope="module")
def production(simulated: Verdict) -> Verdict:
    """The same machine, as if it were one."""
    return replace(simulated, trust=Trust.PRODUCTION, findings=())


def appraisal(verdict: Verdict) -> Appraisal:
    """The verdict without what only a verdict has."""
    return Appraisal(
        platform=verdict.platform,
        trust=verdict.trust,
        tcb_status=verdict.tcb_status,
        advisories=verdict.advisories,
        measurements=verdict.measurements,
        machine=verdict.machine,
        platform_instance=verdict.platform_instance,
        report_data=verdict.report_data,
        ends=verdict.valid_until,
        findings=verdict.findings,
    )


def by_hand(token: str, public: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, verified as RFC 7515, 5.2 says, with nothing of the product's."""
    header, claims, signature = token.split(".")

    def decode(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    key = Ed25519PublicKey.from_public_bytes(public)
    key.verify(decode(signature), f"{header}.{claims}".encode("ascii"))
    return json.loads(decode(header)), json.loads(decode(claims))


def forge(claims: dict[str, Any], header: dict[str, Any] | None = None) -> str:
    """Any claims under the verifier's true key."""
    told = header or {"alg": "EdDSA", "typ": "eat+jwt"}

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    signed = ".".join(encode(json.dumps(part).encode()) for part in (told, claims))
    return f"{signed}.{encode(KEY.sign(signed.encode()))}"


def refused(error: type[LeaseholdError], token: str, *, now: int = NOW) -> str:
    with pytest.raises(LeaseholdError) as caught:
        read_ear(token, KEY.public, now=Instant(now))
    assert type(caught.value) is error, caught.value
    return str(caught.value)


def test_a_token_is_an_ear_to_others(production: Verdict) -> None:
    whole = replace(production, devices=(GPU,))
    token = sign_ear(make_ear(whole, now=NOW, build="0.1.0", nonce=NONCE), KEY)
    header, claims = by_hand(token, KEY.public)
    assert header == {"alg": "EdDSA", "typ": "eat+jwt", "kid": thumbprint(KEY.public)}
    assert claims["eat_profile"] == "tag:ietf.org,2026:rats/ear#04" == PROFILE
    assert claims["iat"] == NOW // 1000
    assert type(claims["exp"]) is int
    assert claims["exp"] == min(whole.valid_until, NOW + DAY) // 1000
    assert claims["ear_verifier_id"] == {"developer": "Leasehold", "build": "0.1.0"}
    assert claims["eat_nonce"] == "AAECAwQFBgc"
    assert claims["ear_status"] == "affirming"
    assert set(claims["submods"]) == {"sgx", "nvidia-gpu/53aa"}
    enclave = claims["submods"]["sgx"]
    assert enclave["ear_status"] == "affirming"
    assert enclave["ear_trustworthiness_vector"] == {
        "instance-identity": 2,
        "configuration": 2,
        "executables": 3,
        "hardware": 2,
        "runtime-opaque": 2,
    }
    assert enclave["ear_appraisal_policy_ids"] == [f"leasehold-manifest:sha256:{whole.policy}"]
    own = enclave["ear_leasehold_verdict"]
    assert own["measurements"] == dict(whole.measurements)
    assert (own["trust"], own["tcb_status"]) == ("production", "UpToDate")
    assert own["is_bound"] is True
    assert own["report_data"] == whole.report_data.hex()
    assert own["machine"] == whole.machine
    device = claims["submods"]["nvidia-gpu/53aa"]["ear_leasehold_verdict"]["device"]
    assert device == {
        "kind": "nvidia-gpu",
        "identity": "53aa",
        "model": "GH100",
        "driver": "550.90.07",
        "firmware": "96.00.9F.00.01",
    }


def test_what_was_signed_is_read_back(production: Verdict) -> None:
    ear = make_ear(production, now=NOW, build="0.1.0", nonce=NONCE)
    assert read_ear(sign_ear(ear, KEY), KEY.public, now=NOW) == ear


def test_the_key_is_given_to_others_as_rfc_8037_says() -> None:
    """RFC 8037, appendix A: the key of A.1, its thumbprint in A.3."""
    public = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    assert public_jwk(public) == {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
    }


def test_simulation_is_never_affirmed(simulated: Verdict) -> None:
    assert simulated.trust is Trust.SIMULATION
    for found in (simulated, replace(simulated, devices=(GPU,)), appraisal(simulated)):
        ear = make_ear(found, now=NOW, build="x", policy="ab" * 32)
        assert ear.ear_status is Tier.CONTRAINDICATED
        for one in ear.submods.values():
            vector = one.ear_trustworthiness_vector
            assert one.ear_status is Tier.CONTRAINDICATED
            assert (vector.hardware, vector.runtime_opaque) == (97, 96)
            assert Tier.AFFIRMING not in {tier_of(getattr(vector, n)) for n in _aspects()}


def _aspects() -> tuple[str, ...]:
    return Vector.__struct_fields__


def test_without_a_manifest_nothing_is_affirmed_of_what_runs(production: Verdict) -> None:
    ear = make_ear(appraisal(production), now=NOW, build="x")
    one = ear.submods["sgx"]
    assert one.ear_trustworthiness_vector == Vector(executables=1, hardware=2, runtime_opaque=2)
    assert one.ear_appraisal_policy_ids == ()
    assert (ear.ear_status, one.ear_status) == (Tier.NONE, Tier.NONE)
    said = one.ear_leasehold_verdict
    assert said is not None
    assert said.is_bound is False


def test_an_appraisal_by_a_manifest_is_affirmed_and_says_that_it_is_not_bound(
    production: Verdict,
) -> None:
    ear = make_ear(appraisal(production), now=NOW, build="x", policy="ab" * 32, devices=(GPU,))
    assert ear.ear_status is Tier.AFFIRMING
    assert len(ear.submods) == 2
    assert ear.submods["sgx"].ear_appraisal_policy_ids == (
        "leasehold-manifest:sha256:" + "ab" * 32,
    )
    said = ear.submods["sgx"].ear_leasehold_verdict
    assert said is not None
    assert said.is_bound is False


@pytest.mark.parametrize(
    ("status", "hardware"),
    [
        (TcbStatus.UP_TO_DATE, 2),
        (TcbStatus.NOT_JUDGED, 1),
        (TcbStatus.REVOKED, 96),
        *(
            (status, 32)
            for status in TcbStatus
            if status not in (TcbStatus.UP_TO_DATE, TcbStatus.NOT_JUDGED, TcbStatus.REVOKED)
        ),
    ],
)
def test_each_patch_level(status: TcbStatus, hardware: int) -> None:
    vector = vector_of(Trust.PRODUCTION, status, frozenset(), is_judged=True)
    assert vector.hardware == hardware
    assert (status_of(vector) is Tier.AFFIRMING) == (hardware == 2)


EXPECTED: dict[FindingCode, dict[str, int]] = {
    FindingCode.WAIVED: {"hardware": 32},
    FindingCode.ADVISORIES: {"hardware": 32},
    FindingCode.HYPERVISOR_TRUSTED: {"runtime_opaque": 32},
    FindingCode.MASKED_CHIP: {"instance_identity": 1},
    FindingCode.PLATFORM_DEFENCE_OFF: {"configuration": 32},
    FindingCode.MIGRATABLE: {"configuration": 32},
    FindingCode.SIGNER_EXPIRED: {"executables": 32},
    FindingCode.UNSAFE_SETTING: {"configuration": 32},
    FindingCode.DEBUG: {"configuration": 96, "runtime_opaque": 96},
    FindingCode.REVOCATION_UNKNOWN: {"hardware": 1},
    FindingCode.NOT_COMPARED: {"executables": 1},
}


@pytest.mark.parametrize("code", FindingCode)
def test_each_finding_changes_its_own_aspects(code: FindingCode) -> None:
    assert code in SAYS
    plain = vector_of(Trust.PRODUCTION, TcbStatus.UP_TO_DATE, frozenset(), is_judged=True)
    found = vector_of(Trust.PRODUCTION, TcbStatus.UP_TO_DATE, frozenset({code}), is_judged=True)
    differs = {
        name: getattr(found, name)
        for name in _aspects()
        if getattr(found, name) != getattr(plain, name)
    }
    assert differs == EXPECTED.get(code, {})


def test_the_worst_that_was_found_counts() -> None:
    codes = frozenset({FindingCode.MIGRATABLE, FindingCode.DEBUG, FindingCode.REVOCATION_UNKNOWN})
    vector = vector_of(Trust.PRODUCTION, TcbStatus.OUT_OF_DATE, codes, is_judged=True)
    assert (vector.configuration, vector.hardware) == (96, 32)
    assert status_of(vector) is Tier.CONTRAINDICATED


def test_device_findings_reach_the_devices(production: Verdict) -> None:
    finding = Finding(FindingCode.SIGNER_EXPIRED, "expired")
    ear = make_ear(replace(production, devices=(GPU,), findings=(finding,)), now=NOW, build="x")
    assert ear.submods["nvidia-gpu/53aa"].ear_status is Tier.WARNING
    waived = replace(
        production, devices=(GPU,), findings=(Finding(FindingCode.WAIVED, "the processor's"),)
    )
    ear = make_ear(waived, now=NOW, build="x")
    assert ear.submods["nvidia-gpu/53aa"].ear_status is Tier.AFFIRMING
    assert (ear.submods["sgx"].ear_status, ear.ear_status) == (Tier.WARNING, Tier.WARNING)


@pytest.mark.parametrize(
    ("value", "tier"),
    [
        *((value, Tier.NONE) for value in (-1, 0, 1)),
        *((value, Tier.AFFIRMING) for value in (2, 31, -2, -32)),
        *((value, Tier.WARNING) for value in (32, 95, -33, -96)),
        *((value, Tier.CONTRAINDICATED) for value in (96, 127, -97, -128)),
    ],
)
def test_the_tiers_are_the_draft_s(value: int, tier: Tier) -> None:
    assert tier_of(value) is tier


def test_nothing_said_is_nothing_affirmed() -> None:
    assert status_of(Vector()) is Tier.NONE


@pytest.mark.parametrize("size", [0, 7, 65])
def test_nonces_have_the_size_that_eat_gives_them(production: Verdict, size: int) -> None:
    with pytest.raises(BadMessage):
        make_ear(production, now=NOW, build="x", nonce=bytes(size))


# Reading -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token(production: Verdict) -> str:
    return sign_ear(make_ear(production, now=NOW, build="x"), KEY)


@pytest.fixture
def claims(token: str) -> dict[str, Any]:
    return by_hand(token, KEY.public)[1]


def test_another_verifier_s_word_is_not_this_one_s(token: str) -> None:
    other = SigningKey.make(seeded("other")).public
    with pytest.raises(BadSignature):
        read_ear(token, other, now=NOW)


def test_no_octet_can_be_changed(token: str) -> None:
    for at in range(len(token)):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises((BadSignature, BadMessage)):
            read_ear(changed, KEY.public, now=NOW)
    for cut in range(0, len(token), 7):
        with pytest.raises((BadSignature, BadMessage)):
            read_ear(token[:cut], KEY.public, now=NOW)


def test_it_counts_from_when_it_was_issued_until_it_ends(
    token: str, claims: dict[str, Any]
) -> None:
    read_ear(token, KEY.public, now=Instant(NOW - 5 * 60_000))
    refused(EvidenceExpired, token, now=NOW - 5 * 60_000 - 1)
    end = claims["exp"] * SECOND
    read_ear(token, KEY.public, now=Instant(end - 1))
    refused(EvidenceExpired, token, now=end)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "typ": "eat+jwt"},
        {"alg": "HS256", "typ": "eat+jwt"},
        {"alg": "EdDSA", "typ": "JWT"},
        {"alg": "EdDSA"},
        {"alg": "EdDSA", "typ": "eat+jwt", "crit": ["exp"]},
        {"alg": "EdDSA", "typ": "eat+jwt", "jwk": public_jwk(KEY.public)},
        {"alg": "EdDSA", "typ": "eat+jwt", "jku": "https://attacker.example"},
    ],
)
def test_only_the_one_header_is_read(claims: dict[str, Any], header: dict[str, Any]) -> None:
    refused(BadMessage, forge(claims, header))


def test_the_long_media_type_is_the_same(claims: dict[str, Any]) -> None:
    told = {"alg": "EdDSA", "typ": "application/eat+jwt"}
    assert read_ear(forge(claims, told), KEY.public, now=NOW).ear_status is Tier.AFFIRMING


def test_claims_that_nobody_knows_are_passed_over(claims: dict[str, Any]) -> None:
    claims["ear_other_extension"] = {"x": 1}
    assert read_ear(forge(claims), KEY.public, now=NOW).ear_status is Tier.AFFIRMING


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eat_profile", "tag:github.com,2023:veraison/ear"),
        ("iat", 1.5),
        ("exp", None),
        ("submods", {}),
        ("ear_status", "fine"),
        ("ear_verifier_id", "Leasehold"),
    ],
)
def test_claims_have_the_profile_s_form(claims: dict[str, Any], name: str, value: object) -> None:
    refused(BadMessage, forge(claims | {name: value}))


def test_a_status_better_than_its_vector_is_refused(claims: dict[str, Any]) -> None:
    claims["submods"]["sgx"]["ear_trustworthiness_vector"]["hardware"] = 32
    assert "ear_status of sgx" in refused(BadMessage, forge(claims))
    claims["submods"]["sgx"]["ear_status"] = "warning"
    refused(BadMessage, forge(claims))
    claims["ear_status"] = "warning"
    assert read_ear(forge(claims), KEY.public, now=NOW).ear_status is Tier.WARNING


def test_there_is_one_spelling_and_one_size(token: str) -> None:
    refused(BadMessage, token + "=")
    refused(BadMessage, token.replace(".", ". ", 1))
    refused(BadMessage, "A" * (ears.TOKEN_BYTES_MAX + 1))
    refused(BadMessage, "")
    deep = base64.urlsafe_b64encode(b"[" * 100_000).decode().rstrip("=")
    header = token.split(".")[0]
    refused(BadMessage, f"{header}.{deep}.AAAA")


def test_a_simulated_finding_alone_is_no_trust_class() -> None:
    """Trust decides, not the finding's text: the one cannot be forgotten where the other is set."""
    plain = vector_of(Trust.PRODUCTION, TcbStatus.UP_TO_DATE, frozenset(), is_judged=True)
    marked = frozenset({SIMULATED.code})
    assert vector_of(Trust.PRODUCTION, TcbStatus.UP_TO_DATE, marked, is_judged=True) == plain
