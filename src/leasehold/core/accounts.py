"""Accounts and the size of leases: the arithmetic of budgets.

Spec: docs/spec/metering.md, M-2 to M-5. The custodian's ledger stores what these functions return; no
enclave loads them. Refuses to know: databases, wires, time.
"""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.core.lease import LeasePolicy
from leasehold.core.units import SECOND, Units
from leasehold.errors import BudgetExhausted, Conflict

SHARE: Final = 4  # one lease takes at most 1/4 of an instance's even share of what may be leased


class Account(msgspec.Struct, frozen=True):
    """One node of the budget tree: the loan's cap, a consumer's grant, or a key's own cap.

    M-2, the ledger identity: `available + outstanding + settled + written_off = granted`, and no
    term is negative. `available` is derived, so the identity cannot be stored wrong.
    """

    granted: Units
    outstanding: Units = Units(0)
    settled: Units = Units(0)
    written_off: Units = Units(0)

    @property
    def available(self) -> Units:
        """What may still be leased."""
        return Units(self.granted - self.outstanding - self.settled - self.written_off)

    def lease(self, units: Units) -> Account:
        """Move units from available to outstanding. Raises BudgetExhausted."""
        if not 0 <= units <= self.available:
            raise BudgetExhausted(
                about="units to lease", got=units, expected=f"<= {self.available}"
            )
        outstanding = Units(self.outstanding + units)
        return Account(self.granted, outstanding, self.settled, self.written_off)

    def settle(self, units: Units) -> Account:
        """Move units from outstanding to settled: they were served."""
        self._check_outstanding(units)
        outstanding, settled = Units(self.outstanding - units), Units(self.settled + units)
        return Account(self.granted, outstanding, settled, self.written_off)

    def release(self, units: Units) -> Account:
        """Move units from outstanding back to available: a closing report proved them unspent."""
        self._check_outstanding(units)
        return msgspec.structs.replace(self, outstanding=Units(self.outstanding - units))

    def write_off(self, units: Units) -> Account:
        """Move units from outstanding to written off: nobody proved what became of them."""
        self._check_outstanding(units)
        return msgspec.structs.replace(
            self,
            outstanding=Units(self.outstanding - units),
            written_off=Units(self.written_off + units),
        )

    def extend(self, units: Units) -> Account:
        """Grant more. A negative amount takes back what is still available. Raises BudgetExhausted."""
        if units < -self.available:
            raise BudgetExhausted(
                about="units to take back", got=-units, expected=f"<= {self.available}"
            )
        return msgspec.structs.replace(self, granted=Units(self.granted + units))

    def _check_outstanding(self, units: Units) -> None:
        if not 0 <= units <= self.outstanding:
            raise Conflict(about="outstanding units", got=units, expected=f"<= {self.outstanding}")


def size_lease(
    policy: LeasePolicy,
    *,
    least: Units,
    need: Units,
    rate: int,
    held: Units,
    available: Units,
    outstanding: Units,
    instances: int,
) -> Units | None:
    """M-4: how many units to lease now, or None where not even `least` can be leased.

    `least` is the smallest useful amount, `need` what the waiting work asks for, `rate` the units
    per 1,000 seconds that this instance has used of late, `held` what it still holds unspent,
    `available` the smallest available amount on the path to the root, `outstanding` the loan's
    total in live leases, `instances` how many instances are live.
    """
    room = min(available, Units(policy.outstanding_max - outstanding))
    if room < least:
        return None
    if policy.exact:
        return Units(min(room, max(least, need)))
    # Of a consumer that has not used anything yet, nothing is known but this request: one a second.
    expected = rate or need * 1000
    wanted = expected * policy.span // (SECOND * 1000) - held
    share = room // (SHARE * max(1, instances))
    return Units(min(room, max(least, need, min(wanted, share))))
