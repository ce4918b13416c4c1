"""A page for a person: a headline, and blocks of names, values and what they mean.

Colours and columns on a terminal, the same words line by line in a pipe. Refuses to know what it shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

import click

from leasehold.cli import output

_WIDE: Final = 110  # columns from which meanings have a column of their own
_VALUE_MAX: Final = 66  # a SHA-256 in hex, and a little
_NAME_MAX: Final = 26
_HEX: Final = re.compile(r"\A(?:[0-9a-f]{2}){24,}\Z")
_HEX_STEP: Final = (
    16  # hex is broken after this many digits or a multiple, so that people can compare
)


class Tone(StrEnum):
    """How something is meant; the values are rich's styles."""

    GOOD = "bold green"
    DOUBT = "bold yellow"
    BAD = "bold red"
    PLAIN = "bold"


class Row(NamedTuple):
    """One line: a name, a value, and what it means, where that needs saying."""

    name: str
    value: str
    note: str = ""
    tone: Tone | None = None


class Block(NamedTuple):
    """Rows that belong together."""

    title: str
    rows: tuple[Row, ...]


class Page(NamedTuple):
    """A whole answer. `lead` says what to make of the headline."""

    headline: str
    tone: Tone
    lead: str
    blocks: tuple[Block, ...]


def write_page(page: Page) -> None:
    """Print a page."""
    if output.is_terminal():
        _write_rich(page)
        return
    click.echo(page.headline)
    if page.lead:
        click.echo(page.lead)
    for block in page.blocks:
        click.echo(f"\n{block.title}" if block.title else "")
        for row in block.rows:
            said = f"{row.name}: {row.value}" if row.name else row.value
            click.echo(f"  {said}" + (f"  ({row.note})" if row.note else ""))


def _write_rich(page: Page) -> None:
    from rich.console import Console, Group
    from rich.padding import Padding
    from rich.text import Text

    console = Console()
    parts: list[Any] = [Text(page.headline, style=page.tone.value)]
    if page.lead:
        parts.append(Text(page.lead))
    for block in page.blocks:
        parts.append(Text(f"\n{block.title}" if block.title else "", style="bold underline"))
        parts.append(Padding(_table(block.rows, console.width), (0, 0, 0, 2)))
    console.print(Group(*parts), soft_wrap=False)


def _table(rows: Sequence[Row], width: int) -> Any:
    """Names, values, meanings: meanings beside the values where there is room, else below them."""
    from rich.table import Table

    is_wide = width >= _WIDE and any(row.note for row in rows)
    names = min(_NAME_MAX, max((len(row.name) for row in rows), default=0))
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    if names:
        table.add_column(style="cyan", width=names, overflow="fold")
    table.add_column(overflow="fold", max_width=_VALUE_MAX if is_wide else None)
    if is_wide:
        table.add_column(style="dim", ratio=1, overflow="fold")
        table.expand = True
    room = min(_VALUE_MAX, width - names - 6) if is_wide else width - names - 6
    for row in rows:
        cells = [_value(row, room)] if is_wide else [_stacked(row, room)]
        if is_wide:
            cells.append(_text(row.note))
        table.add_row(*([_text(row.name)] if names else []), *cells)
    return table


def _text(text: str, style: str = "") -> Any:
    """Text that rich shows as it is: what a vendor wrote is data, never markup."""
    from rich.text import Text

    return Text(text, style=style)


def _value(row: Row, room: int) -> Any:
    shown = row.value
    if _HEX.match(shown):
        if not shown.strip("0"):
            shown = f"{len(shown) // 2} zero bytes"
        step = max(_HEX_STEP, room // _HEX_STEP * _HEX_STEP)
        shown = "\n".join(shown[at : at + step] for at in range(0, len(shown), step))
    return _text(shown, "" if row.tone is None else row.tone.value)


def _stacked(row: Row, room: int) -> Any:
    shown = _value(row, room)
    if row.note:
        fits = len(shown.plain) + len(row.note) + 2 <= room and "\n" not in shown.plain
        shown.append(("  " if fits else "\n") + row.note, style="dim")
    return shown
