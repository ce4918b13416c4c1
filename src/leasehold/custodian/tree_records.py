"""What is sent and got about the audit log's tree: records shared by server and command line.

Spec: docs/spec/custodian-api.md, O-9, O-17 and O-22. Strict, as `records` is. Refuses to know HTTP.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from leasehold.core.units import Instant


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class CheckpointView(_Record, frozen=True):
    """A C2SP checkpoint, the exact text."""

    checkpoint: str


class InclusionView(_Record, frozen=True):
    """The hashes from an entry up to the root of `size` entries; a checkpoint of just these, if fresh."""

    index: int
    size: int
    proof: tuple[bytes, ...]
    checkpoint: str


class ConsistencyView(_Record, frozen=True):
    """The hashes that show `size` entries to extend the first `old`; a checkpoint of these, if fresh."""

    old: int
    size: int
    proof: tuple[bytes, ...]
    checkpoint: str


class WitnessView(_Record, frozen=True):
    """Somebody who cosigns the log: the newest size, the cosigner's time, when it came, how far behind."""

    name: str
    kind: Literal["enclave", "witness"]
    key: str
    size: int
    signed: Instant
    arrived: Instant
    behind: int


class CosignatureOrder(_Record, frozen=True):
    """A witness's line below the checkpoint of `size` entries; `key` is its public key."""

    name: str
    key: bytes
    size: int
    line: str
