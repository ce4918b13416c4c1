"""The API as one operator has it, called without HTTP: the console's only way to the ledger (O-26).

Refuses to know templates and forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from leasehold.core.encoding import to_json
from leasehold.core.statements import Signed
from leasehold.core.units import Instant
from leasehold.custodian import desk, proposals, tree, watch
from leasehold.custodian.decide import signed_reason
from leasehold.custodian.desk import Call, Desk, Handler
from leasehold.custodian.ledger.operators import RIGHTS, Operator, Right, check_right
from leasehold.custodian.ledger.stops import Stop

T = TypeVar("T")
_TABLES: Final = (*desk.ENDPOINTS, *watch.ENDPOINTS, *proposals.ENDPOINTS, *tree.ENDPOINTS)
HANDLERS: Final[Mapping[str, Handler]] = {
    f"{method} {path}": handler for method, path, handler in _TABLES
}


@dataclass(frozen=True, slots=True)
class Line:
    """An operator at the desk. Everything raises what the endpoint raises."""

    desk: Desk
    operator: Operator
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def now(self) -> Instant:
        """The custodian's time."""
        return self.desk.custodian.ports.clock.now()

    def may(self, right: Right) -> bool:
        """Whether the operator's role includes a right; the acts themselves check it."""
        return right in RIGHTS[self.operator.role]

    async def read(
        self, path: str, kind: type[T], query: Mapping[str, str] | None = None, **names: str
    ) -> T:
        """What `GET path` answers, which is of `kind`; `names` fill the path's braces."""
        check_right(self.operator, Right.READ)
        call = Call(self.operator, names, query or {}, b"")
        return msgspec.convert(await HANDLERS[f"GET {path}"](self.desk, call), kind)

    def order_of(self, stop: Stop) -> Signed:
        """N-7: a stop as the root signs it for enclaves."""
        return signed_reason(stop, keys=self.desk.settings.keys, now=self.now)

    async def do(self, act: str, order: object, **names: str) -> object:
        """Do what an endpoint, `METHOD path`, does with a record, and what it answers."""
        return await HANDLERS[act](self.desk, Call(self.operator, names, {}, to_json(order)))
