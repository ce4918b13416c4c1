"""Wrapped keys: three keepers that must behave alike, and every reason why a key does not open."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from custodian import softhsm
from custodian.transit import TOKEN, Transit, transit
from leasehold.core.crypto import TlsKey
from leasehold.core.units import DAY, Instant
from leasehold.custodian.private_files import hex_line, write_private
from leasehold.custodian.release import DOWN_SECONDS, HELD_SECONDS, FolderKeys, HeldKeys
from leasehold.custodian.wrapping.passphrase import PassphraseKeeper
from leasehold.custodian.wrapping.record import (
    MAGIC,
    ByPassphrase,
    ByToken,
    ByTransit,
    close_inside,
    format_wrapped,
    is_wrapped,
    parse_wrapped,
)
from leasehold.custodian.wrapping.rewrap import rewrap
from leasehold.custodian.wrapping.ring import PLAIN, Keeper, KeyRing
from leasehold.custodian.wrapping.table import KeysTable, TokenTable, TransitTable, open_ring
from leasehold.custodian.wrapping.token import TokenKeeper
from leasehold.custodian.wrapping.transit import TransitKeeper
from leasehold.errors import (
    AlreadyExists,
    BadSetting,
    KeeperUnreachable,
    KeyLocked,
    LeaseholdError,
)
from leasehold.net.authority import Validity, issue_server, make_authority
from leasehold.net.tls import custodian_server_context, public_context

PASSPHRASE = "canary of the passphrase"
KEY = bytes(range(32))
COST = 14


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SoftHSM token, and the library that reaches it."""
    softhsm.make_token(tmp_path_factory.mktemp("softhsm"))
    softhsm.make_key("other")
    return softhsm.module()


@pytest.fixture
def vault() -> Iterator[Transit]:
    with transit() as server:
        yield server


def by_passphrase(text: str = PASSPHRASE) -> PassphraseKeeper:
    """A keeper that is cheap to try."""
    return PassphraseKeeper(lambda: text, cost=COST)


def by_token(
    module: str, key: str = "kek", pin: str = softhsm.PIN, label: str = softhsm.LABEL
) -> Any:
    """The keeper of a key on the token."""
    return TokenKeeper(module, label, key, lambda: pin)


def by_transit(server: Transit, key: str = "leasehold", token: str = TOKEN, **more: Any) -> Any:
    """The keeper of a key of the service."""
    mount = more.pop("mount", "transit")
    return TransitKeeper(server.address, mount, key, lambda: token, None, **more)


@pytest.fixture(params=["passphrase", "pkcs11", "vault"])
def keeper(request: pytest.FixtureRequest) -> Keeper:
    """Each of the three."""
    if request.param == "passphrase":
        return by_passphrase()
    if request.param == "pkcs11":
        return by_token(request.getfixturevalue("token"))
    return by_transit(request.getfixturevalue("vault"))


def ring(folder: Path, keeper: Keeper, **more: Any) -> KeyRing:
    """A ring on which this keeper writes."""
    kind = type(keeper.wrap("x", b"x")).__struct_config__.tag
    return KeyRing(folder, str(kind), {str(kind): keeper}, **more)


# What all keepers do alike ------------------------------------------------------------------------


def test_y2_a_key_comes_back_and_its_file_holds_nothing_of_it(
    tmp_path: Path, keeper: Keeper
) -> None:
    found = ring(tmp_path, keeper)
    found.write(tmp_path / "root.key", hex_line(KEY))
    data = (tmp_path / "root.key").read_bytes()
    assert data.startswith(MAGIC)
    for form in (KEY, KEY.hex().encode(), base64.b64encode(KEY)[:20], PASSPHRASE.encode()):
        assert form not in data
    assert (tmp_path / "root.key").stat().st_mode & 0o777 == 0o600
    assert found.read_seed(tmp_path / "root.key", 32) == KEY
    assert found.kind(tmp_path / "root.key") == found.wrap


def test_y2_a_key_wrapped_for_another_model_is_refused(tmp_path: Path, keeper: Keeper) -> None:
    """By the name in the clear, by the associated data, and by the name inside: each alone suffices."""
    (tmp_path / "models").mkdir()
    found = ring(tmp_path, keeper)
    one, other = tmp_path / "models" / "one.key", tmp_path / "models" / "other.key"
    found.write(one, hex_line(KEY))
    other.write_bytes(one.read_bytes())
    other.chmod(0o600)
    with pytest.raises(KeyLocked, match=r"a key wrapped as models/one\.key"):
        found.read(other)
    wrapped = parse_wrapped(one.read_bytes(), what="models/one.key")
    renamed = msgspec.structs.replace(wrapped, what="models/other.key")
    other.write_bytes(format_wrapped(renamed))
    with pytest.raises(KeyLocked, match=r"changed|authentication failed"):
        found.read(other)
    swapped = keeper.wrap("models/other.key", close_inside("models/one.key", KEY))
    other.write_bytes(format_wrapped(swapped))
    with pytest.raises(KeyLocked, match=r"a key wrapped as models/one\.key"):
        found.read(other)


def test_y1_every_changed_byte_of_the_ciphertext_is_noticed(tmp_path: Path, keeper: Keeper) -> None:
    found = ring(tmp_path, keeper)
    found.write(tmp_path / "root.key", hex_line(KEY))
    wrapped = parse_wrapped((tmp_path / "root.key").read_bytes(), what="root.key")
    sealed = wrapped.sealed
    raw = base64.b64decode(sealed.split(":")[2]) if isinstance(sealed, str) else sealed
    for position in (0, 12, len(raw) // 2, len(raw) - 1):
        bad = bytearray(raw)
        bad[position] ^= 1
        text = "vault:v1:" + base64.b64encode(bad).decode()
        changed = msgspec.structs.replace(
            wrapped, sealed=text if isinstance(sealed, str) else bytes(bad)
        )
        (tmp_path / "root.key").write_bytes(format_wrapped(changed))
        with pytest.raises(KeyLocked, match=r"changed|authentication failed"):
            found.read(tmp_path / "root.key")


def test_y1_what_is_no_record_is_a_damaged_file(tmp_path: Path, keeper: Keeper) -> None:
    found = ring(tmp_path, keeper)
    for rest in (b"", b"{}", b'{"by":"nobody","what":"root.key"}', b"\xff", b"x" * (1 << 17)):
        (tmp_path / "root.key").write_bytes(MAGIC + rest)
        (tmp_path / "root.key").chmod(0o600)
        with pytest.raises(KeyLocked, match=r"damaged|bytes"):
            found.read(tmp_path / "root.key")


def test_y5_a_key_in_clear_is_refused_where_a_keeper_is_chosen(
    tmp_path: Path, keeper: Keeper
) -> None:
    write_private(tmp_path / "root.key", hex_line(KEY))
    found = ring(tmp_path, keeper)
    with pytest.raises(KeyLocked, match="a key in clear"):
        found.read(tmp_path / "root.key")
    assert replace(found, is_lenient=True).read_seed(tmp_path / "root.key", 32) == KEY


def test_y5_nothing_is_overwritten_and_modes_are_looked_at(tmp_path: Path, keeper: Keeper) -> None:
    found = ring(tmp_path, keeper)
    found.write(tmp_path / "root.key", hex_line(KEY))
    with pytest.raises(AlreadyExists):
        found.write(tmp_path / "root.key", hex_line(KEY))
    (tmp_path / "root.key").chmod(0o644)
    with pytest.raises(BadSetting, match="mode 644"):
        found.read(tmp_path / "root.key")


def test_y4_a_ring_without_the_keeper_says_which(tmp_path: Path, keeper: Keeper) -> None:
    found = ring(tmp_path, keeper)
    found.write(tmp_path / "root.key", hex_line(KEY))
    with pytest.raises(KeyLocked, match=f"a key wrapped by {found.wrap}"):
        KeyRing(tmp_path).read(tmp_path / "root.key")


def test_y10_keys_move_from_one_keeper_to_the_next(tmp_path: Path, keeper: Keeper) -> None:
    (tmp_path / "models").mkdir()
    files = [tmp_path / name for name in ("root.key", "audit.key", "ca.key", "models/tiny.key")]
    plain = KeyRing(tmp_path)
    for number, file in enumerate(files):
        plain.write(file, hex_line(bytes([number]) * 32))
    target = ring(tmp_path, keeper, is_lenient=True)
    told: list[tuple[str, str, str]] = []
    rewrap(target, target, on_done=lambda *row: told.append(row))
    assert [row[1:] for row in told] == [(PLAIN, target.wrap)] * 4
    before = [file.read_bytes() for file in files]
    rewrap(target, target)
    assert all(was != file.read_bytes() for was, file in zip(before, files, strict=True))
    strict = replace(target, is_lenient=False)
    for number, file in enumerate(files):
        assert strict.read_seed(file, 32) == bytes([number]) * 32
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []


# The passphrase -----------------------------------------------------------------------------------


def test_y6_a_wrong_passphrase_is_said(tmp_path: Path) -> None:
    ring(tmp_path, by_passphrase()).write(tmp_path / "root.key", hex_line(KEY))
    with pytest.raises(KeyLocked, match="a wrong passphrase"):
        ring(tmp_path, by_passphrase("another passphrase")).read(tmp_path / "root.key")


def test_y6_a_short_passphrase_is_refused_with_its_length_only() -> None:
    with pytest.raises(BadSetting, match="11 characters") as refused:
        by_passphrase("hunter2 yes").wrap("root.key", b"x")
    assert "hunter2" not in str(refused.value)


def test_y6_the_passphrase_is_asked_for_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        return PASSPHRASE

    found = ring(tmp_path, PassphraseKeeper(ask, cost=COST))
    for name in ("root.key", "audit.key"):
        found.write(tmp_path / name, hex_line(KEY))
        assert found.read_seed(tmp_path / name, 32) == KEY
    assert asked == [1]


def test_y6_one_salt_for_a_custodian_and_one_nonce_for_a_file() -> None:
    keeper = by_passphrase()
    one, two = keeper.wrap("a", b"x"), keeper.wrap("a", b"x")
    assert one.salt == two.salt != by_passphrase().wrap("a", b"x").salt
    assert one.nonce != two.nonce
    later = by_passphrase()
    later.unwrap(one)
    assert later.wrap("b", b"x").salt == one.salt


def test_y6_scrypt_is_as_the_file_says_and_dear_by_default() -> None:
    wrapped = by_passphrase().wrap("root.key", b"secret")
    derived = hashlib.scrypt(
        PASSPHRASE.encode(), salt=wrapped.salt, n=2**COST, r=8, p=1, maxmem=1 << 26, dklen=32
    )
    label = b"leasehold/wrapped-key/1"
    info = len(label).to_bytes(2) + label + (1).to_bytes(2) + (8).to_bytes(8) + b"root.key"
    key = HKDF(hashes.SHA256(), 32, wrapped.salt, info).derive(derived)
    assert AESGCM(key).decrypt(wrapped.nonce, wrapped.sealed, None) == b"secret"
    assert PassphraseKeeper(lambda: "").cost == 17


@pytest.mark.parametrize("cost", [13, 21, -1])
def test_y6_a_file_cannot_ask_for_more_memory_than_there_is(tmp_path: Path, cost: int) -> None:
    found = ring(tmp_path, by_passphrase())
    found.write(tmp_path / "root.key", hex_line(KEY))
    data = (tmp_path / "root.key").read_bytes().replace(b'"cost":14', b'"cost":%d' % cost)
    (tmp_path / "root.key").write_bytes(data)
    with pytest.raises(KeyLocked, match="damaged"):
        found.read(tmp_path / "root.key")


# The token ----------------------------------------------------------------------------------------


def token_refuses(
    module: str, match: str, kind: type[LeaseholdError] = KeyLocked, **other: str
) -> None:
    """A key that `kek` wrapped does not open with a keeper that differs."""
    wrapped = by_token(module).wrap("root.key", b"secret")
    changed = {name: other.pop(name) for name in ("token", "key") if name in other}
    with pytest.raises(kind, match=match):
        by_token(module, **other).unwrap(msgspec.structs.replace(wrapped, **changed))


def test_y7_a_wrong_pin_is_said_and_asked_for_anew(token: str) -> None:
    token_refuses(token, "a wrong PIN of token leasehold", pin="00000000")
    pins = iter(["00000000", softhsm.PIN])
    keeper = TokenKeeper(token, softhsm.LABEL, "kek", lambda: next(pins))
    with pytest.raises(KeyLocked, match="a wrong PIN"):
        keeper.wrap("root.key", b"secret")
    assert keeper.unwrap(keeper.wrap("root.key", b"secret")) == b"secret"


def test_y7_another_key_of_the_token_does_not_open(token: str) -> None:
    token_refuses(token, "another key of token leasehold", key="other")
    token_refuses(token, "without the key nobody", key="nobody")


def test_y7_a_token_that_is_not_there_is_unreachable(token: str) -> None:
    token_refuses(token, "no such token", KeeperUnreachable, token="elsewhere")
    keeper = TokenKeeper("/nowhere/libhsm.so", softhsm.LABEL, "kek", lambda: softhsm.PIN)
    with pytest.raises(KeeperUnreachable, match="cannot open shared object file"):
        keeper.wrap("root.key", b"x")


def test_y7_no_refusal_tells_the_pin(token: str) -> None:
    keeper = by_token(token, pin="99999999")
    with pytest.raises(KeyLocked) as refused:
        keeper.wrap("root.key", b"x")
    assert "99999999" not in str(refused.value) + repr(refused.value.__cause__)


# The key service ----------------------------------------------------------------------------------


def test_y8_what_is_asked_is_what_vault_takes(vault: Transit) -> None:
    by_transit(vault).wrap("models/tiny.key", b"secret")
    ((path, headers),) = vault.asked
    assert path == "/v1/transit/encrypt/leasehold"
    assert headers["X-Vault-Token"] == TOKEN
    assert headers["X-Vault-Request"] == "true"
    assert "X-Vault-Namespace" not in headers
    vault.namespace = "lenders/eu"
    keeper = by_transit(vault, namespace="lenders/eu")
    assert keeper.unwrap(keeper.wrap("a", b"secret")) == b"secret"


def test_y8_a_rotated_key_still_opens_until_its_version_is_retired(vault: Transit) -> None:
    keeper = by_transit(vault)
    old = keeper.wrap("root.key", b"secret")
    vault.rotate()
    assert keeper.unwrap(old) == b"secret"
    new = keeper.wrap("root.key", b"secret")
    assert (old.sealed[:9], new.sealed[:9]) == ("vault:v1:", "vault:v2:")
    vault.min_decryption = 2
    assert keeper.unwrap(new) == b"secret"
    with pytest.raises(KeyLocked, match="disallowed by policy"):
        keeper.unwrap(old)


def test_y10_rewrapping_takes_the_newest_version(tmp_path: Path, vault: Transit) -> None:
    (tmp_path / "models").mkdir()
    found = ring(tmp_path, by_transit(vault))
    for name in ("root.key", "audit.key", "ca.key"):
        found.write(tmp_path / name, hex_line(KEY))
    vault.rotate()
    rewrap(found, found)
    vault.min_decryption = 2
    assert found.read_seed(tmp_path / "root.key", 32) == KEY
    assert b"vault:v2:" in (tmp_path / "root.key").read_bytes()


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"token": "hvs.another"}, KeyLocked, "status 403: permission denied"),
        ({"namespace": "elsewhere"}, KeyLocked, "status 403"),
        ({"key": "nobody"}, KeyLocked, "encryption key not found"),
        ({"mount": "kv"}, KeyLocked, "no handler for route 'kv'"),
    ],
)
def test_y8_refusals_are_vaults_words(
    vault: Transit, change: dict[str, str], kind: type[LeaseholdError], match: str
) -> None:
    with pytest.raises(kind, match=match) as refused:
        by_transit(vault, **change).wrap("root.key", b"secret")
    assert "hvs." not in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ((500, b'{"errors":["internal error"]}'), "status 500: internal error"),
        ((429, b'{"errors":["request path exceeded"]}'), "status 429"),
        ((200, b"<html>"), "status 200, no JSON"),
        ((200, b'{"data":{}}'), "without ciphertext"),
        ((200, b'{"data":{"ciphertext":7}}'), "without ciphertext"),
        ((200, b"x" * 100_000), "an endless answer"),
        ((502, b"Bad Gateway"), "status 502, no JSON"),
    ],
)
def test_y8_a_broken_service_is_unreachable(
    vault: Transit, answer: tuple[int, bytes], match: str
) -> None:
    vault.answer = answer
    with pytest.raises(KeeperUnreachable, match=match):
        by_transit(vault).wrap("root.key", b"secret")


def test_y8_a_sealed_a_silent_and_a_dead_service_are_unreachable(vault: Transit) -> None:
    keeper = by_transit(vault)
    vault.sealed = True
    with pytest.raises(KeeperUnreachable, match="Vault is sealed"):
        keeper.wrap("root.key", b"secret")
    gone = TransitKeeper("http://127.0.0.1:9", "transit", "leasehold", lambda: TOKEN, None)
    with pytest.raises(KeeperUnreachable, match="ConnectError"):
        gone.wrap("root.key", b"secret")

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        slow = TransitKeeper(address, "transit", "k", lambda: TOKEN, None, timeout=0.05)
        with pytest.raises(KeeperUnreachable, match="ReadTimeout"):
            slow.wrap("root.key", b"secret")


def test_y8_nobody_is_followed_elsewhere(vault: Transit) -> None:
    vault.answer = (307, b"{}")
    with pytest.raises(KeyLocked, match="status 307"):
        by_transit(vault).wrap("root.key", b"secret")
    assert len(vault.asked) == 1


def test_y8_a_replaced_token_is_read_again(vault: Transit) -> None:
    tokens = iter(["hvs.old", TOKEN])
    keeper = TransitKeeper(vault.address, "transit", "leasehold", lambda: next(tokens), None)
    with pytest.raises(KeyLocked, match="permission denied"):
        keeper.wrap("root.key", b"secret")
    assert keeper.unwrap(keeper.wrap("root.key", b"secret")) == b"secret"


@pytest.mark.parametrize(
    "address", ["http://vault.example:8200", "https://", "vault:8200", "https://v/v1/transit", ""]
)
def test_y8_a_token_is_never_said_in_clear_to_another_machine(address: str) -> None:

    with pytest.raises(BadSetting, match=r"keys\.vault\.address"):
        TransitKeeper(address, "transit", "k", lambda: TOKEN, public_context())


def test_y8_the_service_is_asked_over_tls_by_its_own_authority(
    vault: Transit, tmp_path: Path
) -> None:

    now = time.time_ns() // 1_000_000
    today = Validity(Instant(now - DAY), Instant(now + DAY))

    def make() -> Any:
        return make_authority(
            TlsKey.make(os.urandom), name="vault", validity=today, entropy=os.urandom
        )

    authority, key = make(), TlsKey.make(os.urandom)
    names = ("127.0.0.1",)
    chain = issue_server(authority, key.spki, names=names, validity=today, entropy=os.urandom)
    context = custodian_server_context(chain, key, client_ca=authority.certificate)
    vault.socket = context.wrap_socket(vault.socket, server_side=True)
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)
    for name, one in (("ca.pem", authority), ("other.pem", make())):
        write_private(tmp_path / name, one.certificate.encode())
    table = TransitTable(
        f"https://127.0.0.1:{vault.server_port}", "leasehold", token_file="token", ca_file="ca.pem"
    )
    found = open_ring(tmp_path, KeysTable("vault", vault=table))
    found.write(tmp_path / "root.key", hex_line(KEY))
    assert found.read_seed(tmp_path / "root.key", 32) == KEY
    wrong = msgspec.structs.replace(table, ca_file="other.pem")
    with pytest.raises(KeeperUnreachable, match="ConnectError"):
        open_ring(tmp_path, KeysTable("vault", vault=wrong)).read(tmp_path / "root.key")


# The table ----------------------------------------------------------------------------------------


def test_y4_a_choice_without_its_table_is_refused(tmp_path: Path) -> None:
    for wrap in ("pkcs11", "vault"):
        with pytest.raises(BadSetting, match=rf"a table \[keys\.{wrap}\]"):
            open_ring(tmp_path, KeysTable(wrap))  # type: ignore[arg-type]


def test_y9_secrets_come_from_private_files_or_a_person(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(PASSPHRASE + "\n")
    (tmp_path / "secret").chmod(0o644)
    table = KeysTable("passphrase", passphrase_file="secret")
    with pytest.raises(BadSetting, match="mode 644"):
        open_ring(tmp_path, table).write(tmp_path / "root.key", b"x")
    (tmp_path / "secret").chmod(0o600)
    open_ring(tmp_path, table).write(tmp_path / "root.key", hex_line(KEY))
    names: list[str] = []

    def ask(name: str) -> str:
        names.append(name)
        return PASSPHRASE

    asked = open_ring(tmp_path, KeysTable("passphrase"), ask=ask)
    assert asked.read_seed(tmp_path / "root.key", 32) == KEY
    assert names == ["passphrase of the custodian's keys"]
    with pytest.raises(BadSetting, match="a file with the passphrase"):
        open_ring(tmp_path, KeysTable("passphrase")).read(tmp_path / "root.key")
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(BadSetting, match="an empty file"):
        open_ring(tmp_path, table).read(tmp_path / "root.key")


def test_y9_a_secret_may_come_through_a_descriptor(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE.encode())
    os.close(writing)
    table = KeysTable("passphrase", passphrase_file=f"/proc/self/fd/{reading}")
    found = open_ring(tmp_path, table)
    for name in ("root.key", "audit.key"):
        found.write(tmp_path / name, hex_line(KEY))
    os.close(reading)
    assert found.read_seed(tmp_path / "root.key", 32) == KEY


def test_y4_one_custodian_may_have_keys_of_several_keepers(
    tmp_path: Path, token: str, vault: Transit
) -> None:
    for name, text in (("pin", softhsm.PIN), ("token", TOKEN), ("passphrase", PASSPHRASE)):
        write_private(tmp_path / name, text.encode())
    table = KeysTable(
        "passphrase",
        "passphrase",
        TokenTable(token, softhsm.LABEL, "kek", "pin"),
        TransitTable(vault.address, "leasehold", token_file="token"),
    )
    kinds = ("passphrase", "pkcs11", "vault")
    for wrap in kinds:
        one = open_ring(tmp_path, msgspec.structs.replace(table, wrap=wrap))
        one.write(tmp_path / f"{wrap}.key", hex_line(KEY))
    found = open_ring(tmp_path, table)
    assert [found.kind(tmp_path / f"{wrap}.key") for wrap in kinds] == list(kinds)
    assert all(found.read_seed(tmp_path / f"{wrap}.key", 32) == KEY for wrap in kinds)
    types = [
        type(parse_wrapped((tmp_path / f"{wrap}.key").read_bytes(), what=f"{wrap}.key"))
        for wrap in kinds
    ]
    assert types == [ByPassphrase, ByToken, ByTransit]


# Rewrapping ---------------------------------------------------------------------------------------


def test_y10_a_rewrap_that_breaks_off_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    old = ring(tmp_path, by_passphrase())
    for name in ("root.key", "audit.key", "ca.key"):
        old.write(tmp_path / name, hex_line(KEY))
    new = ring(tmp_path, by_passphrase("a new passphrase"))
    (tmp_path / "ca.key").chmod(0o644)
    with pytest.raises(BadSetting, match="mode 644"):
        rewrap(old, new)
    (tmp_path / "ca.key").chmod(0o600)
    assert new.read_seed(tmp_path / "root.key", 32) == KEY
    rewrap(old, new)
    for name in ("root.key", "audit.key", "ca.key"):
        assert new.read_seed(tmp_path / name, 32) == KEY
        with pytest.raises(KeyLocked, match="a wrong passphrase"):
            old.read(tmp_path / name)


def test_y10_a_keeper_that_lies_changes_no_file(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    old = KeyRing(tmp_path)
    for name in ("root.key", "audit.key", "ca.key"):
        old.write(tmp_path / name, hex_line(KEY))

    class Liar(PassphraseKeeper):
        def unwrap(self, wrapped: Any) -> bytes:
            return close_inside(wrapped.what, b"something else")

    new = KeyRing(tmp_path, "passphrase", {"passphrase": Liar(lambda: PASSPHRASE, cost=COST)})
    with pytest.raises(KeyLocked, match="what was just wrapped"):
        rewrap(replace(new, is_lenient=True), new)
    assert not is_wrapped((tmp_path / "root.key").read_bytes())


# Model keys ---------------------------------------------------------------------------------------


def test_model_keys_are_wrapped_where_they_lie(tmp_path: Path, keeper: Keeper) -> None:
    (tmp_path / "models").mkdir()
    keys = FolderKeys(tmp_path / "models", ring(tmp_path, keeper))
    assert keys.find("tiny") is None
    keys.keep("tiny", KEY)
    assert keys.model_key("tiny") == keys.find("tiny") == KEY
    assert is_wrapped((tmp_path / "models" / "tiny.key").read_bytes())


def test_a_bad_key_file_is_never_the_borrowers_fault(tmp_path: Path) -> None:
    write_private(tmp_path / "tiny.key", b"no hex\n")
    with pytest.raises(KeyLocked, match="32 bytes in lower-case hex") as refused:
        FolderKeys(tmp_path).model_key("tiny")
    assert "no hex" not in str(refused.value) + str(refused.value.__cause__)


def test_y5_a_key_is_held_for_a_minute_and_an_outage_for_a_moment(
    tmp_path: Path, vault: Transit
) -> None:
    clock = [0.0]
    (tmp_path / "models").mkdir()
    behind = FolderKeys(tmp_path / "models", ring(tmp_path, by_transit(vault)))
    behind.keep("tiny", KEY)
    vault.asked.clear()
    keys = HeldKeys(behind, lambda: clock[0])
    act: Callable[[], bytes] = lambda: keys.model_key("tiny")  # noqa: E731
    assert act() == act() == KEY
    assert len(vault.asked) == 1
    vault.sealed = True
    clock[0] += HELD_SECONDS
    for _ in range(3):
        with pytest.raises(KeeperUnreachable, match="sealed"):
            act()
    assert len(vault.asked) == 2
    vault.sealed = False
    clock[0] += DOWN_SECONDS
    assert act() == KEY
    assert len(vault.asked) == 3
