"""The life of an enclave as a table: legal moves are rows, absence is refusal.

Spec: docs/spec/session.md, N-9. The diagram in that page is drawn from this table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from leasehold.errors import Conflict


class State(StrEnum):
    """Where an instance stands."""

    STARTING = "starting"
    PROVING = "proving"
    LOADING = "loading"
    SERVING = "serving"
    STOPPED = "stopped"


class Event(StrEnum):
    """What can happen to it."""

    CHALLENGED = "challenged"
    RELEASED = "released"
    UNREACHABLE = "unreachable"
    LOADED = "loaded"
    RENEWED = "renewed"
    ENGINE_LOST = "engine_lost"
    STOP = "stop"


NEXT: Final = {
    (State.STARTING, Event.CHALLENGED): State.PROVING,
    (State.PROVING, Event.RELEASED): State.LOADING,
    (State.PROVING, Event.UNREACHABLE): State.STARTING,
    (State.LOADING, Event.LOADED): State.SERVING,
    (State.LOADING, Event.RENEWED): State.LOADING,
    (State.SERVING, Event.RENEWED): State.SERVING,
    (State.SERVING, Event.ENGINE_LOST): State.LOADING,
    **{(state, Event.STOP): State.STOPPED for state in State},
}


def advance(state: State, event: Event) -> State:
    """The state after `event`. Raises Conflict where the table has no such row."""
    try:
        return NEXT[state, event]
    except KeyError:
        allowed = sorted(event.value for at, event in NEXT if at is state)
        raise Conflict(about=f"state {state}", got=event.value, expected=allowed) from None


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    rows = [f"    {state} --> {to}: {event}" for (state, event), to in NEXT.items()]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {State.STARTING}", *rows])
