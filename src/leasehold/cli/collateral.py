"""`leasehold collateral`: fetch, import, bundle and show what the vendors say of their machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import click

from leasehold.attest.assess import assess, assess_certificate, assess_devices
from leasehold.attest.collateral import Kind, parse_collateral
from leasehold.attest.intel.pcs import Ca, Tee
from leasehold.attest.nvidia.chain import read_device_chain
from leasehold.attest.origin import Pair
from leasehold.attest.verify import PLATFORMS
from leasehold.cli import output
from leasehold.cli.access import as_json, folder_option, read_bytes, unlock, write_bytes
from leasehold.cli.custodian import now
from leasehold.cli.evidence_files import Shown, read_shown
from leasehold.core.crypto import ED25519_BYTES
from leasehold.core.encoding import from_json, unhex
from leasehold.core.statements import Signed
from leasehold.core.units import DAY, Duration, Instant
from leasehold.custodian.collateral.fetch import Fetcher, open_fetcher
from leasehold.custodian.collateral.folder import Failure, FolderCollateral, Kept, KeptSet
from leasehold.custodian.collateral.intake import Family, Intake, pair_in
from leasehold.custodian.collateral.offline import make_offline, take_offline
from leasehold.custodian.collateral.vendors import Vendors
from leasehold.custodian.serve import SystemClock
from leasehold.custodian.settings import read_keys, read_vendors
from leasehold.errors import BadMessage, BadSetting, LeaseholdError

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_KINDS: Final = get_args(Kind)
_DAYS_MAX: Final = 30
_YEAR_10000: Final = (
    253_402_300_800_000  # a manifest that outlives its signer has no end of its own
)


@click.group()
def command() -> None:
    """Keep what the vendors say of their machines."""


# Fetching ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the options ask for; nothing of it means: everything that is kept, again."""

    fmspcs: tuple[str, ...]
    documents: tuple[tuple[Kind, str], ...]
    shown: Shown | None

    def __bool__(self) -> bool:
        return bool(self.fmspcs or self.documents or self.shown)


@command.command()
@folder_option
@click.option("--fmspc", "fmspcs", multiple=True, help="An Intel processor family, 6 bytes in hex.")
@click.option(
    "--ca",
    type=click.Choice(get_args(Ca)),
    default="platform",
    show_default=True,
    help="Who issued the machines' PCK certificates.",
)
@click.option("--tee", type=click.Choice(get_args(Tee)), default="sgx", show_default=True)
@click.option(
    "--document",
    "documents",
    type=(click.Choice(_KINDS), str),
    multiple=True,
    metavar="KIND NAME",
    help="Another vendor's, such as `amd-crl vcek-Milan` or `nvidia-rim ID`.",
)
@click.option(
    "--evidence",
    "evidence",
    type=_FILE,
    multiple=True,
    help="Whatever judging this evidence takes: a quote or report, then what goes beside it.",
)
@click.option("--platform", type=click.Choice(list(PLATFORMS)), help="What the evidence is.")
@as_json
def fetch(
    *,
    folder: Path,
    fmspcs: tuple[str, ...],
    ca: Ca,
    tee: Tee,
    documents: tuple[tuple[Kind, str], ...],
    evidence: tuple[Path, ...],
    platform: str | None,
    as_json: bool,
) -> None:
    """Fetch from the addresses in custodian.toml; without options, everything kept once more."""
    shown = read_shown(evidence, (), platform) if evidence else None
    wanted, vendors = _Wanted(fmspcs, documents, shown), read_vendors(folder)
    store = FolderCollateral(folder / "collateral")
    with open_fetcher(vendors, store, clock=SystemClock()) as fetcher:
        failed = _fetch(fetcher, wanted, vendors, ca, tee)
        rows = [_row(name, one, now()) for name, one in sorted(fetcher.fetched.items())]
    if as_json:
        output.write_json([one.record() for one in rows])
    else:
        output.write_rows("Fetched", _COLUMNS, [one.cells() for one in rows])
    for one in failed:
        click.echo(f"{one.name} [{one.why.code}]: {one.why.message}", err=True)
    if failed:
        raise failed[0].why


def _fetch(
    fetcher: Fetcher, wanted: _Wanted, vendors: Vendors, ca: Ca, tee: Tee
) -> tuple[Failure, ...]:
    if not wanted:
        return fetcher.refresh().failed
    failed: list[Failure] = []
    for fmspc in wanted.fmspcs:
        try:
            fetcher.set(Family(fmspc.lower(), ca, tee))
        except LeaseholdError as why:
            failed.append(Failure(f"{tee}-{fmspc}-{ca}", why))
    for kind, name in wanted.documents:
        try:
            fetcher.document(kind, name)
        except LeaseholdError as why:
            failed.append(Failure(f"{kind}-{name}", why))
    if wanted.shown is not None:
        try:
            _judge(fetcher, wanted.shown, vendors)
        except LeaseholdError as why:
            failed.append(Failure("evidence", why))
    return tuple(failed)


def _judge(fetcher: Fetcher, shown: Shown, vendors: Vendors) -> None:
    """Judge evidence, only to learn what that takes."""
    simulated, today = vendors.simulated, now()
    devices = shown.devices if shown.evidence is None else shown.evidence.devices
    for one in devices:
        chain = read_device_chain(one.chain, one.kind, simulated=simulated, now=today)
        fetcher.knows(chain.revocable)
    asked: Any = {"manifest": None, "simulated": simulated, "now": today}
    if shown.certificate is not None:
        assess_certificate(shown.certificate, fetcher, **asked)
    elif shown.evidence is not None:
        assess(shown.evidence, fetcher, **asked)
    else:
        assess_devices(shown.devices, fetcher, **asked)


# Importing and bundling --------------------------------------------------------------------------


@command.command("import")
@click.argument("file", type=_FILE)
@click.option(
    "--kind", type=click.Choice(_KINDS), help="What FILE is; default: Intel's set, or a bundle."
)
@click.option(
    "--name", help="Of what: `vcek-Milan`, a RIM's id, a certificate's SHA-256 in hex (OCSP)."
)
@click.option(
    "--chain", type=_FILE, help="For OCSP: the certificate and its issuer's, if none is kept (PEM)."
)
@click.option(
    "--signer",
    metavar="HEX",
    help="Whose root key signed a bundle; default: this custodian's own.",
)
@folder_option
def import_(
    *,
    file: Path,
    folder: Path,
    kind: Kind | None,
    name: str | None,
    chain: Path | None,
    signer: str | None,
) -> None:
    """Keep collateral that you fetched yourself, or a bundle; never what the borrower gave you."""
    vendors = read_vendors(folder) if (folder / "custodian.toml").exists() else Vendors()
    store = FolderCollateral(folder / "collateral")
    intake, today = Intake(store, vendors.simulated, vendors.age, by_hand=True), now()
    data = read_bytes(file)
    kept: tuple[Kept, ...]
    if kind is not None:
        if name is None:
            raise BadSetting(about="--name", expected=f"the name of this {kind}")
        pair: Pair | None = None if chain is None else pair_in(read_bytes(chain), name)
        source = f"file {file.name}"
        kept = (intake.document(kind, name, data, source=source, now=today, pair=pair),)
    elif _is_signed(data):
        public = (
            read_keys(folder, ring=unlock(folder)).root.public
            if signer is None
            else unhex(signer, about="--signer", size=ED25519_BYTES)
        )
        kept = take_offline(intake, data, public, now=today)
    else:
        kept = (intake.set(parse_collateral(data), source=f"file {file.name}", now=today),)
    output.write_simulated(any(one.origin.simulated for one in kept))
    rows = [_row(one.name, one, today) for one in kept]
    output.write_rows("Collateral", _COLUMNS, [one.cells() for one in rows])


def _is_signed(data: bytes) -> bool:
    try:
        from_json(data, Signed)
    except BadMessage:
        return False
    return True


@command.command()
@folder_option
@click.option("--out", type=_FILE, required=True)
@click.option(
    "--days",
    type=click.IntRange(1, _DAYS_MAX),
    default=7,
    show_default=True,
    help="How long it counts: news reach whoever imports it no earlier.",
)
def bundle(*, folder: Path, out: Path, days: int) -> None:
    """Sign all that is kept and current, for a custodian without a network."""
    today, keys = now(), read_keys(folder, ring=unlock(folder))
    found = FolderCollateral(folder / "collateral").items()
    current = tuple(one for one in found.values() if one is not None and today < one.good_until)
    lifetime = Duration(days * DAY)
    write_bytes(out, make_offline(keys.root, current, now=today, lifetime=lifetime))
    output.write_fields(
        "Bundle",
        {
            "items": len(current),
            "left out, stale or missing": len(found) - len(current),
            "good until": output.utc(Instant(today + lifetime)),
            "signed by": keys.root.public.hex(),
        },
    )
    output.write_simulated(any(one.origin.simulated for one in current))


# Showing -----------------------------------------------------------------------------------------

_COLUMNS: Final = ("item", "from", "issued", "good until", "vendor's end", "order", "state")


@dataclass(frozen=True, slots=True)
class _Row:
    """One item as people see it. `order` is what its vendor counts upwards."""

    item: str
    source: str
    simulated: bool
    issued: Instant | None
    fetched: Instant | None
    good_until: Instant | None
    ends: Instant | None
    order: int | None
    state: str

    def cells(self) -> tuple[object, ...]:
        """A line of the table."""
        times = (self.issued, self.good_until, self.ends)
        issued, until, ends = ("" if one is None else _utc(one) for one in times)
        state = f"{self.state}, SIMULATED" if self.simulated else self.state
        order = "" if self.order is None else self.order
        return (self.item, self.source, issued, until, ends, order, state)

    def record(self) -> dict[str, object]:
        """The same for machines; times are milliseconds since the epoch."""
        return {name: getattr(self, name) for name in self.__slots__}


def _utc(instant: Instant) -> str:
    return output.utc(instant) if instant < _YEAR_10000 else "none"


def _row(name: str, kept: Kept | None, today: Instant) -> _Row:
    if kept is None:
        return _Row(name, "", False, None, None, None, None, None, "MISSING")
    origin = kept.origin
    order = origin.numbers["evaluation" if isinstance(kept, KeptSet) else "order"]
    return _Row(
        name,
        kept.source,
        origin.simulated,
        origin.issued,
        kept.fetched,
        kept.good_until,
        origin.ends,
        order,
        "OK" if today < kept.good_until else "STALE",
    )


@command.command()
@folder_option
@as_json
def status(*, folder: Path, as_json: bool) -> None:
    """Show what is kept, where it came from, and until when it counts."""
    today = now()
    store = FolderCollateral(folder / "collateral")
    found = store.items()
    rows = [_row(name, one, today) for name, one in found.items()]
    output.write_simulated(any(one.simulated for one in rows))
    if as_json:
        output.write_json([one.record() for one in rows])
        return
    output.write_rows("Collateral", _COLUMNS, [one.cells() for one in rows])
    _note(rows)
    last = store.last_refresh()
    if last is not None:
        output.write_note(f"Last refreshed {output.utc(last.at)}; {len(last.failed)} failed.")
        for problem in last.failed:
            output.write_note(f"{problem.item} [{problem.code}]: {problem.message}")


def _note(rows: Iterable[_Row]) -> None:
    bad = [one.item for one in rows if one.state != "OK"]
    if bad:
        output.write_note(
            f"{len(bad)} of these count for nothing; run `leasehold collateral fetch`, or import them."
        )
