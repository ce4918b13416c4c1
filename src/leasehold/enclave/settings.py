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


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the custodian fixed, by the file's keys. Bounds keep a typing error from becoming an outage.

    `file` is the whole signed file, as it goes into the evidence; the two keys are hex in it.
    """

    file: bytes
    version: int
    loan: str
    engine: str
    attester: str
    custodian_root: bytes
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
    log_key: bytes = b""
    unsafe_engine_in_process: bool = False
    unsafe_swapped_weights: bool = False

    @property
    def dead_man(self) -> Duration:
        """So long without contact, and everything is wiped."""
        return Duration(self.dead_man_seconds * SECOND)


def parse_settings(file: bytes) -> Settings:
    """The settings in a signed configuration file. Raises BadSetting or BadSignature.

    The signature is checked under the root that the file itself names: that the root is the right
    one is for the evidence to show, which carries this file's hash.
    """
    try:
        content = tomllib.loads(unsigned_text(file).decode())
        for name in {"custodian_root", "log_key"} & content.keys():
            content[name] = unhex(str(content[name]), about=name, size=32)
        settings = msgspec.convert(content | {"file": file}, Settings)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as cause:
        raise BadSetting(about="enclave configuration", got=cause) from cause
    if settings.version != VERSION:
        raise BadSetting(about="version", got=settings.version, expected=VERSION)
    if settings.attester == GRAMINE and not settings.unsafe_engine_in_process:  # W-29
        raise BadSetting(about="unsafe_engine_in_process", got=False, expected="true, for Gramine")
    check_text(file, kind=KIND, public=settings.custodian_root)
    return settings
