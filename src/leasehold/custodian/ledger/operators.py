"""Who may do what: operators of the custodian and their roles.

Refuses to know: certificates and passkeys; whoever builds an Operator has authenticated a person.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from leasehold.errors import HandsNeeded, NotPermitted


class Role(StrEnum):
    """`admin` may do all, `stopper` may stop and read, `viewer` may read.

    `witness` sees hashes of the audit log, its checkpoints and proofs, and nothing of what they are over.
    """

    ADMIN = "admin"
    STOPPER = "stopper"
    VIEWER = "viewer"
    WITNESS = "witness"


class Right(StrEnum):
    """What an act needs. Stopping is easy and granting hard (T56): a stopper cannot resume."""

    HASHES = "see hashes"
    READ = "read"
    STOP = "stop"
    CHANGE = "change"


RIGHTS: Final = {
    Role.ADMIN: frozenset(Right),
    Role.STOPPER: frozenset({Right.HASHES, Right.READ, Right.STOP}),
    Role.VIEWER: frozenset({Right.HASHES, Right.READ}),
    Role.WITNESS: frozenset({Right.HASHES}),
}


class Gate(StrEnum):
    """O-18: the kinds of act for which the settings may want several hands. To stop always takes one."""

    RELEASE = "release"
    CAP = "cap"
    MANIFEST = "manifest"
    RESUME = "resume"
    GRANT = "grant"


class Operator(msgspec.Struct, frozen=True):
    """An authenticated person; the name goes into the audit log.

    `gates` are the kinds of act that this person cannot do alone.
    """

    name: str
    role: Role
    gates: frozenset[Gate] = frozenset()


def check_right(operator: Operator, right: Right) -> None:
    """Raise NotPermitted unless the operator's role includes `right`."""
    if right not in RIGHTS[operator.role]:
        raise NotPermitted(
            about=operator.name, got=operator.role, expected=f"a role that may {right}"
        )


def check_alone(operator: Operator, gate: Gate) -> None:
    """O-18, L-13: raise NotPermitted without the right to change, HandsNeeded where one hand is too few.

    The acts themselves ask, so that a way to them that forgot about hands is closed and not open.
    """
    check_right(operator, Right.CHANGE)
    if gate in operator.gates:
        raise HandsNeeded(about=gate, got="one hand", expected="a proposal that others approve")
