"""What another replica did, told to the enclaves and operators that are connected to this one.

News are hints of a few words: what they are about is read from the ledger, so that a doubled or late one
does no harm, and after a gap everything is looked at again. Spec: docs/spec/ledger.md, L-10.
"""

from __future__ import annotations

import asyncio
from typing import Final

from leasehold.core.messages import AttestAgain, Problem
from leasehold.custodian.acts import EXTENSION, MANIFEST, STOP
from leasehold.custodian.decide import orders_for
from leasehold.custodian.ledger import extensions, notices
from leasehold.custodian.log import Log, place_of
from leasehold.custodian.service import Custodian
from leasehold.errors import EvidenceExpired, LeaseholdError

WAITING_MAX: Final = 10_000  # news; beyond that all of it is one look at everything


async def relay(custodian: Custodian, log: Log) -> None:
    """Hear what other replicas tell, until cancelled. A failure is told and looked at again."""
    news: asyncio.Queue[str] = asyncio.Queue()
    custodian.ports.store.on_news(news.put_nowait)
    while True:
        one = await news.get()
        if news.qsize() > WAITING_MAX:
            while not news.empty():
                news.get_nowait()
            one = ""
        try:
            await hear(custodian, one)
        except LeaseholdError as failure:
            log.event("news_not_read", code=failure.code, where=place_of(failure))


async def hear(custodian: Custodian, news: str) -> None:
    """Tell those who listen here what the news are about. Raises StoreFailed, UnknownThing, Conflict."""
    kind, _, what = news.partition(" ")
    listeners = custodian.listeners
    if kind == STOP and what.isdecimal():
        custodian.tell_stop(await custodian.look(lambda tx: notices.telling(tx, stop=int(what))))
    elif kind == EXTENSION and what.isdecimal():
        decision = await custodian.look(lambda tx: extensions.show_decision(tx, int(what)))
        listeners.tell_loan(decision.request.loan, decision.state)
    elif kind == MANIFEST:
        refusal = EvidenceExpired(about="a new manifest")
        listeners.tell_loan(what, AttestAgain(Problem(refusal.code, refusal.message)))
    elif not kind:
        names = listeners.names()
        orders = await custodian.look(lambda tx: [(name, orders_for(tx, name)) for name in names])
        for name, mine in orders:
            for stop in mine:
                listeners.tell((name,), custodian.stop_order(stop))
    custodian.tell_watchers()
