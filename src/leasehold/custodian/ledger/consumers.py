"""Consumers and the hashes of their API keys; the keys themselves are never here."""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.core.units import Instant
from leasehold.custodian.ledger import audit
from leasehold.custodian.ledger.checks import check_absent, check_name, found
from leasehold.custodian.ledger.operators import Operator, Right, check_right
from leasehold.custodian.store.port import Tx
from leasehold.errors import BadRequest, UnknownKey

KEY_ID_CHARS: Final = 16
_KEYS: Final = "SELECT id, consumer, hash, created, revoked FROM keys "


class Consumer(msgspec.Struct, frozen=True):
    """Somebody who may be granted budgets."""

    name: str
    created: Instant


class Key(msgspec.Struct, frozen=True):
    """An API key: `id` is the start of its SHA-256 in hex, `hash` all of it."""

    id: str
    consumer: str
    hash: bytes
    created: Instant
    revoked: Instant | None


def key_id(key_hash: bytes) -> str:
    """How a key is called in lists and in the log."""
    return key_hash.hex()[:KEY_ID_CHARS]


def add_consumer(tx: Tx, *, now: Instant, operator: Operator, name: str) -> Consumer:
    """Raises NotPermitted, BadRequest, AlreadyExists."""
    check_right(operator, Right.CHANGE)
    check_name(name, about="consumer name")
    check_absent(
        tx.execute("SELECT 1 FROM consumers WHERE name = ?", (name,)), about=f"consumer {name}"
    )
    tx.execute("INSERT INTO consumers (name, created) VALUES (?, ?)", (name, now))
    audit.append(tx, now=now, actor=operator.name, kind="consumer.add", detail={"consumer": name})
    return Consumer(name, now)


def show_consumer(tx: Tx, name: str) -> Consumer:
    """Raises UnknownThing."""
    rows = tx.execute("SELECT name, created FROM consumers WHERE name = ?", (name,))
    return Consumer(*found(rows, about=f"consumer {name}"))


def list_consumers(tx: Tx) -> tuple[Consumer, ...]:
    """All consumers by name."""
    rows = tx.execute("SELECT name, created FROM consumers ORDER BY name")
    return tuple(Consumer(*row) for row in rows)


def add_key(tx: Tx, *, now: Instant, operator: Operator, consumer: str, key_hash: bytes) -> Key:
    """`key_hash` is the SHA-256 of a fresh 256-bit key.

    Raises NotPermitted, BadRequest, UnknownThing, AlreadyExists.
    """
    check_right(operator, Right.CHANGE)
    if len(key_hash) != 32:
        raise BadRequest(about="key hash", got=len(key_hash), expected="32 bytes")
    show_consumer(tx, consumer)
    key = Key(key_id(key_hash), consumer, key_hash, now, None)
    check_absent(tx.execute("SELECT 1 FROM keys WHERE id = ?", (key.id,)), about=f"key {key.id}")
    tx.execute(
        "INSERT INTO keys (id, consumer, hash, created, revoked) VALUES (?, ?, ?, ?, NULL)",
        (key.id, key.consumer, key.hash, key.created),
    )
    detail = {"consumer": consumer, "key": key.id, "hash": key_hash.hex()}
    audit.append(tx, now=now, actor=operator.name, kind="key.add", detail=detail)
    return key


def revoke_key(tx: Tx, *, now: Instant, operator: Operator, key: str) -> Key:
    """No lease is granted or renewed for it again; a second call changes nothing.

    Raises NotPermitted, UnknownThing.
    """
    check_right(operator, Right.CHANGE)
    if show_key(tx, key).revoked is None:
        tx.execute("UPDATE keys SET revoked = ? WHERE id = ?", (now, key))
        audit.append(tx, now=now, actor=operator.name, kind="key.revoke", detail={"key": key})
    return show_key(tx, key)


def show_key(tx: Tx, key: str) -> Key:
    """A key by its id. Raises UnknownThing."""
    return Key(*found(tx.execute(_KEYS + "WHERE id = ?", (key,)), about=f"key {key}"))


def list_keys(tx: Tx, *, consumer: str | None = None) -> tuple[Key, ...]:
    """All keys, or one consumer's."""
    rows = tx.execute(
        _KEYS + "WHERE consumer = ? OR ? = 1 ORDER BY consumer, created, id",
        (consumer, int(consumer is None)),
    )
    return tuple(Key(*row) for row in rows)


def find_key(tx: Tx, key_hash: bytes) -> Key:
    """The live key of this hash. Raises UnknownKey, also for a revoked one."""
    rows = tx.execute(_KEYS + "WHERE hash = ? AND revoked IS NULL", (key_hash,))
    if not rows:
        raise UnknownKey
    return Key(*rows[0])
