"""The enclave's configuration: the one file it reads, signed by the custodian, its hash in the evidence.

Every key is mandatory but `devices`, without which no device is asked and evidence of none passes.
Addresses and mirrors are no part of it; they are hints that the borrower may choose.
"""

from __future__ import annotations

import tomllib
from typing import Final

import msgspec

from leasehold.core.encoding import unhex
from leasehold.core.statements import check_text, unsigned_text
from leasehold.core.units import Duration
from leasehold.errors import BadSetting

KIND: Final = "leasehold-enclave"
VERSION: Final = 1
NO_DEVICES: Final = "none"
DEAD_MAN_SECONDS_MIN: Final = 7  # an idle line is heard from every five to six seconds (N-6)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's keys. Bounds keep a typing error from becoming an outage."""

    version: int
    loan: str
    engine: str
    attester: str
    custodian_root: str
    custodian_ca: str
    custodian_name: str
    dead_man_seconds: int
    context_tokens: int
    slots: int
    threads: int
    block_tokens: int
    queue_max: int
    concurrency_max: int
    body_bytes_max: int
    devices: str = NO_DEVICES


class Settings(msgspec.Struct, frozen=True):
    """What the custodian fixed. `file` is the whole signed file, as it goes into the evidence."""

    file: bytes
    loan: str
    engine: str
    attester: str
    custodian_root: bytes
    custodian_ca: str
    custodian_name: str
    dead_man: Duration
    context_tokens: int
    slots: int
    threads: int
    block_tokens: int
    queue_max: int
    concurrency_max: int
    body_bytes_max: int
    devices: str = NO_DEVICES


_POSITIVE: Final = (
    "dead_man_seconds",
    "context_tokens",
    "slots",
    "threads",
    "block_tokens",
    "queue_max",
    "concurrency_max",
    "body_bytes_max",
)


def parse_settings(file: bytes) -> Settings:
    """The settings in a signed configuration file. Raises BadSetting or BadSignature.

    The signature is checked under the root that the file itself names: that the root is the right
    one is for the evidence to show, which carries this file's hash.
    """
    try:
        content = tomllib.loads(unsigned_text(file).decode())
        parsed = msgspec.convert(content, _File)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as cause:
        raise BadSetting(about="enclave configuration", got=cause) from cause
    if parsed.version != VERSION:
        raise BadSetting(about="version", got=parsed.version, expected=VERSION)
    for name in _POSITIVE:
        if getattr(parsed, name) < 1:
            raise BadSetting(about=name, got=getattr(parsed, name), expected="at least 1")
    if parsed.dead_man_seconds < DEAD_MAN_SECONDS_MIN:
        expected = f"at least {DEAD_MAN_SECONDS_MIN}"
        raise BadSetting(about="dead_man_seconds", got=parsed.dead_man_seconds, expected=expected)
    root = unhex(parsed.custodian_root, about="custodian_root", size=32)
    check_text(file, kind=KIND, public=root)
    return Settings(
        file=file,
        loan=parsed.loan,
        engine=parsed.engine,
        attester=parsed.attester,
        custodian_root=root,
        custodian_ca=parsed.custodian_ca,
        custodian_name=parsed.custodian_name,
        dead_man=Duration(parsed.dead_man_seconds * 1000),
        context_tokens=parsed.context_tokens,
        slots=parsed.slots,
        threads=parsed.threads,
        block_tokens=parsed.block_tokens,
        queue_max=parsed.queue_max,
        concurrency_max=parsed.concurrency_max,
        body_bytes_max=parsed.body_bytes_max,
        devices=parsed.devices,
    )
