"""The operators' commands that lend: loans, consumers with their keys, grants."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from leasehold.cli import output, refund
from leasehold.cli.access import Access, as_json, read_bytes, with_access
from leasehold.cli.custodian import now
from leasehold.core.crypto import sha256
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import Budget
from leasehold.core.tariff import NAMED, Tariff, check_tariff
from leasehold.core.units import SECOND, Duration, Units
from leasehold.custodian import records
from leasehold.custodian.leak import leak, units_a_day
from leasehold.custodian.ledger.consumers import Consumer, Key
from leasehold.custodian.ledger.loans import Model
from leasehold.custodian.private_files import write_private
from leasehold.custodian.words import prices
from leasehold.errors import BadSetting

KEY_PREFIX: Final = "lh-"
KEY_BYTES: Final = 32
_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_UNITS: Final = click.IntRange(0)
_BUDGET: Final = ("granted", "available", "outstanding", "settled", "written off")


def _amounts(budget: Budget) -> tuple[int, ...]:
    return (
        budget.granted,
        budget.available,
        budget.outstanding,
        budget.settled,
        budget.written_off,
    )


# Loans -------------------------------------------------------------------------------------------


@click.group()
def loan() -> None:
    """Lend models."""


def parse_tariff(text: str) -> Tariff:
    """`per-token`, `per-request`, or prices such as `request=10,output_token=2`. Raises BadSetting."""
    if text in NAMED:
        return NAMED[text]
    prices: dict[str, int] = {}
    for part in text.split(","):
        name, _, price = part.partition("=")
        if name not in Tariff.__struct_fields__ or not price.isdecimal():
            raise BadSetting(
                about="tariff",
                got=part,
                expected=f"{', '.join(NAMED)}, or NAME=UNITS of {', '.join(Tariff.__struct_fields__)}",
            )
        prices[name] = int(price)
    return check_tariff(Tariff(**prices))


@loan.command("create")
@click.argument("name")
@click.option("--model", required=True, help="A sealed model's name.")
@click.option("--manifest", required=True, type=_FILE, help="The signed manifest to judge by.")
@click.option("--cap", required=True, type=_UNITS, help="Units that all grants together may use.")
@click.option("--tariff", default="per-token", show_default=True, help="What a unit buys.")
@click.option("--lease-seconds", type=click.IntRange(1), default=30, show_default=True)
@click.option("--span-seconds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--outstanding-max",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Units in leases at once: the most that can be served after a stop.",
)
@click.option("--exact", is_flag=True, help="Lease just what each request needs.")
@click.option("--instances-max", type=click.IntRange(1), default=16, show_default=True)
@click.option("--dead-man", type=click.IntRange(1), default=600, show_default=True)
@with_access
def create_loan(
    access: Access,
    *,
    name: str,
    model: str,
    manifest: Path,
    cap: int,
    tariff: str,
    lease_seconds: int,
    span_seconds: int,
    outstanding_max: int,
    exact: bool,
    instances_max: int,
    dead_man: int,
) -> None:
    """Lend a sealed model under a manifest and a cap."""
    policy = LeasePolicy(
        Duration(lease_seconds * SECOND),
        Duration(span_seconds * SECOND),
        Units(outstanding_max),
        exact,
    )
    order = records.LoanOrder(
        name=name,
        model=model,
        manifest=read_bytes(manifest),
        cap=Units(cap),
        tariff=parse_tariff(tariff),
        policy=policy,
        instances_max=instances_max,
        dead_man=Duration(dead_man * SECOND),
    )
    access.put(f"/operator/models/{model}", {}, Model)
    _write_loan(access.post("/operator/loans", order, records.LoanView))


@loan.command("list")
@as_json
@with_access
def list_loans(access: Access, *, as_json: bool) -> None:
    """Show all loans."""
    found = access.get("/operator/loans", list[records.LoanView])
    if as_json:
        output.write_json(found)
        return
    rows = [(one.name, one.model, one.state, *_amounts(one.budget)) for one in found]
    output.write_rows("Loans", ("loan", "model", "state", *_BUDGET), rows)


@loan.command("show")
@click.argument("name")
@as_json
@with_access
def show_loan(access: Access, *, name: str, as_json: bool) -> None:
    """Show one loan."""
    found = access.get(f"/operator/loans/{name}", records.LoanView)
    if as_json:
        output.write_json(found)
    else:
        _write_loan(found)


@loan.command("cap")
@click.argument("name")
@click.option("--add", type=_UNITS, default=0, help="Units to add.")
@click.option("--take", type=_UNITS, default=0, help="Units to take back, of those available.")
@with_access
def change_cap(access: Access, *, name: str, add: int, take: int) -> None:
    """Raise or lower a loan's cap."""
    change = records.CapChange(Units(add - take))
    _write_loan(access.post(f"/operator/loans/{name}/cap", change, records.LoanView))


@loan.command("manifest")
@click.argument("name")
@click.argument("file", type=_FILE)
@with_access
def replace_manifest(access: Access, *, name: str, file: Path) -> None:
    """Judge by another manifest; enclaves attest again."""
    change = records.ManifestChange(read_bytes(file))
    _write_loan(access.put(f"/operator/loans/{name}/manifest", change, records.LoanView))


@loan.command("end")
@click.argument("name")
@with_access
def end_loan(access: Access, *, name: str) -> None:
    """Grant no lease under a loan ever again."""
    _write_loan(access.post(f"/operator/loans/{name}/end", {}, records.LoanView))


def _write_loan(one: records.LoanView) -> None:
    budget, leaks = one.budget, leak(one.tariff)
    left = Units(budget.available + budget.outstanding)
    pace = units_a_day(budget.settled + budget.written_off, since=one.created, now=now())
    fields: dict[str, object] = {
        "loan": one.name,
        "model": one.model,
        "state": one.state,
        "units": prices(one.tariff),
        "lease lives": f"{one.policy.ttl / SECOND:g} s",
        "outstanding at most": one.policy.outstanding_max,
        "exact": one.policy.exact,
        "instances at most": one.instances_max,
        "a lying worker leaks at most": leaks.in_words(left),
        "in one day at most": leaks.in_a_day(left),  # M-10: nothing else bounds a day
        "in a day at the pace so far": f"{leaks.in_a_day(pace)} ({pace:,} units)",
    }
    fields |= dict(zip(_BUDGET, _amounts(one.budget), strict=True))
    output.write_fields("Loan", fields)


# Consumers and their keys ------------------------------------------------------------------------


@click.group()
def consumer() -> None:
    """Enrol consumers and hand out API keys."""


@consumer.command("add")
@click.argument("name")
@with_access
def add_consumer(access: Access, *, name: str) -> None:
    """Enrol a consumer."""
    made = access.post("/operator/consumers", records.ConsumerOrder(name), Consumer)
    click.echo(f"consumer {made.name}")


@consumer.command("list")
@as_json
@with_access
def list_consumers(access: Access, *, as_json: bool) -> None:
    """Show all consumers."""
    found = access.get("/operator/consumers", list[Consumer])
    if as_json:
        output.write_json(found)
        return
    rows = [(one.name, output.utc(one.created)) for one in found]
    output.write_rows("Consumers", ("consumer", "enrolled"), rows)


@consumer.group()
def key() -> None:
    """API keys. The custodian stores their hashes and has never seen one."""


@key.command("add")
@click.argument("consumer_name", metavar="CONSUMER")
@click.option("--key-file", type=_FILE, help="Write the key here (mode 600) and do not print it.")
@with_access
def add_key(access: Access, *, consumer_name: str, key_file: Path | None) -> None:
    """Make a key for CONSUMER; it is shown once and kept nowhere."""
    secret = KEY_PREFIX + os.urandom(KEY_BYTES).hex()
    if key_file is not None:
        write_private(key_file, secret.encode() + b"\n")
    order = records.KeyOrder(consumer_name, sha256(secret.encode()))
    made = access.post("/operator/keys", order, Key)
    output.write_note(f"key {made.id} of {made.consumer}")
    click.echo(secret if key_file is None else str(key_file))


@key.command("list")
@click.option("--consumer", "consumer_name", help="Only this one's.")
@as_json
@with_access
def list_keys(access: Access, *, consumer_name: str | None, as_json: bool) -> None:
    """Show keys by the start of their hash."""
    found = access.get("/operator/keys", list[Key], consumer=consumer_name)
    if as_json:
        output.write_json(found)
        return
    rows = [
        (one.id, one.consumer, output.utc(one.created), "revoked" if one.revoked else "live")
        for one in found
    ]
    output.write_rows("Keys", ("key", "consumer", "made", "state"), rows)


@key.command("revoke")
@click.argument("key_id", metavar="KEY")
@with_access
def revoke_key(access: Access, *, key_id: str) -> None:
    """Lease nothing to KEY (an id of `key list`) again."""
    done = access.post(f"/operator/keys/{key_id}/revoke", {}, Key)
    click.echo(f"key {done.id} of {done.consumer} is revoked")


# Grants ------------------------------------------------------------------------------------------


@click.group()
def grant() -> None:
    """Give consumers budgets."""


grant.add_command(refund.refund)
grant.add_command(refund.list_refunds)


@grant.command("add")
@click.argument("loan_name", metavar="LOAN")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("units", type=_UNITS)
@with_access
def add_grant(access: Access, *, loan_name: str, consumer_name: str, units: int) -> None:
    """Give CONSUMER a budget of UNITS under LOAN."""
    order = records.GrantOrder(loan_name, consumer_name, Units(units))
    _write_grants([access.post("/operator/grants", order, records.GrantView)])


@grant.command("list")
@click.option("--loan", "loan_name")
@click.option("--consumer", "consumer_name")
@as_json
@with_access
def list_grants(
    access: Access, *, loan_name: str | None, consumer_name: str | None, as_json: bool
) -> None:
    """Show budgets."""
    found = access.get(
        "/operator/grants", list[records.GrantView], loan=loan_name, consumer=consumer_name
    )
    if as_json:
        output.write_json(found)
    else:
        _write_grants(found)


@grant.command("change")
@click.argument("loan_name", metavar="LOAN")
@click.argument("consumer_name", metavar="CONSUMER")
@click.option("--add", type=_UNITS, default=0, help="Units to add.")
@click.option("--take", type=_UNITS, default=0, help="Units to take back, of those available.")
@with_access
def change_grant(
    access: Access, *, loan_name: str, consumer_name: str, add: int, take: int
) -> None:
    """Add to a budget, or take back what is available."""
    order = records.GrantOrder(loan_name, consumer_name, Units(add - take))
    _write_grants([access.post("/operator/grants/change", order, records.GrantView)])


def _write_grants(found: list[records.GrantView]) -> None:
    rows = [(one.loan, one.consumer, *_amounts(one.budget)) for one in found]
    output.write_rows("Grants", ("loan", "consumer", *_BUDGET), rows)
