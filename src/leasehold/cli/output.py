"""What commands print: tables where a person reads, plain lines in a pipe, JSON on demand.

`rich` is imported only for a terminal. Everything goes through here, so SIMULATED is said in one way.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
import msgspec

from leasehold.core.moments import utc as utc

SIMULATED: Final = (
    "SIMULATED: there is no secure hardware behind this enclave, so its host can read everything."
)


def is_terminal() -> bool:
    """Whether a person reads what goes to standard output."""
    return sys.stdout.isatty()


def encode_json(value: object) -> bytes:
    """One JSON value, indented; bytes are base64, as on the wire."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write_json(value: object) -> None:
    """Print one JSON value."""
    click.echo(encode_json(value), nl=False)


def write_fields(title: str, fields: Mapping[str, object]) -> None:
    """Names and values of one thing: a table for a person, `name: value` lines for a pipe."""
    if not is_terminal():
        for name, value in fields.items():
            click.echo(f"{name}: {_text(value)}")
        return
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(_plain(name), _plain(_text(value)))
    _print(table)


def write_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Many things: a table for a person, tab-separated lines under a header for a pipe."""
    if not is_terminal():
        for row in (columns, *rows):
            click.echo("\t".join(_text(cell) for cell in row))
        return
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_plain(_text(cell)) for cell in row))
    _print(table)


def write_simulated(is_simulated: bool) -> None:
    """Say SIMULATED on stderr where it is so, whatever else is printed."""
    if is_simulated:
        click.secho(SIMULATED, err=True, fg="yellow", bold=True)


def write_note(text: str) -> None:
    """A remark beside the result, on stderr."""
    click.secho(text, err=True, dim=True)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _plain(text: str) -> Any:
    """Text that rich shows as it is: a model's name is data, never markup."""
    from rich.text import Text

    return Text(text)


def _print(table: object) -> None:
    from rich.console import Console

    Console().print(table)
