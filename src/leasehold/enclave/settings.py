"""The enclave's configuration: the one file it reads, signed by the custodian, its hash in the evidence.

Every key is mandatory but `devices`, without which no device is asked and evidence of none passes, and
`log_origin` with `log_key`, without which the instance watches no audit log (docs/spec/witness.md, J-5),
and what is called unsafe: it is off where it is not named.
Addresses and mirrors are no part of it; they are hints that the borrower may choose.
"""

from __future__ import annotations

import tomllib
from typing import Annotated, Final

import msgspec

from leasehold.core.encoding import unhex
from leasehold.core.statements import check_text, unsigned_text
from leasehold.core.units import SECOND, Duration
from leasehold.errors import BadSetting

KIND: Final = "leasehold-enclave"
VERSION: Final = 1
NO_DEVICES: Final = "none"
GRAMINE: Final = "gramine"  # the attester where no other process can have the engine
DEAD_MAN_SECONDS_MIN: Final = 7  # an idle line is heard from every five to six seconds (N-6)


_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's keys. Bounds keep a typing error from becoming an outage."""

    version: int
    loan: str
    engine: str
    attester: str
    custodian_root: str
    custodian_ca: str
    custodian_name: str
    dead_man_seconds: Annotated[int, msgspec.Meta(ge=DEAD_MAN_SECONDS_MIN)]
    context_tokens: _Positive
    slots: _Positive
    threads: _Positive
    block_tokens: _Positive
    queue_max: _Positive
    concurrency_max: _Positive
    body_bytes_max: _Positive
    devices: str = NO_DEVICES
    log_origin: str = ""
    log_key: str = ""
    unsafe_engine_in_process: bool = False


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
    log_origin: str = ""
    log_key: bytes = b""
    unsafe_engine_in_process: bool = False


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
    if parsed.attester == GRAMINE and not parsed.unsafe_engine_in_process:  # W-29
        raise BadSetting(
            about="unsafe_engine_in_process", got=False, expected="true, under Gramine"
        )
    root = unhex(parsed.custodian_root, about="custodian_root", size=32)
    check_text(file, kind=KIND, public=root)
    log_key = unhex(parsed.log_key, about="log_key", size=32) if parsed.log_key else b""
    dead_man = Duration(parsed.dead_man_seconds * SECOND)
    found = {"file": file, "custodian_root": root, "log_key": log_key, "dead_man": dead_man}
    return msgspec.convert(msgspec.structs.asdict(parsed) | found, Settings)
