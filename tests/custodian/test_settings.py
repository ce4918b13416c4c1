"""The custodian's folder: made once, for one account, and read strictly."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from leasehold.core.units import Instant
from leasehold.custodian import settings
from leasehold.custodian.ledger.hands import Hands
from leasehold.custodian.ledger.operators import Gate, Role
from leasehold.custodian.settings import Place, parse_place
from leasehold.errors import (
    AlreadyExists,
    BadAddress,
    BadMessage,
    BadSetting,
    FileTrouble,
    LeaseholdError,
    NotPermitted,
)
from leasehold.net.authority import OperatorIdentity, parse_identity
from leasehold.net.certificates import identity_of
from leasehold.net.shown import to_der

NOW = Instant(1_800_000_000_000)
PLACE = Place("custodian.example", 8443)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that `init` made."""
    settings.init(
        tmp_path / "custodian", address=PLACE, names=["10.0.0.7"], now=NOW, entropy=os.urandom
    )
    return tmp_path / "custodian"


def test_what_init_makes_can_be_read(folder: Path) -> None:
    found = settings.read(folder)
    assert found.listen == found.address == PLACE
    assert found.names == ("custodian.example", "10.0.0.7")
    assert found.operator("admin").role is Role.ADMIN
    assert found.rules.certificate_life == 600_000
    assert len({found.keys.root.public, found.audit.public}) == 2


def test_everything_is_for_one_account(folder: Path) -> None:
    modes = {
        str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")
    }
    assert modes == {
        name: 0o700 if (folder / name).is_dir() else 0o600
        for name in (
            "root.key",
            "audit.key",
            "ca.key",
            "ca.pem",
            "custodian.toml",
            "operators",
            "operators/admin.key",
            "operators/admin.pem",
            "models",
            "collateral",
        )
    }
    assert folder.stat().st_mode & 0o777 == 0o700


def test_where_the_ledger_is_stays_with_the_custodian(tmp_path: Path) -> None:
    """Operators and witnesses get `custodian.toml`; the database's password is not in it (T56)."""
    url = "postgresql://lender:hunter2@db.example/books"
    made = settings.init(tmp_path / "c", address=PLACE, now=NOW, entropy=os.urandom, store=url)
    assert settings.read(made.folder).store == made.store == url
    assert (made.folder / "store.url").stat().st_mode & 0o777 == 0o600
    theirs = ("custodian.toml", "ca.pem", "operators/admin.pem", "operators/admin.key")
    assert not any(b"hunter2" in (made.folder / name).read_bytes() for name in theirs)


def test_without_a_store_the_ledger_is_a_file(folder: Path) -> None:
    assert settings.read(folder).store == ""


def test_a_custodian_is_never_made_over_another(folder: Path) -> None:
    before = (folder / "root.key").read_bytes()
    with pytest.raises(AlreadyExists):
        settings.init(folder, address=PLACE, now=NOW, entropy=os.urandom)
    assert (folder / "root.key").read_bytes() == before


@pytest.mark.parametrize("address", [Place("0.0.0.0", 1), Place("::", 1), Place("host", 0)])  # noqa: S104
def test_clients_must_be_able_to_use_the_address(tmp_path: Path, address: Place) -> None:
    with pytest.raises(BadSetting):
        settings.init(tmp_path / "new", address=address, now=NOW, entropy=os.urandom)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileTrouble):
        settings.init(tmp_path / "file" / "x", address=PLACE, now=NOW, entropy=os.urandom)


def test_a_key_that_others_may_read_is_refused(folder: Path) -> None:
    (folder / "root.key").chmod(0o640)
    with pytest.raises(BadSetting, match="mode 640"):
        settings.read(folder)


def test_a_damaged_key_is_refused_without_being_shown(folder: Path) -> None:
    (folder / "root.key").write_bytes(b"0123456789abcdef" * 3)
    with pytest.raises(BadSetting) as refused:
        settings.read(folder)
    assert "0123456789abcdef" not in refused.value.message


def test_a_damaged_authority_is_refused(folder: Path) -> None:
    (folder / "ca.key").write_bytes(b"nothing")
    with pytest.raises(BadSetting):
        settings.read(folder)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("version = 1", "version = 2"), BadSetting),
        (lambda text: text + "\n[extra]\nx = 1\n", BadSetting),
        (lambda text: re.sub("listen = .*", "", text), BadSetting),
        (lambda text: re.sub("names = .*", "names = []", text), BadSetting),
        (lambda text: text.replace('"admin"', '"king"'), BadSetting),
        (lambda text: re.sub("minutes = .*", "minutes = 0", text), BadSetting),
        (lambda text: re.sub("listen = .*", 'listen = "nowhere"', text), BadAddress),
        (lambda _text: "= not toml", BadSetting),
    ],
)
def test_a_wrong_setting_is_refused(
    folder: Path, change: Callable[[str], str], expected: type[LeaseholdError]
) -> None:
    path = folder / "custodian.toml"
    path.write_text(change(path.read_text()))
    with pytest.raises(expected):
        settings.read(folder)


def test_an_operator_gets_a_certificate_in_its_name_and_a_role(folder: Path) -> None:
    keys = settings.read_keys(folder)
    settings.add_operator(
        folder, "sam", Role.STOPPER, authority=keys.authority, now=NOW, entropy=os.urandom
    )
    found = settings.read(folder)
    assert (found.operator("sam").role, found.operator("admin").role) == (Role.STOPPER, Role.ADMIN)
    credentials = settings.read_credentials(folder, "sam")
    uri = identity_of(to_der(credentials.certificate))
    assert parse_identity(uri) == OperatorIdentity("sam")
    assert (credentials.address, credentials.name) == (PLACE, "custodian.example")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "x" * 64])
def test_an_operator_has_a_plain_name(folder: Path, name: str) -> None:
    authority = settings.read_keys(folder).authority
    with pytest.raises(BadMessage):
        settings.add_operator(
            folder, name, Role.ADMIN, authority=authority, now=NOW, entropy=os.urandom
        )


def test_nobody_has_a_role_without_being_named(folder: Path) -> None:
    with pytest.raises(NotPermitted):
        settings.read(folder).operator("eve")


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:x", "host:65536", "host:-1"])
def test_an_address_is_a_host_and_a_port(text: str) -> None:
    with pytest.raises(BadAddress):
        parse_place(text)


def test_addresses_are_written_as_they_are_read() -> None:
    for text in ("localhost:1", "[::1]:8443", "10.0.0.1:65535"):
        assert str(parse_place(text)) == text


def hands(folder: Path, table: str) -> None:
    """Write the table `[hands]` anew."""
    file = folder / "custodian.toml"
    text = re.sub(r"\n\[hands\]\n[^\[]*", "\n", file.read_text())
    file.write_text(f"{text}\n{table}\n")


def test_one_hand_is_enough_unless_the_settings_say_otherwise(folder: Path) -> None:
    assert settings.read(folder).operator("admin").gates == frozenset()
    hands(folder, "")
    assert settings.read(folder).hands == Hands(1, 1, 1, 1, 1)


def test_hands_are_read_and_gate_every_operator(folder: Path) -> None:
    keys = settings.read_keys(folder)
    for name in ("eve", "sam"):
        role = Role.ADMIN if name == "eve" else Role.STOPPER
        settings.add_operator(
            folder, name, role, authority=keys.authority, now=NOW, entropy=os.urandom
        )
    hands(folder, "[hands]\ngrant = 2\nresume = 2")
    found = settings.read(folder)
    assert found.hands == Hands(grant=2, resume=2)
    for name in ("admin", "eve", "sam"):
        assert found.operator(name).gates == {Gate.GRANT, Gate.RESUME}
    assert found.quorum.counted(("admin", "sam", "eve", "nobody")) == ("admin", "eve")


@pytest.mark.parametrize(
    ("table", "about"),
    [
        ("[hands]\ngrant = 2", "hands.grant"),  # of one administrator
        ("[hands]\nrelease = 0", "custodian.toml"),
        ("[hands]\ncap = -1", "custodian.toml"),
        ('[hands]\nmanifest = "2"', "custodian.toml"),
        ("[hands]\nstop = 2", "custodian.toml"),  # to stop always takes one
    ],
)
def test_hands_that_cannot_be_are_refused(folder: Path, table: str, about: str) -> None:
    hands(folder, table)
    with pytest.raises(BadSetting) as refusal:
        settings.read(folder)
    assert refusal.value.about == about


def test_administrators_can_be_added_until_there_are_enough(folder: Path) -> None:
    hands(folder, "[hands]\ngrant = 2")
    authority = settings.read_keys(folder).authority
    settings.add_operator(
        folder, "eve", Role.ADMIN, authority=authority, now=NOW, entropy=os.urandom
    )
    assert settings.read(folder).hands.grant == 2
    settings.add_operator(
        folder, "eve", Role.VIEWER, authority=authority, now=NOW, entropy=os.urandom
    )
    with pytest.raises(BadSetting):
        settings.read(folder)
