"""The custodian's log: events with an allow-list of fields, so that no key and no body is ever in it.

What was decided is in the audit log; this one is for whoever keeps the process running.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Final, Protocol

import structlog

FIELDS: Final = frozenset(
    {
        "address",
        "code",
        "error",
        "instance",
        "instances",
        "item",
        "items",
        "leases",
        "loan",
        "method",
        "operator",
        "path",
        "root",
        "status",
        "units",
        "where",
    }
)


class Log(Protocol):
    """Where events go."""

    def event(self, name: str, **fields: object) -> None:
        """Say that something happened. Fields outside the allow-list are a programming error."""


class JsonLog:
    """One JSON line per event on standard error."""

    __slots__ = ("_logger",)

    def __init__(self, role: str = "custodian") -> None:
        processors: list[Any] = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ]
        self._logger = structlog.wrap_logger(
            structlog.PrintLogger(sys.stderr), processors=processors, role=role
        )

    def event(self, name: str, **fields: object) -> None:
        """Print the event. Raises ValueError for a field outside the allow-list."""
        unknown = fields.keys() - FIELDS
        if unknown:
            raise ValueError(f"log fields outside the allow-list: {sorted(unknown)}")
        self._logger.info(name, **fields)


def place_of(failure: BaseException) -> str:
    """`file.py:line` where an unforeseen error was raised; its text may hold secrets and is not used."""
    trace: TracebackType | None = failure.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
