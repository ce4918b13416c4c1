"""What another replica did, told to the enclaves and operators that are connected to this one.

News are hints of a few words: what they are about is read from the ledger, so that a doubled or late one
does no harm, and after a gap everything is looked at again. Spec: docs/spec/ledger.md, L-10 and L-16.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from leasehold.core.messages import AttestAgain, Problem
from leasehold.custodian.acts import EXTENSION, MANIFEST, STOP
from leasehold.custodian.decide import orders_for
from leasehold.custodian.ledger import extensions, notices
from leasehold.custodian.log import Log, place_of
from leasehold.custodian.service import Custodian
from leasehold.errors import EvidenceExpired, LeaseholdError, StoreFailed

AGAIN_SECONDS: Final = 0.5  # after a read that failed
WAITING_MAX: Final = 10_000  # news; beyond that all of it is one look at everything


async def relay(custodian: Custodian, log: Log) -> None:
    """Hear what other replicas tell, until cancelled. News of stops, and of gaps, wait for no others (L-16)."""
    stops, others = asyncio.Queue[str](), asyncio.Queue[str]()

    def sort(news: str) -> None:
        (stops if not news or news.startswith(STOP) else others).put_nowait(news)

    custodian.ports.store.on_news(sort)
    async with asyncio.TaskGroup() as both:
        both.create_task(_relay(custodian, stops, log))
        both.create_task(_relay(custodian, others, log))


async def _relay(custodian: Custodian, news: asyncio.Queue[str], log: Log) -> None:
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
            if isinstance(failure, StoreFailed):
                await asyncio.sleep(AGAIN_SECONDS)
                news.put_nowait(one)


async def hear(custodian: Custodian, news: str) -> None:
    """Tell those who listen here what the news are about. Raises StoreFailed, UnknownThing, Conflict."""
    kind, _, what = news.partition(" ")
    listeners, read = custodian.listeners, custodian.ports.store.read_soon
    if kind == STOP and what.isdecimal():
        telling = partial(notices.telling, stop=int(what))
        custodian.tell_stop(await read(telling))
    elif kind == EXTENSION and what.isdecimal():
        decision = await read(lambda tx: extensions.show_decision(tx, int(what)))
        listeners.tell_loan(decision.request.loan, decision.state)
    elif kind == MANIFEST:
        refusal = EvidenceExpired(about="a new manifest")
        listeners.tell_loan(what, AttestAgain(Problem(refusal.code, refusal.message)))
    elif not kind:
        names = listeners.names()
        orders = await read(lambda tx: [(name, orders_for(tx, name)) for name in names])
        for name, mine in orders:
            for stop in mine:
                listeners.tell((name,), custodian.stop_order(stop))
    custodian.tell_watchers()
