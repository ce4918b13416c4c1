"""Two checkpoints that one log signed and that cannot both be true: proof of a fork to anybody, for ever.

Spec: docs/spec/witness.md, J-10. Refuses to know: who met with them, and why the log forked.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from leasehold.core.crypto import is_equal
from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import LogHead
from leasehold.custodian.ledger.notes import Checkpoint, checkpoint_text, signed_note
from leasehold.custodian.mark import read_checkpoint
from leasehold.custodian.private_files import read_private, write_private
from leasehold.errors import LeaseholdError, Unproven


class Fork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was seen of a log, and what it showed later: two signed notes."""

    origin: str
    seen: str
    shown: str


class _Event(msgspec.Struct, frozen=True, tag="log_fork", tag_field="event"):
    """The line that an enclave writes into its events (J-6)."""

    seen: LogHead
    shown: LogHead


class _Kind(msgspec.Struct, frozen=True):
    event: str = ""


def check_fork(fork: Fork, *, origin: str, public: bytes) -> tuple[Checkpoint, Checkpoint]:
    """J-10: the log signed both, they are of one size, and their roots differ.

    Raises BadSignature, BadMessage, and Unproven where no contradiction is shown: of two sizes, the one
    may well extend the other.
    """
    seen = read_checkpoint(fork.seen, origin=origin, public=public)
    shown = read_checkpoint(fork.shown, origin=origin, public=public)
    if seen.size != shown.size:
        raise Unproven(
            about="fork",
            got=f"checkpoints of {seen.size} and {shown.size} entries",
            expected="two of one size; ask the log for its checkpoint of the other one's size",
        )
    if is_equal(seen.root, shown.root):
        raise Unproven(about="fork", got="the same root twice", expected="two roots")
    return seen, shown


def parse_fork(data: bytes, *, origin: str, public: bytes) -> Fork:
    """The file that a witness wrote, or the line that an enclave did. Raises BadMessage."""
    if from_json(data, _Kind).event:
        event = from_json(data, _Event)
        return Fork(
            origin,
            *(
                signed_note(
                    checkpoint_text(Checkpoint(origin, head.size, head.root)),
                    name=origin,
                    public=public,
                    signature=head.signature,
                )
                for head in (event.seen, event.shown)
            ),
        )
    return from_json(data, Fork)


def keep_fork(path: Path, fork: Fork, *, public: bytes) -> None:
    """Write it down, but never over one that is a proof. Raises FileTrouble, BadSetting, BadMessage."""
    if path.exists() and _proves(from_json(read_private(path), Fork), public=public):
        return
    write_private(path, to_json(fork) + b"\n", replace=True)


def _proves(fork: Fork, *, public: bytes) -> bool:
    try:
        check_fork(fork, origin=fork.origin, public=public)
    except LeaseholdError:
        return False
    return True
