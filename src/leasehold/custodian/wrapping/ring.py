"""The ring of all that can open this custodian's key files, and the one that closes new ones.

Spec: docs/spec/keys.md, Y-2 to Y-5. Refuses to know how a keeper works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from leasehold.core.crypto import is_equal
from leasehold.custodian.private_files import parse_seed, read_private, write_private
from leasehold.custodian.wrapping.record import (
    Wrapped,
    close_inside,
    format_wrapped,
    is_wrapped,
    open_inside,
    parse_wrapped,
)
from leasehold.errors import KeyLocked

PLAIN = "none"


class Keeper(Protocol):
    """Wraps and unwraps. `what` is bound to the ciphertext wherever the keeper can do that."""

    def wrap(self, what: str, plaintext: bytes) -> Wrapped:
        """A record that only this keeper opens. Raises KeyLocked, KeeperUnreachable."""

    def unwrap(self, wrapped: Wrapped) -> bytes:
        """The plaintext. Raises KeyLocked, KeeperUnreachable."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Reads and writes the key files below `folder`.

    `wrap` names the keeper of new files, or PLAIN; `keepers` has one for each kind of record. Where a
    keeper is chosen, a file that is not wrapped is refused, unless `is_lenient`.
    """

    folder: Path
    wrap: str = PLAIN
    keepers: Mapping[str, Keeper] = field(default_factory=dict)
    is_lenient: bool = False

    def read(self, path: Path) -> bytes:
        """The contents of a key file, unwrapped.

        Raises KeyLocked, KeeperUnreachable, BadSetting, FileTrouble.
        """
        data, what = read_private(path), self.name(path)
        if not is_wrapped(data):
            if self.wrap != PLAIN and not self.is_lenient:
                raise KeyLocked(
                    about=what, got="a key in clear", expected="wrapped: `leasehold keys rewrap`"
                )
            return data
        return self._open(what, parse_wrapped(data, what=what))

    def read_seed(self, path: Path, size: int) -> bytes:
        """The secret of `size` bytes in hex. Raises as `read` does."""
        return parse_seed(self.read(path), size, path)

    def write(self, path: Path, secret: bytes, *, replace: bool = False) -> None:
        """Write a key file, wrapped where a keeper is chosen, after it opened once.

        Raises AlreadyExists, KeyLocked, KeeperUnreachable, FileTrouble.
        """
        if self.wrap != PLAIN:
            what = self.name(path)
            wrapped = self.keepers[self.wrap].wrap(what, close_inside(what, secret))
            if not is_equal(self._open(what, wrapped), secret):
                raise KeyLocked(about=what, got="another key", expected="what was just wrapped")
            secret = format_wrapped(wrapped)
        write_private(path, secret, replace=replace)

    def name(self, path: Path) -> str:
        """Y-2: what a key is called: its path below the custodian's folder."""
        below = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path.name
        return str(below)

    def kind(self, path: Path) -> str:
        """Which keeper opens a file, or PLAIN. Raises KeyLocked, BadSetting, FileTrouble."""
        data = read_private(path)
        return tag_of(parse_wrapped(data, what=self.name(path))) if is_wrapped(data) else PLAIN

    def _open(self, what: str, wrapped: Wrapped) -> bytes:
        keeper = self.keepers.get(tag_of(wrapped))
        if keeper is None:
            raise KeyLocked(
                about=what,
                got=f"a key wrapped by {tag_of(wrapped)}",
                expected="the table [keys] of custodian.toml to say how to reach that",
            )
        return open_inside(what, keeper.unwrap(wrapped))


def tag_of(wrapped: Wrapped) -> str:
    """The kind of keeper that a record is for."""
    return str(wrapped.__struct_config__.tag)
