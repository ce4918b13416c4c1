"""All that is wrong with a policy at once, field by field, for whoever writes one.

`manifest.read_policy` stops at the first problem and decides; this finds the others. Refuses to know
signatures.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from types import UnionType
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

import msgspec

from leasehold.attest.manifest import Manifest, read_policy
from leasehold.errors import BadManifest

PROBLEMS_MAX: Final = 100
_HEX: Final = re.compile(r"`str` matching regex '[\\]+A\[0-9a-f\]\{(\d+)\}[\\]+Z'")
_AT: Final = re.compile(r" - at `\$(?:\[(\d+)\])?.*`")


class Problem(NamedTuple):
    """One field, and what is wrong with it."""

    field: str
    text: str


def find_problems(text: bytes) -> tuple[Problem, ...]:
    """P-4: what is wrong with unsigned TOML text; nothing where `read_policy` takes it."""
    try:
        table = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as cause:
        return (Problem("TOML", str(cause)),)
    found = _table(table, Manifest, "")
    if not found:
        try:
            read_policy(text)
        except BadManifest as cause:
            found = [_as_problem(cause, "")]
    return tuple(found[:PROBLEMS_MAX])


def _table(table: dict[str, Any], kind: type[msgspec.Struct], where: str) -> list[Problem]:
    """A table's unknown, missing and malformed fields; the table as a whole only where those are well."""
    fields = {one.encode_name: one for one in msgspec.structs.fields(kind)}
    found = []
    for name in table.keys() - fields.keys():
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0)
        found.append(Problem(where + name, f"unknown; the nearest known field is `{near[0]}`"))
    for name, field in fields.items():
        if name in table:
            found += _value(table[name], field.type, where + name)
        elif field.required:
            found.append(Problem(where + name, "missing"))
    return sorted(found) or _whole(table, kind, where)


def _value(value: Any, kind: Any, where: str) -> list[Problem]:
    struct, is_list = _struct_in(kind)
    if struct is not None and is_list and isinstance(value, list):
        rows = [(f"{where}[{at}]", row) for at, row in enumerate(value, 1)]
        if rows and all(isinstance(row, dict) for _, row in rows):
            return [found for at, row in rows for found in _table(row, struct, f"{at}.")]
    if struct is not None and not is_list and isinstance(value, dict):
        return _table(value, struct, f"{where}.")
    return _whole(value, kind, where)


def _struct_in(kind: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The record that a field holds, if it holds one, and whether it is a list of them."""
    if get_origin(kind) is Annotated:
        return _struct_in(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        inside = [_struct_in(one) for one in get_args(kind)]
        return next((one for one in inside if one[0] is not None), (None, False))
    if get_origin(kind) is tuple:
        return _struct_in(get_args(kind)[0])[0], True
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    return (kind if is_struct else None), False


def _whole(value: Any, kind: Any, where: str) -> list[Problem]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as cause:
        if isinstance(cause.__cause__, BadManifest):
            return [_as_problem(cause.__cause__, where)]
        return [Problem(where.rstrip("."), _in_words(str(cause)))]
    except BadManifest as cause:
        return [_as_problem(cause, where)]
    return []


def _in_words(complaint: str) -> str:
    """msgspec's complaint, with lengths of hex in bytes and places counted from 1."""
    plain = _HEX.sub(lambda found: f"{int(found[1]) // 2} bytes in lower-case hex", complaint)
    return _AT.sub(lambda found: f", value {int(found[1]) + 1}" if found[1] else "", plain)


def _as_problem(cause: BadManifest, where: str) -> Problem:
    """A refusal by a table as a whole; tables name their fields in full."""
    got = "" if cause.got is None else f"got {cause.got}"
    wanted = "" if cause.expected is None else f"expected {cause.expected}"
    return Problem(
        str(cause.about or where.rstrip(".") or "manifest"), "; ".join(filter(None, (got, wanted)))
    )
