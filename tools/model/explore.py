"""Every state that can be reached, breadth first, and the shortest story of one that must not be."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from tools.model.protocol import Limits, Rules, State, broken, steps


@dataclass(frozen=True, slots=True)
class Explored:
    """How much there was. `story` tells how the first broken state came about; empty where none is."""

    states: int
    steps: int
    broken: str | None = None
    story: tuple[str, ...] = ()


def explore(rules: Rules, limits: Limits, *, most: int = 10_000_000) -> Explored:
    """Look at every state. Raises RuntimeError where there are more than `most`."""
    first = State()
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    waiting, count = deque([first]), 0
    while waiting:
        state = waiting.popleft()
        for name, found in steps(state, rules, limits):
            count += 1
            after = canonical(found)
            if after in came_from:
                continue
            came_from[after] = (state, name)
            wrong = broken(after)
            if wrong is not None:
                return Explored(len(came_from), count, wrong, _story(came_from, after))
            if len(came_from) > most:
                raise RuntimeError(f"more than {most} states")
            waiting.append(after)
    return Explored(len(came_from), count)


def canonical(s: State) -> State:
    """The same state for all orders of the enclaves, without messages that nobody can hear any more."""
    alive = {enclave.instance for enclave in s.enclaves}
    sent = frozenset(m for m in s.sent if m.kind in ("ask", "close") or m.instance in alive)
    enclaves = tuple(sorted(s.enclaves, key=lambda enclave: enclave.instance))
    if sent == s.sent and enclaves == s.enclaves:
        return s
    return replace(s, sent=sent, enclaves=enclaves)


def _story(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    told: list[str] = []
    step = came_from[state]
    while step is not None:
        state, name = step
        told.append(name)
        step = came_from[state]
    return tuple(reversed(told))
