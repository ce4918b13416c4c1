"""A writer for the plain TOML that manifests are made of; the standard library only reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime


def write_toml(table: Mapping[str, object]) -> bytes:
    """Top-level values, then `[table]`s, then `[[tables]]`s, in the order given. None is left out."""
    lines: list[str] = []
    sections: list[str] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            sections += ["", f"[{name}]", *_pairs(value)]
        elif _is_array_of_tables(value):
            for row in value:  # type: ignore[attr-defined]
                sections += ["", f"[[{name}]]", *_pairs(row)]
        else:
            lines.append(f"{name} = {_value(value)}")
    return ("\n".join(lines + sections) + "\n").encode()


def _is_array_of_tables(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(row, Mapping) for row in value)
    )


def _pairs(table: Mapping[str, object]) -> list[str]:
    return [f"{name} = {_value(value)}" for name, value in table.items() if value is not None]


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            # JSON's escapes are TOML's; only DEL must be escaped in TOML and not in JSON.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case datetime() if value.tzinfo is not None:
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case Mapping():
            return (
                "{ " + ", ".join(f"{name} = {_value(item)}" for name, item in value.items()) + " }"
            )
        case list() | tuple():
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case _:
            raise TypeError(f"no TOML form for {type(value).__name__}")
