"""The custodian's folder: keys, authority, operators and choices, made once and read once.

Spec: docs/spec/custodian-api.md, O-15 and O-16. `root.key` and `audit.key` hold Ed25519 seeds in
lower-case hex, the other keys are PEM; all of it is for one account alone (0600 in 0700). Refuses to
know what is done with any of it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import msgspec

from leasehold.attest.toml import write_toml
from leasehold.core.crypto import ED25519_BYTES, Entropy, SigningKey, TlsKey
from leasehold.core.units import DAY, MINUTE, Duration, Instant, after
from leasehold.custodian.collateral.vendors import PUBLIC, Vendors
from leasehold.custodian.ledger.hands import Hands, Quorum, check_hands
from leasehold.custodian.ledger.operators import Operator, Role
from leasehold.custodian.private_files import (
    hex_line,
    parse_tls_key,
    read_private,
    read_text,
    read_tls_key,
    write_private,
)
from leasehold.custodian.wrapping.ring import KeyRing
from leasehold.custodian.wrapping.table import Ask, KeysTable, open_ring
from leasehold.errors import (
    AlreadyExists,
    BadAddress,
    BadSetting,
    FileTrouble,
    NotPermitted,
)
from leasehold.net.authority import (
    Authority,
    OperatorIdentity,
    Validity,
    issue_client,
    make_authority,
    parse_identity,
)

VERSION: Final = 1
FIRST_OPERATOR: Final = "admin"
AUTHORITY_LIFE: Final = 3650 * DAY
OPERATOR_LIFE: Final = 365 * DAY
CLOCK_SKEW: Final = 5 * MINUTE  # certificates begin this much before they are made
_FOLDER_MODE: Final = 0o700
STORE: Final = "store.url"
_FOLDERS: Final = ("operators", "models", "collateral")
_WILDCARDS: Final = ("", "0.0.0.0", "::")  # noqa: S104  refused as names, never bound

Minutes = Annotated[int, msgspec.Meta(ge=1, le=60)]


@dataclass(frozen=True, slots=True)
class Rules:
    """Times and rates of a custodian.

    `certificate_life` is how long evidence counts before it must be renewed (N-3). `messages_rate`
    is what one instance may send on its channel, in messages per second, over a burst of
    `messages_burst`; `attests_rate` and `attests_burst` bound challenges and attestations of all
    comers together, because strangers may send them and each refusal is an audit entry.
    """

    certificate_life: Duration = Duration(10 * MINUTE)
    messages_rate: int = 200
    messages_burst: int = 1000
    attests_rate: int = 50
    attests_burst: int = 200


@dataclass(frozen=True, slots=True)
class Keys:
    """What makes a custodian itself: the root key that signs, and the authority that issues names.

    `audit` signs checkpoints of the log; it is another key than the root's, because C2SP notes are
    signed as they are, not as a frame (B-1).
    """

    root: SigningKey
    authority: Authority
    audit: SigningKey

    @property
    def origin(self) -> str:
        """The name of the audit log (C2SP tlog-checkpoint): it follows the root key, not an address."""
        return f"leasehold/{self.root.public.hex()[:16]}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is: a host name or IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """All that was chosen. `names` are in the server's certificate, the first one is its TLS name.

    `store` is the URL of a PostgreSQL database, empty for the SQLite file `ledger`.
    """

    folder: Path
    listen: Place
    address: Place
    names: tuple[str, ...]
    keys: Keys
    operators: Mapping[str, Role]
    rules: Rules = field(default_factory=Rules)
    vendors: Vendors = field(default_factory=Vendors)
    store: str = ""
    hands: Hands = field(default_factory=Hands)
    ring: KeyRing = field(default_factory=lambda: KeyRing(Path()))

    @property
    def origin(self) -> str:
        """The name of the audit log."""
        return self.keys.origin

    @property
    def audit(self) -> SigningKey:
        """The key that signs its checkpoints."""
        return self.keys.audit

    @property
    def ledger(self) -> Path:
        """The database."""
        return self.folder / "ledger.db"

    @property
    def mark(self) -> Path:
        """The newest checkpoint of the ledger's log (U-6)."""
        return self.folder / "ledger.checkpoint"

    @property
    def models(self) -> Path:
        """Sealed models and their keys."""
        return self.folder / "models"

    @property
    def collateral(self) -> Path:
        """What the vendors say of their machines."""
        return self.folder / "collateral"

    def operator(self, name: str) -> Operator:
        """The person of that name with the role that the settings give. Raises NotPermitted."""
        role = self.operators.get(name)
        if role is None:
            raise NotPermitted(about=name, expected="an operator named in custodian.toml")
        return Operator(name, role, self.hands.gates)

    @property
    def quorum(self) -> Quorum:
        """O-18: how many hands acts take, and whose count."""
        return Quorum(self.hands, self.operators)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of `custodian.toml`. All are mandatory but three tables.

    Without `collateral` nothing is fetched, without `hands` one administrator may do everything, without
    `keys` the custodian's keys lie in clear.
    Operators and witnesses get this file, so nothing in it is secret.
    """

    version: int
    listen: str
    address: str
    names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    certificate_minutes: Minutes
    operators: dict[str, Role]
    collateral: Vendors = Vendors()
    hands: Hands = Hands()
    keys: KeysTable = KeysTable()


def init(
    folder: Path,
    *,
    address: Place,
    names: Sequence[str] = (),
    now: Instant,
    entropy: Entropy,
    store: str = "",
    keys: KeysTable | None = None,
    ask: Ask | None = None,
) -> Settings:
    """Make a custodian's folder that listens at `address`, with a first operator `admin`.

    `names` are further names or IP addresses of the server, `store` the URL of a PostgreSQL database,
    `keys` who wraps the keys from the first one on, with `ask` for the secrets that no file holds.
    Raises AlreadyExists, FileTrouble, BadSetting, KeyLocked, KeeperUnreachable.
    """
    if (folder / "custodian.toml").exists() or (folder / "root.key").exists():
        raise AlreadyExists(about=folder, expected="a folder without a custodian in it")
    if address.host in _WILDCARDS or not 0 < address.port < 1 << 16:
        raise BadSetting(about="address", got=address, expected="one host and port for clients")
    try:
        for path in (folder, *(folder / name for name in _FOLDERS)):
            path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            path.chmod(_FOLDER_MODE)
    except OSError as cause:
        raise FileTrouble(about=folder, got=cause.strerror) from cause
    ring = open_ring(folder, keys or KeysTable(), ask=ask)
    authority = _new_authority(ring, now=now, entropy=entropy)
    for name in ("root.key", "audit.key"):
        ring.write(folder / name, hex_line(SigningKey.make(entropy).seed))
    every_name = tuple(dict.fromkeys((address.host, *names)))
    file = _File(
        VERSION, str(address), str(address), every_name, 10, {}, PUBLIC, keys=keys or KeysTable()
    )
    _write_file(folder, file, replace=False)
    if store:
        write_private(folder / STORE, store.encode() + b"\n")
    add_operator(folder, FIRST_OPERATOR, Role.ADMIN, authority=authority, now=now, entropy=entropy)
    return read(folder, ring=ring)


def add_operator(
    folder: Path, name: str, role: Role, *, authority: Authority, now: Instant, entropy: Entropy
) -> None:
    """Give a person a key, a certificate of a year and a role; a running custodian must be restarted.

    For a known name it replaces all three. Raises BadMessage (not a plain name), FileTrouble.
    """
    identity = parse_identity(OperatorIdentity(name).uri)
    key = TlsKey.make(entropy)
    certificate = issue_client(
        authority,
        key.spki,
        identity=identity,
        validity=_validity(now, OPERATOR_LIFE),
        entropy=entropy,
    )
    write_private(folder / "operators" / f"{name}.key", key.pem, replace=True)
    write_private(folder / "operators" / f"{name}.pem", certificate.encode(), replace=True)
    file = _read_file(folder)
    operators = {**file.operators, name: role}
    _write_file(folder, msgspec.structs.replace(file, operators=operators), replace=True)


def read(folder: Path, *, ring: KeyRing | None = None) -> Settings:
    """The settings of a folder that `init` made; `ring` opens its keys, where no file has the secret.

    Raises BadSetting, FileTrouble, KeyLocked, KeeperUnreachable.
    """
    file = _read_file(folder)
    ring = ring or open_ring(folder, file.keys)
    return Settings(
        folder=folder,
        listen=parse_place(file.listen),
        address=parse_place(file.address),
        names=file.names,
        keys=read_keys(folder, ring=ring),
        operators=file.operators,
        rules=Rules(certificate_life=Duration(file.certificate_minutes * MINUTE)),
        vendors=file.collateral,
        store=_read_store(folder),
        hands=check_hands(file.hands, file.operators),
        ring=ring,
    )


def read_ring(folder: Path, *, ask: Ask | None = None, is_lenient: bool = False) -> KeyRing:
    """What opens the keys of a folder; with `is_lenient` keys in clear too. Raises BadSetting, FileTrouble."""
    return open_ring(folder, _read_file(folder).keys, ask=ask, is_lenient=is_lenient)


def read_operators(folder: Path) -> dict[str, Role]:
    """Who may operate the custodian, by name. Raises BadSetting, FileTrouble."""
    return _read_file(folder).operators


def _read_store(folder: Path) -> str:
    """The URL in the file `STORE`, which may hold a password; empty where there is no such file."""
    path = folder / STORE
    return read_private(path).decode("utf-8", "replace").strip() if path.exists() else ""


def parse_keys(text: bytes) -> KeysTable:
    """The table `[keys]` in a TOML file that holds nothing else. Raises BadSetting."""
    try:
        return msgspec.convert(tomllib.loads(text.decode()), dict[str, KeysTable])["keys"]
    except (
        tomllib.TOMLDecodeError,
        UnicodeDecodeError,
        msgspec.ValidationError,
        KeyError,
    ) as cause:
        raise BadSetting(about="[keys]", got=cause) from cause


def read_vendors(folder: Path) -> Vendors:
    """Where a folder's collateral is fetched from. Raises BadSetting, FileTrouble."""
    return _read_file(folder).collateral


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an operator needs to reach a custodian: where it is, its TLS name, its CA, a certificate."""

    address: Place
    name: str
    ca: str
    certificate: str
    key: TlsKey


def read_credentials(folder: Path, operator: str) -> Credentials:
    """An operator's part of a folder: `custodian.toml`, `ca.pem` and `operators/NAME.*` are enough.

    Raises BadSetting, FileTrouble.
    """
    file = _read_file(folder)
    return Credentials(
        address=parse_place(file.address),
        name=file.names[0],
        ca=read_text(folder / "ca.pem"),
        certificate=read_text(folder / "operators" / f"{operator}.pem"),
        key=read_tls_key(folder / "operators" / f"{operator}.key"),
    )


def read_keys(folder: Path, *, ring: KeyRing | None = None) -> Keys:
    """Root key, authority and audit key of a folder. Raises as `read` does."""
    ring = ring or read_ring(folder)
    root = SigningKey.load(ring.read_seed(folder / "root.key", ED25519_BYTES))
    key = parse_tls_key(ring.read(folder / "ca.key"), folder / "ca.key")
    authority = Authority(key, read_text(folder / "ca.pem"))
    audit = SigningKey.load(ring.read_seed(folder / "audit.key", ED25519_BYTES))
    return Keys(root, authority, audit)


def parse_place(text: str) -> Place:
    """`HOST:PORT`, with `[...]` around an IPv6 address. Raises BadAddress."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) >= 1 << 16:
        raise BadAddress(got=text)
    return Place(host.removeprefix("[").removesuffix("]"), int(port))


def _new_authority(ring: KeyRing, *, now: Instant, entropy: Entropy) -> Authority:
    key = TlsKey.make(entropy)
    authority = make_authority(
        key,
        name="Leasehold custodian",
        validity=_validity(now, AUTHORITY_LIFE),
        entropy=entropy,
    )
    ring.write(ring.folder / "ca.key", key.pem)
    write_private(ring.folder / "ca.pem", authority.certificate.encode())
    return authority


def _validity(now: Instant, life: int) -> Validity:
    return Validity(after(now, -CLOCK_SKEW), after(now, life))


def _read_file(folder: Path) -> _File:
    try:
        content = tomllib.loads(read_private(folder / "custodian.toml").decode())
        file = msgspec.convert(content, _File)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as cause:
        raise BadSetting(about="custodian.toml", got=cause) from cause
    if file.version != VERSION:
        raise BadSetting(about="version", got=file.version, expected=VERSION)
    return file


def _write_file(folder: Path, file: _File, *, replace: bool) -> None:
    data = write_toml(msgspec.to_builtins(file))
    write_private(folder / "custodian.toml", data, replace=replace)
