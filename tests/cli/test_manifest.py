"""`leasehold manifest`: policies for every platform, derived, checked field by field, and in words."""

from __future__ import annotations

import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from leasehold.attest.manifest import Manifest, parse_manifest
from leasehold.attest.manifest_problems import find_problems
from leasehold.attest.toml import write_toml
from leasehold.cli.manifest_words import WORDS
from leasehold.cli.values import Values, merge, read_values
from leasehold.core.units import Instant
from leasehold.errors import BadManifest

from .evidence import Files, invoke, make_files, run, verify

OWNER = "--unsafe-trust-hypervisor-owner"
BLINDAI = """\
# Enclave manifest file for production
mr_enclave = "{code}"
allow_debug = false
attributes_flags_hex = "0x5"
attributes_mask_flags_hex = "ffffffffffffffff"
attributes_xfrm_hex = "3"
attributes_mask_xfrm_hex = "fffffffffffffffb"
misc_select_hex = "00000000"
misc_mask_hex = "FFFFFFFF"
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("evidence"))


def read(path: str) -> Manifest:
    return parse_manifest(Path(path).read_bytes(), now=Instant(time.time_ns() // 1_000_000))


def derived(files: Files, platform: str, *more: str) -> str:
    return run("manifest", "derive", *files.words(platform), *files.simulated(platform), *more)


# derive ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["sgx", "tdx", "snp", "tpm", "azure-snp", "ra-tls"])
def test_what_is_derived_accepts_exactly_that(files: Files, platform: str, tmp_path: Path) -> None:
    owner = (OWNER,) if platform in ("tpm", "azure-snp") else ()
    if platform == "ra-tls":  # its quote is what the manifest is about
        text = derived(files, "sgx")
        text = text.replace(_machine(text), _machine(_values(files, "ra-tls")))
    else:
        text = derived(files, platform, *owner)
    (tmp_path / "values.toml").write_text(text)
    policy = files.manifest(tmp_path / "m.toml", "--values", str(tmp_path / "values.toml"))
    assert verify(*files.words(platform), "--manifest", policy)["verdict"] == "expected"


def _values(files: Files, platform: str) -> str:
    return Path(files.path(platform, "values.toml")).read_text()


def _machine(text: str) -> str:
    found = tomllib.loads(text)["machines"][0]["platform_id"]
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("platform", ["sgx", "tdx", "snp"])
def test_what_is_derived_is_strict(files: Files, platform: str) -> None:
    told, honest = (
        tomllib.loads(text) for text in (derived(files, platform), _values(files, platform))
    )
    table, expected = told[platform], honest[platform]
    assert {name: table[name] for name in expected} == expected
    assert all(set(table[name]) == {"f"} for name in table if "mask" in name)
    assert told["simulated"] == honest["simulated"]
    assert _machine(derived(files, platform)) == _machine(_values(files, platform))


def test_nothing_unsafe_is_derived(files: Files) -> None:
    told = tomllib.loads(derived(files, "tpm"))
    assert told["tpm"]["unsafe_trust_hypervisor_owner"] is False
    assert set(told["tpm"]["pcrs"]) == {str(pcr) for pcr in range(16)}
    assert tomllib.loads(derived(files, "tpm", OWNER))["tpm"]["unsafe_trust_hypervisor_owner"]
    assert not any(
        name.startswith("unsafe") for name in tomllib.loads(derived(files, "snp"))["snp"]
    )


def test_devices_are_derived_with_their_machine(files: Files, tmp_path: Path) -> None:
    words = (*files.words("sgx"), *files.words("nvidia"))
    roots = (*files.simulated("sgx"), *files.simulated("nvidia"))
    text = run("manifest", "derive", *words, *roots, "--note", "rack 7")
    told = tomllib.loads(text)
    assert told["machines"][0]["note"] == "rack 7"
    assert len(told["machines"][0]["devices"]) == 1
    assert told["nvidia"] == {
        "models": ["GH100"],
        "driver_versions": ["550.90.07"],
        "vbios_versions": ["96.00.9F.00.01"],
        "mode": "single-gpu",
    }
    (tmp_path / "values.toml").write_text(text)
    policy = files.manifest(tmp_path / "m.toml", "--values", str(tmp_path / "values.toml"))
    told = verify(*words, "--manifest", policy)
    assert (told["verdict"], len(told["evidence"][0]["devices"])) == ("expected", 1)
    alone = verify(*files.words("nvidia"), "--manifest", policy)
    assert alone["evidence"][0]["machine_note"] == "rack 7"
    assert verify(*files.words("sgx"), "--manifest", policy, code=3)["code"] == "wrong_devices"


def test_only_what_is_authentic_is_derived(files: Files) -> None:
    result = invoke("manifest", "derive", *files.words("sgx"))
    assert result.exit_code == 3
    assert "untrusted_root" in result.stderr
    assert not result.stdout


# new ---------------------------------------------------------------------------------------------


def test_every_platform_in_one_manifest(files: Files, tmp_path: Path) -> None:
    """SGX and TDX are the same simulated machine under the same root, so neither comes twice."""
    platforms = ("sgx", "tdx", "snp", "tpm")
    given = [
        word for platform in platforms for word in ("--values", files.path(platform, "values.toml"))
    ]
    path = files.manifest(tmp_path / "m.toml", *given)
    assert len(read(path).machines) == 3
    for platform in platforms:
        assert verify(*files.words(platform), "--manifest", path)["verdict"] == "expected"
    devices = ("--values", files.path("nvidia", "values.toml"))
    path = files.manifest(tmp_path / "devices.toml", *given, *devices)
    policy = read(path)
    assert all((policy.sgx, policy.tdx, policy.snp, policy.tpm, policy.nvidia))
    assert policy.simulated is not None
    assert all(getattr(policy.simulated, name) for name in policy.simulated.__struct_fields__)
    # with [nvidia], every machine has to list its devices (D-1)
    told = verify(*files.words("sgx"), "--manifest", path, code=3)
    assert told["code"] == "wrong_devices"


def test_tables_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text(f'[simulated]\nroot_sha256 = "{"11" * 32}"\n')
    other.write_text(f'[simulated]\nroot_sha256 = "{"22" * 32}"\n')
    with pytest.raises(BadManifest) as caught:
        merge(read_values(path) for path in (one, other))
    assert caught.value.about == "simulated.root_sha256"
    assert merge(read_values(path) for path in (one, one)) == read_values(one)


def test_a_waiver_reaches_the_manifest(files: Files, tmp_path: Path) -> None:
    waiver = {
        "status": "OutOfDate",
        "advisories": ["INTEL-SA-00828"],
        "reason": "lab machine",
        "not_after": datetime(2100, 1, 1, tzinfo=UTC),
    }
    (tmp_path / "waivers.toml").write_bytes(write_toml({"waivers": [waiver]}))
    given = (
        "--values",
        files.path("sgx", "values.toml"),
        "--values",
        str(tmp_path / "waivers.toml"),
    )
    path = files.manifest(tmp_path / "m.toml", *given)
    assert read(path).waivers[0].advisories == ("INTEL-SA-00828",)
    page = run("manifest", "explain", path)
    assert "waiver: OutOfDate with INTEL-SA-00828 until 2100-01-01" in page
    assert "lab machine" in page


def test_without_reference_values_there_is_no_manifest(files: Files, tmp_path: Path) -> None:
    words = ("manifest", "new", "--custodian", files.custodian, "--name", "x", "--configuration")
    words += (str(files.folder / "enclave.toml"), "--machine", "ab" * 16)
    assert "reference values" in invoke(*words).stderr
    (tmp_path / "values.toml").write_text('[sgx]\nmr_signer = "x"\n')
    result = invoke(*words, "--values", str(tmp_path / "values.toml"))
    assert result.exit_code == 2
    assert str(tmp_path / "values.toml") in result.stderr


def test_an_old_blindai_manifest_is_carried_over(files: Files, tmp_path: Path) -> None:
    old = tmp_path / "manifest.toml"
    old.write_text(BLINDAI.format(code="AB" * 32))
    words = ("manifest", "new", "--custodian", files.custodian, "--name", "x", "--configuration")
    words += (str(files.folder / "enclave.toml"), "--machine", "cd" * 16, "--values", str(old))
    result = invoke(*words)
    assert result.exit_code == 2
    assert "an old BlindAI manifest" in result.stderr
    assert "--signer HEX" in result.stderr
    out = str(tmp_path / "m.toml")
    run(*words, "--signer", "22" * 32, "--out", out)
    sgx = read(out).sgx
    assert sgx is not None
    assert (sgx.mr_enclave, sgx.mr_signer) == (("ab" * 32,), "22" * 32)
    assert (sgx.attributes_flags_hex, sgx.attributes_xfrm_hex) == (f"{5:016x}", f"{3:016x}")
    assert (sgx.attributes_mask_xfrm_hex, sgx.misc_mask_hex) == ("fffffffffffffffb", "ffffffff")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("debug = false", "debug = true"), "sgx.allow_debug"),
        (('"ffffffffffffffff"', '"fffffffffffffffd"'), "sgx.attributes_mask_flags_hex"),
        (('"0x5"', '"0x7"'), "sgx.attributes_flags_hex"),
        (('"0x5"', '"five"'), "sgx.attributes_flags_hex"),
        (('misc_mask_hex = "FFFFFFFF"', ""), "misc_mask_hex"),
        (('"0x5"', '"0x5"\ncolour = 1'), "colour"),
    ],
)
def test_what_was_lax_in_an_old_manifest_is_refused_by_name(
    tmp_path: Path, change: tuple[str, str], named: str
) -> None:
    text = BLINDAI.format(code="ab" * 32).replace(*change)
    assert text != BLINDAI.format(code="ab" * 32)
    (tmp_path / "old.toml").write_text(text)
    with pytest.raises(BadManifest) as caught:
        read_values(tmp_path / "old.toml", "22" * 32)
    assert named in str(caught.value)


# check -------------------------------------------------------------------------------------------


def test_check_names_every_problem_at_once(tmp_path: Path) -> None:
    text = """
version = 1
name = ""
colour = 3
[[machines]]
platform_id = "12"
note = "x"
[sgx]
mr_enclave = ["11"]
mr_singer = "22"
isv_prod_id = 70000
[simulated]
[[waivers]]
status = "Revoked"
"""
    (tmp_path / "m.toml").write_text(text)
    result = invoke("manifest", "check", str(tmp_path / "m.toml"))
    assert result.exit_code == 2
    problems = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert problems["custodian_root"] == "missing"
    assert problems["name"] == "Expected `str` of length >= 1"
    assert problems["sgx.mr_enclave"] == "Expected 32 bytes in lower-case hex, value 1"
    assert problems["sgx.mr_singer"] == "unknown; the nearest known field is `mr_signer`"
    assert problems["sgx.isv_prod_id"] == "Expected `int` <= 65535"
    assert problems["machines[1].platform_id"].startswith("Expected")
    assert problems["simulated"] == "got no root; expected at least one fingerprint"
    assert problems["waivers[1].status"] == "Invalid enum value 'Revoked'"
    assert {"colour", "configurations", "not_after", "sgx.config_id", "waivers[1].reason"} <= set(
        problems
    )
    assert f"{len(problems)} problem(s)" in result.stderr


def test_a_table_s_own_rules_are_problems_too(files: Files, tmp_path: Path) -> None:
    path = files.manifest(tmp_path / "m.toml", "--values", files.path("sgx", "values.toml"))
    text = Path(path).read_text().rpartition("# leasehold-signature")[0]
    assert find_problems(text.encode()) == ()
    lax = text.replace(
        'attributes_mask_flags_hex = "ffffffffffffffff"',
        'attributes_mask_flags_hex = "fffffffffffffffd"',
    )
    (found,) = find_problems(lax.encode())
    assert found.field == "sgx.attributes_mask_flags_hex"
    assert "fffffffffffffffd" in found.text
    (found,) = find_problems(b"= nonsense")
    assert found.field == "TOML"


def test_no_platform_at_all_is_a_problem(files: Files, tmp_path: Path) -> None:
    path = files.manifest(tmp_path / "m.toml", "--values", files.path("sgx", "values.toml"))
    table: dict[str, Any] = tomllib.loads(Path(path).read_text())
    del table["sgx"]
    (found,) = find_problems(write_toml(table))
    assert "a table [sgx] or [tdx] or [snp] or [tpm]" in found.text


def test_a_good_form_with_a_bad_signature_is_refused(files: Files, tmp_path: Path) -> None:
    path = files.manifest(tmp_path / "m.toml", "--values", files.path("sgx", "values.toml"))
    Path(path).write_text(Path(path).read_text().replace('name = "pilot"', 'name = "pirate"'))
    assert "bad_signature" in invoke("manifest", "check", path).stderr


# explain -----------------------------------------------------------------------------------------


def records(kind: type[msgspec.Struct]) -> set[type[msgspec.Struct]]:
    """All records that a manifest is made of, however deep."""
    found: set[type[msgspec.Struct]] = set()

    def walk(seen: Any) -> None:
        match seen:
            case msgspec.inspect.StructType(cls=cls, fields=fields):
                found.add(cls)
                for field in fields:
                    walk(field.type)
            case msgspec.inspect.UnionType(types=types):
                for one in types:
                    walk(one)
            case msgspec.inspect.VarTupleType(item_type=item):
                walk(item)

    walk(msgspec.inspect.type_info(kind))
    return found - {kind}


def test_every_field_of_every_table_has_words() -> None:
    assert set(WORDS) == records(Manifest)
    for record, words in WORDS.items():
        assert set(words) == set(record.__struct_fields__), record
        assert all(words.values())


def test_values_take_every_table_of_a_manifest() -> None:
    own = {"version", "name", "custodian_root", "not_after", "configurations"}
    assert set(Values.__struct_fields__) == set(Manifest.__struct_fields__) - own


@pytest.mark.parametrize("platform", ["sgx", "tdx", "snp", "tpm", "azure-snp"])
def test_explain_shows_every_field_and_what_is_given_up(
    files: Files, platform: str, tmp_path: Path
) -> None:
    path = files.manifest(tmp_path / "m.toml", "--values", files.path(platform, "values.toml"))
    policy = read(path)
    page = run("manifest", "explain", path)
    for name in ("sgx", "tdx", "snp", "tpm"):
        table = getattr(policy, name)
        if table is None:
            assert f"there is no [{name}]" in page
            continue
        for field, words in WORDS[type(table)].items():
            assert f"  {field}" in page, field
            assert words in page, field
    assert "What it gives up" in page
    assert "SIMULATED: simulated machines pass" in page
    assert ("tpm.unsafe_trust_hypervisor_owner" in page) == (policy.tpm is not None)
    assert policy.machines[0].platform_id in page
    assert policy.digest().hex() in page


def test_a_strict_manifest_gives_nothing_up(files: Files, tmp_path: Path) -> None:
    words = ("--measurement", "11" * 32, "--signer", "22" * 32, "--machine", "ab" * 16 + "=rack 7")
    path = files.manifest(tmp_path / "m.toml", *words)
    page = run("manifest", "explain", path)
    assert "gives up" not in page
    assert "note: rack 7" in page
