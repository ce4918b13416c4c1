"""The operators' desk: what the endpoints for models, loans, consumers and grants do, as a table.

What may take several hands is not here but in `proposals`.
Spec: docs/spec/custodian-api.md. Each handler reads one strict record (O-3), runs one act under
the operator's name (O-5), and returns a record. Refuses to know HTTP and certificates.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from leasehold.core.encoding import from_json
from leasehold.custodian import records
from leasehold.custodian.ledger import consumers, grants, loans, refunds
from leasehold.custodian.ledger.operators import Operator
from leasehold.custodian.release import read_header
from leasehold.custodian.service import Custodian
from leasehold.custodian.settings import Settings
from leasehold.custodian.store.port import Tx
from leasehold.errors import BadRequest, Conflict, UnknownThing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Desk:
    """The custodian, and the choices that operators may see."""

    custodian: Custodian
    settings: Settings


@dataclass(frozen=True, slots=True)
class Call:
    """One request of an operator who showed a certificate."""

    operator: Operator
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes

    def read(self, kind: type[T]) -> T:
        """The body as a record. Raises BadMessage."""
        return from_json(self.body, kind)

    def ask(self, kind: type[T]) -> T:
        """The query as a record. Raises BadRequest."""
        try:
            return msgspec.convert(dict(self.query), kind, strict=False)
        except msgspec.ValidationError as cause:
            raise BadRequest(about="query", got=cause) from cause

    @property
    def number(self) -> int:
        """The `{id}` of the path. Raises UnknownThing where it is no number."""
        if not self.path["id"].isdecimal():
            raise UnknownThing(about=self.path["id"], expected="a number")
        return int(self.path["id"])


Handler = Callable[[Desk, Call], Awaitable[object]]


async def hello(desk: Desk, call: Call) -> object:
    """Who you are and who this is."""
    settings = desk.settings
    return records.Hello(
        operator=call.operator.name,
        role=call.operator.role,
        root=settings.keys.root.public.hex(),
        audit_key=settings.audit.public.hex(),
        origin=settings.origin,
        address=str(settings.address),
        time=desk.custodian.ports.clock.now(),
    )


# Models and loans ------------------------------------------------------------------------------------


async def list_models(desk: Desk, _call: Call) -> object:
    """All registered models."""
    return await desk.custodian.look(loans.list_models)


async def register_model(desk: Desk, call: Call) -> object:
    """Register the sealed file `NAME.sealed` of the models' folder; again is harmless."""
    name, root = call.path["name"], desk.settings.keys.root.public
    sealed = await desk.custodian.ports.run_blocking(
        lambda: read_header(desk.settings.models, name, root=root)
    )
    digest = sealed.digest.hex()

    def known(tx: Tx) -> loans.Model:
        model = loans.show_model(tx, name)
        if model.digest != digest:
            raise Conflict(about=f"model {name}", got=digest, expected=model.digest)
        return model

    with suppress(UnknownThing):
        return await desk.custodian.look(known)
    return await desk.custodian.change(
        lambda tx, now: loans.add_model(
            tx,
            now=now,
            operator=call.operator,
            name=name,
            digest=digest,
            sealed_bytes=sealed.sealed_bytes,
            engine=sealed.header.engine,
        )
    )


async def list_loans(desk: Desk, _call: Call) -> object:
    """All loans."""
    return [records.view_loan(loan) for loan in await desk.custodian.look(loans.list_loans)]


async def show_loan(desk: Desk, call: Call) -> object:
    """One loan."""
    name = call.path["name"]
    return records.view_loan(await desk.custodian.look(lambda tx: loans.show_loan(tx, name)))


async def end_loan(desk: Desk, call: Call) -> object:
    """Grant no lease under it again."""
    name = call.path["name"]
    return records.view_loan(
        await desk.custodian.change(
            lambda tx, now: loans.end_loan(tx, now=now, operator=call.operator, loan=name)
        )
    )


# Consumers, keys, grants -----------------------------------------------------------------------------


async def list_consumers(desk: Desk, _call: Call) -> object:
    """All consumers."""
    return await desk.custodian.look(consumers.list_consumers)


async def add_consumer(desk: Desk, call: Call) -> object:
    """A new consumer."""
    name = call.read(records.ConsumerOrder).name
    return await desk.custodian.change(
        lambda tx, now: consumers.add_consumer(tx, now=now, operator=call.operator, name=name)
    )


async def list_keys(desk: Desk, call: Call) -> object:
    """API keys by their hashes."""
    consumer = call.ask(records.ByConsumer).consumer
    return await desk.custodian.look(lambda tx: consumers.list_keys(tx, consumer=consumer))


async def add_key(desk: Desk, call: Call) -> object:
    """O-7: a new key, of which only the hash is sent."""
    new = call.read(records.KeyOrder)
    return await desk.custodian.change(
        lambda tx, now: consumers.add_key(
            tx, now=now, operator=call.operator, consumer=new.consumer, key_hash=new.key_hash
        )
    )


async def revoke_key(desk: Desk, call: Call) -> object:
    """No lease for this key again."""
    key = call.path["name"]
    return await desk.custodian.change(
        lambda tx, now: consumers.revoke_key(tx, now=now, operator=call.operator, key=key)
    )


async def list_grants(desk: Desk, call: Call) -> object:
    """Budgets."""
    want = call.ask(records.GrantQuery)
    found = await desk.custodian.look(
        lambda tx: grants.list_grants(tx, loan=want.loan, consumer=want.consumer)
    )
    return [records.view_grant(one) for one in found]


async def list_refunds(desk: Desk, call: Call) -> object:
    """Units that were given back, with running totals."""
    want = call.ask(records.GrantQuery)
    return await desk.custodian.look(
        lambda tx: refunds.list_refunds(tx, loan=want.loan, consumer=want.consumer)
    )


async def list_key_caps(desk: Desk, call: Call) -> object:
    """The key caps of a loan."""
    loan = call.ask(records.ByLoan).loan
    if loan is None:
        raise BadRequest(about="query", expected="loan=NAME")
    found = await desk.custodian.look(lambda tx: grants.list_key_caps(tx, loan=loan))
    return [records.view_key_cap(one) for one in found]


async def cap_key(desk: Desk, call: Call) -> object:
    """Bound what one key may use."""
    new = call.read(records.KeyCapOrder)
    return records.view_key_cap(
        await desk.custodian.change(
            lambda tx, now: grants.cap_key(
                tx, now=now, operator=call.operator, loan=new.loan, key=new.key, units=new.units
            )
        )
    )


ENDPOINTS: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", "/operator/hello", hello),
    ("GET", "/operator/models", list_models),
    ("PUT", "/operator/models/{name}", register_model),
    ("GET", "/operator/loans", list_loans),
    ("GET", "/operator/loans/{name}", show_loan),
    ("POST", "/operator/loans/{name}/end", end_loan),
    ("GET", "/operator/consumers", list_consumers),
    ("POST", "/operator/consumers", add_consumer),
    ("GET", "/operator/keys", list_keys),
    ("POST", "/operator/keys", add_key),
    ("POST", "/operator/keys/{name}/revoke", revoke_key),
    ("GET", "/operator/grants", list_grants),
    ("GET", "/operator/refunds", list_refunds),
    ("GET", "/operator/key-caps", list_key_caps),
    ("POST", "/operator/key-caps", cap_key),
)
