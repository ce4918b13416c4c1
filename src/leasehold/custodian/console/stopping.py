"""A stop's progress as its page shows it: the API's numbers, and each instance's standing in words.

Spec: docs/spec/console.md, O-32. Refuses to know where the progress comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from leasehold.core.messages import Scope
from leasehold.custodian.ledger.stops import Phase, Stop
from leasehold.custodian.records import MemberView, ProgressView
from leasehold.custodian.words import proof_delay, sentences

Standing = Literal["proved", "told", "silent", "dead", "announced", "serving"]
ROWS_MAX: Final = (
    200  # of a page that loads itself anew: nobody reads more, and it stays below 0.2 MB
)
TARGET_CHARS_MAX: Final = 63  # the longest name; an instance id is longer
ID_CHARS: Final = 16  # of an instance id, which people compare
_PHASES: Final[dict[Phase, str]] = {"notice": "announced", "drain": "draining", "full": "in force"}
# In the order in which they are shown: who is to be worried about comes first.
LABELS: Final[dict[Standing, str]] = {
    "silent": "Not connected, no proof",
    "told": "Told, no proof yet",
    "dead": "Presumed dead",
    "announced": "Serving until then",
    "serving": "Serving others",
    "proved": "Proved",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One instance of a stop. `proof` says how long after the order it proved that it stopped."""

    member: MemberView
    standing: Standing
    label: str
    proof: str


@dataclass(frozen=True, slots=True)
class Card:
    """A stop as it is shown; `state` is one or two words for it, `words` what the command line says.

    `rows` are the worst, `more` is how many others there are.
    """

    view: ProgressView
    what: str
    state: str
    words: list[str]
    rows: tuple[Row, ...]
    more: int

    @property
    def is_moving(self) -> bool:
        """Whether it can still come further."""
        return not self.view.complete and self.view.stop.lifted is None


def card(view: ProgressView, *, rows_max: int = ROWS_MAX) -> Card:
    """How far a stop has come, with at most so many instances, those first who have not proved it."""
    order = list(LABELS)
    rows = sorted(
        (_row(one, view) for one in view.instances), key=lambda row: order.index(row.standing)
    )
    return Card(
        view,
        brief(view.stop.scope, view.stop.target),
        state_of(view.stop, complete=view.complete),
        sentences(view),
        tuple(rows[:rows_max]),
        max(0, len(rows) - rows_max),
    )


def brief(scope: Scope, target: str) -> str:
    """What is stopped, short enough for a heading."""
    if scope == "all":
        return "everything"
    is_long = len(target) > TARGET_CHARS_MAX
    return f"{scope} {target[:ID_CHARS]}…" if is_long else f"{scope} {target}"


def state_of(stop: Stop, *, complete: bool = False) -> str:
    """A stop in a word or two."""
    if stop.lifted is not None:
        return "called off" if stop.phase == "notice" else "lifted"
    return "complete" if complete else _PHASES[stop.phase]


def _row(one: MemberView, view: ProgressView) -> Row:
    standing = _standing(one, view)
    proof = proof_delay(one, view.stop) if standing == "proved" else ""
    return Row(one, standing, LABELS[standing], proof)


def _standing(one: MemberView, view: ProgressView) -> Standing:
    if one.id in view.proved:
        return "proved"
    if one.id in view.presumed_dead:
        return "dead"
    if view.stop.phase == "notice":
        return "announced"
    if view.stop.scope == "consumer" and one.state == "live":
        return "serving"
    return "told" if one.connected else "silent"
