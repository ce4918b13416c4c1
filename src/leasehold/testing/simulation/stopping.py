"""What must hold of stops, whoever ordered them and however they come: bounds, times, and no way back.

Spec: docs/spec/simulation.md, Z-3; docs/spec/ledger.md, L-14. Looks at what is durable and at what is served,
and asks neither the custodian nor an enclave what it thinks of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from leasehold.custodian.ledger import stops
from leasehold.custodian.store.port import Tx
from leasehold.testing.box import Box


@dataclass(slots=True)
class StopWatch:
    """M-7: after this stop came into force at most `bound` units are served in its scope."""

    stop: stops.Stop
    bound: int
    served: int = 0
    over: bool = False  # the ledger said that nothing can be served any more


@dataclass(slots=True)
class Stopping:
    """All stops that are not lifted, as the ledger had them after the last commit.

    `fail` takes the number of an invariant and what was seen, `tell` an event for the story.
    """

    fail: Callable[[int, str], None]
    tell: Callable[[str, str], None]
    watches: dict[int, StopWatch] = field(default_factory=dict)
    _known: dict[int, stops.Stop] = field(default_factory=dict)

    def forget(self) -> None:
        """Another ledger is put in place of this one."""
        self.watches, self._known = {}, {}

    def serve(self, box: Box, consumer: str, units: int) -> None:
        """So many units have just left an enclave."""
        for watch in self.watches.values():
            if _covers(watch.stop, box.enclave.instance, consumer):
                watch.served += units
                if watch.over or watch.served > watch.bound:
                    self.fail(4, f"stop {watch.stop.id}: served {watch.served} after {watch.bound}")

    def lease(self, tx: Tx, name: str, instance: str, consumer: str, *, until: int) -> None:
        """A lease was granted or renewed; `until` is when it expires, 0 where no later than before."""
        for known in self._known.values():
            if not _covers(known, instance, consumer) or stops.show_stop(tx, known.id).lifted:
                continue
            if known.phase != "notice":
                self.fail(4, f"lease {name} grew under stop {known.id}, which is in force")
            elif until > known.ends:
                self.fail(4, f"lease {name} lives past {known.ends}, the end of stop {known.id}")

    def look(self, tx: Tx) -> list[stops.Stop]:
        """Compare all stops with what was there before; gives those that are there no more."""
        orders = {stop.id: stop for stop in stops.list_stops(tx, active=True)}
        gone = [stop for number, stop in self._known.items() if number not in orders]
        for stop in gone:
            self.watches.pop(stop.id, None)
        for number, stop in sorted(orders.items()):
            known = self._known.get(number)
            if known is not None:
                self._compare(known, stop)
            if stop.phase == "notice":
                continue
            progress = stops.progress(tx, stop=number)
            left = progress.units + progress.units_in_doubt
            watch = self.watches.setdefault(number, StopWatch(stop, left))
            watch.over = watch.over or not (left or progress.pending)
        self._known = orders
        return gone

    def _compare(self, known: stops.Stop, stop: stops.Stop) -> None:
        """L-14: whatever anybody orders and whatever a clock says, a stop only comes sooner."""
        before, after = stops.PHASES.index(known.phase), stops.PHASES.index(stop.phase)
        if stop.begins > known.begins or stop.ends > known.ends or after < before:
            self.fail(6, f"a stop was put off: {known} became {stop}")
        if after > before:
            self.tell(f"stop came to {stop.phase}", str(stop.id))


def _covers(stop: stops.Stop, instance: str, consumer: str) -> bool:
    """Whether a stop concerns this instance and consumer of the only loan."""
    return stop.target == {"consumer": consumer, "enclave": instance}.get(stop.scope, stop.target)
