"""How a loan cuts its leases: a part of its terms, which the enclave gets too.

Spec: docs/spec/metering.md, M-4.
"""

from __future__ import annotations

import msgspec

from leasehold.core.units import Duration, Units


class LeasePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a loan cuts its leases.

    `span` is how long a lease should last at the observed rate, `ttl` how long it lives unrenewed,
    `outstanding_max` bounds what can still be served after a stop. With `exact` every lease is just
    what one request needs, which makes a stop exact at the price of one round trip per request.
    """

    ttl: Duration = Duration(30_000)
    span: Duration = Duration(5_000)
    outstanding_max: Units = Units(1_000_000)
    exact: bool = False
