"""The enclave's log: events with an allow-list of fields, so that nothing else can ever be said.

The log goes to the host, who is the adversary: no prompt, no key, no exception text (T48, T49).
"""

from __future__ import annotations

import sys
from typing import Any, Final, Protocol

import structlog

FIELDS: Final = frozenset(
    {
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
        "state",
        "stop",
        "units",
    }
)


class Log(Protocol):
    """Where events go."""

    def event(self, name: str, **fields: object) -> None:
        """Say that something happened. Fields outside the allow-list are a programming error."""


class JsonLog:
    """One JSON line per event on standard error."""

    __slots__ = ("_logger",)

    def __init__(self, *, simulated: bool) -> None:
        processors: list[Any] = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ]
        logger = structlog.wrap_logger(
            structlog.PrintLogger(sys.stderr), processors=processors, role="enclave"
        )
        self._logger = logger.bind(platform="SIMULATED") if simulated else logger

    def event(self, name: str, **fields: object) -> None:
        """Print the event. Raises ValueError for a field outside the allow-list."""
        unknown = fields.keys() - FIELDS
        if unknown:
            raise ValueError(f"log fields outside the allow-list: {sorted(unknown)}")
        self._logger.info(name, **fields)
