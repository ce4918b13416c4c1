"""The enclave's log: events with an allow-list of fields, so that nothing else can ever be said.

The log goes to the host, who is the adversary: no prompt, no key, no exception text (T48, T49).
"""

from __future__ import annotations

import sys
from typing import Final, Protocol

from leasehold.core.encoding import to_json
from leasehold.core.units import Clock

FIELDS: Final = frozenset(
    {
        "absent",
        "address",
        "bytes",
        "code",
        "epoch",
        "instance",
        "layers",
        "loan",
        "measured",
        "milliseconds",
        "model",
        "of",
        "seen",
        "shown",
        "source",
        "state",
        "stop",
        "units",
        "why",
    }
)


class Log(Protocol):
    """Where events go."""

    def event(self, name: str, **fields: object) -> None:
        """Say that something happened. Fields outside the allow-list are a programming error."""


class JsonLog:
    """One JSON line per event on standard error.

    Ten lines of our own: a logging library would be the largest thing in the trusted base but one.
    """

    __slots__ = ("_clock", "_marks")

    def __init__(self, clock: Clock, *, simulated: bool) -> None:
        self._clock = clock
        self._marks = {"role": "enclave"} | ({"platform": "SIMULATED"} if simulated else {})

    def event(self, name: str, **fields: object) -> None:
        """Print the event. Raises ValueError for a field outside the allow-list."""
        unknown = fields.keys() - FIELDS
        if unknown:
            raise ValueError(f"log fields outside the allow-list: {sorted(unknown)}")
        line = {"time": self._clock.now(), "event": name} | self._marks | fields
        sys.stderr.write(to_json(line).decode() + "\n")
        sys.stderr.flush()
