"""The policy: nothing absent, nothing unknown, nothing unsigned."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime

import msgspec
import pytest

from leasehold.attest.manifest import (
    KIND,
    MANIFEST_BYTES_MAX,
    parse_manifest,
    read_policy,
    render,
    sign_manifest,
)
from leasehold.attest.reference import Machine, Waiver
from leasehold.attest.toml import write_toml
from leasehold.core.crypto import SigningKey
from leasehold.core.statements import sign_text
from leasehold.errors import (
    BadManifest,
    BadSignature,
    LeaseholdError,
    ManifestExpired,
    WrongCustodian,
)

from .bench import NOW, Bench, seeded

ROOT_FIELDS = [
    "version",
    "name",
    "custodian_root",
    "not_after",
    "configurations",
    "machines",
    "sgx",
]
SGX_FIELDS = [
    "mr_enclave",
    "mr_signer",
    "isv_prod_id",
    "isv_svn_min",
    "attributes_flags_hex",
    "attributes_mask_flags_hex",
    "attributes_xfrm_hex",
    "attributes_mask_xfrm_hex",
    "misc_select_hex",
    "misc_mask_hex",
    "config_id",
    "config_svn",
    "isv_family_id",
    "isv_ext_prod_id",
    "tcb_status",
]


def table(bench: Bench) -> dict[str, object]:
    return tomllib.loads(render(bench.manifest).decode())


def signed(bench: Bench, fields: dict[str, object]) -> bytes:
    return sign_text(bench.key, KIND, write_toml(fields))


def refused(bench: Bench, fields: dict[str, object], *, about: str) -> None:
    with pytest.raises(LeaseholdError) as caught:
        parse_manifest(signed(bench, fields), now=NOW)
    assert type(caught.value) is BadManifest
    assert about in str(caught.value), caught.value


def changed(bench: Bench, place: str, field: str, value: object) -> dict[str, object]:
    fields = table(bench)
    target = fields if not place else fields[place]
    target = target[0] if isinstance(target, list) else target
    assert isinstance(target, dict)
    if value is None:
        del target[field]
    else:
        target[field] = value
    return fields


def test_a_signed_manifest_comes_back(bench: Bench) -> None:
    text = sign_manifest(bench.key, bench.manifest)
    assert parse_manifest(text, now=NOW) == bench.manifest
    assert parse_manifest(text, now=NOW, custodian_root=bench.key.public) == bench.manifest


def test_every_optional_table_comes_back(bench: Bench) -> None:
    until = datetime(2027, 6, 1, 12, 30, tzinfo=UTC)
    waivers = (
        Waiver("OutOfDate", ("INTEL-SA-00001",), 'a "quoted"\nreason\x7f', until),
        Waiver("SWHardeningNeeded", (), "no advisories", until),
    )
    machines = (Machine("ab" * 16, "one"), Machine("cd" * 16, "zwei, größer"))
    full = bench.policy(waivers=waivers, machines=machines).manifest
    text = sign_manifest(bench.key, full)
    assert parse_manifest(text, now=NOW) == full
    assert full.digest() != bench.manifest.digest()


def test_equal_policies_have_equal_digests_however_typed(bench: Bench) -> None:
    text = render(bench.manifest)
    spaced = text.replace(b" = ", b"  =   ").replace(b"[sgx]", b"# a remark\n\n[sgx]")
    assert spaced != text
    assert read_policy(spaced).digest() == bench.manifest.digest()


# Signature and custodian -------------------------------------------------------------------------


def test_another_custodian_is_refused(bench: Bench) -> None:
    text = sign_manifest(bench.key, bench.manifest)
    with pytest.raises(WrongCustodian):
        parse_manifest(text, now=NOW, custodian_root=SigningKey.make(seeded("x")).public)


def test_only_the_named_key_signs(bench: Bench) -> None:
    thief = SigningKey.make(seeded("thief"))
    with pytest.raises(BadSignature):
        parse_manifest(sign_text(thief, KIND, render(bench.manifest)), now=NOW)
    with pytest.raises(BadManifest):
        sign_manifest(thief, bench.manifest)


def test_a_signature_of_another_kind_does_not_count(bench: Bench) -> None:
    text = sign_text(bench.key, "leasehold-configuration", render(bench.manifest))
    with pytest.raises(BadSignature):
        parse_manifest(text, now=NOW)


def test_no_changed_byte_passes(bench: Bench) -> None:
    text = sign_manifest(bench.key, bench.manifest)
    for at in range(0, len(text), 7):
        mutant = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
        with pytest.raises((BadManifest, BadSignature, LeaseholdError)) as caught:
            parse_manifest(mutant, now=NOW)
        assert caught.value.code in {"bad_manifest", "bad_signature", "bad_message"}


def test_an_unsigned_manifest_is_refused(bench: Bench) -> None:
    with pytest.raises(BadManifest, match="custodian_root"):
        parse_manifest(render(bench.manifest), now=NOW)


def test_a_second_key_line_is_refused(bench: Bench) -> None:
    line = f'custodian_root = "{"00" * 32}"\n'.encode()
    with pytest.raises(BadManifest, match="2 such lines"):
        parse_manifest(sign_text(bench.key, KIND, line + render(bench.manifest)), now=NOW)


def test_a_key_line_in_a_string_does_not_choose_the_signer(bench: Bench) -> None:
    """The only line that looks like the key stands inside a text; the real field is written otherwise."""
    thief = SigningKey.make(seeded("thief"))
    real = f'custodian_root = "{bench.manifest.custodian_root}"'
    hidden = f'name = """\ncustodian_root = "{thief.public.hex()}"\n"""'
    text = render(bench.manifest).decode()
    text = text.replace(real, f"'custodian_root' = '{bench.manifest.custodian_root}'")
    text = text.replace('name = "bench"', hidden)
    with pytest.raises(BadManifest, match="custodian_root"):
        parse_manifest(sign_text(thief, KIND, text.encode()), now=NOW)


def test_an_oversized_manifest_is_refused_unread(bench: Bench) -> None:
    with pytest.raises(BadManifest, match="size"):
        parse_manifest(bytes(MANIFEST_BYTES_MAX + 1), now=NOW)


def test_it_ends_on_its_day(bench: Bench) -> None:
    text = sign_manifest(bench.key, bench.manifest)
    end = bench.manifest.expires
    assert parse_manifest(text, now=type(end)(end - 1))
    with pytest.raises(ManifestExpired):
        parse_manifest(text, now=end)


# Fields ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ROOT_FIELDS[:2] + ROOT_FIELDS[3:])
def test_no_field_may_be_absent(bench: Bench, field: str) -> None:
    refused(bench, changed(bench, "", field, None), about=field)


def test_the_custodian_may_not_be_absent(bench: Bench) -> None:
    refused(bench, changed(bench, "", "custodian_root", None), about="custodian_root")


@pytest.mark.parametrize("field", SGX_FIELDS)
def test_no_reference_value_may_be_absent(bench: Bench, field: str) -> None:
    refused(bench, changed(bench, "sgx", field, None), about=field)


@pytest.mark.parametrize("field", ["platform_id", "note"])
def test_a_machine_is_named_whole(bench: Bench, field: str) -> None:
    refused(bench, changed(bench, "machines", field, None), about=field)


@pytest.mark.parametrize(
    ("place", "field", "value"),
    [
        ("", "version", 2),
        ("", "name", ""),
        ("", "not_after", 4_000_000_000),
        ("", "configurations", []),
        ("", "configurations", ["zz" * 32]),
        ("", "configurations", ["ab" * 31]),
        ("", "machines", []),
        ("machines", "platform_id", "AB" * 16),
        ("machines", "platform_id", ""),
        ("machines", "note", ""),
        ("sgx", "mr_enclave", []),
        ("sgx", "mr_enclave", [""]),
        ("sgx", "mr_enclave", ["ab" * 32 + "\n"]),
        ("sgx", "mr_signer", ""),
        ("sgx", "isv_prod_id", -1),
        ("sgx", "isv_svn_min", 65_536),
        ("sgx", "isv_svn_min", "1"),
        ("sgx", "attributes_flags_hex", "5"),
        ("sgx", "attributes_xfrm_hex", ""),
        ("sgx", "misc_mask_hex", "ffffffffffffffff"),
        ("sgx", "config_id", "00"),
        ("sgx", "tcb_status", []),
        ("sgx", "tcb_status", ["OutOfDate"]),
        ("sgx", "tcb_status", ["UpToDate", "OutOfDate"]),
        ("sgx", "allow_debug", True),
        ("simulated", "root_sha256", ""),
    ],
)
def test_wrong_values_are_refused_by_name(
    bench: Bench, place: str, field: str, value: object
) -> None:
    refused(bench, changed(bench, place, field, value), about=field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attributes_flags_hex", "0000000000000007"),  # DEBUG
        ("attributes_flags_hex", "0000000000000004"),  # no INIT
        ("attributes_mask_flags_hex", "0000000000000000"),
        ("attributes_mask_flags_hex", "fffffffffffffffd"),  # hides DEBUG
        ("attributes_mask_flags_hex", "ffffffffffffffef"),  # hides PROVISION_KEY
        ("attributes_mask_xfrm_hex", "0000000000000001"),  # expects a bit that it hides
        ("misc_select_hex", "00000001"),
    ],
)
def test_masks_cannot_hide_what_matters(bench: Bench, field: str, value: str) -> None:
    fields = changed(bench, "sgx", field, value)
    if field == "misc_select_hex":
        fields["sgx"]["misc_mask_hex"] = "00000000"  # type: ignore[index]
    about = "xfrm" if "xfrm" in field else field
    refused(bench, fields, about=about)


@pytest.mark.parametrize(
    ("place", "field", "nearest"),
    [
        ("sgx", "mr_enclaves", "mr_enclave"),
        ("sgx", "isv_svn", "isv_svn_min"),
        ("", "waiver", "waivers"),
        ("", "simulate", "simulated"),
        ("machines", "platform", "platform_id"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_known_one(
    bench: Bench, place: str, field: str, nearest: str
) -> None:
    refused(bench, changed(bench, place, field, "x"), about=f"the nearest is `{nearest}`")


@pytest.mark.parametrize("status", ["UpToDate", "Revoked", "Whatever"])
def test_a_waiver_covers_a_status_that_can_be_waived(bench: Bench, status: str) -> None:
    waiver = {
        "status": status,
        "advisories": [],
        "reason": "why",
        "not_after": datetime(2027, 6, 1, tzinfo=UTC),
    }
    refused(bench, {**table(bench), "waivers": [waiver]}, about="status")


@pytest.mark.parametrize("field", ["status", "advisories", "reason", "not_after"])
def test_a_waiver_says_everything(bench: Bench, field: str) -> None:
    waiver = {
        "status": "OutOfDate",
        "advisories": ["INTEL-SA-00001"],
        "reason": "why",
        "not_after": datetime(2027, 6, 1, tzinfo=UTC),
    }
    assert parse_manifest(signed(bench, {**table(bench), "waivers": [waiver]}), now=NOW).waivers
    del waiver[field]
    refused(bench, {**table(bench), "waivers": [waiver]}, about=field)


def test_a_time_without_zone_is_refused(bench: Bench) -> None:
    text = render(bench.manifest).replace(b"2030-01-01T00:00:00Z", b"2030-01-01T00:00:00")
    with pytest.raises(BadManifest, match="not_after"):
        read_policy(text)


@pytest.mark.parametrize("text", [b"\xff", b"= nothing", b"a = [", b"[sgx]\n[sgx]"])
def test_what_is_not_toml_is_refused(text: bytes) -> None:
    with pytest.raises(BadManifest):
        read_policy(text)


def test_reference_values_check_themselves(bench: Bench) -> None:
    assert bench.manifest.sgx is not None
    with pytest.raises(BadManifest):
        msgspec.structs.replace(bench.manifest.sgx, allow_debug=True)
